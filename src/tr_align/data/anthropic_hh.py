"""Anthropic's HH preferences as published: two transcripts a row, equal up to the last reply of the assistant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tr_align.data import rows
from tr_align.data.hub import Published
from tr_align.data.loaded import BadRow, Loaded, check_text, with_system
from tr_align.data.schema import Message, Pair

HUB = Published("Anthropic/hh-rlhf", splits=("train",), folders=True)

# A turn begins with its speaker's name after an empty line. The same names inside a line are text: some
# annotators typed them, and some replies imagine a dialogue.
_BORDER = re.compile(r"\n\n(?:(Human):(?=\s|\Z)|(Assistant):)")


def load(
    path: str | Path | None,
    system_prompt: str | None,
    revision: str | None = None,
    subsets: Sequence[str] | None = None,
) -> Loaded[Pair]:
    """Read HH rows from the hub, a file, or a folder, as :func:`tr_align.data.rows.open_rows`.

    `subsets` are folders such as helpful-base. Rows that are no preference are left out with a reason: `unparsable`
    (not JSON, a transcript that does not begin with Human or does not end with Assistant) or `prompts_differ` (the
    transcripts part before the last reply). Neighbouring turns of one speaker inside a prompt are merged, and such
    rows are counted.

    Raises:
        UserError: the source cannot be read or holds no row.
    """
    merged_turns = 0

    def convert(row: Any) -> Pair:
        nonlocal merged_turns
        pair, merged = to_pair(row, system_prompt)
        merged_turns += merged
        return pair

    loaded = rows.load(HUB, path, revision, subsets, convert, "HH files with chosen and rejected")
    loaded.merged_turns = merged_turns
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
