"""What all figures share: one definition in three sizes, panels in a grid, axes, tooltips."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tr_align.reports.figure import About, Figure
from tr_align.reports.results import Report, Row
from tr_align.reports.theme import COLUMN, NARROW, PAPER, PRINT, SCHEMA, WIDE, Layout, Spec, config

DIGITS = 6
"""Significant digits of a number in a spec: more than can be seen, and half the size of the file."""


_ALONE = dict.fromkeys(("color", "shape", "strokeDash", "fill"), "independent")
OWN_LEGENDS: Spec = {"scale": _ALONE, "legend": _ALONE}
"""`resolve` of a composed spec whose parts have legends of their own."""


@dataclass(frozen=True)
class Quantity:
    """Something measured: its column, the title of its axis, and how many decimals a reader is shown."""

    field: str
    title: str
    decimals: int
    name: str
    """In tooltips."""

    def text(self) -> Spec:
        """A transform: `<field>_text`, such as "7.14 [6.86, 7.41]"."""
        form = f"'.{self.decimals}f'"
        low, high = f"datum.{self.field}_lo", f"datum.{self.field}_hi"
        ends = f"' [' + format({low}, {form}) + ', ' + format({high}, {form}) + ']'"
        interval = f"(isValid({low}) && isValid({high}) ? {ends} : '')"
        return {"calculate": f"format(datum.{self.field}, {form}) + {interval}", "as": f"{self.field}_text"}

    def tooltip(self) -> Spec:
        return {"field": f"{self.field}_text", "type": "nominal", "title": self.name}


def tooltips(*fields: tuple[str, str]) -> list[Spec]:
    """Of (field, title); text fields, shown as they are."""
    return [{"field": field, "type": "nominal", "title": title} for field, title in fields]


def figure(
    name: str,
    title: str,
    caption: Sequence[str],
    alternative: Sequence[str],
    rows: Sequence[Row],
    report: Report,
    draw: Callable[[Layout], Spec],
    one_column: bool = False,
    about: About = "models",
) -> Figure:
    """A figure from its one definition.

    Args:
        caption, alternative: sentences. draw: the spec in a given size, without what every spec has.
        one_column: its print form is as wide as one column of a paper. about: one about the toy MDP carries no warning
            about the judge.
    """
    data = [_plain(row) for row in rows]
    paper = COLUMN if one_column else PRINT
    warning = report.context.get("judge_warning") if about == "models" else None
    wide, narrow, printed = (_whole(draw(layout), data, warning, layout) for layout in (WIDE, NARROW, paper))
    return Figure(name, title, " ".join(caption), " ".join(alternative), list(rows), wide, narrow, printed, about)


def _whole(spec: Spec, rows: list[dict[str, Any]], warning: str | None, layout: Layout) -> Spec:
    whole: Spec = {"$schema": SCHEMA, "background": PAPER, "padding": layout.padding, "data": {"values": rows}}
    if warning:
        # drawn on the files, which travel alone (see render); the page warns once
        whole["usermeta"] = {"warning": warning, "width": layout.width}
    return whole | spec | {"config": config(layout)}


def _plain(row: Row) -> dict[str, Any]:
    """A row for a spec: its list of seeds as text, its numbers no longer than needed."""
    return {
        key: ", ".join(map(str, value)) if isinstance(value, list) else rounded(value)
        for key, value in row.items()
        if value is not None
    }


def rounded(value: Any, digits: int = DIGITS) -> Any:
    """A float to some significant digits; anything else, and zero, as it is."""
    if not isinstance(value, float) or not math.isfinite(value) or value == 0:
        return value
    return float(f"{value:.{digits}g}")


def tidy(rows: Iterable[Row], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of rows; a number that is not finite is None."""
    return [{column: _known(row.get(column)) for column in columns} for row in rows]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def known(row: Mapping[str, Any], *columns: str) -> bool:
    """Whether a row has a number in each."""
    return all(isinstance(row.get(name), int | float) and math.isfinite(row[name]) for name in columns)


def with_ends(*columns: str) -> list[str]:
    """Each column and the two of its interval."""
    return [f"{column}{end}" for column in columns for end in ("", "_lo", "_hi")]


