"""The figures compile in three sizes, show every row they have, and survive whatever is missing."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from reports import made_up
from reports.drawn import draw
from reports.made_up import report
from tr_align.config import METHODS
from tr_align.reports.figure import Figure
from tr_align.reports.figures import all_figures, ood, quality, training, wins
from tr_align.reports.figures import frontier as gains
from tr_align.reports.results import Report
from tr_align.reports.theme import INK, MUTED
from tr_align.settings import AXES

ORDER = ["kl_vs_hc", "frontier", "win_tie_lose", "kl_vs_axes", "diversity", "length", "training", "ood"]
SIZES = ("wide", "narrow", "print")


def named(shown: Report) -> dict[str, Figure]:
    return {figure.name: figure for figure in all_figures(shown)}


def one_beta(**context: Any) -> Report:
    """A report whose curves follow the training."""
    own = {"seeds": context["seeds"]} if "seeds" in context else {}
    points = [row | own for row in made_up.points() if row["beta"] in (None, 0.05, 0.01)]
    wins = [row for row in made_up.wins() if row["beta"] in (0.05, 0.01)]
    return report(points=points, wins=wins, context=made_up.context() | {"points_along": "steps"} | context)


def only(shown: Report, *methods: str) -> Report:
    """The rows of some methods."""
    parts = {
        part: [row for row in getattr(shown, part) if row["method"] in methods]
        for part in ("points", "wins", "frontier", "training", "ood")
    }
    return report(context=shown.context, **parts)


def without_intervals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: None if k.endswith(("_lo", "_hi")) else v for k, v in row.items()} for row in rows]


@pytest.fixture(scope="module")
def whole() -> dict[str, Figure]:
    return named(report())


def test_in_the_order_of_the_page(whole: dict[str, Figure]) -> None:
    assert list(whole) == ORDER


@pytest.mark.parametrize("name", ORDER)
def test_three_sizes_fit_where_they_go(name: str, whole: dict[str, Figure]) -> None:
    wide, narrow, printed = (draw(getattr(whole[name], size)).width for size in SIZES)
    assert 900 < wide <= 1080
    assert 290 < narrow <= 340
    assert printed <= (234 if name == "win_tie_lose" else 486)


@pytest.mark.parametrize("name", ORDER)
def test_type_in_print_is_eight_points(name: str, whole: dict[str, Figure]) -> None:
    sizes = {float(size) for size in re.findall(r'font-size="([\d.]+)px"', draw(whole[name].print).svg)}
    assert sizes == {8.0}


@pytest.mark.parametrize("name", ORDER)
def test_caption_and_alternative_say_what_was_run(name: str, whole: dict[str, Figure]) -> None:
    figure = whole[name]
    assert "seeds 0, 1" in figure.caption
    if name != "training":
        assert "95 % intervals over seeds and prompts" in figure.caption
        assert re.search(r"\b(64 prompts|48 texts)", figure.caption)
    assert len(figure.alternative) > 150
    assert not re.search(r"\d\.\d{3}", (figure.alternative + figure.caption).replace("0.005", ""))
    assert "None" not in figure.caption + figure.alternative


def test_one_seed_is_admitted() -> None:
    caption = named(one_beta(seeds=[0]))["kl_vs_hc"].caption
    assert "64 prompts (20 at points before the end of training); seed 0;" in caption
    assert "say nothing about another training run" in caption


def test_every_point_and_both_intervals_are_drawn() -> None:
    figure = named(one_beta())["kl_vs_hc"]
    assert len(figure.rows) == 1 + 9 * 3
    drawn = draw(figure.wide)
    assert len(drawn.marks("point")) == 9 * 3 + 3  # SFT once a panel
    starts, sft = 9, 3 * 2
    assert len(drawn.marks("rule")) == 2 * 9 * 3 + starts + sft
    assert len(drawn.marks("line")) == 9
    tips = [mark for mark in drawn.marks("point") if "method: TR-DPO soft; " in mark]
    assert len(tips) == 3
    assert re.search(
        r"KL: [\d.]+ \[[\d.]+, [\d.]+\]; HC: [\d.]+ \[[\d.]+, [\d.]+\]; prompts: 64; seeds: 0, 1", tips[-1]
    )


def test_an_interval_that_is_far_longer_than_the_curves_is_cut_at_the_frame() -> None:
    """SFT at 6 and 0 nats: the frame goes the points' span beyond them, and no further."""
    shown = one_beta()
    usual = named(shown)
    assert "differences are taken by pairs" in usual["kl_vs_hc"].caption
    rows = [row | {"hc_lo": -20.0, "hc_hi": 30.0, "kl_lo": 0.0, "kl_hi": 150.0} for row in shown.points]
    made = named(report(points=rows, wins=shown.wins, context=shown.context))
    for name in ("kl_vs_hc", "kl_vs_axes", "length", "diversity"):
        said = "Intervals that are longer than the frame are cut at it."
        assert "cut" not in usual[name].caption and said in made[name].caption, name
    long = made["kl_vs_hc"]
    kls, hcs = ([row[name] for row in rows] for name in ("kl", "hc"))
    panel = long.wide["concat"][0]
    encoding = next(layer["encoding"] for layer in panel["layer"] if layer["mark"]["type"] == "point")
    across, upright = (encoding[channel]["scale"] for channel in "xy")
    assert across["clamp"] and across["domain"][1] == pytest.approx(2 * max(kls), rel=0.05)
    span = 1.18 * (max(hcs) - min(hcs))  # and 6 % of the frame for air
    assert upright["clamp"] and upright["domain"] == pytest.approx([min(hcs) - span, max(hcs) + span])
    drawn = draw(long.wide)
    ends = [float(end) for mark in drawn.marks("rule") for end in re.findall(r'[xy]2="([^"]*)"', mark)]
    assert max(map(abs, ends)) <= 420  # no bar is longer than a panel


