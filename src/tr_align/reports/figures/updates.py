"""Quality at equal KL over the settings of the update: against α, and against τ."""

from __future__ import annotations

from collections.abc import Sequence

from tr_align.reports.common import listed, number, signed, with_interval
from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
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
from tr_align.reports.results import CELL, Report, Row
from tr_align.reports.theme import MUTED, PAPER, SHAPES, TONES, Layout, Spec

HC = Quantity("hc", "HC at equal KL", 2, "HC")
GAIN = Quantity("difference", "HC minus base's", 2, "difference from the base")
MEASURES = (HC, GAIN)
COLUMNS = (*CELL, "panel", "base", "beta", "kl", *with_ends("hc", "difference"), "n_prompts", "seeds")
KNOBS = {"soft": ("alpha", "α"), "hard": ("tau", "τ")}
"""By update, the column of its setting and the letter."""
BESIDE = 3
"""Panels side by side, at most, that mix soft and hard updates."""
HEIGHTS = {"wide": 170, "narrow": 120, "print": 84}


def updates(report: Report) -> Figure | None:
    """HC, and its difference from the base, a column of panels a method that has three settings or more."""
    rows = tidy(report.by_setting, COLUMNS)
    if not rows:
        return None
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    measures = [measure for measure in MEASURES if values(rows, measure.field)]

    def block(shown: Sequence[str], layout: Layout) -> Spec:
        drawn = []
        for measure in measures:
            for name in shown:
                spec = _panel(rows, name, measure, measures, layout, len(shown), left=name == shown[0])
                if measure is measures[0]:
                    spec["title"] = heading(name, layout)
                drawn.append(spec)
        return grid(drawn, len(shown), layout, gap(layout))

    def draw(layout: Layout) -> Spec:
        groups = [[name] for name in panels]
        if not layout.stacked:
            # more panels than that would be too narrow for their headings: soft above hard
            own = {row["panel"]: row["update"] for row in rows if row["update"] != "none"}
            sides = [[name for name in panels if own[name] == update] for update in KNOBS]
            groups = [panels] if len(panels) <= BESIDE else [side for side in sides if side]
        if len(groups) == 1:
            return block(groups[0], layout)
        return {"vconcat": [block(group, layout) for group in groups], "spacing": 2 * layout.font}

    at = listed([f"{number(kl, 1)} nats ({name})" for name, kl in {row["panel"]: row["kl"] for row in rows}.items()])
    caption = [
        f"Above: HC at the largest KL that all settings of a panel and the base reached, {at}. Below: the same minus"
        " the base's, prompt by prompt, whose intervals are the ones to compare by. Soft updates by α, hard ones by τ"
        " (log scale); the line without points is the base, which is α = 0, or no difference from it.",
        words.sample(report, rows),
        f"{words.betas_by_loss(rows)}." if words.betas_by_loss(rows) else "",
    ]
    alternative = [
        "Lines with bands: a row a quantity, a column a method, its setting to the right.",
        *(_read_out(rows, name) for name in panels),
    ]
    title = "How much and how often the reference moves"
    return figure("updates", title, caption, alternative, rows, report, draw, one_column=len(panels) == 1)


def _panel(
    rows: Sequence[Row],
    name: str,
    measure: Quantity,
    measures: Sequence[Quantity],
    layout: Layout,
    columns: int,
    left: bool,
) -> Spec:
    own = [row for row in rows if row["panel"] == name]
    settings = [row for row in own if row["update"] != "none"]
    upright = domain([*values(rows, *with_ends(measure.field)), *([0.0, -0.05] if measure is GAIN else [])])
    y = vertical(measure.field, measure.title if left else None, layout, upright, labels=left)
    y["axis"] |= {"tickCount": 4}
    x = _across(settings, layout, bottom=measure is measures[-1])
    return {
        "width": panel_width(layout, columns),
        "height": HEIGHTS[layout.name],
        "transform": [
            {"filter": f"datum.panel === '{name}' && isValid(datum.{measure.field})"},
            {"calculate": "format(datum.kl, '.1f')", "as": "kl_text"},
            measure.text(),
        ],
        "layer": [*_reference(settings[0], y, measure, layout), *_line(settings[0], x, y, measure, layout)],
    }


