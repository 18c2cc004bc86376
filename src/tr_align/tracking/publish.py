"""Bring MLflow up to what the files say of the trained models."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tr_align.config import Params
from tr_align.tracking.identity import run_key, run_name, run_tags, settings
from tr_align.tracking.store import Tracker, is_written_elsewhere
from tr_align.tracking.views import save_views

REPLIES = "replies.json"
TABLES_TAG = "mlflow.loggedArtifacts"
"""Says which of a run's files MLflow shows as tables."""


@dataclass(frozen=True)
class Model:
    """What the files say of one trained model.

    Args:
        curve: rows with `step`, `kl`, `hc` and more numbers at the points where the policy was evaluated.
        final: the trained model's numbers, with its `step`; intervals are `NAME_ci`.
        training: rows of the training log. replies: `columns` and `data` of a table, or None.
    """

    curve: Sequence[Mapping[str, Any]]
    final: Mapping[str, Any]
    training: Sequence[Mapping[str, Any]] = field(default_factory=list)
    replies: Mapping[str, Any] | None = None


def publish(
    params: Params,
    models: Mapping[str, Model],
    artifacts: Mapping[Path, str],
    tags: Mapping[str, str],
    colours: Mapping[str, str] | None = None,
) -> None:
    """Bring MLflow up to the files: each method's curve and scores; a run `comparison` with figures and tables, if any.

    What a run has already is not sent again. A run whose scores differ from the files' (say, by another judge)
    stays as it is, marked as superseded, and a new one takes its place. Every run gets the tag `exp.NAME` of the DVC
    experiment it is part of ("workspace" without one); runs that were part of it before and are no more lose it.

    Args:
        models: by method. artifacts: files of the comparison, and the folder that each lies in there ("" for none).
        tags: as :func:`tr_align.tracking.dvc_tags` has them. colours: of the curves, by method, "#rrggbb".
    """
    tracker = Tracker(params.mlflow.experiment)
    part = "exp." + re.sub(r"[^\w. /-]", "_", tags["dvc.exp_name"])
    common = {"judge": params.judge.openai.model if params.judge.name == "openai" else params.judge.name}
    members = set()
    for name, model in models.items():
        own = {"mlflow.runColor": colours[name]} if colours and name in colours else {}
        with tracker.lock:
            run_id = _bring_up(tracker, name, params, model, tags)
            for key, value in (common | own | {part: "yes"}).items():
                tracker.client.set_tag(run_id, key, value)
            _log_replies(tracker, run_id, model.replies)
        members.add(run_id)
    with tracker.lock:
        if artifacts:
            members.add(_compare(tracker, params, artifacts, tags, part))
        for run in tracker.runs(f"tags.`{part}` = 'yes'"):
            if run.info.run_id not in members:
                tracker.client.delete_tag(run.info.run_id, part)
        save_views(tracker)


def _bring_up(tracker: Tracker, name: str, params: Params, model: Model, tags: Mapping[str, str]) -> str:
    """The current run of a method, with everything in it that the files hold."""
    key, last = run_key(name, params), model.curve[-1]
    final = {k: v for k, v in _with_bounds(model.final).items() if k not in last}
    scores = _by_metric([*model.curve, {**final, "step": last["step"]}])
    log = _by_metric(model.training)
    run = tracker.find(key)
    known = {metric: tracker.history(run, metric) for metric in log | scores} if run else {}
    differ = any(_shared(known.get(metric, {}), points) for metric, points in scores.items())
    if run is None or differ or is_written_elsewhere(run):
        made = run_tags(name, params) | dict(tags) | {"restored": "yes"}
        run_id = tracker.create(key, run_name(name, params), settings(name, params), made)
        known, finished = {}, False
    else:
        run_id, finished = str(run.info.run_id), run.info.status == "FINISHED"
    tracker.log(run_id, _missing(log | scores, known))
    if not finished:  # finishing it once more would move its end to now
        tracker.finish(run_id)
    return run_id


def _log_replies(tracker: Tracker, run_id: str, table: Mapping[str, Any] | None) -> None:
    """Keep the table with the run, unless it is there already."""
    if table is None:
        return
    digest = hashlib.sha256(json.dumps(table).encode()).hexdigest()[:16]
    if tracker.client.get_run(run_id).data.tags.get("replies") == digest:
        return
    tracker.client.log_dict(run_id, dict(table), REPLIES)
    # MLflow's own log_table would add to the rows that are there.
    tracker.client.set_tag(run_id, TABLES_TAG, json.dumps([{"path": REPLIES, "type": "table"}]))
    tracker.client.set_tag(run_id, "replies", digest)


def _compare(
    tracker: Tracker, params: Params, artifacts: Mapping[Path, str], tags: Mapping[str, str], part: str
) -> str:
    """The run with the figures and tables; a new one only if one of the files has changed."""
    experiment = part.removeprefix("exp.")
    files = [
        [str(folder), path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path, folder in artifacts.items()
    ]
    content = hashlib.sha256(json.dumps(sorted(files)).encode()).hexdigest()[:16]
    key = f"comparison {experiment}"
    old = tracker.find(key)
    if old is not None and old.info.status == "FINISHED" and old.data.tags.get("content") == content:
        return str(old.info.run_id)
    name = "comparison" if experiment == "workspace" else key
    made = {**tags, "content": content, part: "yes"}
    run_id = tracker.create(key, name, {"data": params.data.source, "model": params.model.name}, made)
    for path, folder in artifacts.items():
        tracker.client.log_artifact(run_id, str(path), folder or None)
    tracker.finish(run_id)
    return run_id


def _with_bounds(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """`x_ci: [low, high]` as two numbers, `x_lo` and `x_hi`, the names that the curves have."""
    result: dict[str, Any] = {}
    for name, value in numbers.items():
        if name.endswith("_ci"):
            if value is not None:
                stem = name.removesuffix("_ci")
                result |= {f"{stem}_lo": value[0], f"{stem}_hi": value[1]}
        else:
            result[name] = value
    return result


def _by_metric(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The numbers of rows by metric and step."""
    result: dict[str, dict[int, float]] = {}
    for row in rows:
        for metric, value in row.items():
            if metric != "step" and isinstance(value, (int, float)):
                result.setdefault(metric, {})[int(row["step"])] = float(value)
    return result


def _shared(known: Mapping[int, float], wanted: Mapping[int, float]) -> bool:
    """Whether a step has another number in the store than in the files."""
    return any(step not in wanted or wanted[step] != value for step, value in known.items())


def _missing(
    wanted: Mapping[str, Mapping[int, float]], known: Mapping[str, Mapping[int, float]]
) -> list[dict[str, float]]:
    """Rows of the numbers whose steps are not known yet."""
    return [
        {"step": step, metric: value}
        for metric, points in wanted.items()
        for step, value in points.items()
        if step not in known.get(metric, {})
    ]
