"""Won, tied and lost duels of the trained models."""

from __future__ import annotations

from collections.abc import Sequence

from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
from tr_align.reports.figures.frame import figure, grid, heading, known, tidy, tooltips, with_ends
from tr_align.reports.figures.look import cells
from tr_align.reports.results import CELL, Report, Row
from tr_align.reports.theme import INK, LOSE, MUTED, PAPER, TIE, TONES, Layout, Spec

COLUMNS = (*CELL, "beta", "versus", "opponent", *with_ends("win", "tie", "lose", "rate"), "n_prompts", "seeds")
PANELS = {"base": "Against its base method", "sft": "Against the SFT model"}
OUTCOMES = ("win", "tie", "lose")
HUES = [TONES[loss]["soft"] for loss in TONES]
"""Of a won duel, by loss: one tone, for the update stands beside the bar."""


def win_tie_lose(report: Report) -> Figure | None:
    """Stacked bars against base and against SFT, with the intervals of won and lost."""
    rows = [row for row in tidy(report.wins, COLUMNS) if known(row, "win", "tie", "lose")]
    order = {cell["cell"]: place for place, cell in enumerate(cells(rows))}
    rows.sort(key=lambda row: (row["versus"] != "base", order.get(row["cell"], -1), -(row["beta"] or 0)))
    rows = [{**row, "label": text} for row, text in zip(rows, _labels(rows), strict=True)]
    if not rows:
        return None
    panels = [versus for versus in PANELS if any(row["versus"] == versus for row in rows)]

    def panel(versus: str, layout: Layout, columns: int) -> Spec:
        names = [str(row["label"]) for row in rows if row["versus"] == versus]
        last = columns > 1 or versus == panels[-1]
        step = {"wide": 26, "narrow": 22, "print": 12}[layout.name]
        return {
            "width": bar_width(layout, columns, [str(row["label"]) for row in rows]),
            "height": {"step": step},
            "title": heading(PANELS[versus], layout),
            "transform": [*prepare(), {"filter": f"datum.versus === '{versus}'"}],
            "layer": layers(names, layout, step, "share of prompts" if last else None),
        }

    def draw(layout: Layout) -> Spec:
        columns = 1 if layout.name != "wide" else len(panels)
        return grid([panel(versus, layout, columns) for versus in panels], columns, layout)

    caption = [
        "Shares of prompts on which the judge preferred the method's reply (left, in colour), neither (middle), or"
        " the opponent's (right); numbers in per cent, thin lines 95 % intervals of won and lost. A method is preferred"
        " on the whole where the middle of the middle part is right of the dashed line at 50 %.",
        words.sample(report, rows),
    ]
    alternative = ["Stacked bars of won, tied and lost duels, in per cent."]
    for versus in panels:
        texts = [f"{row['label']} {_shares(row)}" for row in rows if row["versus"] == versus]
        alternative.append(f"{PANELS[versus]}: {'; '.join(texts)}.")
    title = "Won, tied and lost against base and SFT"
    return figure("win_tie_lose", title, caption, alternative, rows, report, draw, one_column=True)


def _labels(rows: Sequence[Row]) -> list[str]:
    """Names, with β where a cell has several."""
    several = {row["cell"] for row in rows if len({r["beta"] for r in rows if r["cell"] == row["cell"]}) > 1}
    return [row["name"] + (f", β {row['beta']:g}" if row["cell"] in several else "") for row in rows]


def _shares(row: Row) -> str:
    return " ".join(f"{name} {100 * row[name]:.0f}" for name in OUTCOMES)


def bar_width(layout: Layout, columns: int, names: Sequence[str]) -> int:
    """What is left beside names and numbers."""
    room = (0.56 * max(map(len, names)) + 7.5) * layout.font
    return int((layout.width - 2 * layout.padding - (columns - 1) * 1.4 * layout.font) / columns - room)