def test_with_several_betas_the_strong_line_joins_the_trained_models(whole: dict[str, Figure]) -> None:
    drawn = draw(whole["kl_vs_hc"].wide)
    assert len(drawn.marks("point")) == 9 * 3 + 3
    strong, thin = (
        [mark for mark in drawn.marks("line") if ('stroke-opacity="0.3"' in mark) is pale] for pale in (False, True)
    )
    assert (len(strong), len(thin)) == (9, 27)
    for mark in strong:
        (path,) = re.findall(r' d="([^"]*)"', mark)
        across = [float(place.split(",")[0]) for place in re.split("[ML]", path)[1:]]
        assert len(across) == 3
        assert across == sorted(across)


def test_a_curve_begins_at_the_diamond() -> None:
    drawn = draw(named(only(one_beta(), "sft", "dpo"))["kl_vs_hc"].wide)
    (diamond,) = [mark for mark in drawn.marks("point") if 'fill="#ffffff"' in mark]
    (start,) = [mark for mark in drawn.marks("rule") if 'stroke="#1497eb"' in mark and 'stroke-width="2"' in mark]
    at = re.search(r"translate\(([^)]*)\)", diamond)
    assert at
    x, y = map(float, at[1].split(","))
    from_, to = re.search(r"translate\(([^)]*)\)", start), re.search(r'x2="([^"]*)" y2="([^"]*)"', start)
    assert from_ and to
    begin = [float(number) for number in from_[1].split(",")]
    end = [begin[0] + float(to[1]), begin[1] + float(to[2])]
    assert min(abs(px - x) + abs(py - y) for px, py in (begin, end)) < 1e-6


