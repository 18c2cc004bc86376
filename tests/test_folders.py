"""Runs of a study in folders of their own: real DVC, with stages that only note that they ran."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml

from tr_align.errors import UserError
from tr_align.experiments.folders import Runner, discard
from tr_align.experiments.study import Study, StudyRun

ROOT = Path(__file__).parents[1]
SCRIPT = """
import os, pathlib, re, sys
name, *outs = sys.argv[1:]
with open(os.environ["RAN"], "a") as ran:
    ran.write(f"{pathlib.Path.cwd().name} {name}\\n")
if os.environ.get("FAIL") == name:
    sys.exit(1)
for out in outs:
    path = pathlib.Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    pattern = "judge:\\n  name: .*" if name.startswith("judge") else "alpha: .*"
    setting = re.search(pattern, pathlib.Path("params.yaml").read_text())[0]
    path.write_text(f"{name} {out} {setting if '@' in name or name.startswith('judge') else ''}")
"""


def stage(name: str, outs: list[str], deps: list[str], params: list[str], whole: list[str] | None = None) -> dict:  # type: ignore[type-arg]
    """A stage that writes `outs`, which belong to the outputs `whole`."""
    return {
        "cmd": f"python stage.py {name} {' '.join(outs)}",
        "deps": deps,
        "params": params,
        "outs": whole or outs,
    }


def pipeline() -> dict[str, object]:
    weights = "models/{}/model.safetensors"
    each = {
        "align": stage(
            "align@${key}",
            [weights.format("${key}"), "logs/${key}.jsonl"],
            ["models/sft"],
            ["seed", "ref_update.alpha"],
            ["models/${key}", "logs/${key}.jsonl"],
        ),
        "generate": stage("generate@${key}", ["generations/${key}.jsonl"], ["models/${key}"], []),
        "ood": stage("ood@${key}", ["likelihoods/${key}.jsonl"], ["models/${key}"], []),
        "judge": stage("judge@${key}", ["judgements/${key}.jsonl"], ["generations/${key}.jsonl", "models/judge"], []),
        "score": stage("score@${key}", ["score/${key}.json"], ["judgements/${key}.jsonl", "logs/${key}.jsonl"], []),
    }
    single = {
        "prepare": stage("prepare", ["data.txt"], [], ["data"]),
        "sft": stage(
            "sft", [weights.format("sft"), "logs/sft.jsonl"], ["data.txt"], ["seed"], ["models/sft", "logs/sft.jsonl"]
        ),
        "judge_fit": stage("judge_fit", [weights.format("judge")], ["data.txt"], ["judge.name"], ["models/judge"]),
        "generate_sft": stage("generate_sft", ["generations/sft.jsonl"], ["models/sft"], []),
        "ood_sft": stage("ood_sft", ["likelihoods/sft.jsonl"], ["models/sft"], []),
        "judge_sft": stage("judge_sft", ["judgements/sft.jsonl"], ["generations/sft.jsonl", "models/judge"], []),
        "score_sft": stage("score_sft", ["score/sft.json"], ["judgements/sft.jsonl", "logs/sft.jsonl"], []),
    }
    return {"stages": {**single, **{name: {"foreach": "${methods}", "do": do} for name, do in each.items()}}}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of such stages, with a commit."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    preset = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
    preset["methods"] = {name: preset["methods"][name] for name in ("dpo", "tr_dpo_soft")}
    (root / "preset.yaml").write_text(yaml.safe_dump(preset, sort_keys=False))
    (root / "params.yaml").write_text(yaml.safe_dump(preset, sort_keys=False))
    (root / "dvc.yaml").write_text(yaml.safe_dump(pipeline()))
    (root / "stage.py").write_text(SCRIPT)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")  # the workspace's own run is another
    commit(["git", "init", "-q"], ["dvc", "init", "-q"])
    (root / ".gitignore").write_text(
        "/models\n/logs\n/generations\n/likelihoods\n/judgements\n/score\n/data.txt\n/runs\n/.scratch\n/*.log\n"
    )
    commit(["git", "add", "-A"], ["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "a"])
    return root


def commit(*commands: list[str]) -> None:
    for command in commands:
        subprocess.run(command, check=True, capture_output=True)


def policies(workspace: Path) -> list[str]:
    """What DVC's cache holds of trained policies."""
    texts = [path.read_text() for path in (workspace / ".dvc" / "cache" / "files").rglob("*") if path.is_file()]
    return [text for text in texts if re.match("align@.* models/", text)]


