"""The figures as templates of DVC, for `dvc plots show` and `dvc plots diff`, and the rows they are filled with.

`python -m tr_align.reports.dvc_plots` writes the templates again after a change of the figures; a test compares the
two. A template is written before there are rows, and shows several revisions at once: their names are in `rev`, the
workspace's marks are strong and those of others pale.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tr_align.config import METHODS
from tr_align.reports.common import LOSSES, in_order, label
from tr_align.reports.figure import Figure
from tr_align.reports.figures import curves, frontier, wins
from tr_align.reports.figures.frame import Quantity, axis, hover, tooltips, vertical
from tr_align.reports.figures.look import Look
from tr_align.reports.figures.quality import KL, SELF_BLEU, WORDS
from tr_align.reports.figures.training import QUANTITIES
from tr_align.reports.theme import PAPER, SCHEMA, WIDE, Spec, config
from tr_align.scratch import write_atomically

FOLDER = Path(".dvc/plots")
ROWS = {
    "kl_vs_hc": "kl_hc.json",
    "frontier": "plots/frontier.json",
    "win_tie_lose": "plots/win_tie_lose.json",
    "length": "plots/length.json",
    "diversity": "plots/diversity.json",
    "training": "plots/training.json",
}
"""By figure, the file under reports/ with its rows. The logs of the training are JSON Lines, which DVC cannot plot."""
HC = Quantity("hc", "HC, 1 to 10", 2, "HC")
PANEL = 300


def templates() -> dict[str, Spec]:
    """By name, as dvc.yaml has it in `template:`."""
    return {
        "kl_vs_hc": _curves(KL, HC),
        "frontier": _frontier(),
        "win_tie_lose": _wins(),
        "length": _curves(KL, WORDS, finals=True),
        "diversity": _curves(SELF_BLEU, HC, finals=True),
        "training": _training(),
    }


def template_text(template: Spec) -> str:
    """The committed file, to the byte."""
    return json.dumps(template, separators=(",", ":"), ensure_ascii=False) + "\n"


def write_data(figures: Sequence[Figure], folder: Path) -> None:
    """Write the rows of the figures that DVC shows as well, a file each; one without a figure has no rows."""
    rows = {figure.name: [dict(row) for row in figure.rows] for figure in figures}
    for name, file in ROWS.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(rows.get(name, []), indent=1, ensure_ascii=False) + "\n")


def _look(symbol: Spec) -> Look:
    """All methods: which of them there are rows of, nobody knows yet."""
    methods = in_order(METHODS)
    names = ", ".join(f"{method}: '{label(method)}'" for method in methods)
    legend: Spec = {"orient": "top", "columns": len(methods), "labelExpr": f"({{{names}}})[datum.label]"}
    specs = [METHODS[method] for method in methods]
    return Look("method", methods, [s.loss for s in specs], [s.update for s in specs], legend | symbol)


POINTS: Spec = {"symbolSize": 70, "symbolStrokeWidth": 0}
LINES: Spec = {"symbolType": "stroke", "symbolSize": 200, "symbolStrokeWidth": 2.5}


def _template(panel: Spec, facet: Spec, transform: list[Spec]) -> Spec:
    return {
        "$schema": SCHEMA,
        "background": PAPER,
        "padding": WIDE.padding,
        "title": {"text": "<DVC_METRIC_TITLE>", "fontSize": 17, "offset": 12},
        "data": {"values": "<DVC_METRIC_DATA>"},
        "transform": transform,
        "facet": facet,
        "spacing": 18,
        "spec": panel,
        "config": config(WIDE),
    }


def _family() -> Spec:
    return {"field": "family", "type": "nominal", "sort": [loss.upper() for loss in LOSSES], "title": None}


def _curves(x: Quantity, y: Quantity, finals: bool = False) -> Spec:
    layers = curves.layers(x, y, _look(POINTS), WIDE, titles=(x.title, y.title), finals=finals, revisions=True)
    panel = {"width": PANEL, "height": PANEL, "layer": layers}
    return _template(panel, {"column": _family()}, curves.prepare(x, y, curves.BY_DATA, revisions=True))


def _frontier() -> Spec:
    x, y = axis("kl", KL.title, WIDE), vertical("difference", frontier.GAIN.title, WIDE)
    panel = {"width": PANEL, "height": 240, "layer": frontier.layers(x, y, _look(POINTS), WIDE, revisions=True)}
    return _template(panel, {"column": _family()}, frontier.prepare(revisions=True))


def _wins() -> Spec:
    transform: list[Spec] = [
        *wins.prepare(),
        {"joinaggregate": [{"op": "distinct", "field": "rev", "as": "revisions"}]},
        {"calculate": "datum.label + (datum.revisions > 1 ? ' · ' + datum.rev : '')", "as": "row"},
        {"window": [{"op": "row_number", "as": "place"}], "groupby": ["rev"]},
        {"window": [{"op": "dense_rank", "as": "age"}], "sort": [{"field": "rev", "order": "descending"}]},
        # a method's revisions stand together, the workspace's first
        {"calculate": "100 * datum.place + datum.age", "as": "order"},
        {"calculate": f"({json.dumps(wins.PANELS)})[datum.versus]", "as": "duel"},
    ]
    sort = {"field": "order", "op": "min", "order": "ascending"}
    panel: Spec = {
        "width": PANEL,
        "height": {"step": 26},
        "layer": wins.layers(sort, WIDE, 26, "share of prompts", "row"),
    }
    facet = {"column": {"field": "duel", "type": "nominal", "sort": list(wins.PANELS.values()), "title": None}}
    whole = _template(panel, facet, transform)
    return whole | {"spacing": 90, "resolve": {"scale": {"y": "independent"}}}


def _training() -> Spec:
    names = {quantity.field: quantity.title for quantity in QUANTITIES}
    transform: list[Spec] = [
        {"calculate": "upper(datum.loss)", "as": "family"},
        {"fold": list(names), "as": ["column", "value"]},
        {"filter": "isValid(datum.value)"},
        {"calculate": f"({json.dumps(names, ensure_ascii=False)})[datum.column]", "as": "quantity"},
        *curves.presence(revisions=True),
        {"calculate": "format(datum.value, '.4~g')", "as": "value_text"},
    ]
    x, y = axis("step", "optimizer step", WIDE, tickMinStep=1), vertical("value", None, WIDE, tickCount=3)
    line: Spec = {"x": x, "y": y, "color": _look(LINES).colour(), "strokeDash": curves.by_revision()}
    line |= {"opacity": curves.as_it_is("presence"), "detail": [{"field": "cell"}]}
    tooltip = tooltips(("name", "method"), ("beta", "β"), ("step", "step"), ("quantity", "quantity"))
    tooltip += tooltips(("value_text", "value"), ("rev", "revision"))
    mark = {"type": "line", "strokeWidth": 0.85 * WIDE.line}
    layers: list[Spec] = [{"mark": mark, "encoding": line}, *hover(WIDE, x, y, tooltip)]
    panel: Spec = {"width": PANEL, "height": 110, "layer": layers}
    rows = {"field": "quantity", "type": "nominal", "sort": list(names.values()), "title": None}
    whole = _template(panel, {"row": rows, "column": _family()}, transform)
    return whole | {"resolve": {"scale": {"y": "independent"}}}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, template in templates().items():
        (FOLDER / f"{name}.json").write_text(template_text(template), encoding="utf-8")
