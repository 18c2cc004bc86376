"""Where unfinished work is kept, so that a killed stage goes on where it was, also after a disk was full."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tr_align.errors import UserError

_held: dict[Path, FileLock] = {}


def root() -> Path:
    """The repository's root, also inside the temporary copies DVC makes for queued experiments."""
    return Path(os.environ.get("DVC_ROOT", "."))


def folder(stage: str, settings: Any, inputs: Iterable[str | Path]) -> Path:
    """A folder for one stage with these settings and these inputs: with others, another folder.

    It is this process's own until it ends, however it ends: another that runs the same, in a queue say, waits. Of the
    processes that share a training one waits for all.

    Args:
        stage: its name. settings: what its result depends on, as JSON values.
        inputs: files it reads; their contents are part of the folder's name.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        digest.update(file_hash(path).encode())
    path = root() / ".scratch" / stage / digest.hexdigest()[:16]
    if os.environ.get("RANK", "0") == "0":
        _own(path)
    path.mkdir(parents=True, exist_ok=True)
    return path


def _own(path: Path) -> None:
    if path in _held:
        return
    locks = root() / ".scratch" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    lock = FileLock(locks / f"{path.parent.name}-{path.name}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(
            f"{path.parent.name} runs with these settings already: waiting for it to end", file=sys.stderr, flush=True
        )
        lock.acquire()
    _held[path] = lock


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


NO_WRITING = {
    errno.ENOSPC: "there is no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "it is read-only",
    errno.EACCES: "writing is not permitted",
    errno.EPERM: "writing is not permitted",
    errno.EFBIG: "the file is larger than the limit for files",
    errno.EIO: "the disk has an error",
}
"""Why a file cannot be written: what the disk is to blame for, not the program."""


@contextmanager
def writing(folder: str | Path, what: str, needed: int | None = None) -> Iterator[None]:
    """While something is written to `folder`: errors of the disk become a sentence with a way out.

    Args: `what`: is written. `needed`: its size in bytes, where it is known.
    Raises:
        UserError: it could not be written.
    """
    try:
        yield
    except Exception as error:
        reason = _no_writing(error)
        if reason is None:
            raise
        size = "" if needed is None else f", and this takes {size_of(needed)}"
        raise UserError(
            f"{folder}: {what} cannot be written: {reason} ({size_of(_free(folder))} are free{size}). What was "
            "complete is kept: make room or move .scratch to a larger disk, and the same command goes on from there"
        ) from error


def _no_writing(error: BaseException) -> str | None:
    """What is wrong with the disk, if that is what an error is about."""
    if isinstance(error, OSError):
        return NO_WRITING.get(error.errno or 0)
    # safetensors' own error, with the system's number in its text; torch's writer keeps no number.
    if match := re.search(r"\(os error (\d+)\)", str(error)):
        return NO_WRITING.get(int(match[1]))
    if isinstance(error, RuntimeError) and re.search("PytorchStreamWriter failed|unexpected pos", str(error)):
        return "the file was cut off"
    return None


def check_space(folder: str | Path, needed: int, what: str) -> None:
    """Refuse to begin what the disk has no room for.

    Args: `needed`: bytes. `what`: needs them.
    Raises:
        UserError: less is free where `folder` is.
    """
    if (free := _free(folder)) < needed:
        raise UserError(
            f"{folder}: {size_of(free)} are free, but {what} take {size_of(needed)}; make room, "
            "or move .scratch to a larger disk and leave a link to it"
        )


def size_of(count: int) -> str:
    """Bytes in words, with the exact number: `1.3 GB (1,312,345,678 bytes)`."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit} ({count:,} bytes)"
    return f"{count:,} bytes"


def _free(folder: str | Path) -> int:
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