def values(rows: Iterable[Row], *columns: str) -> list[float]:
    """Every number in some columns."""
    return [float(row[column]) for row in rows for column in columns if known(row, column)]


def domain(numbers: Sequence[float], room: float = 0.03) -> list[float]:
    """Of an axis: from the lowest to the highest number, and a little room on both sides."""
    low, high = min(numbers), max(numbers)
    space = (high - low) * room or max(abs(high) * 0.05, 0.05)
    # an axis that begins at zero goes on doing so: there is nothing below a distance of zero
    return [rounded(low - space if low else 0.0), rounded(high + space)]


def framed(points: Sequence[float], ends: Sequence[float]) -> list[float]:
    """Numbers for :func:`domain`: the points, and the ends of their intervals up to the points' span beyond them.

    With two or three seeds an interval can be many times as long as what a figure is there to show.
    """
    low, high = min(points), max(points)
    reach = high - low or math.inf  # a point alone has its interval for a scale
    return [*points, *(min(max(end, low - reach), high + reach) for end in ends)]


def axis(
    quantity: str, title: str | None, layout: Layout, span: Sequence[float] | None = None, **settings: Any
) -> Spec:
    """A quantitative position channel. `settings`: of its axis."""
    scale: Spec = {"zero": False}
    if span is not None:
        scale |= {"domain": list(span), "nice": False}
    ticks = {"tickCount": layout.ticks, "grid": True} | settings
    return {"field": quantity, "type": "quantitative", "title": title, "scale": scale, "axis": ticks}


def vertical(
    quantity: str,
    title: str | None,
    layout: Layout,
    span: Sequence[float] | None = None,
    labels: bool = True,
    **settings: Any,
) -> Spec:
    """The same, upright. The room of its numbers is fixed, so that panels are of equal width."""
    room = {"minExtent": layout.labels, "maxExtent": layout.labels} if labels else {"labels": False, "labelPadding": 0}
    return axis(quantity, title, layout, span, **(room | settings))


def hover(layout: Layout, x: Spec, y: Spec, tooltip: Sequence[Spec]) -> list[Spec]:
    """Invisible points to point at; none on paper. Clipped, or they would widen the panel."""
    if layout.name == "print":
        return []
    mark = {"type": "point", "size": layout.point, "filled": True, "opacity": 0, "clip": True}
    return [{"mark": mark, "encoding": {"x": x, "y": y, "tooltip": list(tooltip)}}]


def gap(layout: Layout, own_labels: bool = False, labels: int | None = None) -> int:
    """Between panels side by side. `own_labels`: each has numbers on its vertical axis, `labels` wide."""
    room = (layout.labels if labels is None else labels) if own_labels else 0
    return round(1.5 * layout.font + room)


def panel_width(layout: Layout, columns: int, own_labels: bool = False, labels: int | None = None) -> int:
    """Of panels that fill a figure; the arguments of :func:`gap`."""
    numbers = layout.labels if labels is None else labels
    beside = 2 * layout.padding + numbers + 3.2 * layout.font
    width = int((layout.width - beside - (columns - 1) * gap(layout, own_labels, labels)) / columns)
    # a panel that is alone would be a letterbox
    return width if layout.width < PRINT.width else min(width, layout.width // 2)


def grid(
    panels: Sequence[Spec], columns: int, layout: Layout, between: int | None = None, own_legends: bool = False
) -> Spec:
    """Panels in rows, as a spec.

    Args:
        between: columns, as of :func:`gap`; by default what their axes and texts need.
        own_legends: each panel has its own instead of one above all.
    """
    spec: Spec = {"concat": list(panels), "columns": columns, "spacing": {"row": round(1.2 * layout.font)}}
    if between is not None and columns > 1:
        spec["spacing"]["column"] = between
        # the distance of the panels themselves, whatever stands out of them: else numbers would widen the figure
        spec["bounds"] = "flush"
    else:
        spec["spacing"]["column"] = gap(layout)
    if own_legends:
        spec["resolve"] = OWN_LEGENDS
    return spec


def heading(text: str, layout: Layout) -> Spec:
    """The title of a panel."""
    return {"text": text, "anchor": "start", "frame": "group", "fontSize": layout.heading, "offset": layout.font / 2}
