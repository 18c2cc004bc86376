"""The toy MDP along its trainings: where the probability goes, what is likely, and how flat the loss has become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tr_align.reports.common import count_text, number, rank, update_steps, with_interval
from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
from tr_align.reports.figures.along import Measure, panels
from tr_align.reports.figures.frame import OWN_LEGENDS, Quantity, figure, known, tidy, with_ends
from tr_align.reports.figures.look import cells, losses
from tr_align.reports.results import CELL, Report, Row
from tr_align.reports.theme import Layout, Spec

MASSES = (
    Quantity("chosen_mass", "chosen, %", 1, "mass on chosen, %"),
    Quantity("rejected_mass", "rejected, %", 1, "mass on rejected, %"),
    Quantity("other_mass", "other, %", 1, "mass on other demonstrations, %"),
    Quantity("ood_mass", "OOD, %", 1, "mass on OOD, %"),
)
LOGPS = (
    Quantity("chosen_logp", "chosen", 1, "mean log p of chosen"),
    Quantity("rejected_logp", "rejected", 1, "mean log p of rejected"),
    Quantity("ood_logp", "OOD", 1, "mean log p of OOD"),
)
FLATNESS = (
    Quantity("loss_value", "loss", 3, "loss"),
    Quantity("gradient", "gradient", 3, "norm of the gradient"),
    Quantity("curvature", "curvature", 3, "curvature"),
    Quantity("gauss_newton", "Gauss–Newton", 3, "Gauss–Newton part of the curvature"),
)
MOMENTS = ("before", "after")


def toy_mass(report: Report) -> Figure | None:
    """The four classes of trajectories, which share all the probability: a row of panels each."""
    rows = toy_rows(report, "curves", MASSES, "step")
    caption = [
        "The probability of all trajectories of a class, in per cent of all: chosen and rejected ones, other"
        " demonstrations, which are in no pair, and out-of-distribution (OOD) ones, which are in no data. The four add"
        " up to 100.",
    ]
    at_end = [_at_end(rows, quantity) for quantity in MASSES]
    return _along("toy_mass", "Where the probability goes", caption, at_end, rows, MASSES, report)


def toy_logps(report: Report) -> Figure | None:
    """What an average trajectory of a class has lost: the paper's figure 2."""
    rows = toy_rows(report, "curves", LOGPS, "step")
    caption = [
        "Log-probability of a trajectory in nats, the mean over those of its class: chosen, rejected, and out of"
        " distribution (OOD). The paper draws the same of its own toy.",
    ]
    at_end = [_at_end(rows, quantity) for quantity in LOGPS]
    return _along("toy_logps", "How likely a trajectory is", caption, at_end, rows, LOGPS, report)


def toy_curvature(report: Report) -> Figure | None:
    """The loss, its gradient and its curvature, with what each update does to them at the same step."""
    rows = toy_rows(report, "curvature", FLATNESS, "step", "moment")
    # a line runs through a step's two moments in the order of the rows
    rows.sort(key=lambda row: (rank(row["loss"], row["update"]), row["step"], MOMENTS.index(row["moment"])))
    caption = [
        "Loss, norm of its gradient, and its curvature along the direction in which the mean margin grows fastest (an"
        " exact Hessian–vector product), with the part of it that the loss's own bend makes (Gauss–Newton). An upright"
        " stroke is an update of the reference: the policy stays, the loss changes under it. Each loss has scales of"
        " its own.",
    ]
    jumps = [text for quantity in FLATNESS if (text := _last_jump(rows, quantity))]
    title = "What an update does to a flat loss"
    return _along("toy_curvature", title, caption, jumps, rows, FLATNESS, report, shared=False)


def toy_rows(report: Report, table: str, quantities: Sequence[Quantity], *keys: str) -> list[dict[str, Any]]:
    """The rows of a table that have one of the quantities, tidy, by method, with their β; masses in per cent.

    Empty for a report without the toy MDP.
    """
    if report.toy is None:
        return []
    fields = [quantity.field for quantity in quantities]
    rows = tidy(report.toy[table], (*CELL, *keys, "n", *with_ends(*fields)))
    for row in rows:
        row["beta"] = report.toy["world"]["beta"].get(row["loss"])
        for column in with_ends(*(field for field in fields if field.endswith("_mass"))):
            row[column] = None if row[column] is None else 100 * row[column]
    shown = [row for row in rows if any(known(row, field) for field in fields)]
    return sorted(shown, key=lambda row: rank(row["loss"], row["update"]))


