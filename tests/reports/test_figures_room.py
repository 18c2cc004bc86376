"""A report with more settings than a panel can show, and with settings that lack seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tr_align.reports import table
from tr_align.reports.figure import Figure
from tr_align.reports.figures import all_figures, words
from tr_align.reports.figures.look import cells
from tr_align.reports.results import Report

from . import made_up

ALPHAS = (0.1, 0.3, 0.6, 0.9)
PANELS = ("kl_vs_hc", "frontier", "win_tie_lose", "kl_vs_axes", "diversity", "length", "training", "ood")
BY_SETTING = {"panel": "DPO soft, every 4 steps", "base": "DPO", "beta": 0.05, "kl": 5.0, "n_prompts": 64, "seeds": [0]}


def swept(alphas: tuple[float, ...]) -> Report:
    """The nine methods, with TR-DPO soft under several alphas, 0.6 being the main one."""

    def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for row in rows:
            if row["cell"] != "tr_dpo_soft":
                found.append(row)
                continue
            for alpha in alphas:
                if alpha != 0.6 and row.get("seed"):  # a training's log is of one seed
                    continue
                own = {"cell": f"tr_dpo_soft-{alpha}", "name": f"TR-DPO soft α={alpha}", "alpha": alpha}
                seeds = {"seeds": [0]} if "seeds" in row and alpha != 0.6 else {}
                found.append(row | own | seeds)
        return found

    soft = made_up.cell("tr_dpo_soft") | BY_SETTING
    by_setting = [
        soft | {"cell": f"tr_dpo_soft-{alpha}", "alpha": alpha, "hc": 7.0, "difference": 0.1} for alpha in alphas
    ]
    by_setting.append(made_up.cell("dpo") | BY_SETTING | {"hc": 7.0, "difference": None})
    main = ["dpo", "tr_dpo_soft-0.6", "tr_dpo_hard", "ipo", "tr_ipo_soft", "tr_ipo_hard", "kto", "tr_kto_soft"]
    return made_up.report(
        points=named(made_up.points()),
        wins=named(made_up.wins()),
        frontier=named(made_up.frontier()),
        training=named(made_up.training()),
        ood=named(made_up.ood()),
        by_setting=by_setting,
        context=made_up.context() | {"main": [*main, "tr_kto_hard"]},
    )


def drawn(shown: Report) -> dict[str, Figure]:
    return {figure.name: figure for figure in all_figures(shown)}


@pytest.mark.parametrize(("alphas", "left"), [(ALPHAS[1:], ALPHAS[1:]), (ALPHAS, (0.6,))])
def test_what_has_no_room_is_left_to_the_tables(alphas: tuple[float, ...], left: tuple[float, ...]) -> None:
    """With three alphas DPO's panel has five methods, with four it would have six."""
    figures = drawn(swept(alphas))
    said = "The tables also have 3 other settings of TR-DPO, for which there is no room here."
    for name in PANELS:
        cells = {str(row["cell"]) for row in figures[name].rows}
        assert {cell for cell in cells if "soft-" in cell} == {f"tr_dpo_soft-{alpha}" for alpha in left}, name
        assert cells >= {"tr_dpo_hard", "tr_ipo_soft", "tr_kto_hard"}
        assert (said in figures[name].caption) == (left == (0.6,)), name
    along = figures["updates"]  # which is about the settings
    assert {row["alpha"] for row in along.rows} == {*alphas, None} and said not in along.caption


def test_models_that_lack_a_seed_are_named() -> None:
    shown = swept(ALPHAS[1:])
    caption = drawn(shown)["kl_vs_hc"].caption
    assert "seeds 0, 1 (TR-DPO soft α=0.3 and TR-DPO soft α=0.9: seed 0 alone); 95 % intervals over seeds" in caption
    said = "; seeds 0, 1 (TR-DPO soft α=0.3 and TR-DPO soft α=0.9: seed 0 alone)"
    assert all(said in drawn(shown)[name].caption for name in ("ood", "training"))
    assert words.seeds(shown, [row for row in shown.points if row["loss"] == "ipo"]) == "seeds 0, 1"


def test_a_figure_of_one_seed_in_a_report_of_two() -> None:
    caption = drawn(swept(ALPHAS))["updates"].caption
    assert "; seed 0; 95 % bootstrap intervals over prompts, which say nothing about another" in caption


def test_without_room_in_one_panel_the_others_are_whole() -> None:
    shown = swept(ALPHAS)
    context = {**shown.context, "main": [cell for cell in shown.context["main"] if "ipo" not in cell]}
    rows = drawn(replace(shown, context=context))["kl_vs_hc"].rows
    assert {str(row["cell"]) for row in rows if row["loss"] == "ipo"} == {"ipo", "tr_ipo_soft", "tr_ipo_hard"}


def test_settings_stand_by_their_numbers_and_not_by_their_names() -> None:
    """As text, 32 would come before 4."""
    one = [row for row in made_up.points() if row["cell"] == "tr_dpo_hard"]
    hard = [
        row | {"cell": f"hard-{tau}", "name": f"TR-DPO hard τ={tau}", "tau": tau} for tau in (32, 4, 16) for row in one
    ]
    shown = made_up.report(points=hard)
    in_table = list(dict.fromkeys(row["tau"] for row in table.trained(shown)))
    assert in_table == [4, 16, 32] == [cell["tau"] for cell in cells(hard)]
