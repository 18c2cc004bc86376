"""Many experiments with the real pipeline: `tr-align sweep` on the smoke preset, one of its trainings killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ALPHAS = (0.3, 0.9)


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": "src", "DVC_NO_ANALYTICS": "1"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, str]:
    """What git would clone, with the smoke preset and a sweep over alpha, run by two workers; and what it printed."""
    folder = tmp_path_factory.mktemp("repository")
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    tracked = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "dvc.lock", "tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    params = (ROOT / "presets" / "smoke.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(f"{params}\nsweep:\n  ref_update.alpha: {[*ALPHAS, 0.6]}\n", encoding="utf-8")
    for words in ("init -q", "add -A", "-c user.name=test -c user.email=test@example.org commit -qm start"):
        subprocess.run(["git", *words.split()], cwd=folder, check=True)
    subprocess.run(["git", "config", "user.name", "test"], cwd=folder, check=True)
    subprocess.run(["git", "config", "user.email", "test@example.org"], cwd=folder, check=True)
    with (folder / "sweep.log").open("w") as log:
        sweep = subprocess.Popen(
            ["tr-align", "sweep", "--jobs", "2"], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        _kill_training(sweep, "alpha-0.3")
        status = sweep.wait()
    printed = (folder / "sweep.log").read_text(encoding="utf-8", errors="replace")
    assert status == 0, printed[-5000:]
    return folder, printed


def _kill_training(sweep: subprocess.Popen[bytes], experiment: str) -> None:
    """The hard way, once its first step is done."""
    while sweep.poll() is None:
        for process in psutil.process_iter():
            try:
                if process.environ().get("DVC_EXP_NAME") == experiment and "align.py" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
                    return
            except (psutil.Error, OSError):
                continue
        time.sleep(0.1)


def logs(folder: Path) -> dict[str, str]:
    """What each experiment printed (in its last attempt), by name."""
    found = {}
    for path in (folder / ".dvc" / "tmp" / "exps" / "run").glob("*/*.out"):
        text = path.read_text(encoding="utf-8", errors="replace")
        match = re.search(r"Reproducing experiment '(.+)'", text)
        assert match is not None
        found[match[1]] = text
    return found


def test_the_common_stages_ran_once_in_the_workspace(repository: tuple[Path, str]) -> None:
    folder, printed = repository
    assert printed.count("Running stage 'sft'") == printed.count("Running stage 'align@dpo'") == 1
    assert printed.count("alpha-0.3: failed after") == 1 and "2 done, 0 failed" in printed
    soft = {f"{stage}@tr_dpo_soft" for stage in ("align", "generate", "ood", "judge", "score")} | {"report"}
    printed_by = logs(folder)
    assert set(printed_by) == {"alpha-0.3", "alpha-0.9"}
    for text in printed_by.values():
        assert set(re.findall(r"Running stage '(.+)':", text)) == soft


def test_mlflow_has_a_run_for_every_alpha_with_each_step_once(repository: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    folder, _ = repository
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.method = 'tr_dpo_soft' and tags.current = 'yes'")
    by_alpha = {float(run.data.params["alpha"]): run for run in runs}
    assert sorted(by_alpha) == [0.3, 0.6, 0.9] and len(runs) == 3
    for alpha in ALPHAS:
        assert by_alpha[alpha].data.tags["dvc.exp_name"] == f"alpha-{alpha}"
    for run in runs:
        assert run.info.status == "FINISHED"
        losses = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in losses) == [1, 2, 3, 4]
        assert {"kl", "hc"} <= set(run.data.metrics)


def test_compare_and_report_show_every_alpha(repository: tuple[Path, str], environment: dict[str, str]) -> None:
    folder, _ = repository

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "exp show" in line]
    compare = shlex.split(line.replace("$(BIN)/", "").replace("$$", "$"))
    rows = {row["Experiment"]: row for row in csv.DictReader(run(*compare, "--csv").splitlines())}
    for alpha in ALPHAS:
        row = rows[f"alpha-{alpha}"]
        assert row["ref_update.alpha"] == str(alpha) and float(row["tr_dpo_soft.kl"]) > 0
    refs = run("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    scores = [json.loads(run("git", "show", f"{ref}:reports/score/tr_dpo_soft.json"))["final"]["kl"] for ref in refs]
    assert len(set(scores)) == 2  # two alphas, two models

    run("tr-align", "report", "--experiments")
    table = (folder / "reports" / "joined" / "table.md").read_text(encoding="utf-8")
    for alpha in (0.3, 0.6, 0.9):
        assert str(alpha) in table
    with (folder / "reports" / "joined" / "figures" / "kl_vs_hc.csv").open(encoding="utf-8") as file:
        points: list[dict[str, Any]] = list(csv.DictReader(file))
    assert points


def test_a_second_sweep_runs_nothing(repository: tuple[Path, str], environment: dict[str, str]) -> None:
    folder, _ = repository
    again = subprocess.run(["tr-align", "sweep"], cwd=folder, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("done already") == 2 and "Running stage" not in again.stdout
    assert json.loads((folder / "reports" / "metrics.json").read_text())["tr_dpo_soft"]["kl"] > 0