@pytest.mark.parametrize(
    "methods",
    [("sft", "dpo"), ("sft", "kto", "tr_kto_hard"), ("sft", "dpo", "tr_dpo_soft", "ipo"), ("dpo",), ("tr_ipo_soft",)],
)
@pytest.mark.parametrize("betas", ["one", "several"])
def test_partial_results(methods: tuple[str, ...], betas: str) -> None:
    some = only(one_beta() if betas == "one" else report(), *methods)
    labels = {made_up.cell(method)["name"] for method in methods if method != "sft"}
    everything = {made_up.cell(method)["name"] for method in METHODS}
    for figure in all_figures(some):
        for size in ("wide", "print"):
            shown = set(draw(getattr(figure, size)).words)
            compared = {name for name in labels if "TR-" in name} if figure.name == "frontier" else labels
            assert shown & everything - {"DPO", "IPO", "KTO"} == compared - {"DPO", "IPO", "KTO"}, figure.name
            assert shown & {"DPO", "IPO", "KTO"} <= {made_up.METHODS[m].loss.upper() for m in methods if m != "sft"}


def test_of_one_loss_the_print_is_one_column() -> None:
    figures = named(only(report(), "sft", "dpo", "tr_dpo_soft"))
    for name in ("kl_vs_hc", "frontier", "length", "diversity", "win_tie_lose", "training", "ood"):
        assert draw(figures[name].print).width <= 234


def test_nothing_makes_no_figure() -> None:
    empty = {part: [] for part in ("points", "wins", "frontier", "training", "ood")}
    assert all_figures(report(**empty)) == []
    alone = [row for row in made_up.points() if row["method"] == "sft"]
    assert all_figures(report(**empty | {"points": alone})) == []
    assert list(named(report(**empty | {"points": made_up.points()}))) == [
        "kl_vs_hc",
        "kl_vs_axes",
        "diversity",
        "length",
    ]


def test_without_intervals_the_rest_is_drawn() -> None:
    parts = {part: without_intervals(getattr(made_up, part)()) for part in ("points", "wins", "frontier", "ood")}
    figures = named(report(**parts))
    assert list(figures) == ORDER
    for name in ORDER[:-2]:
        draw(figures[name].wide)
    assert len(draw(figures["kl_vs_hc"].wide).marks("point")) == 30
    assert len(draw(figures["frontier"].wide).visible("line")) == 6
    assert not draw(figures["frontier"].wide).marks("area")
    assert not draw(figures["win_tie_lose"].wide).marks("rule")
    assert "[" not in figures["frontier"].alternative
    assert "[]" not in draw(figures["kl_vs_hc"].wide).svg


def test_values_that_are_missing_are_left_out() -> None:
    points = made_up.points()
    for row in points:
        if row["method"] == "tr_dpo_hard":
            row |= {"hc": None, "self_bleu": float("nan")}
        if row["method"] == "ipo":
            row["detail"] = None
    figures = named(report(points=points))
    assert "TR-DPO hard" not in draw(figures["kl_vs_hc"].wide).words
    assert "TR-DPO hard" not in draw(figures["diversity"].wide).words
    assert "TR-DPO hard" in draw(figures["length"].wide).words
    detail = [mark for mark in draw(figures["kl_vs_axes"].wide).marks("point") if "; detail: " in mark]
    assert not any("method: IPO;" in mark for mark in detail)


def test_two_settings_of_a_method_differ_by_dash_and_shape() -> None:
    def twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        more = []
        for row in rows:
            if row["method"] == "tr_dpo_soft":
                other = {"cell": "tr_dpo_soft 0.9", "name": "TR-DPO soft α=0.9", "alpha": 0.9}
                row = {**row, "name": "TR-DPO soft α=0.6"}
                more.append(row | other | {"hc": row["hc"] - 0.2 if row.get("hc") else None})
            more.append(row)
        return more

    parts = {part: twice(getattr(made_up, part)()) for part in ("points", "wins", "frontier", "training", "ood")}
    figures = named(report(**parts))
    for name in ORDER:
        for size in SIZES:
            assert {"TR-DPO soft α=0.6", "TR-DPO soft α=0.9"} <= set(draw(getattr(figures[name], size)).words)
    lines = [mark for mark in draw(figures["kl_vs_hc"].wide).marks("line") if 'stroke-opacity="0.3"' not in mark]
    soft = [mark for mark in lines if 'stroke="#006cac"' in mark]
    assert len(soft) == 2
    points = [mark for mark in draw(figures["kl_vs_hc"].wide).marks("point") if 'fill="#006cac"' in mark]
    assert len({re.search(r' d="([^"]*)"', mark)[1] for mark in points}) == 2  # type: ignore[index]
    assert len({re.search(r'stroke-dasharray="[^"]*"', mark)[0] for mark in soft}) == 2  # type: ignore[index]


