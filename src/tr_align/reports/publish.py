"""Send what lies under reports/ to MLflow: after a run, or to make the store anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tr_align import tracking
from tr_align.config import Params, load_params
from tr_align.errors import UserError
from tr_align.reports.common import in_order
from tr_align.reports.theme import TONES
from tr_align.scratch import read_rows
from tr_align.tracking.store import without_password
from tr_align.tracking.tables import reply_table

ARTIFACTS = ("*.html", "*.md", "*.tex", "*.json", "*.png", "*.svg", "figures/*")


def publish(params: Params, reports: Path) -> None:
    """Bring MLflow up to the report files. If it cannot be reached, say so: the report is not worth less for it.

    Raises:
        UserError: there is no report yet.
    """
    with _said("this run", "the files under reports/ have it all, and `make mlflow` rebuilds MLflow from them"):
        send(params, reports.parent, tracking.dvc_tags())


def publish_study(runs: Mapping[str, Path], report: Path) -> None:
    """The same for the runs of a study, each with its own settings, and for the report made of them.

    Args: `runs`: folder by name; each becomes the tag `exp.NAME` of its methods' runs. `report`: the report's folder.
    Raises:
        UserError: a run has no scores, or no readable settings.
    """
    with _said("this study", "the same command tries again"):
        for name, root in runs.items():
            params = load_params(root / "params.yaml")
            models, _ = _models(params, root)
            tracking.publish(params, models, {}, {"dvc.exp_name": name}, _colours(params, models))
        tracking.publish(params, {}, _artifacts(report), {"dvc.exp_name": report.name})


def send(params: Params, root: Path, tags: Mapping[str, str]) -> list[str]:
    """Bring MLflow up to the files under `root`: those in git, and the replies where DVC has them.

    Returns: what is missing there, and so in MLflow, in words.
    Raises:
        UserError: there are no scores. Exception: MLflow's, if it cannot be reached or is broken.
    """
    models, missing = _models(params, root)
    tracking.publish(params, models, _artifacts(root / "reports"), tags, _colours(params, models))
    return missing


@contextmanager
def _said(what: str, otherwise: str) -> Iterator[None]:
    """MLflow's errors in a line, for it is a view; errors of the files are raised."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {without_password(error)}"
        print(f"MLflow does not show {what} yet ({reason}); {otherwise}", file=sys.stderr)


def _models(params: Params, root: Path) -> tuple[dict[str, tracking.Model], list[str]]:
    """What the files of a run say of each method, and what they do not."""
    reports = root / "reports"
    found = {name: reports / "score" / f"{name}.json" for name in ("sft", *in_order(params.methods))}
    scores = {name: json.loads(path.read_text("utf-8")) for name, path in found.items() if path.exists()}
    if len(scores) < 2 or "sft" not in scores:
        raise UserError(f"{reports / 'score'}: has no results; run `make repro` first, at the root of the repository")
    sft = scores.pop("sft")
    models, silent = {}, []
    for name, score in scores.items():
        replies, judgements = (read_rows(root / folder / f"{name}.jsonl") for folder in ("generations", "judgements"))
        if not (replies and judgements):
            silent.append(name)
        models[name] = tracking.Model(
            # At step 0 the policy is the SFT model: every curve starts there.
            curve=[*sft["curve"], *score["curve"]],
            final=score["final"],
            training=read_rows(reports / "train" / f"{name}.jsonl"),
            replies=reply_table(replies, judgements) if replies and judgements else None,
        )
    missing = [f"no scores of {name}" for name in found if name != "sft" and name not in models]
    if silent:
        missing.append(f"no table of replies for {len(silent)}, whose generations/ and judgements/ are not here")
    return models, missing


def _artifacts(folder: Path) -> dict[Path, str]:
    """The files of a report, and the folder that each lies in there."""
    return {
        path: str(path.parent.relative_to(folder)).removeprefix(".")
        for pattern in ARTIFACTS
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


def _colours(params: Params, models: Iterable[str]) -> dict[str, str]:
    return {name: TONES[params.methods[name].loss][params.methods[name].update] for name in models}
