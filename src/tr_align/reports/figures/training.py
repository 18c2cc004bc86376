"""The training curves: what was minimised, how likely the pairs became, and how far policy and reference moved."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tr_align.reports.common import number
from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
from tr_align.reports.figures.along import MOST_UPDATES, Measure, most_rows, panels
from tr_align.reports.figures.frame import Quantity, figure, known, values
from tr_align.reports.figures.look import cells, losses
from tr_align.reports.results import CELL, Report, Row
from tr_align.reports.theme import Layout, Spec

QUANTITIES = (
    Quantity("margin", "margin", 3, "margin"),
    Quantity("logps_chosen", "log p chosen", 1, "log-probability of chosen"),
    Quantity("logps_rejected", "log p rejected", 1, "log-probability of rejected"),
    Quantity("policy_from_ref", "policy – ref.", 2, "policy to reference"),
    Quantity("ref_from_sft", "ref. – SFT", 2, "reference to SFT"),
    Quantity("loss_value", "loss", 3, "loss"),
)
OWN_SCALE = ("margin", "loss_value")
"""What each loss has on a scale of its own."""
MOST_POINTS = 150
"""A curve; of a longer log every k-th step, which the eye does not miss."""


def training(report: Report) -> Figure | None:
    """The logs of one β a loss: mean over the seeds, and their range."""
    logged = most_rows([row for row in report.training if any(known(row, q.field) for q in QUANTITIES)])
    rows = _over_seeds(logged)
    shown = [q for q in QUANTITIES if values(rows, q.field)]
    if not shown:
        return None
    measures = [Measure(q, rows=rows, shared=q.field not in OWN_SCALE) for q in shown]
    updates = {cell["cell"]: report.updates.get(cell["cell"], []) for cell in cells(rows)}

    def draw(layout: Layout) -> Spec:
        return panels(rows, measures, layout, updates)

    several = any(len(row["seeds"]) > 1 for row in rows)
    spread = "lines are means, bands the range, over seeds" if several else "one training each"
    caption = [
        f"Along the optimizer steps, {words.betas_by_loss(logged)}; {words.seeds(report, rows)}: {spread}."
        " Log-probabilities are sums over a reply's tokens, in nats; the distances are Euclidean, between parameters."
        " Margin and loss have each loss's own scale.",
        *_about_updates(updates),
    ]
    alternative = ["Lines along the optimizer steps, small panels by quantity and loss.", *_last_margins(rows)]
    return figure("training", "Training", caption, alternative, rows, report, draw, one_column=len(losses(rows)) == 1)


def _over_seeds(logged: Sequence[Row]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in logged:
        groups[row["cell"], row["beta"], row["step"]].append(row)
    steps: dict[str, list[int]] = defaultdict(list)
    for cell, _, step in groups:
        steps[cell].append(step)
    rows = []
    for cell in cells(logged):
        every = max(1, math.ceil(len(steps[cell["cell"]]) / MOST_POINTS))
        ordered = sorted(steps[cell["cell"]])
        kept = {step for place, step in enumerate(ordered) if place % every == 0 or place == len(ordered) - 1}
        for (name, beta, step), group in sorted(groups.items(), key=lambda item: item[0][2]):
            if name == cell["cell"] and step in kept:
                row = {column: cell[column] for column in CELL} | {"beta": beta, "step": step}
                rows.append(row | {"seeds": sorted({r["seed"] for r in group})} | _means(group))
    return rows


def _means(group: Sequence[Row]) -> dict[str, float | None]:
    """Mean and range of each quantity; no range of one seed."""
    found: dict[str, float | None] = {}
    for quantity in QUANTITIES:
        name = quantity.field
        numbers = values(group, quantity.field)
        several = len(numbers) > 1
        found[name] = sum(numbers) / len(numbers) if numbers else None
        found |= {f"{name}_lo": min(numbers) if several else None, f"{name}_hi": max(numbers) if several else None}
    return found


def _about_updates(updates: dict[str, Sequence[int]]) -> list[str]:
    """What the marks under the curves are, and what has too many of them to be drawn."""
    sentences = []
    if any(0 < len(steps) <= MOST_UPDATES for steps in updates.values()):
        sentences.append("Ticks at the foot of a panel: the steps after which a reference moved.")
    if any(len(steps) > MOST_UPDATES for steps in updates.values()):
        sentences.append(f"Methods whose reference moved more than {MOST_UPDATES} times have no such ticks.")
    return sentences


def _last_margins(rows: Sequence[Row]) -> list[str]:
    """A sentence: the margin of each cell at its last step."""
    last = {row["cell"]: row for row in rows if known(row, "margin")}
    if not last:
        return []
    texts = [f"{row['name']} {number(row['margin'], 2)} at step {row['step']}" for row in last.values()]
    return [f"Margin at the end: {'; '.join(texts)}."]
