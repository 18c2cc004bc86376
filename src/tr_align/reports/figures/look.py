"""How the cells of a figure are told apart: hue, lightness, shape and dash, and the legend that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tr_align.reports.common import LOSSES, place
from tr_align.reports.results import CELL, Row
from tr_align.reports.theme import DASHES, PAPER, SHAPES, TONES, Layout, Spec


def cells(rows: Iterable[Row]) -> list[Row]:
    """The different cells of rows, by loss, and within a loss base, soft, hard; the SFT model is none of them."""
    found = {row["cell"]: {column: row.get(column) for column in CELL} for row in rows if row["method"] != "sft"}
    return sorted(found.values(), key=place)


def losses(rows: Iterable[Row]) -> list[str]:
    """The losses of rows, in order."""
    present = {row["loss"] for row in rows}
    return [loss for loss in LOSSES if loss in present]


def legend_columns(shown: Sequence[Row], layout: Layout, width: float) -> int:
    """So many entries of a legend stand beside each other: all if they fit, else a loss (or several) a row."""
    widths = [(0.56 * len(str(cell["name"])) + 1.9) * layout.font for cell in shown]
    group = max(Counter(cell["loss"] for cell in shown).values())

    def taken(columns: int) -> float:
        return sum(max(widths[place::columns]) for place in range(columns)) + (columns - 1) * layout.font

    fitting = [columns for columns in range(1, len(shown) + 1) if taken(columns) <= width]
    whole = [columns for columns in fitting if columns == len(shown) or columns % group == 0]
    return max(whole or fitting or [1])


@dataclass(frozen=True)
class Look:
    """The channels of the cells of one legend."""

    field: str
    """`name`; in DVC's templates, which are written before there are rows, `method`."""
    keys: Sequence[str]
    losses: Sequence[str]
    updates: Sequence[str]
    legend: Spec | None = None

    def colour(self) -> Spec:
        tones = [TONES[loss][update] for loss, update in zip(self.losses, self.updates, strict=True)]
        return self._channel(tones)

    def shape(self) -> Spec:
        return self._channel(self._own(SHAPES))

    def dash(self) -> Spec:
        return self._channel(self._own(DASHES))

    def _own(self, kinds: Mapping[str, Sequence[Any]]) -> list[Any]:
        """Of each cell the one of its update, counted among the cells of its method."""
        pairs = list(zip(self.losses, self.updates, strict=True))
        places = [pairs[:place].count(pair) for place, pair in enumerate(pairs)]
        return [kinds[update][place % len(kinds[update])] for (_, update), place in zip(pairs, places, strict=True)]

    def _channel(self, values: Sequence[object]) -> Spec:
        scale = {"domain": list(self.keys), "range": list(values)}
        return {"field": self.field, "type": "nominal", "title": None, "scale": scale, "legend": self.legend}


def look(shown: Sequence[Row], layout: Layout, width: float, symbol: str | None = None) -> Look:
    """For cells as from :func:`cells`, with a legend on top.

    Args:
        width: what the legend may take.
        symbol: "stroke" where there are only lines.
    """
    names = [str(cell["name"]) for cell in shown]
    legend: Spec = {"orient": "top", "columns": legend_columns(shown, layout, width), "offset": layout.font / 2}
    if symbol:
        legend |= {"symbolType": symbol, "symbolStrokeWidth": 1.3 * layout.line, "symbolSize": 18 * layout.font}
    else:
        legend |= {"symbolSize": 5.5 * layout.font, "symbolStrokeColor": PAPER, "symbolStrokeWidth": 0}
    return Look(
        "name",
        names,
        [cell["loss"] for cell in shown],
        [cell["update"] for cell in shown],
        legend,
    )
