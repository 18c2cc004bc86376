"""Data sets for SFT: demonstrations of good replies instead of preferences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tr_align.data import files, tldr
from tr_align.data.hub import Published
from tr_align.data.loaded import BadRow, Loaded, collect, with_system
from tr_align.data.rows import open_rows
from tr_align.data.schema import Demonstration, Message
from tr_align.data.tables import Columns
from tr_align.errors import UserError
from tr_align.settings import SftData

HUBS = {
    "ultrachat": Published("HuggingFaceH4/ultrachat_200k", splits=("train_sft", "train")),
    "tldr": Published("trl-lib/tldr", splits=("train",)),
}
COLUMNS = Columns(
    "prompt and completion, or messages",
    ("messages", "prompt", "completion"),
    (("prompt", "completion"), ("messages",)),
)


def load(data: SftData, system_prompt: str | None) -> Loaded[Demonstration]:
    """Read the demonstrations that `data.sft` names.

    Rows that are none are left out with a reason: `unparsable`, `missing_field`, `wrong_type`, `no_user_turn` or
    `no_reply` (the chat does not alternate from a first user turn to a last reply).

    Raises:
        UserError: the source cannot be read or holds no row.
    """
    if data.source == "files":
        loaded = Loaded[Demonstration]()
        rows = files.open_file(data.path, COLUMNS, "data.sft")
    else:
        opened = open_rows(HUBS[data.source], data.path, data.revision, None, "data.sft")
        rows, loaded = opened.rows, Loaded[Demonstration](origin=opened.origin)
    collect(rows, lambda row: _CONVERT[data.source](row, system_prompt), loaded)
    if not loaded.rows:
        raise UserError(f"{data.path or HUBS[data.source].name}: is empty; it needs rows with {COLUMNS.words}")
    return loaded


def to_demonstration(row: Any, system_prompt: str | None) -> Demonstration:
    """A row with `messages`, or with `prompt` and `completion`, each text or a chat.

    Of `messages`, the prompt is all up to the first user turn, and the completion the rest (as in UltraChat, whose
    prompt column only repeats the first turn).

    Raises:
        BadRow: the row is no demonstration, for one of the reasons that :func:`load` lists.
    """
    if not isinstance(row, dict):
        raise BadRow("unparsable", f"is not a JSON object with {COLUMNS.words}")
    if row.get("messages") is not None:
        messages = files.read_text(row, "messages")
        if isinstance(messages, str):
            raise BadRow("wrong_type", "messages: has to be a list of messages, is text")
        first = next((index for index, message in enumerate(messages) if message.role == "user"), None)
        if first is None:
            raise BadRow("no_user_turn", "messages: has no user turn")
        prompt, completion = messages[: first + 1], messages[first + 1 :]
    else:
        prompt = _chat(files.read_text(row, "prompt"), "user")
        completion = _chat(files.read_text(row, "completion"), "assistant")
    if prompt[-1].role != "user":
        raise BadRow("no_user_turn", f"prompt: has to end with a user turn, ends with {prompt[-1].role}")
    roles = [message.role for message in completion]
    if roles != ["assistant", "user"] * (len(roles) // 2) + ["assistant"]:
        raise BadRow(
            "no_reply", f"has to go from a reply to a reply after the prompt, has {', '.join(roles) or 'nothing'}"
        )
    return Demonstration(prompt=with_system(prompt, system_prompt), completion=completion)


def from_tldr(row: Any, system_prompt: str | None) -> Demonstration:
    """A post with its author's summary, in any of the published layouts.

    OpenAI's subreddit, title, post and summary; TRL's prompt and completion; CarperAI's prompt and label; or messages.

    Raises:
        BadRow: the row is no demonstration, for one of the reasons that :func:`load` lists.
    """
    if isinstance(row, dict):
        if "post" in row and "prompt" not in row:
            for key in ("subreddit", "title", "post", "summary"):
                if not isinstance(row.get(key), str):
                    raise BadRow("missing_field", f"{key}: is missing or no text")
            row = {"prompt": tldr.POST.format(**row), "completion": row["summary"]}
        elif "completion" not in row and "label" in row:
            row = {"prompt": row.get("prompt"), "completion": row["label"]}
    plain = to_demonstration(row, None)
    if len(plain.completion) > 1:
        raise BadRow("no_reply", "has more than one reply")
    prompt = [*plain.prompt[:-1], tldr.post_message(plain.prompt[-1].content)]
    reply = Message(role="assistant", content=tldr.summary(plain.completion[0].content))
    return Demonstration(prompt=with_system(prompt, system_prompt), completion=[reply])


def _chat(value: files.Text, role: str) -> list[Message]:
    return [Message(role=role, content=value)] if isinstance(value, str) else value  # type: ignore[arg-type]


_CONVERT: dict[str, Callable[[Any, str | None], Demonstration]] = {
    "ultrachat": to_demonstration,
    "tldr": from_tldr,
    "files": to_demonstration,
}
