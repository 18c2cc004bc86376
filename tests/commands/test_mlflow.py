"""`tr-align mlflow`: the store made anew from files, whatever is there; and what DVC restored without running it."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow_store.record import ROOT, write_record

from tr_align import cli, tracking
from tr_align.config import METHODS, load_params

DVC_YAML = """
stages:
  align:
    foreach: [dpo, tr_dpo_soft]
    do:
      cmd: touch ../ran-${item} && mkdir -p generations && echo '{}' > generations/${item}.jsonl
      params: [seed]
      outs:
        - generations/${item}.jsonl
  report:
    cmd: python -c "from tr_align.config import load_params; from tr_align.reports.publish import publish; \
from pathlib import Path; publish(load_params(), Path('reports')); Path('done').touch()"
    params: [mlflow.experiment]
    deps: [generations]
    outs: [done]
"""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone: what is in git, nothing that DVC keeps, no store."""
    folder = write_record(tmp_path / "clone", replies=False)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def contents() -> list[tuple[Any, ...]]:
    """All of the store: runs with what they hold, in a form that does not depend on when they were made."""
    tracker = tracking.Tracker(load_params().mlflow.experiment)
    found = []
    for run in tracker.runs(""):
        points = {
            metric: [(p.step, p.value) for p in tracker.client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
        }
        tags = {key: value for key, value in run.data.tags.items() if key not in ("process", "mlflow.runName")}
        found.append((run.info.run_name, sorted(run.data.params.items()), sorted(tags.items()), sorted(points.items())))
    return sorted(found)


def asides() -> list[Path]:
    return sorted(Path().glob("mlflow.db.aside-*"))


def test_a_fresh_clone_gets_its_runs_and_twice_is_as_once(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["mlflow", "rebuild"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("workspace: 9 runs in the MLflow experiment embedded; no table of replies for 9")
    once = contents()
    assert len(once) == 10
    assert {name.split()[0] for name, *_ in once} == {*METHODS, "comparison"}
    assert cli.main(["mlflow", "rebuild"]) == 0
    assert contents() == once

    # Another clone has the same; with the replies there is a table of them.
    ignored = shutil.ignore_patterns("mlflow.db", "mlartifacts", ".scratch")
    shutil.copytree(clone, clone.parent / "another", ignore=ignored)
    monkeypatch.chdir(clone.parent / "another")
    assert cli.main(["mlflow", "rebuild"]) == 0
    assert contents() == once and not asides()
    shutil.copytree(write_record(clone.parent / "with") / "generations", "generations")
    shutil.copytree(clone.parent / "with" / "judgements", "judgements")
    capsys.readouterr()
    assert cli.main(["mlflow", "rebuild"]) == 0
    assert "no table" not in capsys.readouterr().out
    assert len(contents()) == 10
    assert sum("mlflow.loggedArtifacts" in dict(tags) for _, _, tags, _ in contents()) == 9


def older(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0123456789ab'")


def dropped(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE metrics")


def torn(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)


def half_made(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE experiments (experiment_id INTEGER)")


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database\n" * 500)


def folder(path: Path) -> None:
    path.unlink()
    (path / "inside").mkdir(parents=True)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as `rebuild` makes it, for the tests to break copies of."""
    folder = write_record(tmp_path_factory.mktemp("filled") / "clone", replies=False)
    environment = {key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "MLFLOW_TRACKING_URI")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "tr_align.cli", "mlflow", "rebuild"]
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return folder / "mlflow.db"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (older, "was made by another version of MLflow"),
        (dropped, "lacks the table metrics"),
        (torn, "is damaged"),
        (half_made, "was made by another version of MLflow, or only in part"),
        (garbage, "is damaged (file is not a database)"),
        (folder, "is no file"),
    ],
)
def test_a_broken_store_is_moved_aside_and_made_anew(
    damage: Any, reason: str, filled: Path, clone: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = Path("mlflow.db")
    shutil.copyfile(filled, path)
    damage(path)
    before = path.read_bytes() if path.is_file() else b""
    assert cli.main(["mlflow", "rebuild"]) == 0
    (aside,) = asides()
    said = capfd.readouterr().err
    assert f"mlflow.db {reason}" in said and f"It is now {aside.name}" in said and "Traceback" not in said
    assert aside.is_dir() or aside.read_bytes() == before
    assert len(contents()) == 10


def test_a_store_that_is_in_use_is_left_alone(
    filled: Path, clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(filled, "mlflow.db")
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, timeout=0: real(path, timeout=0.1))
    with real("mlflow.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cli.main(["mlflow", "rebuild"]) == 1
        other.execute("ROLLBACK")
    assert "mlflow.db: database is locked; end what uses it" in capfd.readouterr().err and not asides()


def test_without_a_report_it_says_what_to_do(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree("reports")
    assert cli.main(["mlflow", "rebuild"]) == 1
    assert "reports/score: has no results; run `make repro` first" in capsys.readouterr().err


def test_a_method_without_scores_and_a_run_without_figures_are_left_out(
    filled: Path, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(filled, "mlflow.db")
    Path("reports/score/kto.json").unlink()
    Path("reports/train/dpo.jsonl").unlink()
    shutil.rmtree("reports/figures")
    assert cli.main(["mlflow", "rebuild"]) == 0
    said = capsys.readouterr().out
    assert "8 runs in the MLflow experiment embedded; no scores of kto; no table of replies for 8" in said


def test_a_port_that_is_taken(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["mlflow", "ui", "--port", str(port)]) == 1
    assert f"port {port} cannot be used" in capsys.readouterr().err


def git(*arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_experiments_come_from_their_commits(clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `dvc exp run` leaves them: a commit under refs/exps that the branch does not have."""
    Path(".gitignore").write_text("/mlflow.db\n/mlartifacts\n/.scratch\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    base = git("rev-parse", "HEAD")
    params = Path("params.yaml").read_text()
    for name, old, new in (("bold-cat", "alpha: 0.6", "alpha: 0.8"), ("old-dog", "alpha: 0.6", "alhpa: 0.6")):
        Path("params.yaml").write_text(params.replace(old, new))
        git("commit", "-am", name)
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
        git("reset", "--hard", base)
    git("update-ref", "refs/exps/stash", base)
    assert cli.main(["mlflow", "rebuild", "--experiments"]) == 0
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.out.splitlines()] == ["workspace", "bold-cat"]
    assert "old-dog: left out: params.yaml: " in said.err and "ref_update.alhpa: unknown key" in said.err
    tracker = tracking.Tracker("embedded")
    for name, alpha in (("workspace", "0.6"), ("bold-cat", "0.8")):
        part = tracker.runs(f"tags.`exp.{name}` = 'yes' and params.method LIKE '%'")
        assert len(part) == 9 and {r.data.params["alpha"] for r in part} == {"0", alpha, "1"}
    (soft,) = tracker.runs("params.alpha = '0.8' and params.method = 'tr_dpo_soft'")
    assert soft.data.tags["dvc.exp_name"] == "bold-cat" and soft.data.tags["dvc.baseline_rev"] == base
    once = contents()
    assert cli.main(["mlflow", "rebuild", "--experiments"]) == 0
    assert contents() == once


def test_a_cell_that_dvc_restored_on_another_machine_still_has_its_run(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clones, two machines: the second takes the trainings from the first one's cache and runs only `report`."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))

    def dvc(*arguments: str) -> str:
        done = subprocess.run(["dvc", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    Path("dvc.yaml").write_text(DVC_YAML)
    git("init")
    dvc("init", "-q")
    dvc("remote", "add", "-q", "-d", "shared", "../remote")
    git("add", ".")
    git("commit", "-m", "first")
    second = clone.parent / "second"
    shutil.copytree(clone, second)
    assert "Running stage 'align@dpo'" in dvc("repro")
    dvc("push", "-q", "--run-cache")
    for mark in clone.parent.glob("ran-*"):
        mark.unlink()

    monkeypatch.chdir(second)
    params = Path("params.yaml").read_text()
    Path("params.yaml").write_text(params.replace("experiment: embedded", "experiment: elsewhere"))
    printed = dvc("repro", "--pull")
    assert "Stage 'align@dpo' is cached - skipping run" in printed and "Running stage 'report'" in printed
    assert not list(second.parent.glob("ran-*"))
    tracker = tracking.Tracker("elsewhere")
    runs = tracker.runs("tags.current = 'yes' and params.method LIKE '%'")
    assert {run.data.params["method"] for run in runs} == set(METHODS)
    for run in runs:
        assert run.data.tags["restored"] == "yes" and run.info.status == "FINISHED"
        assert sorted(tracker.history(run, "loss")) == list(range(1, 10))
