"""Quantities along optimizer steps: small panels, a row a quantity and a column a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tr_align.reports.figures.frame import (
    Quantity,
    axis,
    domain,
    gap,
    grid,
    heading,
    hover,
    panel_width,
    tooltips,
    values,
    vertical,
    with_ends,
)
from tr_align.reports.figures.look import cells, look, losses
from tr_align.reports.results import Row
from tr_align.reports.theme import Layout, Spec

HEIGHTS = {"wide": 110, "narrow": 80, "print": 58}
FOOT = 0.16
"""Of a panel's height, for the marks of the updates."""
MOST_UPDATES = 60
"""In one lane; more would be a bar."""


@dataclass(frozen=True)
class Measure:
    """A row of panels."""

    quantity: Quantity
    only: str = "true"
    """An expression: the rows it is about."""
    rows: Sequence[Row] = ()
    """The same rows, for the domain."""
    shared: bool = True
    """It means the same for every loss, so that its panels share an axis."""


def most_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of one β a loss: the one with the most, of several such the smallest."""
    counts = Counter((row["loss"], row["beta"]) for row in rows)
    kept = {
        loss: max((pair for pair in counts if pair[0] == loss), key=lambda pair: (counts[pair], -(pair[1] or 0.0)))
        for loss in losses(rows)
    }
    return [row for row in rows if row["loss"] and kept[row["loss"]] == (row["loss"], row["beta"])]


def panels(
    rows: Sequence[Row],
    measures: Sequence[Measure],
    layout: Layout,
    updates: Mapping[str, Sequence[int]] | None = None,
    more: Sequence[tuple[str, str]] = (),
) -> Spec:
    """The grid. `updates`: by cell, the steps to mark at the foot of each panel. `more`: (field, title) of tooltips."""
    families = losses(rows)
    moved = [
        {"cell": cell["cell"], "name": cell["name"], "loss": cell["loss"], "step": step}
        for cell in cells(rows)
        for step in (updates or {}).get(cell["cell"], [])
    ]
    drawn = []
    for measure in measures:
        for loss in families:
            panel = _panel(rows, measure, loss, layout, measures, moved, more)
            if measure is measures[0]:
                panel["title"] = heading(loss.upper(), layout)
            drawn.append(panel)
    crowded = any(not measure.shared for measure in measures)
    return grid(drawn, len(families), layout, gap(layout, own_labels=crowded))


def _panel(
    rows: Sequence[Row],
    measure: Measure,
    loss: str,
    layout: Layout,
    measures: Sequence[Measure],
    moved: Sequence[Row],
    more: Sequence[tuple[str, str]],
) -> Spec:
    families = losses(rows)
    first, last = loss == families[0], measure is measures[-1]
    crowded = any(not other.shared for other in measures)
    height = HEIGHTS[layout.name]
    quantity = measure.quantity
    about = measure.rows if measure.shared else [row for row in measure.rows if row["loss"] == loss]
    numbers = values(about, *with_ends(quantity.field)) or [0.0]
    low, high = domain(numbers)
    if moved:
        # the marks of the updates stand under the curves
        low -= FOOT * (high - low)
    x = axis(
        "step",
        ("step" if layout.stacked else "optimizer step") if last else None,
        layout,
        domain(values(rows, "step"), room=0.01),
    )
    x["axis"] |= {"labels": last, "format": "d", "tickCount": 6 if layout.name == "wide" else 3}
    y = vertical(quantity.field, quantity.title if first else None, layout, [low, high], labels=first or crowded)
    y["axis"] |= {"tickCount": 3}
    shown = look(cells(rows), layout, layout.width - 6 * layout.font, "stroke")
    colour, dash = shown.colour(), shown.dash()
    ends = {"y": y | {"field": f"{quantity.field}_lo"}, "y2": {"field": f"{quantity.field}_hi"}}
    tooltip = [*tooltips(("name", "method"), ("beta", "β"), ("step", "step"), *more), quantity.tooltip()]
    layers: list[Spec] = [
        {
            "transform": [{"filter": f"isValid(datum.{quantity.field}_lo) && isValid(datum.{quantity.field}_hi)"}],
            "mark": {"type": "area", "opacity": 0.12},
            "encoding": {"x": x, "color": colour} | ends,
        },
        {
            "mark": {"type": "line", "strokeWidth": 0.85 * layout.line, "strokeJoin": "round"},
            "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
        },
        *hover(layout, x, y, tooltip),
    ]
    for lane, update in enumerate(("soft", "hard")):
        here = [row for row in moved if row["loss"] == loss and _update(rows, row["cell"]) == update]
        if here and len(here) <= MOST_UPDATES:
            mark = {
                "type": "tick",
                "thickness": 0.75 * layout.line,
                "size": height * FOOT / 3,
                "orient": "vertical",
                "opacity": 1,
            }
            place = {"x": x, "y": {"value": height * (1 - FOOT / 4 - lane * FOOT / 2.4)}, "color": colour}
            layers.append({"data": {"values": here}, "mark": mark, "encoding": place})
    return {
        "width": panel_width(layout, len(families), own_labels=crowded),
        "height": height,
        "transform": [
            {"filter": f"datum.loss === '{loss}' && ({measure.only}) && isValid(datum.{quantity.field})"},
            quantity.text(),
        ],
        "layer": layers,
    }


def _update(rows: Sequence[Row], cell: str) -> str:
    return next(str(row["update"]) for row in rows if row["cell"] == cell)
