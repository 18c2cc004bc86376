"""The SFT split of an experiment whose SFT has data of its own (`data.sft`)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tr_align.data import demonstrations
from tr_align.data.lengths import Lengths
from tr_align.data.loaded import Dropped, check_share
from tr_align.data.schema import Demonstration, Message, Pair, prompt_id
from tr_align.errors import UserError
from tr_align.settings import Data


def select(
    data: Data, seed: int, lengths: Lengths, others: Iterable[Pair]
) -> tuple[list[Demonstration], dict[str, Any]]:
    """`data.splits.sft` demonstrations by a seeded shuffle, none of them about a prompt of `others`.

    A conversation that is longer than the token limit loses turns from its end: it keeps the replies that fit.

    Returns: the demonstrations, and the account of the rows.
    Raises:
        UserError: the source cannot be read, more than `data.max_dropped` of its rows are faulty, or there are not
            enough of them.
    """
    assert data.sft is not None
    loaded = demonstrations.load(data.sft, data.system_prompt)
    rows, dropped = loaded.rows, loaded.dropped
    sound = []
    for where, row in loaded.pairs:
        fault = _fault(row)
        if fault:
            dropped.append(Dropped(fault, where, ""))
        else:
            sound.append((where, row))
    # What is dropped from here on is no fault of the row, so it does not count toward the share.
    check_share(dropped, rows, data.max_dropped)
    reserved = {_spoken(pair.prompt) for pair in others}
    unique: dict[str, tuple[str, Demonstration]] = {}
    for where, row in sound:
        name = f"{row.prompt_id}{prompt_id(row.completion)}"
        if name in unique:
            dropped.append(Dropped("exact_duplicate", where, ""))
        elif any(turn in reserved for turn in _turns(row)):
            dropped.append(Dropped("in_other_split", where, ""))
        else:
            unique[name] = (where, row)
    lengths.add_demonstrations(list(unique.values()))
    usable: dict[str, Demonstration] = {}
    shortened = 0
    for name, (where, row) in unique.items():
        fitting = _fitting(where, row, lengths, data.max_reply_tokens)
        if lengths.prompt(row) > data.max_prompt_tokens:
            dropped.append(Dropped("prompt_too_long", where, ""))
        elif fitting is None:
            dropped.append(Dropped("completion_too_long", where, ""))
        else:
            usable[name] = fitting
            shortened += fitting is not row
    _check_enough(data, len(usable), dropped)
    order = sorted(usable, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).hexdigest(), name))
    account: dict[str, Any] = {
        "source": data.sft.source,
        "rows_read": rows,
        "rows_kept": len(usable),
        "rows_shortened": shortened,
        "dropped": dict(Counter(row.reason for row in dropped)),
    }
    if loaded.origin:
        account["hub"] = loaded.origin
    return [usable[name] for name in order[: data.splits.sft]], account


def _fitting(where: str, row: Demonstration, lengths: Lengths, limit: int) -> Demonstration | None:
    """The row with as many of its replies as fit, or None if the first is too long already."""
    while lengths.completion(row) > limit:
        replies = [index for index, message in enumerate(row.completion) if message.role == "assistant"]
        if len(replies) < 2:
            return None
        row = Demonstration(prompt=row.prompt, completion=row.completion[: replies[-2] + 1])
        lengths.add_demonstrations([(where, row)])
    return row


def _fault(row: Demonstration) -> str | None:
    if not row.prompt[-1].content.strip():
        return "empty_prompt"
    return None if all(message.content.strip() for message in row.completion) else "empty_reply"


def _turns(row: Demonstration) -> list[str]:
    """The conversation up to each of its user turns: every prompt that the row answers."""
    whole = [*row.prompt, *row.completion]
    return [_spoken(whole[: index + 1]) for index, message in enumerate(whole) if message.role == "user"]


def _spoken(conversation: list[Message]) -> str:
    """A conversation's id without its system message, which two data sets may have differently."""
    return prompt_id([message for message in conversation if message.role != "system"])


def _check_enough(data: Data, found: int, dropped: list[Dropped]) -> None:
    if found >= data.splits.sft:
        return
    long = sum(row.reason.endswith("_too_long") for row in dropped)
    ways = ([f"lower it to {found}"] if found else []) + (
        [f"raise the token limits, which dropped {long} rows"] if long else []
    )
    raise UserError(
        f"data.splits.sft: asks for {data.splits.sft} demonstrations, and data.sft has {found} that can be used; "
        + (", or ".join(ways) or "name other data in data.sft")
    )
