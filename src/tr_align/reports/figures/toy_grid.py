"""The toy MDP over the settings of the update: every α with every interval, and every τ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tr_align.reports.common import listed, number
from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
from tr_align.reports.figures.frame import (
    Quantity,
    axis,
    domain,
    figure,
    gap,
    grid,
    heading,
    hover,
    known,
    panel_width,
    tooltips,
    values,
    vertical,
    with_ends,
)
from tr_align.reports.figures.look import losses
from tr_align.reports.figures.toy import seeds, toy_rows, value_text
from tr_align.reports.results import Report, Row
from tr_align.reports.theme import DASHES, INK, MUTED, PAPER, SHAPES, TONES, Layout, Spec

AT_END = (
    Quantity("ood_mass", "OOD, %", 1, "OOD mass at the end, %"),
    Quantity("reward", "reward, SD", 2, "true reward at the end"),
)
AT_EQUAL_KL = (
    Quantity("ood_difference", "Δ OOD, points", 1, "OOD mass minus base's at equal KL, points"),
    Quantity("reward_difference", "Δ reward, SD", 2, "true reward minus base's at equal KL"),
)
MEASURES = (*AT_END, *AT_EQUAL_KL)
KNOBS = {"soft": ("alpha", "α"), "hard": ("tau", "τ")}
"""By update, the column of its knob and the letter."""
BASE = "base"
HEIGHTS = {"wide": 105, "narrow": 80, "print": 58}


@dataclass(frozen=True)
class _Grid:
    """What all panels share."""

    rows: Sequence[Row]
    families: Sequence[str]
    updates: Sequence[str]
    measures: Sequence[Quantity]
    lines: Sequence[str]
    """Names of the lines, the base's first, and of each its update."""
    of: Sequence[str]


def toy_grid(report: Report) -> Figure | None:
    """The end of training, and the difference from the base at equal KL, against α and τ."""
    rows = toy_rows(report, "grid", MEASURES, "matched_kl")
    updates = [update for update in KNOBS if any(row["update"] == update for row in rows)]
    if not updates:
        return None
    for row in rows:
        row["line"] = _line(row)
    measures = [measure for measure in MEASURES if values(rows, measure.field)]
    of = {row["line"]: row["update"] for row in sorted(rows, key=lambda row: (row["update"] != "none", _place(row)))}
    shared = _Grid(rows, losses(rows), updates, measures, list(of), list(of.values()))

    def draw(layout: Layout) -> Spec:
        if not layout.stacked:
            sides = [(loss, update) for update in updates for loss in shared.families]
            return _block(shared, sides, layout)
        blocks = [_block(shared, [(loss, update) for loss in shared.families], layout) for update in updates]
        return {"vconcat": blocks, "spacing": 2 * layout.font}

    caption = [
        "Upper rows: probability on out-of-distribution (OOD) trajectories and expected true reward (standard"
        " deviations of the tree's) at the end of training. Lower rows (Δ): a method's minus its base's at the largest"
        " KL that both reached, seed by seed. To the left soft updates by α, to the right hard ones by τ (log scale);"
        " the line without points is the base, or no difference from it.",
        f"{seeds(rows)} {words.betas_by_loss(rows)}.",
    ]
    alternative = [
        "Lines with bands, small panels: a row a quantity; a column a loss and kind of update, its setting to the"
        " right.",
        *_ranges(rows, measures),
    ]
    title = "How often and how far the reference moves"
    one = len(shared.families) * len(updates) == 1
    return figure("toy_grid", title, caption, alternative, rows, report, draw, one_column=one, about="toy")


def _line(row: Row) -> str:
    if row["update"] != "soft":
        return BASE if row["update"] == "none" else "hard"
    return "soft, every step" if row["every"] == 1 else f"soft, every {row['every']} steps"


def _place(row: Row) -> tuple[bool, int]:
    """Where its line stands in the legend: soft ones by how often, then hard."""
    return row["update"] == "hard", row["every"] or 0


def _block(shared: _Grid, sides: Sequence[tuple[str, str]], layout: Layout) -> Spec:
    """A grid of panels: a row a measure, a column a (loss, update)."""
    drawn = []
    for measure in shared.measures:
        for side in sides:
            spec = _panel(shared, measure, side, layout, len(sides), left=side == sides[0])
            if measure is shared.measures[0]:
                spec["title"] = heading(f"{side[0].upper()}, {side[1]}", layout)
            drawn.append(spec)
    return grid(drawn, len(sides), layout, gap(layout))


def _panel(shared: _Grid, measure: Quantity, side: tuple[str, str], layout: Layout, columns: int, left: bool) -> Spec:
    field = measure.field
    upright = domain([*values(shared.rows, *with_ends(field)), *([0.0] if measure in AT_EQUAL_KL else [])])
    y = vertical(field, measure.title if left else None, layout, upright, labels=left)
    y["axis"] |= {"tickCount": 3}
    return {
        "width": panel_width(layout, columns),
        "height": HEIGHTS[layout.name],
        "transform": [
            {"filter": f"datum.loss === '{side[0]}' && isValid(datum.{field})"},
            {"calculate": "datum.loss + ' ' + datum.update", "as": "side"},
            measure.text(),
        ],
        "layer": [
            *_reference(y, measure, side[0], layout),
            *_lines(shared, y, measure, side, layout),
        ],
    }


