"""Calls to an endpoint that judges, as traces in MLflow, where `mlflow.trace_judge` asks for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tr_align.config import Params
from tr_align.tracking.identity import dvc_tags, run_key
from tr_align.tracking.store import Tracker, without_password

if TYPE_CHECKING:
    from tr_align.judges.endpoint import Endpoint

ADDRESS = "MLFLOW_TRACKING_URI"
SOURCE_RUN = "mlflow.sourceRun"
"""Metadata of a trace by which MLflow shows it with a run."""


@contextmanager
def traced_judge(name: str, params: Params) -> Iterator[None]:
    """Within it, each call to the judge's endpoint becomes a trace, with `name` and DVC's tags, and with the run of
    the method of that name. The key is in none. Answers that are read back, and batches, are no calls.

    If MLflow fails, judging goes on and says so once.
    """
    if not params.mlflow.trace_judge or params.judge.name != "openai":
        yield
        return
    from tr_align.judges.endpoint import Endpoint

    untraced, address = Endpoint.complete, os.environ.get(ADDRESS)
    try:
        Endpoint.complete = _traced(untraced, name, params)  # type: ignore[method-assign]
    except Exception as error:  # a view must not cost a judgement
        print(
            f"MLflow records no calls to the judge ({type(error).__name__}: {without_password(error)}); "
            "the answers are kept all the same",
            file=sys.stderr,
        )
    try:
        yield
    finally:
        if Endpoint.complete is not untraced:
            import mlflow

            Endpoint.complete = untraced  # type: ignore[method-assign]
            mlflow.flush_trace_async_logging()
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]  # unsets the variable, which is the user's
            if address is not None:
                os.environ[ADDRESS] = address


def _traced(complete: Callable[..., Any], name: str, params: Params) -> Callable[..., Any]:
    """:meth:`Endpoint.complete` with a trace around it. MLflow's own hook in the openai package is not used: it keeps
    error messages as they come, and those may repeat the key, and it adds a header to every request."""
    import mlflow

    tracker = Tracker(params.mlflow.experiment)
    mlflow.set_tracking_uri(tracker.uri)
    run = tracker.find(run_key(name, params)) if name in params.methods else None
    about: dict[str, Any] = {
        "tags": {"judged": name} | dvc_tags(),
        "metadata": {SOURCE_RUN: run.info.run_id} if run else None,
        "experiment_id": tracker.experiment,
    }

    async def traced(self: Endpoint, client: Any, messages: Sequence[Mapping[str, str]], **values: Any) -> Any:
        inputs = {"model": self.settings.model, "messages": list(messages), **values}
        span = mlflow.start_span_no_context("judge", span_type="CHAT_MODEL", inputs=_hidden(inputs, self.hide), **about)
        try:
            completion = await complete(self, client, messages, **values)
        except BaseException as error:  # a call that is cancelled ends as well
            span.end(outputs={"error": self.hide(f"{type(error).__name__}: {error}")}, status="ERROR")
            raise
        span.end(outputs=_hidden(completion.model_dump(mode="json"), self.hide))
        return completion

    return traced


def _hidden(value: Any, hide: Callable[[str], str]) -> Any:
    """The value with every text in it gone through `hide`."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, Mapping):
        return {_hidden(key, hide): _hidden(item, hide) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item, hide) for item in value]
    return value
