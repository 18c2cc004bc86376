"""How probable fixed texts stay while a policy is aligned: those it is trained towards and away from, and others.

The paper argues that offline alignment moves probability to replies that are in no data (out of distribution), and
that a moving reference counters it (arXiv 2404.09656). Here the log-probability of four kinds of reply to held-out
prompts is followed: "chosen" and "rejected" ones, "sft" (sampled from the SFT model) and "mismatched" (the chosen reply
to another prompt: fluent text that does not belong here). What all of them lose goes to replies that are none of them.
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

KINDS = ("chosen", "rejected", "sft", "mismatched")
Row = dict[str, Any]


def fixed_texts(tokenizer: Any, pairs: Sequence[Pair], sampled: Mapping[str, Row]) -> list[Example]:
    """Each pair's prompt with the four replies, in the order of KINDS.

    A reply ends with the tokenizer's end-of-sequence token, but for samples of the SFT model that were cut off.

    Args: `sampled` by prompt id: rows of `generate_replies` of the SFT model.
    Raises:
        KeyError: a prompt without a sample.
        ValueError: fewer than two pairs, so that no reply is another prompt's.
    """
    if len(pairs) < 2:
        raise ValueError("two prompts at least are needed: a mismatched reply is another prompt's")
    examples = []
    for place, pair in enumerate(pairs):
        sample = sampled[pair.prompt_id]
        other = pairs[(place + 1) % len(pairs)]
        texts = [
            (pair.chosen, True),
            (pair.rejected, True),
            (sample["reply"], sample["finished"]),
            (other.chosen, True),
        ]
        replies = tuple(
            (*tokenizer(text, add_special_tokens=False)["input_ids"], *([tokenizer.eos_token_id] if ended else []))
            or (tokenizer.eos_token_id,)
            for text, ended in texts
        )
        examples.append(Example(tuple(encode_prompt(tokenizer, pair.prompt)), replies))
    return examples


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
