"""Where the rows of a published source come from: the hub, or a copy of one's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tr_align.data import hub, tables
from tr_align.data.hub import Published, choose
from tr_align.data.loaded import Loaded, collect, files_below
from tr_align.data.schema import Pair
from tr_align.errors import UserError

ENDINGS = (".jsonl.gz", ".jsonl", ".parquet")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Rows:
    """Rows with their place. `origin` is the hub's data set and its commit; None for files of one's own."""

    rows: Iterator[tuple[str, Any]]
    origin: dict[str, str] | None


def open_rows(
    published: Published, path: str | Path | None, revision: str | None, subsets: Sequence[str] | None, key: str
) -> Rows:
    """The rows of `published` from the hub (`path` None, or another data set's id), from a file, or from a folder.

    A folder is read with all below it. Where `published.folders`, `subsets` are folders in it, and all files are read
    by default. Else they are splits: a file belongs to the split that its name begins with, as in
    train_prefs-00000-of-00001.parquet; by default the files of the usual split are read, or all where it has none.

    Args: `key` is "data" or "data.sft", for messages.
    Raises:
        UserError: there is no such file, folder, data set or subset, or it cannot be read.
    """
    if path is None:
        path = published.name
    elif Path(path).exists() or not _HUB_NAME.fullmatch(str(path)) or str(path).endswith(ENDINGS):
        return Rows(_local(Path(path), published, subsets, key), None)
    name = str(path)
    commit, rows = hub.read(name, published, revision, subsets, key)
    return Rows(rows, {"name": name, "commit": commit})


def load(
    published: Published,
    path: str | Path | None,
    revision: str | None,
    subsets: Sequence[str] | None,
    convert: Callable[[Any], Pair],
    words: str,
) -> Loaded[Pair]:
    """All rows of a source of preferences, opened as by :func:`open_rows`, those that `convert` refuses dropped.

    Args: `words` say what `data.path` has to name, for messages.
    Raises:
        UserError: the source cannot be read or holds no row.
    """
    opened = open_rows(published, path, revision, subsets, "data")
    loaded = collect(opened.rows, convert, Loaded[Pair](origin=opened.origin))
    if not loaded.rows:
        raise UserError(f"{path or published.name}: holds no rows; data.path has to name {words}")
    return loaded


def _local(path: Path, published: Published, subsets: Sequence[str] | None, key: str) -> Iterator[tuple[str, Any]]:
    if not path.exists():
        raise UserError(
            f"{path}: there is no such file or folder; put the right one in {key}.path, or null for the hub"
        )
    if path.is_dir():
        files = _selected(path, published, subsets, key)
    elif subsets:
        raise UserError(
            f"{key}.subsets: selects from a folder or a data set of the hub, but {path} is a file; make it null"
        )
    else:
        files = [path]
    return ((f"{file}:{number}", row) for file in files for number, row in tables.read(file, None, f"{key}.path"))


def _selected(path: Path, published: Published, subsets: Sequence[str] | None, key: str) -> list[Path]:
    files = files_below(path, ENDINGS)
    if not files:
        raise UserError(f"{path}: holds no {', '.join('*' + ending for ending in ENDINGS)} file; see {key}.path")
    if published.folders:
        names = {file: file.relative_to(path).parts[0] for file in files if file.parent != path}
        wanted = choose(subsets, sorted(set(names.values())), (), path, key)
    else:
        names = {file: re.split(r"[-.]", file.name)[0] for file in files}
        wanted = choose(subsets, sorted(set(names.values())), published.splits, path, key)
    return [file for file in files if names.get(file) in wanted] if wanted else files
