"""The one place that knows MLflow: a view of what the files under reports/ record.

One run a trained model, found again by the tag `run_key` (a hash of the settings that made the model), so that
`align` starts a run, `report` adds its scores, and everything can be rebuilt from files (`make mlflow`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from tr_align import scratch
from tr_align.config import Params
from tr_align.runtime import disable_telemetry

if TYPE_CHECKING:
    from mlflow import MlflowClient

disable_telemetry()  # MLflow looks once, when it is imported

FLUSH_SECONDS = 5.0


def settings(name: str, params: Params) -> dict[str, Any]:
    """What made a method's model, flat, as shown in MLflow's table."""
    method = params.methods[name]
    soft, hard = method.update == "soft", method.update == "hard"
    values: dict[str, Any] = {
        "method": name,
        "loss": method.loss,
        "update": method.update,
        "alpha": params.ref_update.alpha if soft else None,
        "every": params.ref_update.every if soft else None,
        "tau": params.ref_update.tau if hard else None,
        "beta": getattr(params.beta, method.loss),
        "seed": params.seed,
        "lr": params.align.learning_rate,
        "steps": params.align.steps,
        "batch_size": params.align.batch_size * params.align.gradient_accumulation,
        "model": params.model.name,
        "data": params.data.source,
    }
    # TR methods without an update of the other kind show a dash, so that the columns can be sorted and filtered.
    return {key: "-" if value is None else value for key, value in values.items()}


def run_key(name: str, params: Params) -> str:
    """A name for a method with these settings, the same on every machine and for every stage."""
    method = params.methods[name]
    made_of = {
        "settings": settings(name, params),
        "align": params.align.model_dump(mode="json", exclude={"checkpoint_minutes"}),
        "loss": getattr(params, method.loss).model_dump(mode="json"),
        "sft": params.sft.model_dump(mode="json"),
        "data": params.data.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def run_name(name: str, params: Params) -> str:
    """A run's name in the UI, e.g. `tr_dpo_soft α=0.6/3 β=0.05 s0`."""
    values = settings(name, params)
    parts = [name]
    if values["alpha"] != "-":
        parts.append(f"α={values['alpha']:g}/{values['every']}")
    if values["tau"] != "-":
        parts.append(f"τ={values['tau']}")
    return " ".join([*parts, f"β={values['beta']:g}", f"s{values['seed']}"])


def dvc_tags() -> dict[str, str]:
    """What DVC says of the run: its stage, and the experiment's name and baseline under `dvc exp run`."""
    names = {"dvc.stage": "DVC_STAGE", "dvc.exp_name": "DVC_EXP_NAME", "dvc.baseline_rev": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[variable] for tag, variable in names.items() if os.environ.get(variable)}


