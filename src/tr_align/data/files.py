"""The user's own preferences: a .jsonl (.gz), .csv or .parquet file with prompt, chosen and rejected.

Each of the three is text or a chat, i.e. a list of {role, content}. `prompt` may be missing where chosen and
rejected are whole conversations: what they share at the start is the prompt then.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from tr_align.data.loaded import BadRow, Loaded, check_text, with_system
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError

KEYS = ("prompt", "chosen", "rejected")
REPLIES = ("chosen", "rejected")
ROLES = get_args(Message.model_fields["role"].annotation)
FORMATS = ".jsonl, .jsonl.gz, .csv, .parquet"

Field = str | list[Message]


def load(path: str | Path | None, system_prompt: str | None) -> Loaded:
    """Read the user's file.

    Rows that are no preference are left out with a reason (`unparsable`, `missing_field`, `wrong_type`,
    `no_user_turn`, `prompts_differ`) and their place: the line in JSON Lines, else the number of the data row.

    Raises:
        UserError: there is no path, no such file, an unknown ending, no row, no column chosen or rejected,
            or the file cannot be read.
    """
    if path is None:
        raise UserError(f"data.path: is null, but data.source is 'files'; give it your file ({FORMATS})")
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; put the right one in data.path")
    loaded = Loaded()
    for number, row in _rows(path):
        where = f"{path}:{number}"
        try:
            loaded.pairs.append((where, to_pair(row, system_prompt)))
        except BadRow as error:
            loaded.drop(where, error)
    if not loaded.rows:
        raise UserError(f"{path}: is empty; it needs rows with prompt, chosen and rejected")
    return loaded


def to_pair(row: Any, system_prompt: str | None) -> Pair:
    """One row as a pair.

    Raises:
        BadRow: the row is no preference, for one of the reasons that :func:`load` lists.
    """
    if not isinstance(row, dict):
        raise BadRow("unparsable", "is not a JSON object with prompt, chosen and rejected")
    prompt = None if row.get("prompt") is None else _field(row, "prompt")
    chosen, rejected = (_field(row, key) for key in REPLIES)
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


def _field(row: dict[str, Any], key: str) -> Field:
    """A field as text or as a chat that is not empty."""
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


def _reply(value: Field, prompt: list[Message], key: str) -> str:
    """The reply in a field: its text, its only message, or what follows the prompt in it."""
    if isinstance(value, str):
        return value
    rest = value[len(prompt) :] if value[: len(prompt)] == prompt else value
    if len(rest) != 1:
        raise BadRow("prompts_differ", f"{key}: is neither one message nor the prompt and one message")
    if rest[0].role != "assistant":
        raise BadRow("wrong_type", f"{key}: has to end with an assistant message, ends with {rest[0].role}")
    return rest[0].content


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    if path.stat().st_size == 0:
        raise UserError(f"{path}: is empty; it needs rows with prompt, chosen and rejected")
    name = path.name.lower()
    try:
        if name.endswith((".jsonl", ".jsonl.gz")):
            yield from _json_lines(path)
        elif name.endswith(".csv"):
            yield from _csv(path)
        elif name.endswith(".parquet"):
            yield from _parquet(path)
        else:
            raise UserError(f"{path}: unknown ending; data.path takes {FORMATS}")
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
                yield number, None  # counted as unparsable by to_pair


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    import pandas as pd

    # Everything is text, and "NA" or "null" are words a reply may well consist of.
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    _need_columns(path, list(frame.columns))
    columns = [key for key in KEYS if key in frame.columns]
    for number, values in enumerate(frame[columns].itertuples(index=False, name=None), 1):
        yield number, {key: _chat_or_text(value) for key, value in zip(columns, values, strict=True)}


def _chat_or_text(value: str) -> Any:
    """A CSV cell: the chat it spells in JSON, else the text itself."""
    if not value.lstrip().startswith("["):
        return value
    try:
        chat = json.loads(value)
    except json.JSONDecodeError:
        return value
    return chat if isinstance(chat, list) and chat and all(isinstance(item, dict) for item in chat) else value


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    from pyarrow import parquet  # type: ignore[import-untyped]

    with parquet.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
        _need_columns(path, names)
        number = 0
        for batch in file.iter_batches(columns=[key for key in KEYS if key in names]):
            for row in batch.to_pylist():
                number += 1
                yield number, row


def _need_columns(path: Path, names: list[str]) -> None:
    for key in REPLIES:
        if key not in names:
            raise UserError(f"{path}: has no column {key!r}; it has {', '.join(map(str, names))}. Rename or add it")
