"""Data inside the page: JSON that cannot end its script element, and each figure's rows stored once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tr_align.reports.figure import Figure
from tr_align.reports.results import Row

ROWS = "$rows"
"""A spec's `data` is `{"$rows": n}` where it was `{"values": [...]}`; page.js puts the rows back."""


def script_json(value: Any) -> str:
    """JSON for a script element, without a `<` that could end it. NaN is refused: a browser cannot read it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def n_bytes(text: str) -> int:
    """Its size as UTF-8; half a character, which a model can produce, counts as the `?` it is written as."""
    return len(text.encode("utf-8", "replace"))


class Pool:
    """Lists of rows, each kept once however often specs repeat it, and by columns, which names each key once."""

    def __init__(self) -> None:
        self.tables: list[dict[str, Any]] = []
        self._places: dict[str, int] = {}

    def add(self, rows: Sequence[Row]) -> int:
        """Its place among the tables."""
        key = json.dumps(rows, sort_keys=True)
        if key not in self._places:
            self._places[key] = len(self.tables)
            self.tables.append(_columns(rows))
        return self._places[key]

    def without_rows(self, spec: Any) -> Any:
        """The spec with every inline data set replaced by its place in the pool."""
        if isinstance(spec, list):
            return [self.without_rows(item) for item in spec]
        if not isinstance(spec, Mapping):
            return spec
        if _is_table(spec.get("values")):
            others = {key: value for key, value in spec.items() if key != "values"}
            return {**others, ROWS: self.add(spec["values"])}
        return {key: self.without_rows(value) for key, value in spec.items()}


def figure_data(figure: Figure) -> dict[str, Any]:
    """What the browser needs to draw a figure and to offer its files: specs without rows, and the tables of rows."""
    pool = Pool()
    return {
        "name": figure.name,
        "csv": pool.add([dict(row) for row in figure.rows]),
        "wide": pool.without_rows(figure.wide),
        "narrow": pool.without_rows(figure.narrow),
        "print": pool.without_rows(figure.print),
        "tables": pool.tables,
    }


def _is_table(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(row, Mapping) for row in values)


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """By column; a key that a row lacks is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {"n": len(rows), "names": names, "columns": [[row.get(name) for row in rows] for name in names]}
