"""The user's own preferences: a .jsonl (.gz), .csv or .parquet file with prompt, chosen and rejected.

Each of the three is text or a chat, i.e. a list of {role, content}. `prompt` may be missing where chosen and
rejected are whole conversations: what they share at the start is the prompt then.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from tr_align.data import tables
from tr_align.data.loaded import BadRow, Loaded, check_text, collect, with_system
from tr_align.data.schema import Message, Pair
from tr_align.data.tables import FORMATS
from tr_align.errors import UserError

REPLIES = ("chosen", "rejected")
COLUMNS = tables.Columns("prompt, chosen and rejected", ("prompt", *REPLIES), (REPLIES,))
ROLES = get_args(Message.model_fields["role"].annotation)

Text = str | list[Message]


def load(path: str | Path | None, system_prompt: str | None) -> Loaded[Pair]:
    """Read the user's file.

    Rows that are no preference are left out with a reason (`unparsable`, `missing_field`, `wrong_type`,
    `no_user_turn`, `prompts_differ`) and their place: the line in JSON Lines, else the number of the data row.

    Raises:
        UserError: there is no path, no such file, an unknown ending, no row, no column chosen or rejected,
            or the file cannot be read.
    """
    rows = open_file(path, COLUMNS, "data")
    loaded = collect(rows, lambda row: to_pair(row, system_prompt), Loaded[Pair]())
    if not loaded.rows:
        raise UserError(f"{path}: is empty; it needs rows with {COLUMNS.words}")
    return loaded


def open_file(path: str | Path | None, columns: tables.Columns, key: str) -> Iterator[tuple[str, Any]]:
    """The rows of the user's file with their place; `key` is "data" or "data.sft", for messages.

    Raises:
        UserError: there is no path or no such file, or as :func:`tr_align.data.tables.read`.
    """
    if path is None:
        raise UserError(f"{key}.path: is null, but {key}.source is 'files'; give it your file ({FORMATS})")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; put the right one in {key}.path")
    return ((f"{path}:{number}", row) for number, row in tables.read(path, columns, f"{key}.path"))


def to_pair(row: Any, system_prompt: str | None) -> Pair:
    """One row as a pair.

    Raises:
        BadRow: the row is no preference, for one of the reasons that :func:`load` lists.
    """
    if not isinstance(row, dict):
        raise BadRow("unparsable", "is not a JSON object with prompt, chosen and rejected")
    prompt = None if row.get("prompt") is None else read_text(row, "prompt")
    chosen, rejected = (read_text(row, key) for key in REPLIES)
    if isinstance(prompt, str):
        given: list[Message] | None = [Message(role="user", content=prompt)]
    else:
        given = prompt
    if isinstance(prompt, list) or isinstance(chosen, str) or isinstance(rejected, str):
        if given is None:
            raise BadRow("missing_field", "prompt: is missing; only two whole chats can do without it")
    elif given is None or len(chosen) > 1 or len(rejected) > 1:
        # With whole conversations a text prompt only repeats their first turn.
        given = _shared(chosen, rejected)
    if given[-1].role != "user":
        raise BadRow("no_user_turn", f"prompt: has to end with a user turn, ends with {given[-1].role}")
    return Pair(
        prompt=with_system(given, system_prompt),
        chosen=_reply(chosen, given, "chosen"),
        rejected=_reply(rejected, given, "rejected"),
    )


def read_text(row: dict[str, Any], key: str) -> Text:
    """A field as text or as a chat that is not empty.

    Raises:
        BadRow: it is neither.
    """
    value = row.get(key)
    if value is None:
        raise BadRow("missing_field", f"{key}: is missing")
    if isinstance(value, str):
        return check_text(value, key, "wrong_type")
    if not isinstance(value, list):
        raise BadRow("wrong_type", f"{key}: has to be text or a list of messages, is {type(value).__name__}")
    if not value:
        raise BadRow("wrong_type", f"{key}: has no messages")
    return [_message(item, f"{key}[{index}]") for index, item in enumerate(value)]


def _message(item: Any, key: str) -> Message:
    """A message; keys beside role and content, which some exports add, are ignored."""
    if not isinstance(item, dict) or not isinstance(item.get("content"), str):
        raise BadRow("wrong_type", f"{key}: has to be a message with role and a text content")
    if item.get("role") not in ROLES:
        raise BadRow("wrong_type", f"{key}.role: has to be one of {', '.join(ROLES)}, is {item.get('role')!r}")
    return Message(role=item["role"], content=check_text(item["content"], key, "wrong_type"))


def _shared(chosen: list[Message], rejected: list[Message]) -> list[Message]:
    """The prompt of two whole conversations: all but the last message, which has to be the same in both."""
    if len(chosen) == len(rejected) == 1:
        raise BadRow("missing_field", "prompt: is missing, and chosen and rejected hold nothing but a reply")
    if len(chosen) < 2 or chosen[:-1] != rejected[:-1]:
        raise BadRow(
            "prompts_differ", "chosen, rejected: have to be conversations that differ in the last message only"
        )
    return chosen[:-1]


def _reply(value: Text, prompt: list[Message], key: str) -> str:
    """The reply in a field: its text, its only message, or what follows the prompt in it."""
    if isinstance(value, str):
        return value
    rest = value[len(prompt) :] if value[: len(prompt)] == prompt else value
    if len(rest) != 1:
        raise BadRow("prompts_differ", f"{key}: is neither one message nor the prompt and one message")
    if rest[0].role != "assistant":
        raise BadRow("wrong_type", f"{key}: has to end with an assistant message, ends with {rest[0].role}")
    return rest[0].content
