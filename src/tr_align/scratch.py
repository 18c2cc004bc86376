"""Where unfinished work is kept, so that a killed stage goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def root() -> Path:
    """The repository's root, also inside the temporary copies DVC makes for queued experiments."""
    return Path(os.environ.get("DVC_ROOT", "."))


def folder(stage: str, settings: Any, inputs: Iterable[str | Path]) -> Path:
    """A folder for one stage with these settings and these inputs: with others, another folder.

    Args:
        stage: its name. settings: what its result depends on, as JSON values.
        inputs: files it reads; their contents are part of the folder's name.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        digest.update(file_hash(path).encode())
    path = root() / ".scratch" / stage / digest.hexdigest()[:16]
    path.mkdir(parents=True, exist_ok=True)
    return path


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: str | Path, text: str) -> None:
    """Write a file so that a reader, or a restart, sees all of it or none."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_rows(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a JSON Lines file that may end in a line torn by a kill (that line is left out)."""
    path = Path(path)
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes().split(b"\n"):
        if not line:
            continue
        try:
            rows.append(json.loads(line.decode("utf-8")))
        except ValueError:  # no JSON, or torn inside a character
            break
    return rows


def write_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines, atomically."""
    write_atomically(path, _lines(rows))


def append_rows(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a JSON Lines file; a kill tears one line at most."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(_lines(rows))


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
