"""The figures as Vega-Lite specs: quality against KL, and win rates; and their rendering without a browser.

`kl_vs_hc_spec` is the one definition of the main figure. It prepares its rows with Vega-Lite transforms rather
than in Python, so the same definition also serves as a DVC template, whose rows only DVC knows.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vl_convert

from tr_align.config import METHODS
from tr_align.reports.common import (
    LOSSES,
    UPDATES,
    Context,
    Curve,
    Metrics,
    count_text,
    in_order,
    label,
    seeds_text,
    update_labels,
)
from tr_align.reports.theme import COLOURS, CONFIG, INK, MUTED, SCHEMA, SHAPES, VEGA_LITE, Spec


def kl_vs_hc(curve: Curve, context: Context, stacked: bool = False) -> Spec:
    """Quality against KL, one panel a loss family, as a Vega-Lite v5 spec.

    Args:
        curve: the points of every method, and the one row of the SFT model.
        stacked: panels one below the other, for narrow screens.
    """
    trained = [row for row in curve if row["method"] != "sft"]
    losses = [loss for loss in LOSSES if any(row["loss"] == loss for row in trained)]
    spec = kl_vs_hc_spec(
        data=[dict(row) for row in curve],
        title={"text": "Quality against distance from the SFT model", "subtitle": _subtitle(curve, context)},
        y_title=f"HC score{'' if stacked else ', mean of five axes'} ({context['hc_unit']})",
        updates=[update for update in UPDATES if any(row["update"] == update for row in trained)],
        labels=update_labels(context),
        width={1: 520, 2: 400}.get(len(losses), 300) if not stacked else 270,
        stacked=stacked,
    )
    return _with_warning(spec, context, stacked)


def kl_vs_hc_spec(
    data: list[dict[str, Any]] | str,
    title: dict[str, Any],
    y_title: str,
    updates: Sequence[str] = UPDATES,
    labels: dict[str, str] | None = None,
    width: int = 300,
    stacked: bool = False,
    x_field: str = "kl",
    y_field: str = "hc",
    revisions: bool = False,
) -> Spec:
    """The definition behind :func:`kl_vs_hc` and the DVC template.

    Args:
        data: the rows, or the placeholder DVC puts them in place of.
        revisions: rows carry `rev`; each revision gets its own lines, told apart by their dashes.
    """
    x: Spec = {"field": x_field, "type": "quantitative", "title": "KL(policy || SFT), nats per reply"}
    x |= {"axis": {"tickCount": 6}, "scale": {"zero": True}}
    y: Spec = {"field": y_field, "type": "quantitative", "title": y_title}
    y |= {"scale": {"zero": False}, "axis": {"tickCount": 7}}
    colour, shape = _update_channels(updates, labels or update_labels(None))
    strength = {"field": "strength", "type": "quantitative", "scale": None, "legend": None}
    tooltip = [
        {"field": "name", "title": "method"},
        {"field": "step", "title": "step"},
        {"field": "kl_text", "title": "KL"},
        {"field": "hc_text", "title": "HC"},
        {"field": "n_prompts", "title": "prompts"},
        {"field": "seed", "title": "seed"},
    ]
    if revisions:
        tooltip.append({"field": "rev", "title": "revision"})
    presence = {"field": "presence", "type": "quantitative", "scale": None, "legend": None}
    line: Spec = {"x": x, "y": y, "color": colour, "opacity": presence}
    line |= {"order": {"field": "step", "type": "quantitative"}, "detail": [{"field": "run"}]}
    if revisions:
        # descending, which gives the workspace the solid line before main and HEAD
        line["strokeDash"] = {"field": "rev", "type": "nominal", "title": "revision", "sort": "descending"}
        line["strokeDash"] |= {"legend": {"orient": "top", "titleOrient": "left", "titlePadding": 12}}

    sft, trained = {"filter": "datum.method === 'sft' && datum.copy === 1"}, {"filter": "datum.method !== 'sft'"}
    caption_mark = {"type": "text", "align": "left", "dx": 10, "dy": 14, "fontSize": 13}
    caption = {"x": x, "y": y, "text": {"value": "SFT"}}
    width_of_rule = {"condition": {"test": "datum.final", "value": 2}, "value": 1.25}
    layers: list[Spec] = [
        {
            "transform": [sft],
            "mark": {"type": "rule", "strokeDash": [2, 4], "color": MUTED, "opacity": 0.7},
            "encoding": {"y": y},
        },
        {
            "transform": [trained, {"filter": "isValid(datum.kl_lo) && isValid(datum.kl_hi)"}],
            "mark": {"type": "rule"},
            "encoding": {
                "x": x | {"field": "kl_lo"},
                "x2": {"field": "kl_hi"},
                "y": y,
                "color": colour,
                "opacity": strength,
                "strokeWidth": width_of_rule,
            },
        },
        {
            "transform": [trained, {"filter": "isValid(datum.hc_lo) && isValid(datum.hc_hi)"}],
            "mark": {"type": "rule"},
            "encoding": {
                "x": x,
                "y": y | {"field": "hc_lo"},
                "y2": {"field": "hc_hi"},
                "color": colour,
                "opacity": strength,
                "strokeWidth": width_of_rule,
            },
        },
        {"mark": {"type": "line", "strokeWidth": 2}, "encoding": line},
        {
            "transform": [trained],
            "mark": {"type": "point", "filled": True, "stroke": "white", "strokeWidth": 1.25, "opacity": 1},
            "encoding": {
                "x": x,
                "y": y,
                "color": colour,
                "shape": shape,
                "size": {"field": "size", "type": "quantitative", "scale": None, "legend": None},
                "opacity": presence,
                "tooltip": tooltip,
            },
        },
        {
            "transform": [sft, {"filter": "isValid(datum.hc_lo) && isValid(datum.hc_hi)"}],
            "mark": {"type": "rule", "color": INK, "strokeWidth": 1.5},
            "encoding": {"x": x, "y": y | {"field": "hc_lo"}, "y2": {"field": "hc_hi"}},
        },
        {
            "transform": [sft],
            "mark": {"type": "point", "shape": "diamond", "size": 150, "fill": "white", "stroke": INK, "opacity": 1},
            "encoding": {"x": x, "y": y, "strokeWidth": {"value": 1.75}, "tooltip": tooltip},
        },
        # twice: first as a white outline, so that the word stays readable over the intervals
        {"transform": [sft], "mark": caption_mark | {"stroke": "white", "strokeWidth": 4}, "encoding": caption},
        {"transform": [sft], "mark": caption_mark | {"color": INK}, "encoding": caption},
    ]
    families = {"field": "family", "type": "nominal", "sort": [loss.upper() for loss in LOSSES], "title": None}
    return {
        "$schema": SCHEMA,
        "background": "white",
        "padding": 12,
        "title": title,
        "data": {"values": data},
        "transform": _prepare(revisions),
        "facet": {"row" if stacked else "column": families},
        "spacing": 18,
        "spec": {"width": width, "height": 270 if stacked else 340, "layer": layers},
        "config": CONFIG,
    }


def _prepare(revisions: bool) -> list[Spec]:
    """Rows for the marks: the SFT row once for every line that exists, so that each line starts there."""
    by_revision = ["rev"] if revisions else []
    cells = ", ".join(f"'{loss} {update}'" for loss in LOSSES for update in UPDATES)
    current = "(datum.revisions === 1 || datum.rev === 'workspace' ? 1 : 0.5)" if revisions else "1"
    names = ", ".join(f"{method}: '{label(method)}'" for method in ["sft", *in_order(METHODS)])
    steps: list[Spec] = [
        {"calculate": f"datum.method === 'sft' ? [{cells}] : [datum.loss + ' ' + datum.update]", "as": "cell"},
        {"flatten": ["cell"]},
        {"calculate": "upper(split(datum.cell, ' ')[0])", "as": "family"},
        {"calculate": "split(datum.cell, ' ')[1]", "as": "arm"},
        {"calculate": "datum.method === 'sft' ? 0 : 1", "as": "trained"},
        {"calculate": "datum.method === 'sft' ? null : datum.seed", "as": "own_seed"},
        {
            "joinaggregate": [{"op": "sum", "field": "trained", "as": "points"}],
            "groupby": ["family", "arm", *by_revision],
        },
        {"filter": "datum.points > 0"},
        {
            "window": [{"op": "row_number", "as": "copy"}],
            "groupby": ["family", "method", *by_revision],
        },
    ]
    if revisions:
        steps.append({"joinaggregate": [{"op": "distinct", "field": "rev", "as": "revisions"}]})
    steps += [
        # the SFT row belongs to the line of the first seed, whatever seed it carries itself
        {
            "joinaggregate": [{"op": "min", "field": "own_seed", "as": "first_seed"}],
            "groupby": ["family", "arm", *by_revision],
        },
        {"calculate": "datum.own_seed === null ? datum.first_seed : datum.own_seed", "as": "run"},
        {"calculate": current, "as": "presence"},
        {"calculate": "(datum.final ? 0.95 : 0.3) * datum.presence", "as": "strength"},
        # a triangle looks smaller than a square of the same area
        {"calculate": "(datum.final ? 180 : 55) * (datum.arm === 'hard' ? 1.4 : 1)", "as": "size"},
        {"calculate": f"({{{names}}})[datum.method]", "as": "name"},
    ]
    for field in ("kl", "hc"):
        interval = f"' [' + format(datum.{field}_lo, '.2f') + ', ' + format(datum.{field}_hi, '.2f') + ']'"
        text = f"format(datum.{field}, '.2f') + (isValid(datum.{field}_lo) ? {interval} : '')"
        steps.append({"calculate": text, "as": f"{field}_text"})
    return steps


def _update_channels(updates: Sequence[str], labels: dict[str, str]) -> tuple[Spec, Spec]:
    """Colour and shape of the kinds of update; the same legend twice, which Vega-Lite merges into one."""
    named = ", ".join(f"{update}: '{labels[update]}'" for update in UPDATES)
    legend: Spec = {"orient": "top", "title": None, "labelExpr": f"({{{named}}})[datum.label]", "symbolSize": 130}
    legend |= {"symbolOpacity": 1, "symbolStrokeWidth": 0, "columnPadding": 24, "offset": 8}
    common = {"field": "arm", "type": "nominal", "title": None, "legend": legend}
    colour = common | {"scale": {"domain": list(updates), "range": [COLOURS[update] for update in updates]}}
    shape = common | {"scale": {"domain": list(updates), "range": [SHAPES[update] for update in updates]}}
    return colour, shape


def _subtitle(curve: Curve, context: Context) -> list[str]:
    trained = [row for row in curve if row["method"] != "sft"]
    last = [row["n_prompts"] for row in trained if row["final"]]
    before = [row["n_prompts"] for row in trained if not row["final"]]
    prompts = f"{count_text(last)} prompts" if last else "no finished method"
    if before and set(before) != set(last):
        prompts += f" at the end of training (large points), {count_text(before)} before"
    return _what_was_run(prompts, context)


def _what_was_run(prompts: str, context: Context) -> list[str]:
    return [
        f"{context['model']} on {context['data']}, judged by {context['judge']}",
        f"{prompts}; {seeds_text(context)}; bars: 95 % bootstrap intervals over prompts",
    ]


def win_rates(metrics: Metrics, context: Context, stacked: bool = False) -> Spec:
    """Win rates against the base method and against SFT, with 95 % intervals and the 50 % line."""
    methods = in_order(metrics)
    panels = {"base": "Against its own base method", "sft": "Against the SFT model"}
    rows: list[Spec] = []
    for versus, panel in panels.items():
        for method in methods:
            rate = metrics[method][f"win_rate_vs_{versus}"]
            if rate is None:
                continue
            low, high = metrics[method][f"win_rate_vs_{versus}_ci"] or (rate, rate)
            row = {"method": label(method), "arm": METHODS[method].update, "versus": panel}
            row |= {"rate": rate, "low": low, "high": high, "text": f"{100 * rate:.0f} %"}
            rows.append({**row, "prompts": metrics[method]["n_prompts"]})
    updates = [update for update in UPDATES if any(row["arm"] == update for row in rows)]
    colour, shape = _update_channels(updates, update_labels(context))
    ends = [0.5, *(row["low"] for row in rows), *(row["high"] for row in rows)]
    # room on the right for the number printed after each interval
    domain = [min(0.3, math.floor(min(ends) * 10) / 10), min(1.0, max(0.7, math.ceil(max(ends) * 10 + 0.5) / 10))]
    x: Spec = {"field": "rate", "type": "quantitative", "title": "Win rate (50 %: neither is preferred)"}
    percent = {"labelExpr": "format(100 * datum.value, '.0f') + ' %'", "tickCount": 6, "grid": True}
    x |= {"scale": {"domain": domain, "nice": False, "zero": False}, "axis": percent}
    y: Spec = {"field": "method", "type": "nominal", "title": None, "sort": [label(method) for method in methods]}
    y |= {"axis": {"labelColor": INK, "grid": True}, "scale": {"domain": [label(method) for method in methods]}}
    tooltip = [{"field": "method"}, {"field": "versus", "title": "duel"}, {"field": "prompts"}]
    tooltip += [{"field": name, "format": ".1%"} for name in ("rate", "low", "high")]
    size = {"condition": {"test": "datum.arm === 'hard'", "value": 175}, "value": 125}
    text = {"type": "text", "align": "left", "dx": 8, "fontSize": 13}
    after = {"x": x | {"field": "high"}, "y": y, "text": {"field": "text"}}
    layers: list[Spec] = [
        {"mark": {"type": "rule", "color": MUTED, "strokeDash": [4, 3]}, "encoding": {"x": {"datum": 0.5}}},
        {
            "mark": {"type": "rule", "strokeWidth": 2.25},
            "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour},
        },
        {
            "mark": {"type": "point", "filled": True, "stroke": "white", "strokeWidth": 1.25, "opacity": 1},
            "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "size": size, "tooltip": tooltip},
        },
        {"mark": text | {"stroke": "white", "strokeWidth": 4}, "encoding": after},
        {"mark": text | {"color": INK}, "encoding": after},
    ]
    counts = count_text(metrics[method]["n_prompts"] for method in methods)
    duels = {"field": "versus", "type": "nominal", "sort": list(panels.values()), "title": None}
    spec = {
        "$schema": SCHEMA,
        "background": "white",
        "padding": 12,
        "title": {"text": "Win rates", "subtitle": _what_was_run(f"{counts} prompts a duel", context)},
        "data": {"values": rows},
        "facet": {"row" if stacked else "column": duels},
        "spacing": 40,
        "spec": {"width": 230 if stacked else 380, "height": 30 * len(methods), "layer": layers},
        "config": CONFIG,
    }
    return _with_warning(spec, context, stacked)


def _with_warning(spec: Spec, context: Context, stacked: bool) -> Spec:
    """The figure under the warning about its judge, if there is one.

    A title has one colour, so the figure becomes a row of one, whose own title is the warning.
    """
    if not context.get("judge_warning"):
        return spec
    whole = {key: spec.pop(key) for key in ("$schema", "background", "padding", "title", "config")}
    lines = textwrap.wrap(context["judge_warning"], 40 if stacked else 110)
    title = {"text": lines, "color": "#d55e00", "fontSize": 14, "lineHeight": 18, "anchor": "start", "offset": 12}
    # Legends of its own, or they would stand between the two titles.
    alone = {"scale": dict.fromkeys(("color", "shape"), "independent")}
    return whole | {"vconcat": [spec | {"title": title}], "resolve": alone}


def render(spec: Spec, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write a spec as `<name>.png` (twice the size, for sharp screens) and `<name>.svg`; returns both paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    png.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2))
    svg.write_text(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE), encoding="utf-8")
    return png, svg


def interactive_html(spec: Spec) -> str:
    """A full HTML page with the figure and its tooltips; it opens without a network."""
    return vl_convert.vegalite_to_html(spec, vl_version=VEGA_LITE, bundle=True, renderer="svg")