def sample(report: Report, rows: Sequence[Row]) -> str:
    """Seeds, intervals, β and the updates' settings, as sentences. `rows` are those of the nine main cells."""
    assert report.toy is not None
    main = report.toy["world"]["main"]
    updates = {
        "soft": f"soft updates: α = {main['alpha']:g} every {main['every']} steps",
        "hard": f"hard: τ = {main['tau']}",
    }
    present = [text for update, text in updates.items() if any(row["update"] == update for row in rows)]
    return f"{seeds(rows)} {'; '.join([words.betas_by_loss(rows), *present])}."


def seeds(rows: Sequence[Row]) -> str:
    """How many, and what the intervals are, as a sentence."""
    count = count_text(row["n"] for row in rows)
    return f"Means of {count} seeds, each with a tree, data and a policy of its own; bands: 95 % intervals over seeds."


def value_text(row: Row, quantity: Quantity) -> str:
    """`12.3 [10.1, 14.4]`."""
    ends = [f"{quantity.field}_lo", f"{quantity.field}_hi"]
    interval = [row[end] for end in ends] if known(row, *ends) else None
    return with_interval(row[quantity.field], interval, quantity.decimals)


def _along(
    name: str,
    title: str,
    caption: Sequence[str],
    alternative: Sequence[str],
    rows: Sequence[Row],
    quantities: Sequence[Quantity],
    report: Report,
    shared: bool = True,
) -> Figure | None:
    if not rows or report.toy is None:
        return None
    steps = report.toy["world"]["steps"]
    updates = {cell["cell"]: update_steps(cell, steps) for cell in cells(rows)}
    more = [] if shared else [("moment", "update")]

    def block(drawn: Sequence[Row], layout: Layout) -> Spec:
        measures = [Measure(quantity, rows=drawn, shared=shared) for quantity in quantities]
        return panels(drawn, measures, layout, updates, more)

    def draw(layout: Layout) -> Spec:
        if shared or not layout.stacked:
            return block(rows, layout)
        # saw teeth want all of a phone's width
        blocks = [block([row for row in rows if row["loss"] == loss], layout) for loss in losses(rows)]
        return {"vconcat": blocks, "spacing": 1.5 * layout.font, "resolve": OWN_LEGENDS}

    caption = [*caption, sample(report, rows), "Ticks at the foot of a panel: the steps after which a reference moved."]
    alternative = ["Lines with bands along the optimizer steps, small panels by quantity and loss.", *alternative]
    one = len(losses(rows)) == 1
    return figure(name, title, caption, alternative, rows, report, draw, one_column=one, about="toy")


def _at_end(rows: Sequence[Row], quantity: Quantity) -> str:
    """A sentence: the quantity of each cell at its last step."""
    last = {row["cell"]: row for row in rows if known(row, quantity.field)}
    texts = [f"{row['name']} {value_text(row, quantity)}" for row in last.values()]
    steps = count_text(row["step"] for row in last.values()) if last else ""
    return f"{quantity.name[0].upper()}{quantity.name[1:]} at step {steps}: {'; '.join(texts)}."


def _last_jump(rows: Sequence[Row], quantity: Quantity) -> str:
    """A sentence: the quantity before and after the last update of each cell that has one; empty without any."""
    moments = {(row["cell"], row["step"], row["moment"]): row for row in rows if known(row, quantity.field)}
    jumps = {
        cell: (moments[cell, step, "before"], row)
        for (cell, step, moment), row in moments.items()
        if moment == "after" and (cell, step, "before") in moments
    }
    texts = [
        f"{after['name']} {number(before[quantity.field], 2)} to {number(after[quantity.field], 2)} at step"
        f" {after['step']}"
        for before, after in jumps.values()
    ]
    return f"{quantity.name[0].upper()}{quantity.name[1:]} over the last update: {'; '.join(texts)}." if texts else ""
