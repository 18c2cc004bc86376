"""The training curves as small multiples: what was minimised, and how far policy and reference moved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tr_align.config import METHODS
from tr_align.reports.common import LOSSES, UPDATES, Context, Training, in_order, label, update_labels
from tr_align.reports.theme import COLOURS, CONFIG, SCHEMA, Spec

QUANTITIES = {
    "loss": "Loss",
    "margin": "Margin",
    "ref_from_sft": "Reference from SFT",
    "policy_from_ref": "Policy from reference",
}
SHARED = ("ref_from_sft", "policy_from_ref")
"""Distances mean the same for every loss, so their panels share an axis; losses and margins do not."""
MOST_POINTS = 300


def training_curves(training: Training, context: Context) -> Spec:
    """A grid of small panels, a row a quantity and a column a loss, as a Vega-Lite v5 spec."""
    methods = [method for method in in_order(training) if training[method]]
    losses = [loss for loss in LOSSES if any(METHODS[method].loss == loss for method in methods)]
    rows = [point for method in methods for point in _points(method, training[method])]
    shown = [name for name in QUANTITIES if any(row["quantity"] == name for row in rows)]
    panels = [
        _panel(
            rows, quantity, loss, context, first=loss == losses[0], top=quantity == shown[0], last=quantity == shown[-1]
        )
        for quantity in shown
        for loss in losses
    ]
    return {
        "$schema": SCHEMA,
        "background": "white",
        "padding": 12,
        "data": {"values": rows},
        "concat": panels,
        "columns": max(1, len(losses)),
        "align": "all",
        "bounds": "flush",
        "spacing": {"row": 44, "column": 62},
        "resolve": {"scale": {"color": "shared"}},
        "config": CONFIG,
    }


def _points(method: str, log: Any) -> list[dict[str, Any]]:
    """One row a quantity and step; of a long log every k-th step, which the eye does not miss."""
    every = max(1, math.ceil(len(log) / MOST_POINTS))
    kept = [row for position, row in enumerate(log) if position % every == 0 or position == len(log) - 1]
    names = {"method": label(method), "loss": METHODS[method].loss, "arm": METHODS[method].update}
    return [
        {**names, "quantity": quantity, "step": row["step"], "value": row[quantity]}
        for row in kept
        for quantity in QUANTITIES
        if row.get(quantity) is not None
    ]


def _panel(
    rows: list[dict[str, Any]], quantity: str, loss: str, context: Context, first: bool, top: bool, last: bool
) -> Spec:
    labels: Mapping[str, str] = update_labels(context)
    updates = [update for update in UPDATES if any(row["arm"] == update for row in rows)]
    named = ", ".join(f"{update}: '{labels[update]}'" for update in UPDATES)
    legend: Spec = {"orient": "top", "labelExpr": f"({{{named}}})[datum.label]", "symbolType": "stroke"}
    legend |= {"symbolStrokeWidth": 3, "columnPadding": 24}
    colour: Spec = {"field": "arm", "type": "nominal", "title": None, "legend": legend}
    colour |= {"scale": {"domain": updates, "range": [COLOURS[update] for update in updates]}}
    y: Spec = {"field": "value", "type": "quantitative", "scale": {"zero": False}}
    # flush: a label that stands out above its panel would push that panel's title up, out of line with the others
    y |= {"title": QUANTITIES[quantity] if first else None, "axis": {"tickCount": 3, "labelFlush": True}}
    if quantity in SHARED:
        y["scale"] = {"domain": [0, max(row["value"] for row in rows if row["quantity"] == quantity) or 1]}
    x = {"field": "step", "type": "quantitative", "title": "optimizer step" if last else None, "axis": {"tickCount": 5}}
    dash: Spec = {"field": "arm", "type": "nominal", "legend": None}
    dash |= {"scale": {"domain": list(UPDATES), "range": [[1, 0], [1, 0], [5, 3]]}}
    panel: Spec = {
        "width": 270,
        "height": 120,
        "transform": [{"filter": f"datum.quantity === '{quantity}' && datum.loss === '{loss}'"}],
        "mark": {"type": "line", "strokeWidth": 2, "clip": True},
        "encoding": {
            "x": x,
            "y": y,
            "color": colour,
            "strokeDash": dash,
            "tooltip": [{"field": "method"}, {"field": "step"}, {"field": "value", "title": QUANTITIES[quantity]}],
        },
    }
    return panel | ({"title": {"text": loss.upper(), "anchor": "middle", "fontSize": 15, "offset": 8}} if top else {})
