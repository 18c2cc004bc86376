"""The figures of the toy MDP: every row is drawn, in per cent and in order, in three sizes, and no judge is blamed."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest

from reports import made_up
from reports.drawn import Drawn, draw
from tr_align.config import METHODS
from tr_align.reports.figure import Figure
from tr_align.reports.figures import all_figures, toy, toy_grid, toy_kl
from tr_align.reports.figures.rendering import titled
from tr_align.reports.theme import TONES

ORDER = ["toy_mass", "toy_logps", "toy_kl", "toy_curvature", "toy_grid"]
SIZES = ("wide", "narrow", "print")


def figures(found: dict[str, Any] | None = None, **changes: Any) -> dict[str, Figure]:
    """Those about the toy MDP, of a report with this one."""
    shown = made_up.report(toy=made_up.toy() if found is None else found, **changes)
    return {figure.name: figure for figure in all_figures(shown) if figure.about == "toy"}


def changed(table: str, **columns: Any) -> dict[str, Any]:
    found = made_up.toy()
    found[table] = [row | {name: columns[name] for name in columns} for row in found[table]]
    return found


def only(keep: Any) -> dict[str, Any]:
    """The made-up toy with those rows of its tables that `keep` says yes to."""
    found = made_up.toy()
    return found | {table: [row for row in found[table] if keep(row)] for table in found if table != "world"}


def points_of(mark: str) -> list[tuple[float, float]]:
    """The corners of a drawn line."""
    (path,) = re.findall(r' d="([^"]*)"', mark)
    corners = [place.split(",") for place in re.split("[ML]", path)[1:]]
    return [(float(x), float(y)) for x, y in corners]


def places(marks: list[str]) -> list[tuple[float, float]]:
    found = [re.search(r"translate\(([^,]*),([^)]*)\)", mark) for mark in marks]
    return [(float(place[1]), float(place[2])) for place in found if place]


@pytest.fixture(scope="module")
def whole() -> dict[str, Figure]:
    return figures()


def test_they_come_last_and_only_with_a_toy(whole: dict[str, Figure]) -> None:
    shown = made_up.report(toy=made_up.toy())
    assert [figure.name for figure in all_figures(shown)][-5:] == ORDER == list(whole)
    assert all(figure.about == "models" for figure in all_figures(made_up.report()))
    assert len(all_figures(shown)) == len(all_figures(made_up.report())) + 5


def test_of_empty_tables_there_is_no_figure() -> None:
    assert figures(only(lambda row: False)) == {}


@pytest.mark.parametrize("name", ORDER)
def test_three_sizes_fit_where_they_go(name: str, whole: dict[str, Figure]) -> None:
    wide, narrow, printed = (draw(getattr(whole[name], size)) for size in SIZES)
    assert 900 < wide.width <= 1080
    assert 290 < narrow.width <= 340
    assert printed.width <= 486
    assert {float(size) for size in re.findall(r'font-size="([\d.]+)px"', printed.svg)} == {8.0}


@pytest.mark.parametrize("name", ORDER)
def test_caption_and_alternative_say_what_was_run(name: str, whole: dict[str, Figure]) -> None:
    caption, alternative = whole[name].caption, whole[name].alternative
    assert "Means of 5 seeds, each with a tree, data and a policy of its own" in caption
    assert "95 % intervals over seeds" in caption
    assert "β: DPO 0.1; IPO 0.1; KTO 0.1" in caption
    if name != "toy_grid":
        assert "soft updates: α = 0.6 every 4 steps; hard: τ = 4." in caption
    assert len(alternative) > 150 and "None" not in caption + alternative
    assert all(label in alternative for label in ("DPO", "IPO", "KTO"))
    assert not re.search(r"\d\.\d{4}", alternative + caption)


def test_no_judge_is_blamed_and_the_files_say_what_they_are_about() -> None:
    warned = made_up.context() | {"judge_warning": "The judge is weak."}
    for figure in figures(context=warned).values():
        assert "usermeta" not in figure.wide
        spec = titled(figure)
        assert spec["title"]["text"] == f"Toy MDP: {figure.title}"
        assert "weak" not in draw(spec).svg


# Along the steps


def test_masses_are_per_cent_of_all(whole: dict[str, Figure]) -> None:
    """DPO after 12 steps of speed 1.2: 0.26 + 0.02 * 14.4 chosen, 0.01 + 0.006 * 14.4 OOD, each with its interval."""
    rows = whole["toy_mass"].rows
    assert len(rows) == 9 * 7
    row = next(row for row in rows if row["cell"] == "dpo" and row["step"] == 12)
    assert [row[f"chosen_mass{end}"] for end in ("", "_lo", "_hi")] == pytest.approx([54.8, 49.8, 59.8])
    assert row["ood_mass"] == pytest.approx(9.64)
    for row in rows:
        assert sum(row[f"{kind}_mass"] for kind in ("chosen", "rejected", "other", "ood")) == pytest.approx(100)
    assert "Mass on chosen, % at step 12: DPO 54.8 [49.8, 59.8]" in whole["toy_mass"].alternative


def test_every_cell_has_a_line_and_a_band_in_every_row_of_panels(whole: dict[str, Figure]) -> None:
    for name, quantities in {"toy_mass": 4, "toy_logps": 3, "toy_curvature": 4}.items():
        for size in SIZES:
            drawn = draw(getattr(whole[name], size))
            assert len(drawn.visible("line")) == len(drawn.marks("area")) == quantities * 9, (name, size)
            # soft and hard move after steps 4 and 8; what follows the last step moves nothing
            assert len(drawn.marks("tick")) == quantities * 3 * 2 * 2
    assert {"chosen, %", "rejected, %", "other, %", "OOD, %"} <= set(draw(whole["toy_mass"].wide).words)


def test_log_probabilities_are_as_they_were_measured(whole: dict[str, Figure]) -> None:
    row = next(row for row in whole["toy_logps"].rows if row["cell"] == "tr_kto_hard" and row["step"] == 2)
    # speed 1.2 * 1.5, two steps
    assert row["chosen_logp"] == pytest.approx(-4.4 - 0.3 * 3.6)
    assert row["ood_logp_hi"] == pytest.approx(-4.4 - 0.6 * 3.6 + 0.5)


@pytest.mark.parametrize("backwards", [False, True])
def test_the_line_of_the_curvature_jumps_at_an_update(backwards: bool) -> None:
    """TR-DPO hard moves after steps 4 and 8, where its loss goes from 0.69 * exp(-4 / 3) back to 0.69."""
    found = made_up.toy()
    if backwards:
        found["curvature"].reverse()
    figure = figures(found)["toy_curvature"]
    drawn = draw(figure.wide)
    tone = TONES["dpo"]["hard"]
    lines = [
        points_of(mark)
        for mark in drawn.visible("line")
        if f'stroke="{tone}"' in mark and 'stroke-dasharray="2,2"' in mark
    ]
    assert len(lines) == 4
    for line in lines:
        across = [x for x, _ in line]
        assert len(line) == 7 + 2
        assert across == sorted(across)
        assert [place for place in range(8) if across[place] == across[place + 1]] == [2, 5]
        assert all(line[place + 1][1] < line[place][1] - 5 for place in (2, 5))  # upwards
    (base,) = [mark for mark in drawn.visible("line") if f'stroke="{TONES["dpo"]["none"]}"' in mark][:1]
    assert len(points_of(base)) == 7
    assert "update: after" in drawn.svg and "update: before" in drawn.svg
    assert "Loss over the last update: TR-DPO soft 0.18 to 0.69 at step 8" in figure.alternative


def test_a_flat_base_alone_has_no_jumps_to_tell() -> None:
    figure = figures(only(lambda row: row["update"] == "none"))["toy_curvature"]
    assert "last update" not in figure.alternative
    assert not draw(figure.wide).marks("tick")


def test_on_a_phone_the_saw_teeth_have_its_whole_width(whole: dict[str, Figure]) -> None:
    blocks = whole["toy_curvature"].narrow["vconcat"]
    assert [len(block["concat"]) for block in blocks] == [4, 4, 4]
    assert all(panel["width"] > 250 for block in blocks for panel in block["concat"])
    # each block has its own legend, above it
    assert whole["toy_curvature"].narrow["resolve"]["legend"]["color"] == "independent"
    words = draw(whole["toy_curvature"].narrow).words
    assert words.count("TR-IPO hard") == 1


# Along KL


def test_the_trained_policies_stand_beside_the_lines(whole: dict[str, Figure]) -> None:
    """DPO ends at 14.4 / 6 nats."""
    figure = whole["toy_kl"]
    assert len(figure.rows) == 9 * 5 + 9
    (end,) = [row for row in figure.rows if row["cell"] == "dpo" and row["end"]]
    assert [end[f"kl{side}"] for side in ("", "_lo", "_hi")] == pytest.approx([2.4, 2.3, 2.5])
    assert end["ood_mass"] == pytest.approx(9.64) and end["reward"] == pytest.approx(0.6 + 0.04 * 14.4)
    assert "DPO ends at 2.40 [2.30, 2.50] nats: OOD mass 9.6 [6.4, 12.9] %, reward 1.18" in figure.alternative
    for size in SIZES:
        drawn = draw(getattr(figure, size))
        assert len(drawn.visible("line")) == len(drawn.marks("area")) == 2 * 9
        assert len(drawn.marks("rule")) == 2 * 2 * 9
        diamonds = [mark for mark in drawn.visible("point") if 'fill="#ffffff"' in mark]
        assert len(diamonds) == 2 * 3
        assert len(drawn.visible("point")) - len(diamonds) == 2 * 9


def test_lines_begin_at_the_diamond_and_the_base_is_broad(whole: dict[str, Figure]) -> None:
    drawn = draw(whole["toy_kl"].wide)
    broad = [mark for mark in drawn.visible("line") if 'stroke-width="4.8"' in mark]
    assert {mark.split('stroke="')[1][:7] for mark in broad} == {TONES[loss]["none"] for loss in TONES}
    assert len(broad) == 6
    diamonds = places([mark for mark in drawn.visible("point") if 'fill="#ffffff"' in mark])
    starts = [points_of(mark)[0] for mark in drawn.visible("line")]
    for start in starts:
        assert min(abs(start[0] - x) + abs(start[1] - y) for x, y in diamonds) < 1e-3
    # five places of KL, which the trained policies are none of
    assert {len(points_of(mark)) for mark in drawn.visible("line")} == {5}


def test_a_phone_has_a_column_a_measure(whole: dict[str, Figure]) -> None:
    narrow, wide = whole["toy_kl"].narrow, whole["toy_kl"].wide
    assert (narrow["columns"], wide["columns"]) == (2, 3)
    assert {"DPO", "IPO", "KTO", "OOD mass, %", "true reward, SD"} <= set(draw(narrow).words)


# Over the settings


def test_every_setting_of_the_grid_is_drawn(whole: dict[str, Figure]) -> None:
    """4 rows of panels and 3 losses; a soft panel has two lines of three points, a hard one has one. Base or zero are
    in each of 24 panels."""
    for size in SIZES:
        drawn = draw(getattr(whole["toy_grid"], size))
        assert len(drawn.visible("line")) == len(drawn.marks("area")) == 4 * 3 * (2 + 1)
        assert len(drawn.visible("point")) == 4 * 3 * (6 + 3)
        assert len(drawn.marks("rule")) == len(drawn.strokes("#59636e")) == 2 * 6
        assert {"base", "soft, every step", "soft, every 4 steps", "hard"} <= set(drawn.words)
        assert {"DPO, soft", "KTO, hard", "α", "τ", "Δ OOD, points"} <= set(drawn.words)
    assert len(whole["toy_grid"].wide["concat"]) == 24


def test_tau_is_on_a_log_scale(whole: dict[str, Figure]) -> None:
    """2, 4 and 8 are equally far apart, and of α 0.2, 0.6, 0.9 the first two are further."""
    drawn = draw(whole["toy_grid"].wide)

    def steps(update: str) -> list[float]:
        tone = TONES["ipo"][update]
        own = [points_of(mark) for mark in drawn.visible("line") if f'stroke="{tone}"' in mark]
        (first, second, third) = [x for x, _ in own[0]]
        return [second - first, third - second]

    hard, soft = steps("hard"), steps("soft")
    assert hard[0] == pytest.approx(hard[1], abs=0.01)
    assert soft[0] / soft[1] == pytest.approx(0.4 / 0.3, abs=0.01)


def test_how_often_is_told_by_shape_and_dash(whole: dict[str, Figure]) -> None:
    drawn = draw(whole["toy_grid"].wide)
    tone = TONES["kto"]["soft"]
    dashes = {
        found[1]
        for mark in drawn.visible("line")
        if f'stroke="{tone}"' in mark and (found := re.search(r'stroke-dasharray="([^"]*)"', mark))
    }
    assert dashes == {"6,2", "6,2,1,2"}
    shapes = {re.sub(r"[\d.-]+", "", re.findall(r' d="([^"]*)"', mark)[0]) for mark in drawn.visible("point")}
    assert len(shapes) == 3


def test_the_grid_tells_ranges_beside_the_base(whole: dict[str, Figure]) -> None:
    """At τ = 2 and 8 the mass is 0.1 + 0.03 * 2 / τ; softly, 0.1 + 0.03 α / every, from 0.2 / 4 to 0.9."""
    alternative = whole["toy_grid"].alternative
    assert "DPO base 10.1 [8.1, 12.1], soft 10.2 to 12.8 and hard 10.8 to 13.0" in alternative
    assert "OOD mass minus base's at equal KL, points: DPO soft -0.3 to 0.5 and hard -0.2 to 0.6;" in alternative


def test_a_grid_without_one_kind_of_update_or_without_differences() -> None:
    soft = figures(only(lambda row: row["update"] != "hard"))["toy_grid"]
    assert len(soft.wide["concat"]) == 12 and "hard" not in draw(soft.wide).words
    ends = figures(changed("grid", ood_difference=None, reward_difference=None))["toy_grid"]
    assert len(ends.wide["concat"]) == 12 and "Δ OOD, points" not in draw(ends.wide).words
    assert "toy_grid" not in figures(only(lambda row: row["update"] == "none"))


# What may be out of order or missing


def test_the_order_of_the_file_does_not_matter(whole: dict[str, Figure]) -> None:
    found = made_up.toy()
    for table in ("curves", "along_kl", "grid", "curvature"):
        found[table].sort(
            key=lambda row: (row.get("step", 0), row.get("kl") if table == "along_kl" else 0, row["cell"])
        )
        found[table].sort(key=lambda row: row["method"], reverse=True)
    found["grid"].reverse()
    others = figures(found)
    for name in ("toy_mass", "toy_logps", "toy_kl", "toy_curvature"):
        assert others[name].alternative == whole[name].alternative
    words = [
        word for word in draw(others["toy_grid"].wide).words if word in ("base", "hard") or word.startswith("soft,")
    ]
    assert words == ["base", "soft, every step", "soft, every 4 steps", "hard"]


@pytest.mark.parametrize("methods", [("dpo",), ("ipo", "tr_ipo_soft"), ("kto", "tr_kto_hard", "dpo")])
def test_some_methods_only(methods: tuple[str, ...]) -> None:
    labels = {made_up.cell(method)["name"] for method in METHODS} - {"DPO", "IPO", "KTO"}
    expected = {made_up.cell(method)["name"] for method in methods} & labels
    for figure in figures(only(lambda row: row["method"] in methods)).values():
        for size in SIZES:
            drawn = draw(getattr(figure, size))
            if figure.name != "toy_grid":
                assert set(drawn.words) & labels == expected


def test_without_intervals_there_are_no_bands() -> None:
    found = copy.deepcopy(made_up.toy())
    for table in ("curves", "along_kl", "grid", "curvature"):
        for row in found[table]:
            row |= {name: None for name in row if name.endswith(("_lo", "_hi"))}
    for figure in figures(found).values():
        drawn: Drawn = draw(figure.wide)
        assert drawn.visible("line") and not drawn.marks("area"), figure.name
        assert "[" not in figure.alternative


def test_each_module_alone_has_nothing_to_draw_without_a_toy() -> None:
    shown = made_up.report()
    for make in (toy.toy_mass, toy.toy_logps, toy.toy_curvature, toy_kl.toy_kl, toy_grid.toy_grid):
        assert make(shown) is None
