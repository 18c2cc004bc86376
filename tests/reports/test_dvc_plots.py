"""The templates are the figures: current, filled by DVC with one revision or several, and drawn by an old Vega-Lite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from dvc_render.vega import VegaRenderer

from reports import made_up
from reports.drawn import Drawn, draw
from reports.made_up import report
from tr_align.reports.dvc_plots import FOLDER, ROWS, template_text, templates, write_data
from tr_align.reports.figures import all_figures, curves
from tr_align.reports.figures.frame import Quantity
from tr_align.reports.figures.look import look
from tr_align.reports.theme import WIDE

ROOT = Path(__file__).parents[2]
FIELDS = {
    "kl_vs_hc": ("kl", "hc"),
    "frontier": ("kl", "difference"),
    "win_tie_lose": ("win", "label"),
    "length": ("kl", "reply_words"),
    "diversity": ("self_bleu", "hc"),
    "training": ("step", "margin"),
}
OLDEST = vl_convert.get_vegalite_versions()[0]
"""DVC's page loads 5.2, vl-convert begins with 5.8."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("reports")
    write_data(all_figures(report()), folder)
    return {name: json.loads((folder / file).read_text("utf-8")) for name, file in ROWS.items()}


def filled(name: str, rows: list[dict[str, Any]], folder: Path) -> Drawn:
    (folder / f"{name}.json").write_text(template_text(templates()[name]), encoding="utf-8")
    x, y = FIELDS[name]
    title = "what it shows"
    page = VegaRenderer(rows, name, template=name, template_dir=str(folder), x=x, y=y, title=title).partial_html()
    assert "<DVC_METRIC" not in page
    drawn = draw(json.loads(page), OLDEST)
    assert title in drawn.words
    return drawn


def test_committed_templates_are_current() -> None:
    texts = {name: template_text(template) for name, template in templates().items()}
    committed = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / FOLDER).glob("*.json")}
    assert committed == texts, "run python -m tr_align.reports.dvc_plots"


def test_every_template_has_rows() -> None:
    assert set(templates()) == set(ROWS) == set(FIELDS)


def test_rows_of_the_main_figure_keep_what_mlflow_reads(rows: dict[str, list[dict[str, Any]]]) -> None:
    columns = {"method", "loss", "update", "step", "kl", "kl_lo", "kl_hi", "hc", "hc_lo", "hc_hi", "n_prompts", "seeds"}
    for row in rows["kl_vs_hc"]:
        assert columns | {"final", "cell", "beta"} <= set(row)
    assert ROWS["kl_vs_hc"] == "kl_hc.json"


def test_a_figure_without_data_leaves_an_empty_file(tmp_path: Path) -> None:
    write_data(all_figures(report(frontier=[])), tmp_path)
    assert all((tmp_path / file).exists() for file in ROWS.values())
    assert json.loads((tmp_path / ROWS["frontier"]).read_text("utf-8")) == []


@pytest.mark.parametrize("name", FIELDS)
def test_one_revision(name: str, rows: dict[str, list[dict[str, Any]]], tmp_path: Path) -> None:
    drawn = filled(name, [{**row, "rev": "workspace"} for row in rows[name]], tmp_path)
    points, lines = {
        "kl_vs_hc": (9 * 3 + 3, 9 + 27),
        "frontier": (6 * 11, 6),
        "win_tie_lose": (0, 0),
        "length": (9 * 3 + 3, 0),
        "diversity": (9 * 3 + 3, 0),
        "training": (6 * 9 * 12, 6 * 9),
    }[name]
    assert len(drawn.marks("point")) == points
    assert len(drawn.marks("line")) == lines
    if name == "win_tie_lose":
        assert len(drawn.marks("bar")) == 15 * 3
        assert {"TR-DPO soft", "Against the SFT model"} <= set(drawn.words)
    else:
        assert {"DPO", "IPO", "KTO", "TR-KTO hard"} <= set(drawn.words)


@pytest.mark.parametrize("name", FIELDS)
def test_two_revisions_are_both_drawn_and_told_apart(
    name: str, rows: dict[str, list[dict[str, Any]]], tmp_path: Path
) -> None:
    one = filled(name, [{**row, "rev": "workspace"} for row in rows[name]], tmp_path)
    two = filled(name, [{**row, "rev": rev} for rev in ("workspace", "main") for row in rows[name]], tmp_path)
    for kind in ("point", "line", "bar"):
        assert len(two.marks(kind)) == 2 * len(one.marks(kind))
    if name == "win_tie_lose":
        names = [word for word in two.words if word.startswith("TR-DPO soft")]
        assert names[:2] == ["TR-DPO soft · workspace", "TR-DPO soft · main"]
    else:
        pale = [mark for kind in ("point", "line") for mark in two.marks(kind) if 'opacity="0.5"' in mark]
        assert pale and not [mark for kind in ("point", "line") for mark in one.marks(kind) if 'opacity="0.5"' in mark]
    if name in ("kl_vs_hc", "frontier", "training"):
        assert {"revision", "workspace", "main"} <= set(two.words)


def test_training_followed_where_there_is_one_beta(tmp_path: Path) -> None:
    points = [row for row in made_up.points() if row["beta"] in (None, 0.05, 0.01)]
    rows = [{**row, "rev": "workspace"} for row in points]
    drawn = filled("kl_vs_hc", rows, tmp_path)
    assert len(drawn.marks("line")) == 9
    assert not any('stroke-opacity="0.3"' in mark for mark in drawn.marks("line"))


def test_templates_have_the_marks_of_the_figures() -> None:
    """One definition serves both: the same marks in the same order."""
    kl, hc = Quantity("kl", "", 2, ""), Quantity("hc", "", 2, "")
    methods = [made_up.cell("dpo")]
    drawn = curves.layers(kl, hc, look(methods, WIDE, 300), WIDE)
    template = templates()["kl_vs_hc"]["spec"]["layer"]
    assert [layer["mark"] for layer in template] == [layer["mark"] for layer in drawn]