def _reference(y: Spec, measure: Quantity, loss: str, layout: Layout) -> list[Spec]:
    """The base's value with its band; of a difference from it, zero."""
    rule = {"type": "rule", "strokeWidth": 0.85 * layout.line}
    if measure in AT_EQUAL_KL:
        zero = {key: value for key, value in y.items() if key != "field"} | {"datum": 0}
        return [{"data": {"values": [{}]}, "mark": rule | {"color": MUTED}, "encoding": {"y": zero}}]
    colour, base = TONES[loss]["none"], "datum.update === 'none'"
    ends = {"y": y | {"field": f"{measure.field}_lo"}, "y2": {"field": f"{measure.field}_hi"}}
    return [
        {
            "transform": [{"filter": f"{base} && {_banded(measure)}"}],
            "mark": {"type": "rect", "color": colour, "opacity": 0.14},
            "encoding": ends,
        },
        {"transform": [{"filter": base}], "mark": rule | {"color": colour}, "encoding": {"y": y}},
    ]


def _banded(measure: Quantity) -> str:
    """An expression: a row has an interval."""
    return f"isValid(datum.{measure.field}_lo) && isValid(datum.{measure.field}_hi)"


def _lines(shared: _Grid, y: Spec, measure: Quantity, side: tuple[str, str], layout: Layout) -> list[Spec]:
    loss, update = side
    knob, letter = KNOBS[update]
    x = _across(shared, measure, update, layout)
    own: Spec = {"transform": [{"filter": f"datum.update === '{update}'"}]}
    colour = {"value": TONES[loss][update]}
    ends: Spec = {"y": y | {"field": f"{measure.field}_lo"}, "y2": {"field": f"{measure.field}_hi"}}
    band = {"x": x, "color": colour, "detail": {"field": "line"}} | ends
    tooltip = tooltips(("name", "method"), ("beta", "β"), ("n", "seeds"), (knob, letter))
    tooltip += [*tooltips(*([("every", "every")] * (update == "soft"))), measure.tooltip()]
    mark = {"type": "point", "filled": True, "opacity": 1, "size": 0.3 * layout.point}
    on_top = mark | {"stroke": PAPER, "strokeWidth": layout.line / 4}
    return [
        {
            "transform": [*own["transform"], {"filter": _banded(measure)}],
            "mark": {"type": "area", "opacity": 0.14},
            "encoding": band,
        },
        # a layer each: a scale of dashes would come with a legend of its own
        *(
            {
                "transform": [{"filter": f"datum.line === '{line}'"}],
                "mark": {"type": "line", "strokeWidth": 0.85 * layout.line, "strokeDash": dash},
                "encoding": {"x": x, "y": y, "color": colour},
            }
            for line, of, dash in zip(shared.lines, shared.of, _own(shared, DASHES), strict=True)
            if of == update
        ),
        own | {"mark": on_top, "encoding": {"x": x, "y": y, "color": _colour(shared), "shape": _shape(shared, layout)}},
        *[own | layer for layer in hover(layout, x, y, tooltip)],
    ]


def _colour(shared: _Grid) -> Spec:
    """One scale for all panels, so that the legend has the colour of none of them."""
    sides = [(loss, update) for loss in shared.families for update in shared.updates]
    scale = {"domain": [" ".join(side) for side in sides], "range": [TONES[loss][update] for loss, update in sides]}
    return {"field": "side", "type": "nominal", "scale": scale, "legend": None}


def _shape(shared: _Grid, layout: Layout) -> Spec:
    scale = {"domain": list(shared.lines), "range": ["stroke", *_own(shared, SHAPES)[1:]]}
    legend = {
        "orient": "top",
        "columns": 2 if layout.stacked else len(shared.lines),
        "offset": layout.font / 2,
        "symbolSize": 5.5 * layout.font,
        "symbolFillColor": INK,
        "symbolStrokeColor": INK,
        "symbolStrokeWidth": layout.line / 2,
    }
    return {"field": "line", "type": "nominal", "title": None, "scale": scale, "legend": legend}


def _across(shared: _Grid, measure: Quantity, update: str, layout: Layout) -> Spec:
    """The axis of α, or of τ, which is in powers of two."""
    knob, letter = KNOBS[update]
    bottom = measure is shared.measures[-1]
    if update == "soft":
        x = axis(knob, letter if bottom else None, layout, [0, 1])
        return x | {"axis": x["axis"] | {"labels": bottom, "format": "~g", "values": [0, 0.5, 1]}}
    settings = sorted(set(values((row for row in shared.rows if row["update"] == update), knob)))
    ends = [settings[0] / 1.25, settings[-1] * 1.25]
    x = axis(knob, letter if bottom else None, layout, ends)
    x["scale"] = {"type": "log", "base": 2, "domain": ends, "nice": False}
    return x | {"axis": x["axis"] | {"labels": bottom, "format": "d", "values": settings, "labelOverlap": "parity"}}


def _own(shared: _Grid, kinds: dict[str, Any]) -> list[Any]:
    """Of each line the shape or dash of its update, counted among those of that update."""
    places = [shared.of[:place].count(update) for place, update in enumerate(shared.of)]
    return [kinds[update][place % len(kinds[update])] for update, place in zip(shared.of, places, strict=True)]


def _ranges(rows: Sequence[Row], measures: Sequence[Quantity]) -> list[str]:
    """Sentences: of each quantity, the base's value and the range over the settings, by loss."""
    sentences = []
    for measure in measures:
        texts = []
        for loss in losses(rows):
            own = [row for row in rows if row["loss"] == loss and known(row, measure.field)]
            parts = [f"base {value_text(row, measure)}" for row in own if row["update"] == "none"]
            for update in KNOBS:
                found = values((row for row in own if row["update"] == update), measure.field)
                if found:
                    low, high = (number(end, measure.decimals) for end in (min(found), max(found)))
                    parts.append(f"{update} {low} to {high}")
            if parts:
                texts.append(f"{loss.upper()} {listed(parts)}")
        sentences.append(f"{measure.name[0].upper()}{measure.name[1:]}: {'; '.join(texts)}.")
    return sentences
