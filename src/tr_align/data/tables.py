"""The rows of a local file: .jsonl, .jsonl.gz, .csv or .parquet."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tr_align.errors import UserError

FORMATS = ".jsonl, .jsonl.gz, .csv, .parquet"


@dataclass(frozen=True)
class Columns:
    """Which columns of a table are read, in words and by name.

    `needed` are alternatives: a table needs all columns of one of them. Only tables have columns; JSON Lines are
    looked at row by row.
    """

    words: str
    known: tuple[str, ...]
    needed: tuple[tuple[str, ...], ...]


def read(path: Path, columns: Columns | None, key: str) -> Iterator[tuple[int, Any]]:
    """The rows with their number: the line in JSON Lines, else that of the data row; None for a line that is no JSON.

    Args: `columns` limits a table to these columns (None: all, and no .csv); `key` is the setting that named the file.
    Raises:
        UserError: the file is empty, has an unknown ending or not the columns, or cannot be read.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; it needs rows" + (f" with {columns.words}" if columns else ""))
    name = path.name.lower()
    try:
        if name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(path)
        elif name.endswith(".csv") and columns:
            yield from _csv(path, columns)
        elif name.endswith(".parquet"):
            yield from _parquet(path, columns)
        else:
            formats = FORMATS if columns else FORMATS.replace(".csv, ", "")
            raise UserError(f"{path}: unknown ending; {key} takes {formats}")
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: what pandas, pyarrow and decoding raise
        raise UserError(f"{path}: cannot be read: {str(error).strip()}") from error


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    compressed = path.name.lower().endswith(".gz")
    with gzip.open(path, "rt", encoding="utf-8-sig") if compressed else path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue  # an empty line at the end is no row
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError:
                yield number, None


def _csv(path: Path, columns: Columns) -> Iterator[tuple[int, Any]]:
    import pandas as pd

    # Everything is text, and "NA" or "null" are words a reply may well consist of.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    _need_columns(path, list(frame.columns), columns)
    names = [name for name in columns.known if name in frame.columns]
    for number, values in enumerate(frame[names].itertuples(index=False, name=None), 1):
        yield number, {name: _chat_or_text(value) for name, value in zip(names, values, strict=True)}


def _chat_or_text(value: str) -> Any:
    """A CSV cell: the chat it spells in JSON, else the text itself."""
    if not value.lstrip().startswith("["):
        return value
    try:
        chat = json.loads(value)
    except json.JSONDecodeError:
        return value
    return chat if isinstance(chat, list) and chat and all(isinstance(item, dict) for item in chat) else value


def _parquet(path: Path, columns: Columns | None) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        if columns:
            _need_columns(path, names, columns)
            names = [name for name in columns.known if name in names]
        number = 0
        for batch in file.iter_batches(columns=names):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _need_columns(path: Path, names: Sequence[str], columns: Columns) -> None:
    if not any(set(needed) <= set(names) for needed in columns.needed):
        missing = next(name for name in columns.needed[0] if name not in names)
        raise UserError(f"{path}: has no column {missing!r}; it has {', '.join(map(str, names))}. Rename or add it")
