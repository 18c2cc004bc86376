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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "reports"
    build(report(), folder)
    return folder


def test_every_file_is_there(folder: Path) -> None:
    expected = {folder / name for name in FILES}
    expected |= {folder / "figures" / f"{f.name}{suffix}" for f in figures.all_figures(report()) for suffix in SUFFIXES}
    expected |= set((folder / "plots").glob("*.json"))
    assert {path for path in folder.rglob("*") if path.is_file()} == expected
    assert len(list((folder / "plots").glob("*.json"))) == 5


def test_the_files_say_what_the_report_says(folder: Path) -> None:
    claims = json.loads((folder / "claims.json").read_text("utf-8"))
    assert [claim["id"] for claim in claims] == [claim["id"] for claim in report().claims]
    assert claims[0]["paper"]["value"] == 19.0
    saved = json.loads((folder / "frontier.json").read_text("utf-8"))
    assert (len(saved["differences"]), len(saved["peaks"])) == (60, 9)
    table, latex = ((folder / name).read_text("utf-8") for name in ("table.md", "table.tex"))
    assert "TR-DPO soft keeps more quality than DPO" in table and "supported" in table
    assert latex.count(r"\begin{table") == 2
    page = (folder / "index.html").read_text("utf-8")
    assert report().context["verdict"][0] in page


def test_a_second_report_takes_the_place_of_the_first(folder: Path, tmp_path: Path) -> None:
    build(report(claims=[]), tmp_path)
    build(report(), tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_the_summary_has_table_verdict_and_claims() -> None:
    text = summary(report())
    for expected in ("TR-KTO hard", report().context["verdict"][1], "inconclusive  TR-IPO hard keeps more quality"):
        assert expected in text
