"""The runs of a study in MLflow: each with its own settings, and one report of all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from mlflow_store.record import write_record
from tr_align import tracking
from tr_align.config import METHODS, load_params
from tr_align.errors import UserError
from tr_align.reports.publish import publish_study


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Two seeds, and a report of both; the store is the workspace's, the runs lie in folders of their own."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = {}
    for seed in (0, 1):
        folder = write_record(tmp_path / f"main-s{seed}")
        params = yaml.safe_load((folder / "params.yaml").read_text())
        (folder / "params.yaml").write_text(yaml.safe_dump(params | {"seed": seed}))
        found[folder.name] = folder
    (tmp_path / "report" / "figures").mkdir(parents=True)
    (tmp_path / "report" / "index.html").write_text("both seeds")
    (tmp_path / "report" / "figures" / "kl_vs_hc.png").write_bytes(b"a picture")
    return found


def test_every_method_of_every_run_is_there_once_and_the_report_of_all(runs: dict[str, Path], tmp_path: Path) -> None:
    for _ in range(2):  # the second time adds nothing
        publish_study(runs, tmp_path / "report")
    tracker = tracking.Tracker(load_params(runs["main-s0"] / "params.yaml").mlflow.experiment)
    everything = tracker.runs("")
    assert len(everything) == 2 * len(METHODS) + 1
    for seed in ("0", "1"):
        part = tracker.runs(f"tags.`exp.main-s{seed}` = 'yes'")
        assert {(run.data.params["method"], run.data.params["seed"]) for run in part} == {(m, seed) for m in METHODS}
        assert all(run.data.metrics["win_rate_vs_sft"] == 0.75 for run in part)
    (comparison,) = [run for run in everything if "content" in run.data.tags]
    assert comparison.info.run_name == "comparison report"
    # The pages that lie in a run's folder are the repository's, of another run.
    kept = tmp_path / "mlartifacts" / comparison.info.run_id / "artifacts"
    files = sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file())
    assert files == ["figures/kl_vs_hc.png", "index.html"]


def test_a_store_that_is_away_is_said_and_a_run_without_scores_is_an_error(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/nowhere/mlflow.db")
    publish_study(runs, tmp_path / "report")
    assert "MLflow does not show this study yet (OperationalError" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    os.remove(runs["main-s1"] / "reports" / "score" / "sft.json")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError, match="main-s1/reports/score: has no results"):
        publish_study(runs, tmp_path / "report")
