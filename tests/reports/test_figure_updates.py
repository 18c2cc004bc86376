"""The figure of quality against α and τ: what is drawn of made-up rows, in three sizes."""

from __future__ import annotations

from typing import Any

import pytest

from reports.drawn import draw
from reports.made_up import around, cell, report
from tr_align.reports.figure import Figure
from tr_align.reports.figures.updates import updates
from tr_align.reports.theme import MUTED, TONES

Row = dict[str, Any]
ALPHAS, TAUS = (0.1, 0.3, 0.6, 0.9), (2, 4, 8)


def rows_of(method: str = "tr_dpo_soft", base: bool = True) -> list[Row]:
    """A panel whose base is at HC 6 and whose settings are 0.1, 0.2 and so on above it."""
    own = cell(method)
    knob, taken = ("alpha", ALPHAS) if own["update"] == "soft" else ("tau", TAUS)
    panel = f"{own['loss'].upper()} {own['update']}" + (", every 2 steps" if own["update"] == "soft" else "")
    shared: Row = {"panel": panel, "kl": 7.04, "beta": 0.05, "base": own["loss"].upper(), "seeds": [0, 1]}
    shared |= {"n_prompts": 64}
    rows = []
    for place, value in enumerate(taken):
        gain = 0.1 * (place + 1)
        row = own | {"cell": f"{method}-{value}", "name": f"{own['name']} {value}", knob: value} | shared
        apart = around("difference", gain, 0.1) if base else dict.fromkeys(around("difference", 0, 0))
        rows.append(row | around("hc", 6 + gain, 0.3) | apart)
    if base:
        rows.append(cell(own["loss"]) | shared | around("hc", 6.0, 0.3) | dict.fromkeys(around("difference", 0, 0)))
    return rows


def made(rows: list[Row]) -> Figure:
    found = updates(report(by_setting=rows))
    assert found is not None
    return found


def test_without_a_sweep_there_is_none() -> None:
    assert updates(report()) is None


@pytest.mark.parametrize("form", ["wide", "narrow", "print"])
def test_points_lines_and_the_base(form: str) -> None:
    """Four alphas and three taus, twice: HC and difference; the base's rule in HC, a rule at zero in differences."""
    figure = made([*rows_of(), *rows_of("tr_dpo_hard")])
    drawn = draw(getattr(figure, form))
    assert len(drawn.visible("point")) == 2 * (len(ALPHAS) + len(TAUS))
    assert len(drawn.strokes(TONES["dpo"]["none"])) == 2
    assert len(drawn.strokes(MUTED)) == 2
    texts = " ".join(drawn.words)
    assert "DPO soft, every 2 steps" in texts and "DPO hard" in texts
    assert {"α", "τ", "2", "4", "8", "0.4"} <= set(drawn.words)
    assert drawn.width <= {"wide": 1080, "narrow": 340, "print": 486}[form] + 1


def test_caption_and_words_for_who_cannot_see_it() -> None:
    figure = made([*rows_of(), *rows_of("tr_dpo_hard")])
    assert "reached, 7.0 nats (DPO soft, every 2 steps) and 7.0 nats (DPO hard). Below" in figure.caption
    assert "64 prompts; seeds 0, 1; 95 % intervals over seeds and prompts. β: DPO 0.05." in figure.caption
    assert "DPO hard: τ 2 6.10 [5.80, 6.40] (+0.10); τ 4 6.20 [5.90, 6.50] (+0.20)" in figure.alternative
    assert "DPO 6.00 [5.70, 6.30]." in figure.alternative
    assert [row["cell"] for row in figure.rows][:2] == ["tr_dpo_soft-0.1", "tr_dpo_soft-0.3"]


def test_without_its_base_there_are_no_differences() -> None:
    drawn = draw(made(rows_of(base=False)).wide)
    assert len(drawn.visible("point")) == len(ALPHAS)
    assert drawn.strokes(TONES["dpo"]["none"]) == [] and drawn.strokes(MUTED) == []


def test_the_base_has_its_interval() -> None:
    """5.7 to 6.3, as a band behind the first row's points."""
    (panel, _) = made(rows_of()).wide["concat"]
    (band,) = [layer for layer in panel["layer"] if layer["mark"]["type"] == "rect"]
    assert (band["encoding"]["y"]["field"], band["encoding"]["y2"]["field"]) == ("hc_lo", "hc_hi")


def test_a_single_panel_fits_a_column() -> None:
    assert draw(made(rows_of()).print).width <= 234 + 1


def test_every_loss_has_its_colours() -> None:
    drawn = draw(made([*rows_of(), *rows_of("tr_ipo_soft"), *rows_of("tr_kto_hard")]).wide)
    for loss, update in (("dpo", "soft"), ("ipo", "soft"), ("kto", "hard")):
        assert TONES[loss][update] in drawn.svg and TONES[loss]["none"] in drawn.svg


def test_many_panels_are_in_two_rows() -> None:
    """Six beside each other would be too narrow for their headings: three soft ones above three hard ones."""
    methods = [f"tr_{loss}_{update}" for loss in ("dpo", "ipo", "kto") for update in ("soft", "hard")]
    blocks = made([row for method in methods for row in rows_of(method)]).wide["vconcat"]
    assert [block["columns"] for block in blocks] == [3, 3]
    assert [panel["title"]["text"] for panel in blocks[1]["concat"][:3]] == ["DPO hard", "IPO hard", "KTO hard"]
