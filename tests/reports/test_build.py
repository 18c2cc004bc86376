"""A report on disk: every file is there, says the same as the others, and comes out the same twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.made_up import report
from tr_align.reports import figures
from tr_align.reports.build import build, summary
from tr_align.reports.figures.rendering import SUFFIXES

FILES = ("metrics.json", "kl_hc.json", "claims.json", "frontier.json", "table.md", "table.tex", "index.html")


def test_every_file_is_there(built: Path) -> None:
    folder = built
    expected = {folder / name for name in FILES}
    expected |= {folder / "figures" / f"{f.name}{suffix}" for f in figures.all_figures(report()) for suffix in SUFFIXES}
    expected |= set((folder / "plots").glob("*.json"))
    assert {path for path in folder.rglob("*") if path.is_file()} == expected
    assert len(list((folder / "plots").glob("*.json"))) == 5


def test_the_files_say_what_the_report_says(built: Path) -> None:
    claims = json.loads((built / "claims.json").read_text("utf-8"))
    assert [claim["id"] for claim in claims] == [claim["id"] for claim in report().claims]
    assert claims[0]["paper"]["value"] == 19.0
    saved = json.loads((built / "frontier.json").read_text("utf-8"))
    assert (len(saved["differences"]), len(saved["peaks"])) == (60, 9)
    table, latex = ((built / name).read_text("utf-8") for name in ("table.md", "table.tex"))
    assert "TR-DPO soft keeps more quality than DPO" in table and "supported" in table
    assert latex.count(r"\begin{table") == 2
    page = (built / "index.html").read_text("utf-8")
    assert report().context["verdict"][0] in page


def test_a_second_report_takes_the_place_of_the_first(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of figures, test_figures_files.py has it; drawing takes most of the time.
    monkeypatch.setattr(figures, "render", lambda figure, folder: None)
    build(report(claims=[]), tmp_path)
    build(report(), tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


def test_the_summary_has_table_verdict_and_claims() -> None:
    text = summary(report())
    for expected in ("TR-KTO hard", report().context["verdict"][1], "inconclusive  TR-IPO hard keeps more quality"):
        assert expected in text
