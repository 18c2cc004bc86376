"""Data inside the page: JSON that cannot end its script element, and a figure's rows and repeated parts stored once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tr_align.reports.figure import Figure
from tr_align.reports.results import Row

ROWS = "$rows"
"""A spec's `data` is `{"$rows": n}` where it was `{"values": [...]}`; figures.js puts the rows back."""
PART = "$part"
"""`{"$part": n}` stands for a part of a spec that is there more than once, and longer than `PART_LETTERS` as JSON."""
PART_LETTERS = 40


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


class Parts:
    """What specs repeat, each kept once: the panels of a figure differ in little, and so do its three sizes."""

    def __init__(self, specs: Sequence[Any]) -> None:
        self.parts: list[Any] = []
        self._places: dict[str, int] = {}
        self._seen: Counter[str] = Counter()
        for spec in specs:
            self._count(spec)

    def _count(self, part: Any) -> None:
        if not isinstance(part, Mapping | list):
            return
        key = _key(part)
        if len(key) > PART_LETTERS:
            self._seen[key] += 1
            if self._seen[key] > 1:
                return  # what is in it goes wherever it goes
        for item in part.values() if isinstance(part, Mapping) else part:
            self._count(item)

    def shortened(self, part: Any) -> Any:
        """With everything that is there more than once replaced by its place among the parts."""
        if not isinstance(part, Mapping | list):
            return part
        key = _key(part)
        if self._seen[key] < 2:
            return self._inside(part)
        if key not in self._places:
            kept = self._inside(part)
            self._places[key] = len(self.parts)
            self.parts.append(kept)
        return {PART: self._places[key]}

    def _inside(self, part: Any) -> Any:
        if isinstance(part, list):
            return [self.shortened(item) for item in part]
        return {key: self.shortened(value) for key, value in part.items()}


def figure_data(figure: Figure) -> dict[str, Any]:
    """What the browser needs to draw a figure and to offer its files: specs, their common parts, and their rows."""
    pool = Pool()
    csv = pool.add([dict(row) for row in figure.rows])
    specs = [pool.without_rows(spec) for spec in (figure.wide, figure.narrow, figure.print)]
    parts = Parts(specs)
    wide, narrow, printed = (parts.shortened(spec) for spec in specs)
    return {
        "name": figure.name,
        "csv": csv,
        "wide": wide,
        "narrow": narrow,
        "print": printed,
        "parts": parts.parts,
        "tables": pool.tables,
    }


def _key(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False, separators=(",", ":"))


def _is_table(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(row, Mapping) for row in values)


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    """By column; a key that a row lacks is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {"n": len(rows), "names": names, "columns": [[row.get(name) for row in rows] for name in names]}
