"""How every figure looks: colours, shapes, dashes, type, in light and in dark; and the Vega-Lite it is written for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

VEGA_LITE = "5.21"
"""The version that renders; DVC brings its own, 5.2, so the figures use nothing newer."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"

PAPER, INK, MUTED, GRID = "#ffffff", "#1f2328", "#59636e", "#e6e8eb"
TIE, LOSE, WARNING = "#c9ced4", "#7d8590", "#b43c00"

TONES = {
    "dpo": {"none": "#1497eb", "soft": "#006cac", "hard": "#003a5f"},
    "ipo": {"none": "#e07227", "soft": "#a94e00", "hard": "#5e2600"},
    "kto": {"none": "#00a577", "soft": "#047755", "hard": "#003f2b"},
}
"""By loss and update. The hue is the loss: blue, vermilion and bluish green, after Okabe & Ito (2008). Within a hue
the lightness is the update, in steps of contrast 3 : 5.6 : 12 to white, which survive colour blindness and print."""
SHAPES = {
    "none": ("circle",),
    "soft": ("square", "cross", "diamond"),
    "hard": ("triangle-up", "triangle-down", "triangle-left"),
}
DASHES = {
    "none": ([1, 0], [12, 3], [12, 2, 2, 2]),
    "soft": ([6, 2], [6, 2, 1, 2], [9, 2, 3, 2]),
    "hard": ([2, 2], [1, 3], [2, 2, 5, 2]),
}
"""Shapes and dashes by update; a second cell of a method (another alpha, say) has the second one, and so on around."""

DARK_PAPER = "#14171a"
DARK = {
    PAPER: DARK_PAPER,
    INK: "#e8eaed",
    MUTED: "#9aa4af",
    GRID: "#2d3237",
    TIE: "#4b525a",
    LOSE: "#8d96a0",
    WARNING: "#ff9a66",
    "#1497eb": "#066fb0",
    "#006cac": "#37a3f1",
    "#003a5f": "#b3dbff",
    "#e07227": "#b05100",
    "#a94e00": "#ea8241",
    "#5e2600": "#fecdb3",
    "#00a577": "#0d7a58",
    "#047755": "#0db181",
    "#003f2b": "#9df5d2",
}
"""Light colour -> dark colour, for every colour in a spec. What stands out most on white (hard) does so on black."""


@dataclass(frozen=True)
class Layout:
    """Sizes of one of a figure's three forms, in pixels; in print 72 of them are an inch."""

    name: str
    width: int
    """Of the whole figure at most."""
    font: int
    heading: int
    """Font size of panel titles."""
    line: float
    """Stroke of a curve; everything else that is drawn scales with it."""
    point: float
    """Area of a trained model's point."""
    ticks: int
    """Of an axis, about."""
    labels: int
    """Room for the numbers of a vertical axis."""
    padding: int

    @property
    def stacked(self) -> bool:
        """One panel below the other where there are few of them."""
        return self.name == "narrow"


WIDE = Layout("wide", 1080, font=13, heading=15, line=2.0, point=130, ticks=6, labels=38, padding=6)
NARROW = Layout("narrow", 340, font=11, heading=13, line=1.75, point=90, ticks=4, labels=32, padding=4)
PRINT = Layout("print", 486, font=8, heading=8, line=1.0, point=26, ticks=4, labels=22, padding=2)
COLUMN = Layout("print", 234, font=8, heading=8, line=1.0, point=26, ticks=4, labels=22, padding=2)
"""For a figure of one panel: one column of a paper."""


def config(layout: Layout) -> Spec:
    """The Vega-Lite configuration of a figure of that size."""
    font = layout.font
    gap = font / 2
    return {
        "font": FONT,
        "view": {"stroke": GRID, "strokeWidth": layout.line / 2},
        "axis": {
            "labelFontSize": font,
            "titleFontSize": font,
            "titleFontWeight": "normal",
            "titleColor": INK,
            "labelColor": MUTED,
            "titlePadding": gap,
            "gridColor": GRID,
            "gridWidth": layout.line / 2,
            "domain": False,
            "ticks": False,
            "labelPadding": gap / 1.5,
            # a number that stood out above its panel would lift the panel's title
            "labelFlush": 0.55 * font,
        },
        "axisX": {"labelFlush": False},
        "header": {
            "labelFontSize": layout.heading,
            "labelFontWeight": "bold",
            "labelColor": INK,
            "labelPadding": gap,
            "title": None,
        },
        "legend": {
            "labelFontSize": font,
            "labelColor": INK,
            "labelLimit": 0,
            "titleFontSize": font,
            "titleFontWeight": "normal",
            "titleColor": MUTED,
            "rowPadding": gap / 2.5,
            "columnPadding": font,
            "symbolOpacity": 1,
        },
        "title": {
            "anchor": "start",
            # one font in a PDF: the order of several, and with it the file, would be another one each time
            "fontWeight": "normal" if layout.name == "print" else "bold",
            "fontSize": layout.heading,
            "color": INK,
            "subtitleFontSize": font,
            "subtitleColor": MUTED,
            "subtitlePadding": gap,
            "offset": gap,
            "subtitleLineHeight": 1.4 * font,
        },
    }
