"""One quantity against another, a panel a loss, with intervals on both axes: the figure of the paper, and its kin.

The rows are prepared by Vega-Lite transforms rather than in Python, so that the same definition is also DVC's
template, whose rows only DVC knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from tr_align.reports.figures.frame import Quantity, axis, tooltips, vertical
from tr_align.reports.figures.look import Look
from tr_align.reports.theme import INK, MUTED, PAPER, Layout, Spec

BY_DATA = "datum.betas > 1 ? 'beta' : 'steps'"
"""For rows that nobody has seen yet: finals make the curve where there are several betas."""


def prepare(x: Quantity, y: Quantity, along: str, revisions: bool = False) -> list[Spec]:
    """The transforms ahead of :func:`layers`.

    SFT's numbers become columns of every row (`x0`, `y0`, `y0_lo`, `y0_hi`), since every panel shows that point and
    every curve begins there. `run` is one training, `curve` what one line joins, `first` marks its first point.

    Args:
        along: an expression, "beta" or "steps", see `points_along` of :class:`tr_align.reports.results.Report`.
        revisions: rows carry `rev`, one of DVC's revisions.
    """
    rev = ["rev"] if revisions else []
    sft = {"x0": x.field, "y0": y.field, "y0_lo": f"{y.field}_lo", "y0_hi": f"{y.field}_hi"}
    steps: list[Spec] = [
        {"calculate": f"datum.method === 'sft' ? datum.{field} : null", "as": name} for name, field in sft.items()
    ]
    shared = [{"op": "max", "field": name, "as": name} for name in sft]
    steps.append({"joinaggregate": shared, "groupby": rev})
    steps += [
        *presence(revisions),
        {"filter": f"datum.method !== 'sft' && isValid(datum.{x.field}) && isValid(datum.{y.field})"},
        {"calculate": "upper(datum.loss)", "as": "family"},
        {"calculate": "isValid(datum.beta) ? format(datum.beta, '~g') : ''", "as": "beta_text"},
        {"joinaggregate": [{"op": "distinct", "field": "beta_text", "as": "betas"}], "groupby": ["cell", *rev]},
        {"calculate": along, "as": "along"},
        {"calculate": "datum.cell + ' ' + datum.beta_text", "as": "run"},
        {"calculate": "datum.along === 'steps' ? datum.run : datum.final ? datum.cell : null", "as": "curve"},
        {"calculate": f"datum.along === 'steps' ? datum.step : datum.{x.field}", "as": "place"},
        _numbered("first", ["curve", *rev], "place"),
        _numbered("first_of_run", ["run", *rev], "step"),
        {"window": [{"op": "row_number", "as": "first_of_panel"}], "groupby": ["family", *rev]},
        {"calculate": "(datum.final ? 0.9 : 0.3) * datum.presence", "as": "strength"},
        x.text(),
        y.text(),
    ]
    return steps


def by_revision() -> Spec:
    """The dash, where it tells DVC's revisions apart."""
    # descending, which gives the workspace the solid line before main and HEAD
    channel: Spec = {"field": "rev", "type": "nominal", "title": "revision", "sort": "descending"}
    return channel | {"legend": {"orient": "top", "titleOrient": "left", "titlePadding": 12}}


def presence(revisions: bool) -> list[Spec]:
    """A transform: `presence`, the opacity of a row: less for another revision than the workspace."""
    if not revisions:
        return [{"calculate": "1", "as": "presence"}]
    return [
        {"joinaggregate": [{"op": "distinct", "field": "rev", "as": "revisions"}]},
        {"calculate": "datum.revisions === 1 || datum.rev === 'workspace' ? 1 : 0.5", "as": "presence"},
    ]


def as_it_is(field: str) -> Spec:
    """Opacity as the rows have it."""
    return {"field": field, "type": "quantitative", "scale": None, "legend": None}


def _numbered(name: str, groupby: list[str], order: str) -> Spec:
    return {"window": [{"op": "row_number", "as": name}], "groupby": groupby, "sort": [{"field": order}]}


