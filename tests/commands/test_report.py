"""`tr-align report` from its options to the files of a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reports.run_folder import Made, write

from tr_align import cli
from tr_align.reports import build, figures, runs
from tr_align.reports.results import Report

Built = list[tuple[Report, Path]]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run with seed 0, in which the command is given; "one" and "two" beside it have other seeds."""
    monkeypatch.chdir(write(tmp_path / "here"))
    write(tmp_path / "here" / "one", Made(settings={"seed": 1}))
    write(tmp_path / "here" / "two", Made(settings={"seed": 2}))
    return tmp_path / "here"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Built:
    """What would be written; drawing takes seconds and has its own tests."""
    found: Built = []
    monkeypatch.setattr(build, "build", lambda report, folder: found.append((report, folder)))
    monkeypatch.setattr(build, "summary", lambda report: "the summary")
    return found


def seeds(report: Report) -> list[tuple[str, int]]:
    return [(row["run"], row["seed"]) for row in report.context["runs"]]


def test_the_workspace_is_the_first_run(workspace: Path, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "two", "one", "--out", "some/where"]) == 0
    ((report, folder),) = built
    assert folder == Path("some/where")
    assert seeds(report) == [("this workspace", 0), ("two", 2), ("one", 1)]
    assert report.context["seeds"] == [0, 1, 2]
    shown = capsys.readouterr().out
    assert shown.startswith("the summary\n")
    assert "note:" not in shown
    assert "Page: some/where/index.html   Figures: some/where/figures   Claims: some/where/claims.json" in shown


def test_without_options_it_is_the_workspace_alone(workspace: Path, built: Built) -> None:
    assert cli.main(["report"]) == 0
    ((report, folder),) = built
    assert (seeds(report), folder) == ([("this workspace", 0)], Path("reports/joined"))


def test_a_run_named_twice_counts_once(workspace: Path, built: Built) -> None:
    assert cli.main(["report", "one", "one"]) == 0
    assert seeds(built[0][0]) == [("this workspace", 0), ("one", 1)]


def test_what_is_no_folder_is_a_revision(workspace: Path, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--experiments` adds those of the current commit, after the named ones and none twice."""
    asked: list[str] = []

    def revision(name: str) -> Any:
        asked.append(name)
        return runs.from_folder("two")

    monkeypatch.setattr(runs, "from_revision", revision)
    monkeypatch.setattr(runs, "experiments", lambda: ["cold-eel", "v1"])
    assert cli.main(["report", "v1", "one"]) == 0
    assert asked == ["v1"]
    assert cli.main(["report", "v1", "one", "--experiments"]) == 0
    assert [name for name, _ in seeds(built[1][0])] == ["this workspace", "v1", "one", "cold-eel"]


def test_what_is_left_out_is_noted(workspace: Path, built: Built, capsys: pytest.CaptureFixture[str]) -> None:
    write(workspace / "odd", Made(settings={"align.max_grad_norm": 0.5}))
    (workspace / "one" / "likelihoods" / "dpo.jsonl").unlink()
    assert cli.main(["report", "one", "odd"]) == 0
    assert seeds(built[0][0]) == [("this workspace", 0), ("one", 1)]
    lines = capsys.readouterr().out.splitlines()
    assert [line[:40] for line in lines if line.startswith("  note: ")] == [
        "  note: odd is left out: it differs from",
        "  note: one: likelihoods/dpo.jsonl is mi",
    ]


def test_a_run_that_is_none_is_an_error_and_nothing_is_written(
    workspace: Path, built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: nowhere: is no revision or experiment of this repository")
    assert built == []


def test_a_workspace_without_a_run(
    tmp_path: Path, built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report"]) == 1
    assert capsys.readouterr().err.startswith("error: this workspace: has no params.yaml; give the folder of a run")
    assert built == []


def test_the_whole_report_of_two_seeds(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All files but the drawn figures."""
    monkeypatch.setattr(figures, "render", lambda figure, folder: None)
    assert cli.main(["report", "one", "--out", "joined"]) == 0
    claims = json.loads(Path("joined/claims.json").read_text(encoding="utf-8"))
    assert (claims[0]["seeds"], claims[0]["effect"]) == ([0, 1], pytest.approx(1.0))
    verdict = "TR-DPO soft kept more quality than the base at the same KL."
    assert verdict in capsys.readouterr().out
    assert verdict in Path("joined/index.html").read_text(encoding="utf-8")
    assert "TR-DPO soft" in Path("joined/table.md").read_text(encoding="utf-8")


# Judges side by side.


def judged(folder: Path, effect: float, verdict: str) -> Path:
    row = {"id": "matched_kl/x", "kind": "matched_kl", "claim": "x", "unit": "HC points", "effect": effect}
    row |= {"ci": [effect - 0.1, effect + 0.1], "p_holm": 0.01, "verdict": verdict, "kl": 4.0, "beta": None}
    row |= {"n_prompts": 64, "seeds": [0]}
    folder.mkdir()
    (folder / "claims.json").write_text(json.dumps([row]), encoding="utf-8")
    return folder / "claims.json"


def test_judges_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = judged(tmp_path / "probe", 0.5, "supported"), judged(tmp_path / "other", 0.05, "inconclusive")
    assert cli.main(["report", "--judges", str(paths[0]), f"reward={paths[1]}", "--out", "both"]) == 0
    shown = capsys.readouterr().out
    text = Path("both/judges.md").read_text(encoding="utf-8")
    assert text in shown and "Table: both/judges.md   Rows: both/judges.json" in shown
    assert text.startswith("| claim | probe | verdict | reward | verdict |  |\n") and "depends on the judge |" in text
    (row,) = json.loads(Path("both/judges.json").read_text(encoding="utf-8"))
    assert list(row["judges"]) == ["probe", "reward"] and row["depends"] is True
    assert not Path("both/index.html").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["probe/claims.json"], "--judges: give the claims.json of two reports or more"),
        (["probe/claims.json", "probe=other/claims.json"], "--judges: two of them are called probe; give names, as in"),
        (
            ["probe/claims.json", "other/nothing.json"],
            "other/nothing.json: there is no such file; name the claims.json",
        ),
    ],
)
def test_judges_that_cannot_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    judged(tmp_path / "probe", 0.5, "supported")
    judged(tmp_path / "other", 0.5, "supported")
    assert cli.main(["report", "--judges", *given]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not Path("reports").exists()


def test_judges_and_runs_are_two_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--experiments", "--judges", "a", "b"]) == 1
    assert capsys.readouterr().err.startswith("error: --judges compares reports that are there; leave out the runs")
