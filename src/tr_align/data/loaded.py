"""What a data source hands to :mod:`tr_align.data.prepare`: pairs with their place, and the rows that were no pair."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tr_align.data.schema import Message, Pair


class BadRow(Exception):
    """One row that is not a preference pair: `reason` is counted, `detail` names the key and what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: why, where it stands (`file:row`) and, in words, what is wrong with it."""

    reason: str
    where: str
    detail: str


@dataclass
class Loaded:
    """All rows of one source. `merged_turns` counts transcripts in which two turns of one speaker became one."""

    pairs: list[tuple[str, Pair]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    merged_turns: int = 0

    @property
    def rows(self) -> int:
        return len(self.pairs) + len(self.dropped)

    def drop(self, where: str, error: BadRow) -> None:
        self.dropped.append(Dropped(error.reason, where, error.detail))


def files_below(path: Path, endings: tuple[str, ...]) -> list[Path]:
    """The files in a folder and in all folders below it whose names end so, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(endings))


def check_text(text: str, key: str, reason: str) -> str:
    """The text itself, if it can be written down: JSON lets half of a surrogate pair through, UTF-8 does not.

    Raises:
        BadRow: it cannot, for the given reason.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(reason, f"{key}: is not valid Unicode (position {error.start})") from None
    return text


def with_system(prompt: list[Message], system_prompt: str | None) -> list[Message]:
    """Put the system prompt first, unless there is none to put or the prompt brings its own.

    "" is a system prompt, too: an empty system message keeps chat templates from inserting theirs.
    """
    if system_prompt is None or any(message.role == "system" for message in prompt):
        return prompt
    return [Message(role="system", content=system_prompt), *prompt]
