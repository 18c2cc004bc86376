"""KL of a policy from the SFT model on the policy's own replies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tr_align.align.logps import plain_head

CHUNK = 256
"""Positions compared at a time: two float32 blocks of 256 x vocabulary."""


def token_kl(policy_logits: Tensor, sft_logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Exact KL between two next-token distributions, and the plain log-ratio of the token that was drawn.

    Args:
        policy_logits, sft_logits: shape (N, V). tokens: drawn token ids, shape (N,).
    Returns:
        `sum_v p(v) (log p(v) - log q(v))` and `log p(token) - log q(token)`, in nats, float32, shape (N,) each.
    """
    policy, sft = policy_logits.float().log_softmax(-1), sft_logits.float().log_softmax(-1)
    difference = policy - sft
    return (policy.exp() * difference).sum(-1), difference.gather(-1, tokens[:, None]).squeeze(-1)


@torch.no_grad()
def reply_kl(
    policy: Any, sft: Any, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(policy || SFT) of whole replies, two ways.

    The first sums, over the reply's tokens, the exact KL between the two next-token distributions: with replies
    drawn from the policy at temperature 1 its mean estimates the sequence KL without bias and with less noise
    than the log-ratio (Rao-Blackwellisation). The second is that log-ratio, `log pi(y|x) - log pi_sft(y|x)`.

    Args: token ids and masks, shape (B, L), padded on the right; `completion_mask` is 1 on the reply's tokens.
    Returns: two tensors of shape (B,), in nats per reply (sequence sums, not means).
    """
    mask = completion_mask[:, 1:].bool()
    (policy_states, policy_head), (sft_states, sft_head) = (
        _states_and_head(model, input_ids, attention_mask, mask) for model in (policy, sft)
    )
    tokens = input_ids[:, 1:][mask]
    kl = torch.empty(len(tokens), device=input_ids.device)
    ratio = torch.empty_like(kl)
    for start in range(0, len(tokens), CHUNK):
        rows = slice(start, start + CHUNK)
        kl[rows], ratio[rows] = token_kl(policy_head(policy_states[rows]), sft_head(sft_states[rows]), tokens[rows])
    zeros = kl.new_zeros(mask.shape)
    return zeros.masked_scatter(mask, kl).sum(1), zeros.masked_scatter(mask, ratio).sum(1)


def _states_and_head(
    model: Any, input_ids: Tensor, attention_mask: Tensor, mask: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """What predicts the tokens of `mask`, shape (N, H), and what turns it into logits, block by block."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if plain_head(model):
        return model.base_model(**inputs).last_hidden_state[:, :-1][mask], model.get_output_embeddings()
    # Logits that are scaled or capped after the head (Gemma 2, Granite, Cohere): only the whole model knows how.
    return model(**inputs).logits[:, :-1][mask], lambda logits: logits
