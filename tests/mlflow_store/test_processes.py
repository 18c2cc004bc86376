"""Two queued experiments write at once: nothing is lost, and no run is there twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mlflow_store.record import write_record
from tr_align import tracking
from tr_align.config import METHODS, Params, load_params

WORKER = """
import sys, time
from pathlib import Path
from tr_align import tracking
from tr_align.config import load_params
from tr_align.reports.publish import send
from tr_align.tracking import live
import mlflow
import psutil
mine, gate, name, alpha = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
live.FLUSH_SECONDS = 0.0
params = load_params(mine / "params.yaml")
params = params.model_copy(update={"ref_update": params.ref_update.model_copy(update={"alpha": alpha})})
(gate / name).touch()
while len(list(gate.iterdir())) < 2:
    time.sleep(0.001)
tags = {"dvc.exp_name": name}
for method in ("dpo", "tr_dpo_soft"):
    run = tracking.LiveRun(method, params, tags)
    for step in range(1, 10):
        run.log({"step": step, "loss": 1 / step, "margin": 0.1 * step, "ref_from_sft": 0.0})
    run.finish()
send(params, mine, tags)
"""


def changed(params: Params, alpha: float) -> Params:
    return params.model_copy(update={"ref_update": params.ref_update.model_copy(update={"alpha": alpha})})


@pytest.mark.parametrize(
    ("existing", "shared_by"),
    [(False, "DVC_ROOT"), (True, "DVC_ROOT"), (False, "MLFLOW_TRACKING_URI")],
    ids=["fresh", "existing", "study"],
)
def test_two_experiments_that_write_at_once_lose_nothing_and_double_nothing(
    existing: bool, shared_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share six cells of nine, train two each (one of them the same), and report all nine.

    The runs of a study are repositories of their own, which have no more in common than the store's address.
    """
    store, gate = tmp_path / "repository", tmp_path / "gate"
    store.mkdir()
    gate.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(store))
    copy = write_record(tmp_path / "one")
    params = load_params(copy / "params.yaml")
    if existing:
        tracking.Tracker(params.mlflow.experiment)
    shutil.copytree(copy, tmp_path / "two")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if shared_by == "MLFLOW_TRACKING_URI":
        environment |= {shared_by: f"sqlite:///{store}/mlflow.db"}
        del environment["DVC_ROOT"]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / folder), str(gate), f"exp-{folder}", str(alpha)],
            cwd=tmp_path / folder,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder, alpha in (("one", 0.6), ("two", 0.8))
    ]
    said = [worker.communicate(timeout=200)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
    assert not any("MLflow records no more" in text for text in said), "\n".join(said)

    tracker = tracking.Tracker(params.mlflow.experiment)
    current = tracker.runs("tags.current = 'yes' and params.method LIKE '%'")
    assert len(current) == 9 + 3  # three soft methods with either alpha
    assert max(Counter(run.data.tags["run_key"] for run in current).values()) == 1
    expected = {tracking.run_key(name, changed(params, alpha)) for name in METHODS for alpha in (0.6, 0.8)}
    assert {run.data.tags["run_key"] for run in current} == expected
    for name in ("exp-one", "exp-two"):
        part = tracker.runs(f"tags.`exp.{name}` = 'yes' and params.method LIKE '%'")
        assert {run.data.params["method"] for run in part} == set(METHODS), name
    for run in tracker.runs(""):
        for metric in run.data.metrics:
            history = tracker.client.get_metric_history(run.info.run_id, metric)
            steps = [point.step for point in history]
            assert len(steps) == len(set(steps)), (run.info.run_name, run.data.tags["dvc.exp_name"], metric)
    for run in current:
        assert run.info.status == "FINISHED"
        assert sorted(tracker.history(run, "loss")) == list(range(1, 10))
        assert sorted(tracker.history(run, "hc")) == [0, 3, 6, 9] == sorted(tracker.history(run, "kl"))
        artifacts = store / "mlartifacts" / run.info.run_id / "artifacts" / "replies.json"
        assert len(json.loads(artifacts.read_text())["data"]) == 4
    comparisons = tracker.runs("tags.current = 'yes' and tags.content LIKE '%'")
    assert {run.info.run_name for run in comparisons} == {"comparison exp-one", "comparison exp-two"}


def test_current_runs_of_one_key_settle_on_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On two machines no lock holds the processes apart: both make a run, and one of the two is left current."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tracker = tracking.Tracker("test")
    both: list[Any] = []
    made = tracker.client.create_run

    def with_another(*arguments: Any, **keywords: Any) -> Any:
        both.extend([made(*arguments, **keywords), made(*arguments, **keywords)])
        return both[0]

    monkeypatch.setattr(tracker.client, "create_run", with_another)
    tracker.create("key", "name", {"alpha": 1}, {})
    current = tracker.runs("tags.run_key = 'key' and tags.current = 'yes'")
    assert len(both) == 2 and len(current) == 1
