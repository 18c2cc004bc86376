"""The real pipeline, `dvc repro`, on the smoke preset: killed once, resumed, and looked through."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tr_align.reports.claims import KINDS
from tr_align.settings import AXES

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FIGURES = ("kl_vs_hc", "frontier", "kl_vs_axes", "win_tie_lose", "diversity", "length", "training", "ood")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> tuple[Path, str]:
    """A copy of what git would clone, with the smoke preset, reproduced; and what the second start printed."""
    folder = tmp_path_factory.mktemp("repository")
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for name in filter(None, tracked.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    shutil.copyfile(ROOT / "presets" / "smoke.yaml", folder / "params.yaml")
    subprocess.run(["git", "init", "-q", "."], cwd=folder, check=True)

    # Killed the hard way in the middle of the first alignment.
    with (folder / "first.log").open("w") as log:
        first = subprocess.Popen(
            ["dvc", "repro"], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        while first.poll() is None and "Running stage 'align@" not in (folder / "first.log").read_text():
            time.sleep(0.2)
        time.sleep(2)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    second = subprocess.run(["dvc", "repro"], cwd=folder, env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout[-3000:] + second.stderr[-3000:]
    return folder, second.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_killed_repro_continues_where_it_was(repository: tuple[Path, str]) -> None:
    _, printed = repository
    for stage in ("prepare", "sft"):
        assert f"Stage '{stage}' didn't change, skipping" in printed


def scores(folder: Path) -> dict[str, Any]:
    return {name: read(folder / "reports" / "score" / f"{name}.json")["final"] for name in ("dpo", "tr_dpo_soft")}


def test_scores_have_every_method_and_number(repository: tuple[Path, str]) -> None:
    folder, _ = repository
    metrics = scores(folder)
    for numbers in metrics.values():
        for name in ("kl", "hc", "win_rate_vs_sft", *AXES):
            low, high = numbers[f"{name}_ci"]
            assert low <= numbers[name] <= high
        assert numbers["n_prompts"] == 12 and numbers["n_missing"] == 0
    assert metrics["dpo"]["win_rate_vs_base"] is None
    assert 0 <= metrics["tr_dpo_soft"]["win_rate_vs_base"] <= 1
    # The soft method's reference moved after step 2, so the two policies are different models.
    assert metrics["dpo"]["kl"] != metrics["tr_dpo_soft"]["kl"]


def test_curves_start_at_the_sft_model_and_the_reference_moved_when_it_should(repository: tuple[Path, str]) -> None:
    folder, _ = repository
    curve = read(folder / "reports" / "kl_hc.json")
    start = [row for row in curve if row["method"] == "sft"]
    assert len(start) == 1 and start[0]["kl"] == 0.0
    assert [row["step"] for row in curve if row["method"] == "tr_dpo_soft"] == [2, 4]
    logs = {
        name: [json.loads(line) for line in (folder / "reports" / "train" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("dpo", "tr_dpo_soft")
    }
    assert [row["ref_from_sft"] > 0 for row in logs["dpo"]] == [False] * 4
    assert [row["ref_from_sft"] > 0 for row in logs["tr_dpo_soft"]] == [False, False, True, True]


def test_everything_a_reader_opens_is_there(repository: tuple[Path, str]) -> None:
    folder, printed = repository
    figures = [f"figures/{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")]
    for name in (*figures, "table.md", "table.tex", "index.html", "claims.json", "judge.json", "calibration.json"):
        assert (folder / "reports" / name).stat().st_size > 100, name
    assert "TR-DPO soft" in printed and "reports/index.html" in printed


def test_mlflow_has_one_run_a_model_with_kl_and_hc_at_the_same_steps(repository: tuple[Path, str]) -> None:
    from mlflow import MlflowClient

    folder, _ = repository
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id], "tags.current = 'yes'")}
    models = {name: run for name, run in runs.items() if "method" in run.data.params}
    assert sorted(run.data.params["method"] for run in models.values()) == ["dpo", "tr_dpo_soft"]
    assert "comparison" in runs
    for run in models.values():
        assert {"loss", "update", "alpha", "tau", "beta", "seed", "lr"} <= set(run.data.params)
        steps = [
            [point.step for point in client.get_metric_history(run.info.run_id, metric)] for metric in ("kl", "hc")
        ]
        assert steps[0] == steps[1] == [0, 2, 4]
        losses = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in losses) == [1, 2, 3, 4]
    artifacts = {item.path for item in client.list_artifacts(runs["comparison"].info.run_id)}
    assert {"figures", "table.md"} <= artifacts


def test_nothing_to_do_runs_nothing_and_dvc_shows_the_results(
    repository: tuple[Path, str], environment: dict[str, str]
) -> None:
    folder, _ = repository

    def dvc(*command: str) -> str:
        return subprocess.run(
            ["dvc", *command], cwd=folder, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert "Running stage" not in dvc("repro")
    assert "tr_dpo_soft.kl" in dvc("metrics", "show", "--md") or "tr_dpo_soft" in dvc("metrics", "show", "--json")
    page = dvc("plots", "show", "reports/kl_hc.json").strip().splitlines()[-1].removeprefix("file://")
    assert "KL(policy" in Path(page).read_text(encoding="utf-8")


def test_make_repro_ends_with_the_table_though_there_was_nothing_to_do(
    repository: tuple[Path, str], environment: dict[str, str]
) -> None:
    printed = subprocess.run(
        [sys.executable, "pipeline/repro.py"],
        cwd=repository[0],
        env=environment | {"PYTHONPATH": "src"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "Running stage" not in printed
    results = printed.partition("Every result is as dvc.lock has it:")[2].strip().splitlines()
    assert results[0].split() == ["method", "KL", "HC", "win", "vs", "SFT", "win", "vs", "base", "n"]
    assert [line.split()[0] for line in results[1:3]] == ["DPO", "TR-DPO"] and results[3:-1] == [""]
    assert results[-1].startswith("Page: reports/index.html")


def test_an_endpoint_judges_the_whole_run_and_a_repeat_asks_nothing(
    repository: tuple[Path, str], environment: dict[str, str], tmp_path: Path
) -> None:
    """In a copy of the finished run: nothing is trained again, the endpoint is asked what was forecast and no more."""
    from judges.stub import Stub

    folder = tmp_path / "repository"
    shutil.copytree(repository[0], folder, symlinks=True)
    lock = (folder / "dvc.lock").read_text()
    with Stub() as stub:
        params = (folder / "params.yaml").read_text()
        for old, new in (
            ("name: probe ", "name: openai "),
            ("model: gpt-4o-2024-08-06", "model: gpt-4o-mini"),
            ("base_url: null", f"base_url: {stub.url}"),
            ("max_usd: null", "max_usd: 5"),
        ):
            assert old in params
            params = params.replace(old, new)
        (folder / "params.yaml").write_text(params)
        local = environment | {"NO_PROXY": "127.0.0.1"}
        first = subprocess.run(["dvc", "repro"], cwd=folder, env=local, capture_output=True, text=True)
        assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
        assert "Stage 'sft' didn't change" in first.stdout and "Stage 'align@dpo' didn't change" in first.stdout
        forecast = re.search(r"judge: ([\d,]+) ratings and ([\d,]+) comparisons ahead", first.stderr)
        assert forecast is not None
        most = sum(int(number.replace(",", "")) for number in forecast.groups())
        asked = len(stub.chats)
        assert 100 < asked <= most + 5  # a trial of what the endpoint can do
        card = read(folder / "reports" / "calibration.json")
        # The stub answers every question alike: no rating tells a good reply from a bad one, and the figure says so.
        assert card["verdict_rating"] == "no better than chance"
        assert "Warning: this judge" in (folder / "reports" / "figures" / "kl_vs_hc.svg").read_text(encoding="utf-8")
        assert scores(folder)["dpo"]["judge_bias"]["sft"]["first_shown"] in (0.0, 1.0)
        rows = [json.loads(line) for line in (folder / "judgements" / "dpo.jsonl").read_text().splitlines()]
        assert all(answer["usd"] > 0 for row in rows for answer in row["raw"]["answers"])

        # As if it had never been judged: the answers are still there.
        (folder / "dvc.lock").write_text(lock)
        command = ["dvc", "repro", "--no-run-cache"]
        again = subprocess.run(command, cwd=folder, env=local, capture_output=True, text=True)
        assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
        assert "Running stage 'judge@dpo'" in again.stdout and len(stub.chats) == asked


def test_two_seeds_make_one_report(repository: tuple[Path, str], environment: dict[str, str], tmp_path: Path) -> None:
    """`dvc exp run -S seed=1`, then `tr-align report`: every number over both seeds, the failed method named."""
    folder = tmp_path / "repository"
    shutil.copytree(repository[0], folder, symlinks=True)

    def run(*command: str) -> str:
        local = environment | {"PYTHONPATH": "src"}
        done = subprocess.run(command, cwd=folder, env=local, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run("git", "add", "-A")
    run("git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-qm", "seed 0")
    run("dvc", "exp", "run", "-n", "seed-one", "-S", "seed=1")
    run("git", "checkout", "-q", "--", ".")  # the workspace is seed 0 again
    run("dvc", "checkout", "-q")
    (folder / "likelihoods" / "tr_dpo_soft.jsonl").unlink()  # as if its stage had failed
    printed = run("tr-align", "report", "--experiments")
    claims = read(folder / "reports" / "joined" / "claims.json")
    tested = {claim["kind"]: tuple(claim["seeds"]) for claim in claims if not claim["kind"].startswith("toy")}
    # Seed 0 lacks the log-probabilities; nothing is compared with other alphas, taus or intervals.
    kinds = set(KINDS) - {"alpha", "tau", "interval"}
    assert tested == {kind: (1,) if kind in ("ood", "recovery") else (0, 1) for kind in kinds}
    assert "2 seeds" in printed
    assert "likelihoods/tr_dpo_soft.jsonl is missing" in printed
    page = (folder / "reports" / "joined" / "index.html").read_text(encoding="utf-8")
    assert "likelihoods/tr_dpo_soft.jsonl is missing" in page


def test_a_bad_setting_stops_before_anything_runs(repository: tuple[Path, str], environment: dict[str, str]) -> None:
    folder, _ = repository
    params = (folder / "params.yaml").read_text()
    try:
        (folder / "params.yaml").write_text(params.replace("alpha:", "alhpa:"))
        stopped = subprocess.run(
            [sys.executable, "pipeline/repro.py"],
            cwd=folder,
            env=environment | {"PYTHONPATH": "src"},
            capture_output=True,
            text=True,
        )
    finally:
        (folder / "params.yaml").write_text(params)
    assert stopped.returncode == 1
    assert "params.yaml: ref_update.alhpa: unknown key; did you mean 'alpha'?" in stopped.stderr
    assert "Traceback" not in stopped.stderr