def _reference(cell: Row, y: Spec, measure: Quantity, layout: Layout) -> list[Spec]:
    """The base's HC with its band; of a difference from it, zero."""
    rule = {"type": "rule", "strokeWidth": 0.85 * layout.line}
    if measure is GAIN:
        zero = {key: value for key, value in y.items() if key != "field"} | {"datum": 0}
        return [{"data": {"values": [{}]}, "mark": rule | {"color": MUTED}, "encoding": {"y": zero}}]
    colour, base = TONES[cell["loss"]]["none"], {"filter": "datum.update === 'none'"}
    ends = {"y": y | {"field": "hc_lo"}, "y2": {"field": "hc_hi"}}
    return [
        {"transform": [base], "mark": {"type": "rect", "color": colour, "opacity": 0.14}, "encoding": ends},
        {"transform": [base], "mark": rule | {"color": colour}, "encoding": {"y": y}},
    ]


def _line(cell: Row, x: Spec, y: Spec, measure: Quantity, layout: Layout) -> list[Spec]:
    """The settings' points with their intervals."""
    update = cell["update"]
    knob, letter = KNOBS[update]
    own: Spec = {"transform": [{"filter": f"datum.update === '{update}'"}]}
    colour = TONES[cell["loss"]][update]
    place = {"x": x, "y": y}
    ends = {"x": x, "y": y | {"field": f"{measure.field}_lo"}, "y2": {"field": f"{measure.field}_hi"}}
    mark = {"type": "point", "filled": True, "opacity": 1, "color": colour, "shape": SHAPES[update][0]}
    mark |= {"size": 0.6 * layout.point, "stroke": PAPER, "strokeWidth": layout.line / 4}
    tooltip = tooltips(("name", "method"), (knob, letter), ("kl_text", "KL"), ("n_prompts", "prompts"))
    tooltip += [*tooltips(("seeds", "seeds")), measure.tooltip()]
    return [
        own | {"mark": {"type": "area", "opacity": 0.14, "color": colour}, "encoding": ends},
        own | {"mark": {"type": "line", "color": colour, "strokeWidth": 0.85 * layout.line}, "encoding": place},
        own | {"mark": mark, "encoding": place},
        *[own | layer for layer in hover(layout, x, y, tooltip)],
    ]


def _across(settings: Sequence[Row], layout: Layout, bottom: bool) -> Spec:
    """The axis of α, or of τ, which is in powers of two."""
    knob, letter = KNOBS[settings[0]["update"]]
    if knob == "alpha":
        x = axis(knob, letter if bottom else None, layout, [0, 1])
        return x | {"axis": x["axis"] | {"labels": bottom, "format": "~g", "values": [0, 0.2, 0.4, 0.6, 0.8, 1]}}
    taken = sorted(set(values(settings, knob)))
    ends = [taken[0] / 1.25, taken[-1] * 1.25]
    x = axis(knob, letter if bottom else None, layout, ends)
    x["scale"] = {"type": "log", "base": 2, "domain": ends, "nice": False}
    return x | {"axis": x["axis"] | {"labels": bottom, "format": "d", "values": taken, "labelOverlap": "parity"}}


def _read_out(rows: Sequence[Row], name: str) -> str:
    """A sentence: HC of each setting of a panel, with its difference from the base."""
    parts = []
    for row in (row for row in rows if row["panel"] == name):
        ends = [row["hc_lo"], row["hc_hi"]] if known(row, "hc_lo", "hc_hi") else None
        text = with_interval(row["hc"], ends, 2)
        apart = f" ({signed(row['difference'], 2)})" if known(row, "difference") else ""
        knob, letter = KNOBS.get(row["update"], ("", ""))
        parts.append(f"{f'{letter} {row[knob]:g}' if knob else row['name']} {text}{apart}")
    return f"{name}: {'; '.join(parts)}."
