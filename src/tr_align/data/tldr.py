"""Reddit TL;DR: which of two summaries of a post people preferred (Stiennon et al., arXiv 2009.01325)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tr_align.data import files, rows
from tr_align.data.hub import Published
from tr_align.data.loaded import BadRow, Loaded, check_text, with_system
from tr_align.data.schema import Message, Pair

HUB = Published("trl-lib/tldr-preference", splits=("train",))
CUE = "TL;DR:"
"""What the prompt ends with: the reply goes on from there."""

POST = "SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {post}\n\n" + CUE
"""A post as a prompt, in the words of openai/summarize-from-feedback."""


def load(
    path: str | Path | None,
    system_prompt: str | None,
    revision: str | None = None,
    subsets: Sequence[str] | None = None,
) -> Loaded[Pair]:
    """Read comparisons from the hub, a file, or a folder, as :func:`tr_align.data.rows.open_rows`.

    Rows that are no preference are left out with a reason: those of :func:`tr_align.data.files.load`, or
    `not_reddit` (raw comparisons also hold news articles, which are no fault).

    Raises:
        UserError: the source cannot be read or holds no row.
    """
    return rows.load(HUB, path, revision, subsets, lambda row: to_pair(row, system_prompt), "TL;DR comparisons")


def to_pair(row: Any, system_prompt: str | None) -> Pair:
    """A comparison as a pair, in either of the layouts in which they are published.

    Raw, as OpenAI has them: `info` (the post), two `summaries`, `choice` (which of them is better). Preprocessed, as
    TRL and CarperAI have them: prompt, chosen, rejected, where the cue may stand in the replies.

    Raises:
        BadRow: the row is no preference, for one of the reasons that :func:`load` lists.
    """
    if isinstance(row, dict) and "summaries" in row:
        return _raw(row, system_prompt)
    pair = files.to_pair(row, None)
    return Pair(
        prompt=with_system([*pair.prompt[:-1], post_message(pair.prompt[-1].content)], system_prompt),
        chosen=summary(pair.chosen),
        rejected=summary(pair.rejected),
    )


def post_message(text: str) -> Message:
    """The post as the user's turn: with the cue at its end, without space around it."""
    text = text.strip()
    return Message(role="user", content=text if text.endswith(CUE) else f"{text}\n{CUE}")


def summary(text: str) -> str:
    """A summary without the cue or the space that parts it from the prompt."""
    return text.strip().removeprefix(CUE).strip()


def _raw(row: dict[str, Any], system_prompt: str | None) -> Pair:
    info, summaries, choice = row.get("info"), row.get("summaries"), row.get("choice")
    if not isinstance(info, dict):
        raise BadRow("wrong_type", "info: has to be an object with subreddit, title and post")
    if info.get("post") is None and info.get("article") is not None:
        raise BadRow("not_reddit", "info: is a news article", fault=False)
    post = POST.format(**{key: _text(info, key, f"info.{key}") for key in ("subreddit", "title", "post")})
    if not isinstance(summaries, list) or len(summaries) != 2 or not all(isinstance(item, dict) for item in summaries):
        raise BadRow("wrong_type", "summaries: has to be a list of two objects with text")
    if choice not in (0, 1) or isinstance(choice, bool):
        raise BadRow("wrong_type", f"choice: has to be 0 or 1, is {choice!r}")
    texts = [summary(_text(item, "text", f"summaries[{index}].text")) for index, item in enumerate(summaries)]
    return Pair(
        prompt=with_system([post_message(post)], system_prompt), chosen=texts[choice], rejected=texts[1 - choice]
    )


def _text(row: dict[str, Any], key: str, name: str) -> str:
    value = row.get(key)
    if value is None:
        raise BadRow("missing_field", f"{name}: is missing")
    if not isinstance(value, str):
        raise BadRow("wrong_type", f"{name}: has to be text, is {type(value).__name__}")
    return check_text(value, name, "wrong_type")