def layers(
    x: Quantity,
    y: Quantity,
    look: Look,
    layout: Layout,
    *,
    domains: tuple[Sequence[float] | None, Sequence[float] | None] = (None, None),
    titles: tuple[str | None, str | None] = (None, None),
    labels: tuple[bool, bool] = (True, True),
    light: bool = False,
    room: int | None = None,
    finals: bool = False,
    revisions: bool = False,
) -> list[Spec]:
    """The marks of one panel, for rows as from :func:`prepare`.

    Args, pairs being (horizontal, vertical):
        titles, labels: of the axes. light: for a small panel, no checkpoints apart from their line.
        room: for the numbers of the vertical axis. finals: only the trained models are drawn, and no lines.
        revisions: the dash tells DVC's revisions apart, not updates.
    """
    across = axis(x.field, titles[0], layout, domains[0], labels=labels[0])
    upright = vertical(y.field, titles[1], layout, domains[1], labels=labels[1])
    for channel, span in zip((across, upright), domains, strict=True):
        if span is not None:
            channel["scale"]["clamp"] = True  # an interval may be longer than the axis
    if room is not None and labels[1]:
        upright["axis"] |= {"minExtent": room, "maxExtent": room}
    if light:
        for channel in (across, upright):
            channel["axis"]["tickCount"] = 3
    colour, dash = look.colour(), look.dash()
    if revisions:
        dash = by_revision()
    shown = {"filter": "datum.final" if finals or light else "datum.along === 'steps' || datum.final"}
    on_curve = {"filter": "isValid(datum.curve)"}
    sft = {"filter": "datum.first_of_panel === 1 && isValid(datum.x0) && isValid(datum.y0)"}
    start = {"x": across | {"field": "x0"}, "y": upright | {"field": "y0"}}
    widths = {"condition": {"test": "datum.final", "value": layout.line * 0.9}, "value": layout.line * 0.6}
    tooltip = [*tooltips(("name", "method"), ("beta_text", "β"), ("step", "step")), x.tooltip(), y.tooltip()]
    tooltip += tooltips(("n_prompts", "prompts"), ("seeds", "seeds")) + (tooltips(("rev", "revision")) * revisions)

    marks: list[Spec] = [
        {
            "transform": [sft],
            "mark": {"type": "rule", "strokeDash": [1, 3], "color": MUTED, "strokeWidth": layout.line / 2},
            "encoding": {"y": start["y"]},
        }
    ]
    if not finals:
        pale = {"filter": "datum.along === 'beta'"}
        thin = {"strokeWidth": layout.line / 2, "strokeOpacity": 0.3}
        one_training = [{"field": "run"}, *([{"field": "rev"}] * revisions)]
        path = {"x": across, "y": upright, "color": colour, "detail": one_training}
        marks += [
            _start([pale, {"filter": "datum.first_of_run === 1"}], thin, start, across, upright, {"color": colour}),
            {
                "transform": [pale],
                "mark": {"type": "line", **thin},
                "encoding": path | {"order": {"field": "step", "type": "quantitative"}},
            },
        ]
    marks += _bars(
        x,
        y,
        across,
        upright,
        [shown],
        {"color": colour, "strokeOpacity": {"value": 0.5} if light else as_it_is("strength"), "strokeWidth": widths},
        light,
    )
    if not finals:
        bold = {"strokeWidth": layout.line}
        look_of_line = {"color": colour, "strokeDash": dash, "opacity": as_it_is("presence")}
        path = {"x": across, "y": upright, "detail": [{"field": "curve"}]} | look_of_line
        marks += [
            _start([on_curve, {"filter": "datum.first === 1"}], bold, start, across, upright, look_of_line),
            {
                "transform": [on_curve],
                "mark": {"type": "line", **bold},
                "encoding": path | {"order": {"field": "place", "type": "quantitative"}},
            },
        ]
    area = layout.point * (0.4 if light else 1.0)
    marks.append(
        {
            "transform": [shown],
            "mark": {"type": "point", "filled": True, "stroke": PAPER, "strokeWidth": layout.line / 2, "opacity": 1},
            "encoding": {
                "x": across,
                "y": upright,
                "color": colour,
                "shape": look.shape(),
                "size": {"condition": {"test": "datum.final", "value": area}, "value": area / 3},
                "opacity": as_it_is("presence"),
                "tooltip": tooltip,
            },
        }
    )
    return marks + _sft(sft, start, upright, layout, light, finals)


def _start(transform: list[Spec], mark: Spec, start: dict[str, Spec], across: Spec, upright: Spec, look: Spec) -> Spec:
    """The first stretch of a curve, from SFT; a rule, since SFT is a column and not a row."""
    known = {"filter": "isValid(datum.x0) && isValid(datum.y0)"}
    ends = {"x2": {"field": across["field"]}, "y2": {"field": upright["field"]}}
    return {"transform": [known, *transform], "mark": {"type": "rule", **mark}, "encoding": start | ends | look}


def _bars(
    x: Quantity, y: Quantity, across: Spec, upright: Spec, transform: list[Spec], look: Spec, light: bool
) -> list[Spec]:
    """The intervals, along both axes."""
    marks = []
    for quantity in (x, y):
        low, high = f"{quantity.field}_lo", f"{quantity.field}_hi"
        known = {"filter": f"isValid(datum.{low}) && isValid(datum.{high})"}
        place = {"x": across, "y": upright}
        if quantity is x:
            place |= {"x": across | {"field": low}, "x2": {"field": high}}
        else:
            place |= {"y": upright | {"field": low}, "y2": {"field": high}}
        mark = {"type": "rule"}
        marks.append({"transform": [*transform, known], "mark": mark, "encoding": place | look})
    return marks


def _sft(sft: Spec, start: dict[str, Spec], upright: Spec, layout: Layout, light: bool, finals: bool) -> list[Spec]:
    """The diamond, its interval, and its name; in a small panel the diamond alone."""
    diamond = {"type": "point", "shape": "diamond", "filled": False, "fill": PAPER, "stroke": INK, "opacity": 1}
    point: Spec = {
        "transform": [sft],
        "mark": diamond | {"size": layout.point * (0.45 if light else 0.9), "strokeWidth": layout.line * 0.8},
        "encoding": start,
    }
    if light:
        return [point]
    ends = {"y": upright | {"field": "y0_lo"}, "y2": {"field": "y0_hi"}}
    word = {"type": "text", "align": "left", "baseline": "middle", "dx": layout.font * 0.7}
    # curves rise from the diamond; without them, there may be no room below
    word["dy"] = -layout.font if finals else layout.font
    word |= {"fontSize": layout.font}
    named = start | {"text": {"value": "SFT"}}
    return [
        {
            "transform": [sft, {"filter": "isValid(datum.y0_lo) && isValid(datum.y0_hi)"}],
            "mark": {"type": "rule", "color": INK, "strokeWidth": layout.line * 0.75},
            "encoding": {"x": start["x"]} | ends,
        },
        point,
        # twice: first as an outline of the background, so that the word stays readable over the intervals
        {"transform": [sft], "mark": word | {"stroke": PAPER, "strokeWidth": layout.font / 3.5}, "encoding": named},
        {"transform": [sft], "mark": word | {"color": INK}, "encoding": named},
    ]