def test_frontier_marks_the_largest_common_kl(whole: dict[str, Figure]) -> None:
    figure = whole["frontier"]
    drawn = draw(figure.wide)
    assert len(drawn.visible("point")) == 6
    assert len(drawn.marks("area")) == len(drawn.visible("line")) == 6
    assert len(drawn.strokes(MUTED)) == 3
    assert "TR-DPO soft minus DPO at 14.0 nats: +0.4 [-0.1, +0.9]." in figure.alternative


def test_a_gain_below_the_zero_line_keeps_the_line_in_sight() -> None:
    rows = made_up.frontier()
    for row in rows:
        row |= {"difference": -0.5, "difference_lo": -0.6, "difference_hi": -0.4}
    figure = gains.frontier(report(frontier=rows))
    assert figure
    low, high = figure.wide["concat"][0]["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < -0.6 and high > 0


def test_bars_show_every_duel_and_its_intervals(whole: dict[str, Figure]) -> None:
    figure = whole["win_tie_lose"]
    drawn = draw(figure.wide)
    assert len(drawn.marks("bar")) == 15 * 3
    assert len(drawn.marks("rule")) == 15 * 4  # each interval twice, once as its halo
    assert len(drawn.strokes(INK, dash="3,2")) == 2
    assert Counter(drawn.words)["62 · 14 · 24"] == 9
    assert "TR-DPO soft win 40 tie 14 lose 46" in figure.alternative
    assert [row["label"] for row in figure.rows[:2]] == ["TR-DPO soft", "TR-DPO hard"]


def test_shares_of_a_bar_end_at_one() -> None:
    rows = made_up.wins()[:1]
    rows[0] |= {"win": 1.0, "win_lo": 0.9, "win_hi": 1.0, "tie": 0.0, "lose": 0.0, "lose_lo": 0.0, "lose_hi": 0.1}
    figure = wins.win_tie_lose(report(wins=rows))
    assert figure
    assert "100 · 0 · 0" in draw(figure.wide).words


def test_duels_of_several_betas_are_told_apart() -> None:
    rows = [{**row, "beta": beta} for row in made_up.wins() for beta in (0.02, 0.1)]
    figure = named(report(wins=rows))["win_tie_lose"]
    labels = [row["label"] for row in figure.rows if row["versus"] == "base"]
    assert labels[:3] == ["TR-DPO soft, β 0.1", "TR-DPO soft, β 0.02", "TR-DPO hard, β 0.1"]
    for size in SIZES:
        drawn = draw(getattr(figure, size))
        assert len(drawn.marks("bar")) == 30 * 3


def test_axes_have_a_panel_each_and_loss(whole: dict[str, Figure]) -> None:
    figure = whole["kl_vs_axes"]
    assert len(figure.wide["concat"]) == 15
    words = draw(figure.wide).words
    assert set(AXES) <= set(words)
    domains = {
        axis: {
            tuple(panel["layer"][0]["encoding"]["y"]["scale"]["domain"])
            for panel in figure.wide["concat"]
            if any(step.get("as") == f"{axis}_text" for step in panel["transform"])
        }
        for axis in AXES
    }
    assert all(len(found) == 1 for found in domains.values())


def test_length_has_the_line_of_sft(whole: dict[str, Figure]) -> None:
    drawn = draw(whole["length"].wide)
    assert len([mark for mark in drawn.marks("rule") if 'stroke-dasharray="1,3"' in mark]) == 3
    assert "SFT words 38.0 at KL 0.0." in whole["length"].alternative


def test_training_is_the_mean_and_range_over_seeds() -> None:
    rows = [row for row in made_up.training() if row["method"] == "dpo" and row["step"] == 4]
    rows[0]["margin"], rows[1]["margin"] = 0.2, 0.4
    figure = training.training(report(training=rows))
    assert figure
    (row,) = figure.rows
    assert (row["margin"], row["margin_lo"], row["margin_hi"]) == (pytest.approx(0.3), 0.2, 0.4)
    assert row["seeds"] == [0, 1]
    # the loss of the log, not the name of the loss
    assert row["loss"] == "dpo"
    assert row["loss_value"] == pytest.approx(0.69 * (1 - 0.16) + 0.005)


def test_training_of_one_seed_has_no_band() -> None:
    rows = [row for row in made_up.training() if row["seed"] == 0]
    figure = training.training(report(training=rows))
    assert figure
    drawn = draw(figure.wide)
    assert not drawn.marks("area")
    assert len(drawn.visible("line")) == 6 * 9
    assert "seed 0: one training each" in figure.caption


def test_training_shows_the_beta_with_the_most_rows() -> None:
    more = [{**row, "beta": 0.02} for row in made_up.training() if row["method"] == "dpo" and row["step"] < 9]
    figure = training.training(report(training=[*more, *made_up.training()]))
    assert figure
    assert {row["beta"] for row in figure.rows if row["loss"] == "dpo"} == {0.05}
    assert "β: DPO 0.05; IPO 0.01; KTO 0.05" in figure.caption


def test_updates_are_marked_unless_they_are_too_many(whole: dict[str, Figure]) -> None:
    drawn = draw(whole["training"].wide)
    assert len(drawn.marks("tick")) == 6 * 3 * (5 + 3)
    assert "Ticks at the foot" in whole["training"].caption
    updates = {"tr_dpo_soft": list(range(1, 200)), "tr_dpo_hard": [4]}
    figure = training.training(report(updates=updates))
    assert figure
    assert len(draw(figure.wide).marks("tick")) == 6
    assert "moved more than 60 times" in figure.caption


def test_long_logs_are_thinned() -> None:
    first = made_up.training()[0]
    rows = [{**first, "step": step} for step in range(1, 1002)]
    figure = training.training(report(training=rows))
    assert figure
    steps = [row["step"] for row in figure.rows]
    assert len(steps) <= training.MOST_POINTS + 1
    assert (steps[0], steps[-1]) == (1, 1001)


def test_a_log_without_some_columns(whole: dict[str, Figure]) -> None:
    rows = [{**row, "margin": None, "ref_from_sft": float("nan")} for row in made_up.training()]
    figure = training.training(report(training=rows))
    assert figure
    shown = draw(figure.wide).words
    assert "margin" not in shown and "ref. – SFT" not in shown
    assert "log p chosen" in shown


def test_fixed_texts_have_a_panel_a_kind_and_loss(whole: dict[str, Figure]) -> None:
    drawn = draw(whole["ood"].wide)
    assert len(drawn.visible("line")) == len(drawn.marks("area")) == 5 * 9
    assert {"chosen", "rejected", "mismatched", "foreign"} <= set(drawn.words)
    some = ood.ood(report(ood=[row for row in made_up.ood() if row["kind"] != "sft"]))
    assert some
    assert len(some.wide["concat"]) == 12


def test_rows_are_one_a_mark_and_plain(whole: dict[str, Figure]) -> None:
    for figure in whole.values():
        for row in figure.rows:
            for value in row.values():
                assert value is None or isinstance(value, str | int | float | bool | list)


def test_quantities_are_called_what_the_judge_calls_them() -> None:
    context = made_up.context() | {"hc_unit": "SD of good replies"}
    figure = quality.kl_vs_hc(report(context=context))
    assert figure
    assert "HC (SD of good replies)" in draw(figure.wide).words


def test_a_judge_of_one_axis_has_no_figure_of_axes() -> None:
    assert quality.kl_vs_axes(made_up.one_axis()) is None
    figure = quality.kl_vs_hc(made_up.one_axis())
    assert figure
    assert "HC (fitted preference, points, 1 to 10)" in draw(figure.wide).words