def prepare() -> list[Spec]:
    """The transforms ahead of :func:`layers`: where the parts of a bar begin and end, and the texts."""
    texts = [f"format(100 * datum.{name}, '.0f')" for name in OUTCOMES]
    steps: list[Spec] = [
        {"calculate": "upper(datum.loss)", "as": "family"},
        {"calculate": "datum.win + datum.tie", "as": "until"},
        {"calculate": "1 - datum.lose_hi", "as": "lose_from"},
        {"calculate": "1 - datum.lose_lo", "as": "lose_to"},
        {"calculate": " + ' · ' + ".join(texts), "as": "numbers"},
    ]
    for name in (*OUTCOMES, "rate"):
        low, high = f"datum.{name}_lo", f"datum.{name}_hi"
        ends = f"' [' + format(100 * {low}, '.0f') + ', ' + format(100 * {high}, '.0f') + ']'"
        known = f"isValid({low}) && isValid({high})"
        text = f"isValid(datum.{name}) ? format(100 * datum.{name}, '.0f') + ' %' + ({known} ? {ends} : '') : '–'"
        steps.append({"calculate": text, "as": f"{name}_text"})
    return steps


def layers(sort: Spec | Sequence[str], layout: Layout, step: int, title: str | None, row: str = "label") -> list[Spec]:
    """The marks of a panel.

    Args:
        sort: of the rows, as Vega-Lite has it. step: pixels a row. row: the column of its name.
    """
    stops = [0, 0.25, 0.5, 0.75, 1] if layout.name == "wide" else [0, 0.5, 1]
    percent = {"labelExpr": "format(100 * datum.value, '.0f') + ' %'", "values": stops, "grid": False}
    scale = {"domain": [0, 1], "nice": False}
    x: Spec = {"field": "win", "type": "quantitative", "title": title, "scale": scale, "axis": percent}
    room = {"labelColor": INK, "labelLimit": 0, "labelFlush": False, "grid": False}
    y: Spec = {"field": row, "type": "nominal", "title": None, "axis": room, "sort": sort}
    families = [loss.upper() for loss in TONES]
    hue = {"field": "family", "type": "nominal", "legend": None, "scale": {"domain": families, "range": HUES}}
    tooltip = tooltips((row, "method"), ("opponent", "against"), ("win_text", "won"), ("tie_text", "tied"))
    tooltip += tooltips(("lose_text", "lost"), ("rate_text", "won + half of tied"), ("n_prompts", "prompts"))
    tooltip += tooltips(("seeds", "seeds"))
    thick = {"type": "bar", "size": 0.72 * step}
    shift = step / 8
    marks: list[Spec] = [
        {"mark": thick, "encoding": {"x": x, "x2": {"datum": 0}, "y": y, "color": hue, "tooltip": tooltip}},
        {
            "mark": thick | {"color": TIE},
            "encoding": {"x": x, "x2": {"field": "until"}, "y": y, "tooltip": tooltip},
        },
        {
            "mark": thick | {"color": LOSE},
            "encoding": {"x": x | {"field": "until"}, "x2": {"datum": 1}, "y": y, "tooltip": tooltip},
        },
        {
            "data": {"values": [{}]},
            "mark": {"type": "rule", "color": INK, "strokeDash": [3, 2], "strokeWidth": layout.line / 2},
            "encoding": {"x": {"datum": 0.5}},
        },
    ]
    # apart by a little: where nothing tied, both would lie on the same spot
    for low, high, offset in (("win_lo", "win_hi", -shift), ("lose_from", "lose_to", shift)):
        known = {"filter": f"isValid(datum.{low}) && isValid(datum.{high})"}
        ends = {"x": x | {"field": low}, "x2": {"field": high}, "y": y}
        for colour, width in ((PAPER, 2.2), (INK, 0.9)):
            mark = {"type": "rule", "color": colour, "strokeWidth": width * layout.line, "yOffset": offset}
            marks.append({"transform": [known], "mark": mark, "encoding": ends})
    text = {"type": "text", "align": "left", "dx": layout.font / 2, "fontSize": layout.font, "color": INK}
    marks.append({"mark": text, "encoding": {"x": {"datum": 1}, "y": y, "text": {"field": "numbers"}}})
    over = {"x": {"datum": 1}, "y": {"value": -layout.font * 0.9}, "text": {"value": "won · tied · lost"}}
    above = text | {"color": MUTED, "align": "right", "dx": 5 * layout.font}
    marks.append({"data": {"values": [{}]}, "mark": above, "encoding": over})
    return marks
