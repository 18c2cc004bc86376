"""How probable fixed texts stay while a policy is aligned: those it is trained towards and away from, and others.

The paper argues that offline alignment moves probability to replies that are in no data (out of distribution), and
that a moving reference counters it (arXiv 2404.09656). Here the log-probability of five kinds of reply to held-out
prompts is followed: "chosen" and "rejected" ones, "sft" (sampled from the SFT model), and two that are in no data:
"mismatched" (the chosen reply to another prompt: fluent text that does not belong here) and "foreign" (text of another
kind, from another data set). What all of them lose goes to replies that are none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from tr_align.align.batches import Example, collate, split_passes
from tr_align.align.logps import reply_logps, share_prompts
from tr_align.data.schema import Pair
from tr_align.generation import encode_prompt

KINDS = ("chosen", "rejected", "sft", "mismatched", "foreign")
_WORD = "reply"
Row = dict[str, Any]


def fixed_texts(
    tokenizer: Any, pairs: Sequence[Pair], sampled: Mapping[str, Row], foreign: Sequence[str], longest: int
) -> list[Example]:
    """Each pair's prompt with a reply of every kind, in the order of KINDS.

    A reply begins with what the chat template puts before it (a space in some), and ends with the tokenizer's
    end-of-sequence token, but for samples of the SFT model that were cut off and foreign texts that are cut here.

    Args:
        sampled: by prompt id, rows of `generate_replies` of the SFT model. foreign: text i is for prompt i; there may
            be more of them. longest: tokens of a foreign text; the data's replies are no longer either.
    Raises:
        KeyError: a prompt without a sample.
        ValueError: fewer than two pairs, so that no reply is another prompt's, or fewer foreign texts than pairs.
    """
    if len(pairs) < 2:
        raise ValueError("two prompts at least are needed: a mismatched reply is another prompt's")
    if len(foreign) < len(pairs):
        raise ValueError(f"there are {len(foreign)} foreign texts for {len(pairs)} prompts")
    examples = []
    for place, pair in enumerate(pairs):
        sample = sampled[pair.prompt_id]
        other = pairs[(place + 1) % len(pairs)]
        texts = [
            (pair.chosen, True),
            (pair.rejected, True),
            (sample["reply"], sample["finished"]),
            (other.chosen, True),
            (foreign[place], True),
        ]
        before = _before_a_reply(tokenizer, pair)
        replies = [
            (
                *tokenizer(before + text if text else "", add_special_tokens=False)["input_ids"],
                *([tokenizer.eos_token_id] if ended else []),
            )
            or (tokenizer.eos_token_id,)
            for text, ended in texts
        ]
        replies[-1] = replies[-1][:longest]
        examples.append(Example(tuple(encode_prompt(tokenizer, pair.prompt)), tuple(replies)))
    return examples


def _before_a_reply(tokenizer: Any, pair: Pair) -> str:
    """What the chat template writes between the prompt's end and the reply's text: nothing, or a space."""
    messages = [message.model_dump() for message in pair.prompt]
    opened = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": _WORD}], tokenize=False)
    # Some templates rewrite the assistant's turn, as to leave out its thoughts: a reply is then taken as it is.
    return str(whole[len(opened) :].partition(_WORD)[0]) if whole.startswith(opened) else ""


@torch.no_grad()
def likelihoods(
    model: Any, examples: Sequence[Example], prompt_ids: Sequence[str], step: int, max_tokens: int, title: str
) -> list[Row]:
    """Log-probability of each text under one policy.

    Args:
        examples: of :func:`fixed_texts`; prompt_ids: of their prompts. step: of the policy, written into the rows.
        max_tokens: positions computed at a time.
    Returns: rows of step, prompt_id, kind, logp (nats, the sum over the reply's tokens) and tokens.
    """
    shared = share_prompts(model)
    rows: list[Row] = []
    passes = split_passes([example.cost for example in examples], max_tokens)
    for part in tqdm(passes, desc=title, unit="batch"):
        batch = collate([examples[place] for place in part], shared).to(model.device)
        for place, logps in zip(part, reply_logps(model, batch).float().tolist(), strict=True):
            for kind, logp, reply in zip(KINDS, logps, examples[place].replies, strict=True):
                known = {"step": step, "prompt_id": prompt_ids[place], "kind": kind}
                rows.append(known | {"logp": round(logp, 4), "tokens": len(reply)})
    return sorted(rows, key=lambda row: (prompt_ids.index(row["prompt_id"]), KINDS.index(row["kind"])))
