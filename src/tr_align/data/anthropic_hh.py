"""Anthropic's HH preferences as published: two transcripts a row, equal up to the last reply of the assistant."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tr_align.data.loaded import BadRow, Loaded, check_text, files_below, with_system
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError

HUB_NAME = "Anthropic/hh-rlhf"
ENDINGS = (".jsonl.gz", ".jsonl")

# A turn begins with its speaker's name after an empty line. The same names inside a line are text: some
# annotators typed them, and some replies imagine a dialogue.
_BORDER = re.compile(r"\n\n(?:(Human):(?=\s|\Z)|(Assistant):)")


def load(path: str | Path | None, system_prompt: str | None) -> Loaded:
    """Read HH rows from a folder (all *.jsonl.gz and *.jsonl in it and below), one file, or the hub (None).

    Rows that are no preference are left out with a reason: `unparsable` (not JSON, a transcript that does not
    begin with Human or does not end with Assistant) or `prompts_differ` (the transcripts part before the last
    reply). Neighbouring turns of one speaker inside a prompt are merged, and such rows are counted.

    Raises:
        UserError: the path is missing or holds no row, a file cannot be read, or the hub cannot be reached.
    """
    loaded = Loaded()
    for where, row in _hub_rows() if path is None else _file_rows(Path(path)):
        try:
            pair, merged = to_pair(row, system_prompt)
        except BadRow as error:
            loaded.drop(where, error)
        else:
            loaded.pairs.append((where, pair))
            loaded.merged_turns += merged
    if not loaded.rows:
        raise UserError(f"{path or HUB_NAME}: holds no rows; data.path has to name HH files with chosen and rejected")
    return loaded


def to_pair(row: Any, system_prompt: str | None) -> tuple[Pair, bool]:
    """One HH row as a pair, and whether turns of its prompt had to be merged.

    Raises:
        BadRow: the row is no preference, for one of the reasons that :func:`load` lists.
    """
    turns = {}
    for key in ("chosen", "rejected"):
        text = row.get(key) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise BadRow("unparsable", f"{key}: has to be a transcript, is {type(text).__name__}")
        turns[key] = parse(check_text(text, key, "unparsable"), key)
    prompt, merged = _merge(turns["chosen"][:-1])
    if prompt != _merge(turns["rejected"][:-1])[0]:
        raise BadRow("prompts_differ", "chosen, rejected: differ before the last reply")
    if prompt[-1].role != "user":
        raise BadRow("unparsable", "chosen, rejected: end with two turns of the assistant")
    return (
        Pair(
            prompt=with_system(prompt, system_prompt),
            chosen=turns["chosen"][-1].content,
            rejected=turns["rejected"][-1].content,
        ),
        merged,
    )


def parse(text: str, key: str) -> list[Message]:
    """A transcript as turns, the last one the assistant's; `key` names it in errors.

    Raises:
        BadRow: it does not begin with Human, or does not end with Assistant.
    """
    head, *parts = _BORDER.split("\n\n" + text.lstrip())
    speakers = [human or assistant for human, assistant in zip(parts[0::3], parts[1::3], strict=True)]
    if head or not speakers or speakers[0] != "Human":
        raise BadRow("unparsable", f"{key}: does not begin with 'Human: '")
    if speakers[-1] != "Assistant":
        raise BadRow("unparsable", f"{key}: does not end with a turn of the assistant")
    return [
        Message(role="user" if speaker == "Human" else "assistant", content=content.strip())
        for speaker, content in zip(speakers, parts[2::3], strict=True)
    ]


def _merge(turns: list[Message]) -> tuple[list[Message], bool]:
    """Turns with neighbours of one role joined by an empty line, so that the roles alternate."""
    merged: list[Message] = []
    for turn in turns:
        if merged and merged[-1].role == turn.role:
            merged[-1] = Message(role=turn.role, content=f"{merged[-1].content}\n\n{turn.content}".strip())
        else:
            merged.append(turn)
    return merged, len(merged) < len(turns)


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; put the right one in data.path, or null for the hub")
    files = files_below(path, ENDINGS) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: holds no {' or '.join('*' + ending for ending in ENDINGS)} file; see data.path")
    for file in files:
        try:
            with (
                gzip.open(file, "rt", encoding="utf-8")
                if file.suffix == ".gz"
                else file.open(encoding="utf-8") as lines
            ):
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield f"{file}:{number}", _row(line)
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise UserError(f"{file}: cannot be read ({error}); fetch the file again") from error


def _row(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None  # counted as unparsable by to_pair


def _hub_rows() -> Iterable[tuple[str, Any]]:
    try:
        from datasets import load_dataset  # type: ignore[import-untyped]

        rows = load_dataset(HUB_NAME, split="train")
    except Exception as error:  # the client raises errors of a dozen kinds when it has no network
        raise UserError(
            f"data.path is null and {HUB_NAME} cannot be loaded from the hub ({type(error).__name__}: {error}); "
            "give data.path the folder with its *.jsonl.gz files"
        ) from error
    return ((f"{HUB_NAME}:{number}", row) for number, row in enumerate(rows, 1))