class Tracker:
    """MLflow's store, `mlflow.db` and `mlartifacts/` at the repository's root, also from DVC's temporary copies."""

    def __init__(self, experiment: str) -> None:
        from mlflow import MlflowClient

        root = scratch.root().resolve()
        database = root / "mlflow.db"
        # The first client of a new database fills it; two that do so at once break it.
        with FileLock(root / ".scratch" / "mlflow.lock"):
            # MLflow would try for a minute and a half to open a file that is no database or cannot be written.
            with closing(sqlite3.connect(database, timeout=60)) as connection:
                connection.execute("BEGIN IMMEDIATE")
            self.client: MlflowClient = MlflowClient(f"sqlite:///{database}")
            # The location is said because artifacts would go to the folder that the process happens to run in.
            found = self.client.get_experiment_by_name(experiment)
            self.experiment = (
                found.experiment_id
                if found
                else self.client.create_experiment(experiment, artifact_location=(root / "mlartifacts").as_uri())
            )

    def find(self, key: str) -> Any | None:
        """The current run of a key, or None."""
        runs = self.client.search_runs(
            [self.experiment], f"tags.run_key = '{key}' and tags.current = 'yes'", order_by=["start_time DESC"]
        )
        return runs[0] if runs else None

    def create(self, key: str, name: str, values: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new current run of a key; an older one stays, marked as superseded."""
        old = self.find(key)
        if old is not None:
            self.client.set_tag(old.info.run_id, "current", "superseded")
        tags = {"run_key": key, "current": "yes", **tags}
        run = self.client.create_run(self.experiment, run_name=name, tags=tags)
        for setting, value in values.items():
            self.client.log_param(run.info.run_id, setting, value)
        return str(run.info.run_id)

    def log(self, run_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log rows of numbers, each with its integer `step`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name != "step" and isinstance(value, (int, float))
        ]
        for start in range(0, len(metrics), 900):  # MLflow takes at most 1,000 in one call
            self.client.log_batch(run_id, metrics=metrics[start : start + 900])

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """A metric's last value at each step."""
        return {point.step: point.value for point in self.client.get_metric_history(run_id, metric)}

    def finish(self, run_id: str) -> None:
        self.client.set_terminated(run_id, "FINISHED")


class LiveRun:
    """A training's run: rows are sent every few seconds. If MLflow fails, training goes on and says so once."""

    def __init__(self, name: str, params: Params, tags: Mapping[str, str]) -> None:
        self.pending: list[Mapping[str, Any]] = []
        self.sent = time.monotonic()
        self.logged = 0
        self.tracker: Tracker | None = None
        try:
            self.tracker = Tracker(params.mlflow.experiment)
            key = run_key(name, params)
            old = self.tracker.find(key)
            if old is not None and old.info.status == "RUNNING":  # a killed run goes on
                self.run_id = old.info.run_id
                self.logged = max(self.tracker.history(self.run_id, "loss"), default=0)
            else:
                self.run_id = self.tracker.create(key, run_name(name, params), settings(name, params), tags)
        except Exception as error:  # a view must not cost a training
            self._give_up(error)

    def log(self, row: Mapping[str, Any]) -> None:
        if row["step"] > self.logged:
            self.pending.append(row)
        if time.monotonic() - self.sent > FLUSH_SECONDS:
            self._send()

    def finish(self) -> None:
        self._send()
        try:
            if self.tracker is not None:
                self.tracker.finish(self.run_id)
        except Exception as error:  # as above
            self._give_up(error)

    def _send(self) -> None:
        try:
            if self.tracker is not None and self.pending:
                self.tracker.log(self.run_id, self.pending)
        except Exception as error:  # as above
            self._give_up(error)
        self.pending = []
        self.sent = time.monotonic()

    def _give_up(self, error: Exception) -> None:
        self.tracker = None
        print(
            f"MLflow records no more of this run ({type(error).__name__}: {error}); "
            "the log file has it all, and `make mlflow` rebuilds MLflow from the files",
            file=sys.stderr,
        )


def curves(points: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of reports/kl_hc.json by method, with the numbers MLflow plots: kl and hc at the same integer steps."""
    by_method: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        if point["method"] != "sft":
            numbers = {name: point[name] for name in ("step", "kl", "kl_lo", "kl_hi", "hc", "hc_lo", "hc_hi")}
            by_method.setdefault(point["method"], []).append(numbers)
    return by_method


def publish(
    params: Params,
    training: Mapping[str, list[dict[str, Any]]],
    curves: Mapping[str, list[dict[str, Any]]],
    final: Mapping[str, Mapping[str, Any]],
    artifacts: Iterable[Path],
    tags: Mapping[str, str],
) -> None:
    """Bring MLflow up to the files: each method's curve and scores, and a run `comparison` with figure and table.

    What a run has already is not sent again. A run whose scores differ from the files' (say, by another judge)
    stays as it is, marked as superseded, and a new one takes its place.

    Args:
        training: rows of the training log by method. curves: rows with step, kl and hc by method.
        final: the numbers of the trained model by method. artifacts: files of the comparison.
    """
    tracker = Tracker(params.mlflow.experiment)
    for name, curve in curves.items():
        key = run_key(name, params)
        numbers = {k: v for k, v in final[name].items() if k not in curve[-1]}
        scores = _by_metric([*curve, {**numbers, "step": curve[-1]["step"]}])
        run = tracker.find(key)
        known = {metric: tracker.history(run.info.run_id, metric) for metric in scores} if run else {}
        if run is None or any(known[metric].items() - points.items() for metric, points in scores.items()):
            run_id = tracker.create(key, run_name(name, params), settings(name, params), {**tags, "restored": "yes"})
            known, finished = {}, False
        else:
            run_id, finished = run.info.run_id, run.info.status == "FINISHED"
        log = _by_metric(training.get(name, []))
        known |= {metric: tracker.history(run_id, metric) for metric in log}
        tracker.log(run_id, _missing(log | scores, known))
        if not finished:  # finishing it once more would move its end to now
            tracker.finish(run_id)
    comparison = tracker.create(
        "comparison", "comparison", {"data": params.data.source, "model": params.model.name}, tags
    )
    for path in artifacts:
        tracker.client.log_artifact(comparison, str(path))
    tracker.finish(comparison)


def _by_metric(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """The numbers of rows by metric and step."""
    result: dict[str, dict[int, float]] = {}
    for row in rows:
        for metric, value in row.items():
            if metric != "step" and isinstance(value, (int, float)):
                result.setdefault(metric, {})[int(row["step"])] = float(value)
    return result


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