STUDY = Study.model_validate(
    {
        "preset": "preset.yaml",
        "out": "reports/x",
        "judges": ["probe", "openai"],
        "runs": [
            {"name": "main", "why": "w"},
            {"name": "alpha", "why": "w", "methods": ["tr_dpo_soft"], "set": {"ref_update.alpha": 0.1}},
            {"name": "search", "why": "w", "report": False, "methods": ["dpo"]},
        ],
    }
)
MAIN, ALPHA, SEARCH = STUDY.runs
Do = Callable[..., list[str]]


@pytest.fixture
def do(workspace: Path, tmp_path: Path) -> Do:
    """Does runs with a new runner, and says which stages ran for each, as `RUN STAGE`."""
    ran = tmp_path / "ran.txt"

    def run(
        *runs: StudyRun, judge: str = "probe", keep: bool = False, fails: bool = False, **environment: str
    ) -> list[str]:
        ran.write_text("")
        runner = Runner(STUDY, workspace, os.environ | {"RAN": str(ran)} | environment, None, keep)
        for each in runs:
            with pytest.raises(UserError) if fails else nullcontext():
                runner.do(each, judge)  # type: ignore[arg-type]
        return ran.read_text().splitlines()

    return run


def test_runs_share_what_they_have_in_common_and_keep_no_policies(do: Do, workspace: Path) -> None:
    first = do(MAIN)
    stages = [f"{s}@{m}" for m in ("dpo", "tr_dpo_soft") for s in ("align", "generate", "judge", "score", "ood")]
    shared = ["prepare", "sft", "judge_fit", "generate_sft", "judge_sft", "score_sft", "ood_sft"]
    assert sorted(first) == sorted(f"main {name}" for name in (*shared, *stages))
    folder = workspace / "runs" / "probe" / "main"
    assert not (folder / "models" / "dpo").exists() and (folder / "models" / "sft").exists()
    assert policies(workspace) == []
    assert (folder / "generations" / "dpo.jsonl").exists() and (folder / "logs" / "dpo.jsonl").exists()
    # Another alpha: the SFT model, its replies and the judge come from the cache of the first run.
    second = do(ALPHA)
    own = [f"{stage}@tr_dpo_soft" for stage in ("align", "generate", "judge", "score", "ood")]
    assert sorted(second) == sorted(f"alpha {name}" for name in own)
    made = yaml.safe_load((workspace / "runs" / "probe" / "alpha" / "params.yaml").read_text())
    assert made["ref_update"]["alpha"] == 0.1 and list(made["methods"]) == ["tr_dpo_soft"]
    # Nothing is left to do, policies or not.
    assert do(MAIN, ALPHA) == []


def test_another_judge_judges_the_same_replies(do: Do, workspace: Path) -> None:
    do(MAIN)
    judged = [f"{stage}@{name}" for name in ("dpo", "tr_dpo_soft") for stage in ("judge", "score")]
    assert sorted(do(MAIN, judge="openai")) == sorted(
        f"main {name}" for name in ("judge_fit", "judge_sft", "score_sft", *judged)
    )
    first, other = (workspace / "runs" / judge / "main" for judge in ("probe", "openai"))
    assert (first / "generations" / "dpo.jsonl").read_text() == (other / "generations" / "dpo.jsonl").read_text()
    assert do(MAIN, judge="openai") == [] and do(MAIN) == []


def test_another_judge_waits_for_the_first(do: Do) -> None:
    with pytest.raises(UserError, match=r"main: .*runs/probe/main is not done, so there is nothing that openai"):
        do(MAIN, judge="openai")


def test_a_search_has_no_ood_measured(do: Do) -> None:
    assert not any("ood" in line for line in do(SEARCH))


def test_a_failed_stage_is_named_by_its_log_and_the_rest_is_done_once(do: Do, workspace: Path) -> None:
    with pytest.raises(UserError, match=r"main: tr_dpo_soft: a stage failed; its log is .*runs/probe/main\.log"):
        do(MAIN, FAIL="align@tr_dpo_soft")
    assert "failed to reproduce 'align@tr_dpo_soft'" in (workspace / "runs" / "probe" / "main.log").read_text()
    stages = ("align", "generate", "judge", "score", "ood")
    assert sorted(do(MAIN)) == sorted(f"main {stage}@tr_dpo_soft" for stage in stages)


