"""The files of a figure: all there, small, the same each time, and with the warning about the judge."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import vl_convert

from reports.made_up import context, points, report
from tr_align.reports.figures import SUFFIXES, all_figures, quality, render, rendering
from tr_align.reports.figures.rendering import as_csv

WARNING = "The judge agrees with people on 55 % of pairs only; differences in HC may be differences in its taste."


@pytest.fixture
def rendered(built: Path) -> dict[str, Path]:
    return {suffix: built / "figures" / f"kl_vs_hc{suffix}" for suffix in SUFFIXES}


def test_all_files_are_what_they_are_called(rendered: dict[str, Path]) -> None:
    assert [path.name for path in rendered.values()] == [f"kl_vs_hc{suffix}" for suffix in SUFFIXES]
    assert rendered[".png"].read_bytes().startswith(b"\x89PNG")
    assert int.from_bytes(rendered[".png"].read_bytes()[16:20], "big") > 2000
    assert rendered["-print.pdf"].read_bytes().startswith(b"%PDF-")
    for suffix in (".svg", "-print.svg"):
        assert rendered[suffix].read_text(encoding="utf-8").startswith("<svg")
    spec = json.loads(rendered[".vl.json"].read_text(encoding="utf-8"))
    assert spec["title"]["text"] == "Quality against KL from SFT"


def test_the_picture_carries_title_and_caption_and_the_print_does_not(rendered: dict[str, Path]) -> None:
    svg = rendered[".svg"].read_text(encoding="utf-8")
    assert "Quality against KL from SFT" in svg and "seeds 0, 1" in svg
    assert "Quality against KL" not in rendered["-print.svg"].read_text(encoding="utf-8")


def test_pdf_is_as_wide_as_two_columns(rendered: dict[str, Path]) -> None:
    box = re.search(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", rendered["-print.pdf"].read_bytes())
    assert box
    assert 450 < float(box[1]) <= 486


def test_pdf_has_one_font(rendered: dict[str, Path]) -> None:
    """The order of two, and all that follows, changes from one time to the next."""
    fonts = re.findall(rb"/Subtype /Type0\s+/BaseFont /\w+\+(\S+)", rendered["-print.pdf"].read_bytes())
    assert len(fonts) == 1


def test_csv_is_the_rows(rendered: dict[str, Path]) -> None:
    with rendered[".csv"].open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(points())
    soft = [line for line in lines if line["cell"] == "tr_dpo_soft" and line["final"] == "True"]
    assert len(soft) == 3
    assert soft[0]["seeds"] == "0 1"
    assert float(soft[0]["hc_lo"]) < float(soft[0]["hc"]) < float(soft[0]["hc_hi"])
    assert lines[0]["beta"] == ""


def test_csv_of_rows_with_different_columns() -> None:
    assert as_csv([{"a": 1}, {"a": None, "b": [1, 2]}]) == "a,b\n1,\n,1 2\n"


def test_same_bytes_again(rendered: dict[str, Path], tmp_path: Path) -> None:
    figure = quality.kl_vs_hc(report())
    assert figure
    paths = render(figure, tmp_path / "new")
    assert [path.name for path in paths] == [path.name for path in rendered.values()]
    for suffix, path in zip(SUFFIXES, paths, strict=True):
        assert path.read_bytes() == rendered[suffix].read_bytes(), suffix


def test_files_are_small(built: Path) -> None:
    paths = list((built / "figures").iterdir())
    assert len(paths) == len(SUFFIXES) * len(all_figures(report()))
    for path in paths:
        limit = 250_000 if path.suffix in (".png", ".pdf") else 500_000
        assert path.stat().st_size < limit, path.name


@pytest.mark.parametrize("place", range(8))
def test_warning_is_on_every_drawn_file(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Their text cannot be searched, and they take most of the time.
    monkeypatch.setattr(rendering, "_small", lambda png: png)
    for kind in ("png", "pdf"):
        monkeypatch.setattr(vl_convert, f"vegalite_to_{kind}", lambda spec, **options: b"")
    figure = all_figures(report(context=context() | {"judge_warning": WARNING}))[place]
    paths = dict(zip(SUFFIXES, render(figure, tmp_path), strict=True))
    for suffix in (".svg", "-print.svg", ".vl.json"):
        words = paths[suffix].read_text(encoding="utf-8")
        assert "The judge agrees with people on 55 %" in re.sub(r"</tspan><tspan[^>]*>|\s+", " ", words), suffix
        assert "#b43c00" in words


def test_without_a_warning_there_is_none(rendered: dict[str, Path]) -> None:
    assert "#b43c00" not in rendered[".svg"].read_text(encoding="utf-8")
