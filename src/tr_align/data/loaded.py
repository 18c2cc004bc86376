"""What a data source hands to :mod:`tr_align.data.prepare`: its rows with their place, and those that were none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from tr_align.data.schema import Demonstration, Message, Pair
from tr_align.errors import UserError

_EXAMPLES = 5

Kind = TypeVar("Kind", Pair, Demonstration)


class BadRow(Exception):
    """A row that is no pair or demonstration: `reason` is counted, `detail` names the key and what is wrong.

    It is not the row's `fault` if it is as it should be and still of no use, such as a tie.
    """

    def __init__(self, reason: str, detail: str, fault: bool = True) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.fault = fault


@dataclass(frozen=True)
class Dropped:
    """A row that was left out: why, where it stands (`file:row`) and, in words, what is wrong with it."""

    reason: str
    where: str
    detail: str
    fault: bool = True


@dataclass
class Loaded(Generic[Kind]):
    """All rows of one source.

    `merged_turns` counts transcripts in which two turns of one speaker became one; `origin` is the hub's data set and
    its commit.
    """

    pairs: list[tuple[str, Kind]] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    merged_turns: int = 0
    origin: dict[str, str] | None = None

    @property
    def rows(self) -> int:
        return len(self.pairs) + len(self.dropped)

    def drop(self, where: str, error: BadRow) -> None:
        self.dropped.append(Dropped(error.reason, where, error.detail, error.fault))


def collect(rows: Iterable[tuple[str, Any]], convert: Callable[[Any], Kind], loaded: Loaded[Kind]) -> Loaded[Kind]:
    """`loaded` with every row that `convert` accepts, and the others dropped for the reason that it gives."""
    for where, row in rows:
        try:
            loaded.pairs.append((where, convert(row)))
        except BadRow as error:
            loaded.drop(where, error)
    return loaded


def check_share(dropped: list[Dropped], rows: int, max_dropped: float) -> None:
    """Refuse data of which more than a share is faulty.

    Raises:
        UserError: more than `max_dropped` of the rows are; it counts the reasons and shows examples.
    """
    faulty = [row for row in dropped if row.fault]
    if len(faulty) <= max_dropped * rows:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(d.reason for d in faulty).items()))
    examples = [f"  {d.where}: {d.reason}{': ' + d.detail if d.detail else ''}" for d in faulty[:_EXAMPLES]]
    raise UserError(
        f"{len(faulty)} of {rows} rows ({len(faulty) / rows:.1%}) cannot be used, more than data.max_dropped "
        f"({max_dropped:g}) allows: {reasons}. For example:\n" + "\n".join(examples) + "\n"
        "Put them right, or raise data.max_dropped to go on without them"
    )


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