def test_a_base_that_failed_is_not_tried_again_for_what_needs_it(do: Do, workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"main: dpo, tr_dpo_soft: a stage failed"):
        do(MAIN, FAIL="generate@dpo")
    ran = (tmp_path / "ran.txt").read_text().splitlines()
    assert ran.count("main generate@dpo") == 1 and "main align@tr_dpo_soft" not in ran
    assert len(policies(workspace)) == 1  # that of dpo, which has not been scored
    assert "main align@dpo" not in do(MAIN)


def test_a_method_is_scored_and_its_policy_gone_before_the_next_is_trained(do: Do, workspace: Path) -> None:
    ran = [line.removeprefix("main ") for line in do(MAIN, FAIL="align@tr_dpo_soft", fails=True)]
    own = [name for name in ran if name.endswith("@dpo")]
    assert ran[-len(own) - 1 :] == [*own, "align@tr_dpo_soft"] and own[0] == "align@dpo" and len(own) == 5
    assert policies(workspace) == []


def test_a_run_that_was_done_is_looked_at_as_a_whole(do: Do, workspace: Path) -> None:
    """One call of DVC; a failure in it leaves nothing undone that does not need it."""
    do(MAIN)
    text = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(text.replace("python stage.py score@", "python  stage.py score@"))
    commit(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "b"])
    with pytest.raises(UserError, match=r"main: a stage failed; its log is"):
        do(MAIN, FAIL="score@dpo")
    assert do(MAIN) == ["main score@dpo"]


def test_new_code_repeats_what_depends_on_it_in_runs_that_exist(do: Do, workspace: Path) -> None:
    do(SEARCH)
    text = (workspace / "dvc.yaml").read_text()
    (workspace / "dvc.yaml").write_text(text.replace("python stage.py score@", "python  stage.py score@"))
    commit(["git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "b"])
    assert do(SEARCH) == ["search score@dpo"]


def test_policies_are_kept_if_asked_for(do: Do, workspace: Path) -> None:
    do(SEARCH, keep=True)
    folder = workspace / "runs" / "probe" / "search"
    assert (folder / "models" / "dpo" / "model.safetensors").exists() and len(policies(workspace)) == 1
    discard(folder, ["dpo"], workspace)
    assert not (folder / "models" / "dpo").exists()
    assert policies(workspace) == []


def test_a_record_of_commit_machine_and_hours_lies_beside_a_run(do: Do, workspace: Path) -> None:
    do(SEARCH)
    path = workspace / "runs" / "probe" / "search" / "run.json"
    record = json.loads(path.read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert record["revision"] == head and record["seconds"] > 0 and "cores" in record["machine"]
    do(SEARCH)  # nothing to do: no second is added
    assert json.loads(path.read_text()) == record


def test_the_hours_of_a_run_have_those_before_it_failed(do: Do, workspace: Path) -> None:
    do(SEARCH, FAIL="score@dpo", fails=True)
    path = workspace / "runs" / "probe" / "search" / "run.json"
    before = json.loads(path.read_text())
    assert list(before) == ["seconds"] and before["seconds"] > 0
    assert not Runner(STUDY, workspace, os.environ, None, False).done(SEARCH, "probe")
    path.write_text(json.dumps({"seconds": 1000.0}))
    do(SEARCH)
    record = json.loads(path.read_text())
    assert record["seconds"] > 1000 and record["name"] == "search"


def test_stopping_reaches_every_stage_though_one_has_just_ended(workspace: Path) -> None:
    runner = Runner(STUDY, workspace, dict(os.environ), None, False)
    before, running, after = (
        subprocess.Popen(["sleep", seconds], start_new_session=True) for seconds in ("0", "60", "0")
    )
    before.wait()
    after.wait()
    runner._running = {before: None, running: None, after: None}.keys()  # type: ignore[assignment]  # in this order
    runner.stop()
    assert running.wait(timeout=10) == -15


def test_a_stopped_runner_starts_nothing(workspace: Path) -> None:
    runner = Runner(STUDY, workspace, dict(os.environ), None, False)
    runner.stop()
    with pytest.raises(UserError, match="main: stopped"):
        runner.do(MAIN, "probe")
