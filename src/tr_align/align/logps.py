"""Log-probabilities of reply tokens without ever holding the logits of a batch.

With 49,152 tokens in the vocabulary the output layer is a fifth of SmolLM2's arithmetic, and TRL 1.16
applies it, on a CPU, to prompts and padding too and multiplies its gradients in float32. Here it sees the
positions that count, in chunks, in the dtype of autocast, with float32 sums.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions scored at a time: 256 x 49,152 float32 logits are 50 MB."""

GROUP = 4
"""Sequences that go through the body at a time: fewer waste less on padding, more keep the matrices large."""


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        logps = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(labels), CHUNK):
            rows = slice(start, start + CHUNK)
            logits = (hidden[rows] @ weight.T).float()
            logps[rows] = logits.gather(1, labels[rows, None]).squeeze(1) - logits.logsumexp(1)
        ctx.save_for_backward(hidden, weight, labels)
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:  # type: ignore[override]
        (grad,) = grads
        hidden, weight, labels = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        for start in range(0, len(labels), CHUNK):
            rows = slice(start, start + CHUNK)
            # d logp(y) / d logits = onehot(y) - softmax(logits)
            grad_logits = (hidden[rows] @ weight.T).float().softmax(1).neg_()
            grad_logits.scatter_add_(1, labels[rows, None], torch.ones_like(grad_logits[:, :1]))
            grad_logits = grad_logits.mul_(grad[rows, None]).to(weight.dtype)
            grad_hidden[rows] = grad_logits @ weight
            if ctx.needs_input_grad[1]:
                grad_weight += grad_logits.T @ hidden[rows]
        return grad_hidden, grad_weight.to(weight.dtype) if ctx.needs_input_grad[1] else None, None


def token_logps(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`log softmax(hidden @ weight.T)[labels]`, differentiable in `hidden` and `weight`.

    Args:
        hidden: last hidden states, shape (N, H). weight: the output layer, shape (V, H).
        labels: token ids, shape (N,).
    Returns: log-probabilities in nats, float32, shape (N,).
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    logps: Tensor = _TokenLogps.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]
    return logps


def completion_logps(model: Any, input_ids: Tensor, attention_mask: Tensor, completion_mask: Tensor) -> Tensor:
    """Sum of the log-probabilities of each sequence's completion tokens.

    Sequences of similar length go through the body together, so that little of the work is padding. With padding
    on the right a causal model needs no mask: no reply token looks at what comes after it.

    Args:
        model: a causal language model without an output bias or logit scaling (see :func:`plain_head`).
        input_ids, attention_mask, completion_mask: shape (B, L), padded on the right; `completion_mask` is 1 on
            the tokens of the reply.
    Returns: shape (B,), in nats, float32.
    """
    lengths = attention_mask.sum(1)
    states, labels, owners = [], [], []
    for rows in torch.split(lengths.argsort(), GROUP):
        width = int(lengths[rows].max())
        hidden = model.base_model(input_ids=input_ids[rows, :width], use_cache=False).last_hidden_state
        # The state at position t predicts token t + 1.
        mask = completion_mask[rows, 1:width].bool()
        states.append(hidden[:, :-1][mask])
        labels.append(input_ids[rows, 1:width][mask])
        owners.append(rows[:, None].expand(mask.shape)[mask])
    logps = token_logps(torch.cat(states), model.get_output_embeddings().weight, torch.cat(labels))
    return logps.new_zeros(len(input_ids)).index_add(0, torch.cat(owners), logps)


def plain_head(model: Any) -> bool:
    """Whether the model's logits are just `hidden @ weight.T`, which :func:`completion_logps` relies on."""
    config = model.config.get_text_config()
    scaled = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    head = model.get_output_embeddings()
    return (
        head is not None
        and getattr(head, "bias", None) is None
        and not scaled
        and "lm_head_multiplier" not in vars(config)
    )
