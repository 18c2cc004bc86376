"""What a trust-region method gains over its base at the same KL."""

from __future__ import annotations

from tr_align.reports.common import number, signed
from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
from tr_align.reports.figures.curves import as_it_is, by_revision, presence
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
    tidy,
    tooltips,
    values,
    vertical,
    with_ends,
)
from tr_align.reports.figures.look import Look, cells, look, losses
from tr_align.reports.figures.quality import KL
from tr_align.reports.results import CELL, Report, Row
from tr_align.reports.theme import MUTED, PAPER, Layout, Spec

GAIN = Quantity("difference", "HC: method minus base", 2, "difference")
COLUMNS = (*CELL, "base", *with_ends("difference"), "kl", "largest", "n_prompts", "seeds")


def frontier(report: Report) -> Figure | None:
    """The difference along KL with its band, a panel a loss."""
    rows = [row for row in tidy(report.frontier, COLUMNS) if known(row, "kl", "difference")]
    if not rows:
        return None
    families = losses(rows)
    across = domain([0.0, *values(rows, "kl")], room=0.05)
    upright = domain([0.0, -0.05, *values(rows, *with_ends("difference"))])

    def panel(loss: str, layout: Layout, columns: int) -> Spec:
        own = [cell for cell in cells(rows) if cell["loss"] == loss]
        first, last = loss == families[0] or columns == 1, loss == families[-1] or columns > 1
        width = panel_width(layout, columns)
        x = axis("kl", KL.title if last else None, layout, across)
        y = vertical("difference", GAIN.title if first else None, layout, upright, labels=first)
        return {
            "width": width,
            "height": {"wide": 240, "narrow": 160, "print": 105}[layout.name],
            "title": heading(loss.upper(), layout),
            "transform": [*prepare(), {"filter": f"datum.loss === '{loss}'"}],
            "layer": layers(x, y, look(own, layout, width), layout),
        }

    def draw(layout: Layout) -> Spec:
        columns = 1 if layout.stacked else len(families)
        return grid([panel(loss, layout, columns) for loss in families], columns, layout, gap(layout), own_legends=True)

    caption = [
        "How much higher (above zero) or lower a trust-region method's HC is than its base's at the same KL, with its"
        " 95 % band; both curves are straight between their points. The point is the largest KL that both reached.",
        words.sample(report, rows),
    ]
    alternative = [
        "Lines with bands, one panel a loss: HC of the trust-region method minus HC of its base, along KL.",
        *(_at_largest(row) for row in rows if row["largest"]),
    ]
    title = "Gain over the base method at the same KL"
    return figure("frontier", title, caption, alternative, rows, report, draw, one_column=len(families) == 1)


def prepare(revisions: bool = False) -> list[Spec]:
    """The transforms ahead of :func:`layers`."""
    return [
        *presence(revisions),
        {"calculate": "upper(datum.loss)", "as": "family"},
        {"calculate": "format(datum.kl, '.1f')", "as": "kl_text"},
        GAIN.text(),
    ]


def layers(x: Spec, y: Spec, look: Look, layout: Layout, revisions: bool = False) -> list[Spec]:
    """The marks of a panel; `revisions` as in :func:`tr_align.reports.figures.curves.layers`."""
    colour, dash = look.colour(), look.dash()
    if revisions:
        dash = by_revision()
    detail = [{"field": "cell"}, *([{"field": "rev"}] * revisions)]
    band = {"x": x, "y": y | {"field": "difference_lo"}, "y2": {"field": "difference_hi"}, "color": colour}
    tooltip = tooltips(("name", "method"), ("base", "base"), ("kl_text", "KL"), ("difference_text", "difference"))
    tooltip += tooltips(("n_prompts", "prompts"), ("seeds", "seeds"), *([("rev", "revision")] * revisions))
    on_top = {"type": "point", "filled": True, "stroke": PAPER, "strokeWidth": layout.line / 2, "size": layout.point}
    zero = {key: value for key, value in y.items() if key != "field"} | {"datum": 0}
    return [
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "color": MUTED, "strokeWidth": layout.line * 0.6},
            "encoding": {"y": zero},
        },
        {
            # of the workspace only: the bands of two revisions hide each other
            "transform": [
                {"filter": "datum.presence === 1 && isValid(datum.difference_lo) && isValid(datum.difference_hi)"}
            ],
            "mark": {"type": "area", "opacity": 0.14},
            "encoding": band | {"detail": detail},
        },
        {
            "mark": {"type": "line", "strokeWidth": layout.line},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "strokeDash": dash,
                "detail": detail,
                "opacity": as_it_is("presence"),
            },
        },
        *hover(layout, x, y, tooltip),
        {
            "transform": [{"filter": "datum.largest"}],
            "mark": on_top,
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "shape": look.shape(),
                "opacity": as_it_is("presence"),
                "tooltip": tooltip,
            },
        },
    ]


def _at_largest(row: Row) -> str:
    low, high = row["difference_lo"], row["difference_hi"]
    interval = f" [{signed(low, 1)}, {signed(high, 1)}]" if known(row, "difference_lo", "difference_hi") else ""
    at = number(row["kl"], 1)
    return f"{row['name']} minus {row['base']} at {at} nats: {signed(row['difference'], 1)}{interval}."
