"""Preference pairs as token ids, by TRL's rules (golden-tested against its trainers)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from tr_align.align.batches import Example
from tr_align.data.schema import Pair
from tr_align.errors import UserError

_BATCH = 1000
_SHOWN = 5


def encode_pairs(
    tokenizer: Any,
    pairs: Sequence[Pair],
    max_length: int,
    max_dropped: float,
    sides: tuple[str, ...] = ("chosen", "rejected"),
) -> tuple[list[Example], list[str]]:
    """Each pair as an example whose replies are its `sides`.

    Replies start at the longest common prefix of the prompt (with the template's opening of the assistant's turn) and
    of prompt and reply together; whatever the template puts after the reply is scored with it. What is longer than
    `max_length` is cut at the end.

    Returns: the examples, and the prompt ids of the pairs they come from.
    Raises:
        UserError: more than the share `max_dropped` of the pairs has nothing left to score; they are named.
    """
    rows = [(pair, tuple(getattr(pair, side) for side in sides)) for pair in pairs]
    examples, ids, empty, cut = [], [], [], 0
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        prompts = _template(tokenizer, [_messages(pair) for pair, _ in part], True)
        whole = _template(
            tokenizer,
            [[*_messages(pair), {"role": "assistant", "content": text}] for pair, texts in part for text in texts],
            False,
        )
        for pair, texts in part:
            prompt, full = next(prompts), [next(whole) for _ in texts]
            length = min(_common_prefix(prompt, ids) for ids in full)
            cut += any(len(sequence) > max_length for sequence in full)
            replies = tuple(tuple(sequence[length:max_length]) for sequence in full)
            if length and all(replies):
                examples.append(Example(tuple(prompt[:length]), replies))
                ids.append(pair.prompt_id)
            else:
                empty.append(pair.prompt_id)
    shown = ", ".join(empty[:_SHOWN]) + (f" and {len(empty) - _SHOWN} more" if len(empty) > _SHOWN else "")
    if len(empty) > max_dropped * len(rows):
        raise UserError(
            f"data.max_prompt_tokens, data.max_reply_tokens: {len(empty)} of {len(rows)} rows have nothing left to "
            f"score within {max_length} tokens (prompts {shown}); raise the limits, or data.max_dropped to go on "
            "without them"
        )
    if empty:
        print(f"{len(empty)} of {len(rows)} rows have nothing left to score and are left out: {shown}", file=sys.stderr)
    if cut:
        print(f"{cut} of {len(rows)} rows are cut at {max_length} tokens", file=sys.stderr)
    return examples, ids


def _template(tokenizer: Any, conversations: list[list[dict[str, str]]], opening: bool) -> Iterator[list[int]]:
    return iter(
        tokenizer.apply_chat_template(conversations, add_generation_prompt=opening, tokenize=True, return_dict=True)[
            "input_ids"
        ]
    )


def _messages(pair: Pair) -> list[dict[str, str]]:
    return [message.model_dump() for message in pair.prompt]


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
