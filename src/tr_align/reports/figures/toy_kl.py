"""The toy MDP along KL: what over-optimisation costs, and whether a moving reference pays less at the same distance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tr_align.reports.figure import Figure
from tr_align.reports.figures.frame import (
    Quantity,
    axis,
    domain,
    figure,
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
from tr_align.reports.figures.look import Look, cells, look, losses
from tr_align.reports.figures.toy import sample, toy_rows, value_text
from tr_align.reports.results import Report, Row
from tr_align.reports.theme import INK, PAPER, Layout, Spec

KL = Quantity("kl", "KL from the pre-trained policy, nats", 2, "KL")
OOD = Quantity("ood_mass", "OOD mass, %", 1, "OOD mass, %")
REWARD = Quantity("reward", "true reward, SD", 2, "true reward")
MEASURES = (OOD, REWARD)
FIRST = {"filter": "datum.place === 1"}
HEIGHTS = {"wide": 210, "narrow": 120, "print": 95}


def toy_kl(report: Report) -> Figure | None:
    """OOD mass and true reward where the training first reached a KL: base, soft and hard beside each other."""
    rows = toy_rows(report, "along_kl", MEASURES, "kl")
    if not rows:
        return None
    rows = [*({**row, "end": False} for row in rows), *_trained(report)]
    families = losses(rows)
    numbers = values(rows, *with_ends("kl"))
    # room before zero, or the diamond would lie on the numbers of the other axis
    across = domain([-0.03 * max(numbers), *numbers])

    def panel(loss: str, measure: Quantity, layout: Layout) -> Spec:
        narrow = layout.stacked
        columns = len(MEASURES) if narrow else len(families)
        left = measure is MEASURES[0] if narrow else loss == families[0]
        bottom = loss == families[-1] if narrow else measure is MEASURES[-1]
        top = loss == families[0] if narrow else measure is MEASURES[0]
        x = axis("kl", ("KL, nats" if narrow else KL.title) if bottom else None, layout, across)
        x["axis"] |= {"labels": bottom}
        title = (loss.upper() if narrow else measure.title) if left else None
        upright = domain(values(rows, *with_ends(measure.field)))
        y = vertical(measure.field, title, layout, upright, labels=left or narrow)
        y["axis"] |= {"tickCount": 5 if layout.name == "wide" else 4}
        shown = look(cells(rows), layout, layout.width - 6 * layout.font)
        spec: Spec = {
            "width": panel_width(layout, columns, own_labels=narrow),
            "height": HEIGHTS[layout.name],
            "transform": [
                {"filter": f"datum.loss === '{loss}' && isValid(datum.{measure.field})"},
                {"calculate": "format(datum.kl, '.2f')", "as": "kl_text"},
                measure.text(),
            ],
            "layer": _layers(x, y, measure, shown, layout),
        }
        return spec | ({"title": heading(measure.title if narrow else loss.upper(), layout)} if top else {})

    def draw(layout: Layout) -> Spec:
        if layout.stacked:
            drawn = [panel(loss, measure, layout) for loss in families for measure in MEASURES]
            return grid(drawn, len(MEASURES), layout, gap(layout, own_labels=True))
        drawn = [panel(loss, measure, layout) for measure in MEASURES for loss in families]
        return grid(drawn, len(families), layout, gap(layout))

    caption = [
        "Probability on out-of-distribution (OOD) trajectories, and the expected true reward in standard deviations of"
        " the tree's. Lines: where a training first reached a KL, as far as every seed did; methods whose lines lie on"
        " each other pay the same for the same distance. Points: the trained policies, with intervals of both. The"
        " diamond is the pre-trained policy, where all begin.",
        sample(report, rows),
    ]
    alternative = [
        "Lines with bands, a column of panels a loss: probability on OOD trajectories in per cent above, expected true"
        " reward below, KL from the pre-trained policy to the right.",
        *_at_ends(rows),
    ]
    title = "The price of moving away"
    one = len(families) == 1
    return figure("toy_kl", title, caption, alternative, rows, report, draw, one_column=one, about="toy")


def _trained(report: Report) -> list[dict[str, Any]]:
    """A row a cell: the last policy of its trainings."""
    last = {row["cell"]: row for row in toy_rows(report, "curves", (KL, *MEASURES), "step")}
    return [{key: value for key, value in row.items() if key != "step"} | {"end": True} for row in last.values()]


def _layers(x: Spec, y: Spec, measure: Quantity, shown: Look, layout: Layout) -> list[Spec]:
    field = measure.field
    along, trained = {"filter": "!datum.end"}, {"filter": "datum.end"}
    colour, dash = shown.colour(), shown.dash()
    band = {"x": x, "y": y | {"field": f"{field}_lo"}, "y2": {"field": f"{field}_hi"}, "color": colour}
    tooltip = [*tooltips(("name", "method"), ("beta", "β"), ("kl_text", "KL")), measure.tooltip()]
    on_top = {"type": "point", "filled": True, "stroke": PAPER, "strokeWidth": layout.line / 2}
    diamond = {"type": "point", "shape": "diamond", "filled": False, "fill": PAPER, "stroke": INK, "opacity": 1}
    rule = {"type": "rule", "strokeWidth": 0.75 * layout.line, "opacity": 0.7}
    intervals: list[Spec] = [
        {
            "transform": [trained, {"filter": f"isValid(datum.{name}_lo) && isValid(datum.{name}_hi)"}],
            "mark": rule,
            "encoding": {
                channel: place | {"field": f"{name}_lo"},
                f"{channel}2": {"field": f"{name}_hi"},
                other: across,
                "color": colour,
            },
        }
        for name, channel, place, other, across in (("kl", "x", x, "y", y), (field, "y", y, "x", x))
    ]
    return [
        {
            "transform": [along, {"filter": f"isValid(datum.{field}_lo) && isValid(datum.{field}_hi)"}],
            "mark": {"type": "area", "opacity": 0.1},
            "encoding": band,
        },
        # the base is broad, so that it is seen under methods that take the same way
        *(
            {
                "transform": [along, {"filter": f"datum.update {equal} 'none'"}],
                "mark": {"type": "line", "strokeWidth": width * layout.line},
                "encoding": {"x": x, "y": y, "color": colour, "strokeDash": dash},
            }
            for equal, width in (("===", 2.4), ("!==", 1.0))
        ),
        *intervals,
        *hover(layout, x, y, tooltip),
        {
            "transform": [trained],
            "mark": on_top | {"size": 0.7 * layout.point, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": colour, "shape": shown.shape(), "tooltip": tooltip},
        },
        {
            # every cell begins there, the same policy
            "transform": [{"filter": "datum.kl === 0"}, {"window": [{"op": "row_number", "as": "place"}]}, FIRST],
            "mark": diamond | {"size": 0.7 * layout.point, "strokeWidth": 0.8 * layout.line},
            "encoding": {"x": x, "y": y},
        },
    ]


def _at_ends(rows: Sequence[Row]) -> list[str]:
    """A sentence a cell: where its trainings ended."""
    return [
        f"{row['name']} ends at {value_text(row, KL)} nats: OOD mass {value_text(row, OOD)} %, reward"
        f" {value_text(row, REWARD)}."
        for row in rows
        if row["end"]
    ]
