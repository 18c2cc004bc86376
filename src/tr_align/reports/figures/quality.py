"""Quality against KL, and against diversity; length against KL: the figures of a panel a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tr_align.reports.common import number
from tr_align.reports.figure import Figure
from tr_align.reports.figures import curves, words
from tr_align.reports.figures.frame import (
    Quantity,
    domain,
    figure,
    framed,
    gap,
    grid,
    heading,
    known,
    panel_width,
    tidy,
    values,
    with_ends,
)
from tr_align.reports.figures.look import cells, look, losses
from tr_align.reports.results import CELL, Report, Row
from tr_align.reports.theme import Layout, Spec

KL = Quantity("kl", "KL(policy || SFT), nats per reply", 2, "KL")
SELF_BLEU = Quantity("self_bleu", "Self-BLEU (lower: more diverse)", 1, "Self-BLEU")
WORDS = Quantity("reply_words", "words a reply", 1, "words")
TOGETHER = "An interval is one model's own: seeds and prompts move all methods alike; differences are taken by pairs."
KEYS = (*CELL, "beta", "step", "final", "seeds", "n_prompts")


def hc(report: Report) -> Quantity:
    """HC with the unit of the judge, and what it is where it is no mean of axes."""
    of = "" if report.context["axes"] else "fitted preference, "
    return Quantity("hc", f"HC ({of}{report.context['hc_unit']})", 2, "HC")


def kl_vs_hc(report: Report) -> Figure | None:
    """The figure of the paper: a curve a method, along betas or along training."""
    y = hc(report)
    rows = shown(report, KL, y)
    if not cells(rows):
        return None
    if report.context["points_along"] == "beta":
        path = "A line joins the trained models of one method with different β; thin lines are their trainings"
    else:
        path = "A line follows one method through its training; large points are the trained models"
    caption = [
        f"{path}. The diamond is the SFT model, where every line begins. At the same KL, higher is better.",
        words.setup(report),
        *([f"{text}."] if (text := words.betas_by_loss(rows)) else []),
        words.sample(report, rows, checkpoints=report.context["points_along"] == "steps"),
        *([TOGETHER] if len(report.context["seeds"]) > 1 else []),
    ]
    alternative = [
        "Scatter plot with lines, one panel a loss: quality (HC) upwards, KL from the SFT model to the right,"
        " with 95 % intervals on both.",
        *_key_numbers(rows, KL, y),
    ]
    return _panels("kl_vs_hc", "Quality against KL from SFT", caption, alternative, rows, report, KL, y)


def diversity(report: Report) -> Figure | None:
    """HC against Self-BLEU of the trained models."""
    y = hc(report)
    rows = [row for row in shown(report, SELF_BLEU, y, "kl") if row["final"]]
    if not cells(rows):
        return None
    caption = [
        "Each point is a trained model, the diamond is SFT. Self-BLEU is the overlap of a model's replies with each"
        " other: to the left they differ more. Up and left is better.",
        words.sample(report, rows),
    ]
    alternative = [
        "Scatter plot, one panel a loss: quality (HC) upwards, Self-BLEU to the right, with 95 % intervals on both.",
        *_key_numbers(rows, SELF_BLEU, y),
    ]
    title = "Quality against diversity"
    return _panels("diversity", title, caption, alternative, rows, report, SELF_BLEU, y, finals=True)


def length(report: Report) -> Figure | None:
    """Reply length against KL: whether quality was bought with words."""
    rows = [row for row in shown(report, KL, WORDS) if row["final"]]
    if not cells(rows):
        return None
    caption = [
        "Each point is a trained model; the diamond and the dotted line are SFT. A judge may like longer replies: a"
        " gain in quality means more where replies stay near that line.",
        words.sample(report, rows),
    ]
    alternative = [
        "Scatter plot, one panel a loss: words a reply upwards, KL from the SFT model to the right, with 95 %"
        " intervals on both.",
        *_key_numbers(rows, KL, WORDS),
    ]
    return _panels("length", "Reply length against KL", caption, alternative, rows, report, KL, WORDS, finals=True)


def kl_vs_axes(report: Report) -> Figure | None:
    """KL against each of the axes that HC is the mean of: a small panel an axis and loss."""
    named: Sequence[str] = report.context["axes"]
    rows = tidy(report.points, (*KEYS, *with_ends("kl", *named)))
    rows = [row for row in rows if known(row, "kl") and any(known(row, axis) for axis in named)]
    axes = [axis for axis in named if any(known(row, axis) for row in rows if row["method"] != "sft")]
    if not cells(rows) or not axes:
        return None
    families, finals = losses(rows), [row for row in rows if row["final"]]
    spans = {field: _span(rows, finals, field) for field in ("kl", *axes)}
    room = {"wide": 24, "narrow": 20, "print": 14}

    def panel(axis: str, loss: str, layout: Layout, wide: bool) -> Spec:
        rank, column = axes.index(axis), families.index(loss)
        first, last = (rank == 0, loss == families[-1]) if wide else (column == 0, axis == axes[-1])
        y = Quantity(axis, axis, 2, axis)
        count = len(axes) if wide else len(families)
        top = (loss == families[0]) if wide else (axis == axes[0])
        spec: Spec = {
            "width": panel_width(layout, count, own_labels=wide, labels=room[layout.name]),
            "height": {"wide": 120, "narrow": 90, "print": 60}[layout.name],
            "transform": [*curves.prepare(KL, y, _along(report)), {"filter": f"datum.loss === '{loss}'"}],
            "layer": curves.layers(
                KL,
                y,
                look(cells(rows), layout, layout.width - 8 * layout.font),
                layout,
                domains=(spans["kl"], spans[axis]),
                titles=("KL, nats" if last else None, (loss.upper() if wide else axis) if first else None),
                labels=(last, wide or first),
                light=True,
                room=room[layout.name],
            ),
        }
        return spec | ({"title": heading(axis if wide else loss.upper(), layout)} if top else {})

    def draw(layout: Layout) -> Spec:
        if layout.name == "narrow":
            panels = [panel(axis, loss, layout, wide=False) for axis in axes for loss in families]
            return grid(panels, len(families), layout, gap(layout))
        panels = [panel(axis, loss, layout, wide=True) for loss in families for axis in axes]
        return grid(panels, len(axes), layout, gap(layout, own_labels=True, labels=room[layout.name]))

    caption = [
        "As the figure of HC against KL, for each axis that HC is the mean of. Panels of one axis have the same scale.",
        words.sample(report, rows),
        *_cut(finals, spans),
    ]
    alternative = ["Small panels, one an axis of quality and loss: the axis upwards, KL to the right."]
    for axis in axes:
        trained = values((row for row in finals if row["method"] != "sft"), axis)
        if not trained:
            continue
        start = [f"SFT {number(value, 1)}, " for value in values((r for r in finals if r["method"] == "sft"), axis)]
        text = f"trained models {number(min(trained), 1)} to {number(max(trained), 1)}."
        alternative.append(f"{axis.capitalize()}: {''.join(start)}{text}")
    return figure("kl_vs_axes", "The five axes of quality against KL", caption, alternative, rows, report, draw)


def shown(report: Report, x: Quantity, y: Quantity, *others: str) -> list[Row]:
    """The points that have a place, tidy."""
    columns = (*KEYS, *with_ends(x.field, y.field), *others)
    return [row for row in tidy(report.points, columns) if known(row, x.field, y.field)]


def _span(rows: Sequence[Row], drawn: Sequence[Row], field: str, room: float = 0.03) -> list[float]:
    """Of an axis that has the points of all rows and the intervals of those drawn with one.

    KL has a little room before zero, or the diamond of SFT would lie on the numbers of the other axis.
    """
    numbers = framed(values(rows, field), values(drawn, *with_ends(field)))
    return domain([-0.03 * max(numbers), *numbers] if field == KL.field else numbers, room)


def _cut(drawn: Sequence[Row], spans: Mapping[str, Sequence[float]]) -> list[str]:
    """A sentence of a caption, where an interval is longer than its axis."""
    ends = {field: values(drawn, *with_ends(field)) for field in spans}
    beyond = any(low > end or end > high for field, (low, high) in spans.items() for end in ends[field])
    return ["Intervals that are longer than the frame are cut at it."] if beyond else []


def _along(report: Report) -> str:
    return "'beta'" if report.context["points_along"] == "beta" else "'steps'"


def _panels(
    name: str,
    title: str,
    caption: Sequence[str],
    alternative: Sequence[str],
    rows: Sequence[Row],
    report: Report,
    x: Quantity,
    y: Quantity,
    finals: bool = False,
) -> Figure:
    families = losses(rows)
    drawn = [row for row in rows if row["final"] or (not finals and report.context["points_along"] == "steps")]
    across = _span(rows, drawn, x.field, room=0.03 if x is KL else 0.06)
    upright = _span(rows, drawn, y.field, room=0.06)
    caption = [*caption, *_cut(drawn, {x.field: across, y.field: upright})]

    def panel(loss: str, layout: Layout, columns: int) -> Spec:
        own = [cell for cell in cells(rows) if cell["loss"] == loss]
        first, last = loss == families[0] or columns == 1, loss == families[-1] or columns > 1
        width = panel_width(layout, columns)
        return {
            "width": width,
            "height": {"wide": 300, "narrow": 200, "print": 130}[layout.name],
            "title": heading(loss.upper(), layout),
            "transform": [*curves.prepare(x, y, _along(report)), {"filter": f"datum.loss === '{loss}'"}],
            "layer": curves.layers(
                x,
                y,
                look(own, layout, width),
                layout,
                domains=(across, upright),
                titles=(x.title if last else None, y.title if first else None),
                labels=(True, first),
                finals=finals,
            ),
        }

    def draw(layout: Layout) -> Spec:
        columns = 1 if layout.stacked else len(families)
        return grid([panel(loss, layout, columns) for loss in families], columns, layout, gap(layout), own_legends=True)

    return figure(name, title, caption, alternative, rows, report, draw, one_column=len(families) == 1)


def _key_numbers(rows: Sequence[Row], x: Quantity, y: Quantity) -> list[str]:
    """The trained models' numbers, a sentence a loss; SFT's first."""
    finals = [row for row in rows if row["final"]]
    sentences = [f"{_numbers(row, x, y)}." for row in finals if row["method"] == "sft"]
    for loss in losses(finals):
        own = [_numbers(row, x, y) for row in finals if row["loss"] == loss]
        sentences.append(f"{loss.upper()}: {'; '.join(own)}.")
    return sentences


def _numbers(row: Row, x: Quantity, y: Quantity) -> str:
    name = row["name"] + (f" (β {row['beta']:g})" if row.get("beta") is not None else "")
    return f"{name} {y.name} {number(row[y.field], 1)} at {x.name} {number(row[x.field], 1)}"
