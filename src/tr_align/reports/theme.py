"""How every figure looks: colours, shapes, type; and the version of Vega-Lite it is written for."""

from __future__ import annotations

from typing import Any

Spec = dict[str, Any]

VEGA_LITE = "5.21"
"""The version that renders; DVC brings its own, 5.2, so the main figure uses nothing newer."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
COLOURS = {"none": "#4a4a4a", "soft": "#0072b2", "hard": "#d55e00"}
"""Blue and vermilion of the Okabe-Ito palette, apart for every common kind of colour blindness, beside a dark grey."""
SHAPES = {"none": "circle", "soft": "square", "hard": "triangle-up"}
INK, MUTED, GRID = "#1f2328", "#59636e", "#e6e8eb"
CONFIG: Spec = {
    "font": FONT,
    "view": {"stroke": GRID},
    "axis": {
        "labelFontSize": 13,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
        "titleColor": INK,
        "labelColor": MUTED,
        "titlePadding": 10,
        "gridColor": GRID,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "labelFlush": False,
    },
    "header": {"labelFontSize": 15, "labelFontWeight": "bold", "labelColor": INK, "title": None},
    "legend": {
        "labelFontSize": 14,
        "labelColor": INK,
        "titleFontSize": 14,
        "titleFontWeight": "normal",
        "titleColor": MUTED,
        "layout": {"top": {"anchor": "start", "direction": "horizontal", "margin": 48}},
    },
    "title": {
        "anchor": "start",
        "fontSize": 18,
        "color": INK,
        "subtitleFontSize": 13,
        "subtitleColor": MUTED,
        "subtitlePadding": 6,
        "offset": 16,
        "subtitleLineHeight": 18,
    },
}
