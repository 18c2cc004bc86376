"""`tr-align reproduce`: which runs it does, what it says of them, and the files it ends with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from reports.made_up import toy
from reports.run_folder import Made, write

from tr_align import cli
from tr_align.errors import UserError
from tr_align.experiments.folders import Runner
from tr_align.reports import build, publish
from tr_align.reports.results import Report

ROOT = Path(__file__).parents[2]
RUNS: list[dict[str, Any]] = [
    {"name": "s0", "why": "the first seed"},
    {"name": "s1", "why": "the second seed", "set": {"seed": 1}},
    {"name": "tune", "why": "the search", "report": False},
]
Built = list[tuple[Any, Path]]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A folder with a study of three runs and two judges; changes to its file."""
    monkeypatch.chdir(tmp_path)

    def change(**changes: Any) -> str:
        whole = {"preset": str(ROOT / "presets" / "smoke.yaml"), "out": "out", "judges": ["probe", "reward"]}
        Path("study.yaml").write_text(yaml.safe_dump(whole | {"runs": RUNS} | changes))
        return "study.yaml"

    change()
    return change


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    """What would be drawn."""
    found: Built = []

    def record(report: Report, folder: Path) -> None:
        found.append((report, folder))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "claims.json").write_text(json.dumps(report.claims))

    monkeypatch.setattr(build, "build", record)
    monkeypatch.setattr(build, "summary", lambda report: "the summary")
    monkeypatch.setattr(publish, "publish_study", lambda runs, report: found.append((dict(runs), report)))
    return found


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The runs that were done, by judge, in their order; no stage runs."""
    found: list[tuple[str, str]] = []

    def do(self: Runner, run: Any, judge: Any) -> float:
        found.append((judge, run.name))
        if run.name == "s1" and judge == "reward":
            raise UserError("s1: a stage failed; its log is x")
        made(self.folder(run, judge), seed=run.set.get("seed", 0))
        return 120.0

    monkeypatch.setattr(Runner, "do", do)
    return found


def made(folder: Path, seed: int = 0, hc: float = 6.5) -> None:
    """A finished run as the runner leaves it, in a repository with a toy world of its own."""
    write(folder, Made(settings={"seed": seed, "data.path": f"/a/copy/for/{folder.name}"}, toy=toy()))
    (folder / "reports" / "score").mkdir()
    for name, more in (("dpo", 0.0), ("tr_dpo_soft", 0.5)):
        final = {"hc": hc + more, "hc_ci": [6.0, 7.5], "kl": 3.0, "kl_ci": [2.5, 3.5], "n_prompts": 64}
        final |= {"win_rate_vs_sft": 0.625, "win_rate_vs_sft_ci": [0.5, 0.75]}
        (folder / "reports" / "score" / f"{name}.json").write_text(json.dumps({"final": final, "curve": []}))
    record = {"name": folder.name, "seconds": 1800.0, "revision": "abc", "machine": "two cores", "lock": "text"}
    record["finished"] = "2026-11-27T05:00:00+00:00"
    (folder / "run.json").write_text(json.dumps(record))


def test_every_run_is_done_by_the_first_judge_before_the_next_begins(
    study: Callable[..., str], did: list[tuple[str, str]], built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "study.yaml"]) == 1
    assert did == [(judge, run["name"]) for judge in ("probe", "reward") for run in RUNS]
    shown = capsys.readouterr()
    assert "[probe 1/3] s0 done after 2.0 min" in shown.out
    assert "error: 1 runs are not done; the same command tries them again\n  s1: a stage failed" in shown.err


def test_the_end_is_a_report_a_judge_with_what_depends_on_it(
    study: Callable[..., str], did: list[tuple[str, str]], built: Built
) -> None:
    cli.main(["reproduce", "study.yaml"])
    (first, folder), sent, (second, other) = built
    assert sent == ({name: Path.cwd() / "runs/probe" / name for name in ("s0", "s1")}, Path("out"))
    assert (folder, other) == (Path("out"), Path("out/reward"))
    assert [row["run"] for row in first.context["runs"]] == ["s0", "s1"]  # the search is no part of it
    assert {row["made"]["revision"] for row in first.context["runs"]} == {"abc"}
    assert [row["run"] for row in second.context["runs"]] == ["s0"]  # the other one failed
    assert [report.context["judges"][0]["page"] for report in (first, second)] == ["reward/index.html", "../index.html"]
    assert first.context["settings"]["data.path"] is None  # the preset's: where copies lay is nobody's business
    assert first.toy is None and not [row for row in first.claims if row["kind"].startswith("toy")]
    assert json.loads(Path("out/judges.json").read_text())[0]["judges"].keys() == {"probe", "reward"}
    assert len(json.loads(Path("out/search.json").read_text())) == 2  # two methods of one run, no seed among them
    records = json.loads(Path("out/runs.json").read_text())
    assert [(row["judge"], row["name"]) for row in records] == [
        *(("probe", run["name"]) for run in RUNS),
        ("reward", "s0"),
        ("reward", "tune"),
    ]
    same = {"revision": "abc", "machine": "two cores", "finished": "2026-11-27T05:00:00+00:00"}
    assert records[0] == {"judge": "probe", "name": "s0", "seconds": 1800} | same


def test_what_was_run_is_on_record_though_the_report_cannot_be_made(
    study: Callable[..., str], did: list[tuple[str, str]], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise UserError("no such file")

    monkeypatch.setattr(build, "build", fail)
    study(judges=["probe"])
    assert cli.main(["reproduce", "study.yaml"]) == 1
    assert len(json.loads(Path("out/runs.json").read_text())) == 3 and Path("out/search.md").exists()


def test_the_search_is_a_table_with_the_best_of_each_method_first(
    study: Callable[..., str], built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = RUNS[2] | {"name": "slow", "set": {"align.learning_rate": 1e-5}}
    study(runs=[RUNS[2], slow])
    for name, hc in (("tune", 6.5), ("slow", 7.0)):
        made(Path("runs/probe") / name, hc=hc)
    params = yaml.safe_load(Path("runs/probe/slow/params.yaml").read_text())
    params["align"]["learning_rate"] = 1e-5
    params["methods"]["tr_dpo_soft"]["learning_rate"] = 3e-5
    Path("runs/probe/slow/params.yaml").write_text(yaml.safe_dump(params))
    assert cli.main(["reproduce", "study.yaml", "--report"]) == 0
    rows = json.loads(Path("out/search.json").read_text())
    usual = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())["align"]["learning_rate"]
    assert [(row["method"], row["learning_rate"], row["hc"]) for row in rows] == [
        ("dpo", 1e-5, 7.0),
        ("dpo", usual, 6.5),
        ("tr_dpo_soft", 3e-5, 7.5),
        ("tr_dpo_soft", usual, 7.0),
    ]
    table = Path("out/search.md").read_text()
    assert "| DPO | 1e-05 | 0.05 | 7.00 [6.00, 7.50] | 3.0 [2.5, 3.5] | 62.5 % [50.0, 75.0] |" in table
    assert "over 64 prompts; seed 0" in table
    assert built == [] and "probe: no run is done, so there is no report" in capsys.readouterr().out


def test_a_report_of_what_is_done_runs_nothing(
    study: Callable[..., str], did: list[tuple[str, str]], built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    made(Path("runs/probe/s1"), seed=1)
    assert cli.main(["reproduce", "study.yaml", "--report"]) == 0
    assert did == [] and [folder for _, folder in built] == [Path("out"), Path("out")]  # on disk, and in MLflow
    assert "1 of 6 runs are done, in 0.5 hours of all jobs" in capsys.readouterr().out


def test_some_runs_can_be_named(study: Callable[..., str], did: list[tuple[str, str]], built: Built) -> None:
    study(judges=["probe"])
    assert cli.main(["reproduce", "study.yaml", "--only", "s1"]) == 0
    assert did == [("probe", "s1")]


def test_a_dry_run_says_what_would_be_run(
    study: Callable[..., str], did: list[tuple[str, str]], built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["reproduce", "study.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out.split("\n")[1].split() == ["s1", "the", "second", "seed"]
    assert did == [] and built == []


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, ["--only", "s2"], "error: --only: the study has no run s2; it has s0, s1, tune"),
        ({"runs": [*RUNS, {"name": "x", "why": "w", "set": {"seed": -1}}]}, [], "error: run x: seed: "),
        ({"runs": [*RUNS, {"name": "x", "why": "w", "set": {"seed": -1}}]}, ["--only", "s0"], "error: run x: seed: "),
        ({"preset": "none.yaml"}, [], "error: preset: none.yaml: cannot be read"),
        ({"runs": []}, [], "error: study.yaml: runs: "),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(
    study: Callable[..., str],
    did: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    message: str,
) -> None:
    study(**changes)
    assert cli.main(["reproduce", "study.yaml", *options]) == 1
    assert capsys.readouterr().err.startswith(message)
    assert did == []
