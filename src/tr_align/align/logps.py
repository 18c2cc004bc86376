"""Log-probabilities of replies, computing only what a loss needs.

The output layer sees the positions that predict a reply's token and no others. TRL 1.16 applies it, on a CPU,
to prompts and padding too, forward twice, and multiplies its gradients in float32.
"""

from __future__ import annotations

import types
from typing import Any

import torch
from torch import Tensor
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from tr_align.align import attention
from tr_align.align.batches import Batch, Example, collate

CHUNK = 256
"""Positions whose probabilities are in float32 at a time: 256 x 49,152 are 50 MB."""

VOCABULARY_CHUNK = 32768
"""Columns a tile on a GPU, TRL's own value."""


class _TokenLogps(torch.autograd.Function):
    """The forward pass keeps the logits in the dtype they were computed in, and the backward pass turns them into
    their gradients in place: three matrix products, each rounded once, as autocast does with a plain output layer.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        logps = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        normalizers = torch.empty_like(logps)
        keep = any(ctx.needs_input_grad)
        logits = hidden @ weight.T if keep else hidden.new_empty(0)
        for start in range(0, len(labels), CHUNK):
            rows = slice(start, start + CHUNK)
            chunk = (logits[rows] if keep else hidden[rows] @ weight.T).float()
            normalizers[rows] = chunk.logsumexp(1)
            logps[rows] = chunk.gather(1, labels[rows, None]).squeeze(1) - normalizers[rows]
        if keep:
            ctx.save_for_backward(hidden, weight, labels, normalizers)
            ctx.logits = logits
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        (grad,) = grads
        hidden, weight, labels, normalizers = ctx.saved_tensors
        logits, ctx.logits = ctx.logits, None  # overwritten: a second backward pass finds none
        for start in range(0, len(labels), CHUNK):
            rows = slice(start, start + CHUNK)
            # d logp(y) / d logits = onehot(y) - softmax(logits)
            chunk = logits[rows].float().sub_(normalizers[rows, None]).exp_().neg_()
            chunk.scatter_add_(1, labels[rows, None], torch.ones_like(chunk[:, :1]))
            logits[rows] = chunk.mul_(grad[rows, None])
        return (
            logits @ weight if ctx.needs_input_grad[0] else None,
            logits.T @ hidden if ctx.needs_input_grad[1] else None,
            None,
        )


def token_logps(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """`log softmax(hidden @ weight.T)[labels]`, differentiable in `hidden` and `weight`.

    On a GPU this is TRL's fused kernel, which never holds the logits; it needs nothing better.

    Args:
        hidden: last hidden states, shape (N, H). weight: the output layer, shape (V, H).
        labels: token ids, shape (N,).
    Returns: log-probabilities in nats, float32, shape (N,).
    """
    logps: Tensor
    if hidden.device.type == "cuda":
        logps = ChunkedLogProbFunction.apply(hidden, weight, None, labels, 1.0, VOCABULARY_CHUNK, None, 1.0, ())[0]
        return logps
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(dtype), weight.to(dtype)
    logps = _TokenLogps.apply(hidden, weight, labels)  # type: ignore[no-untyped-call]
    return logps


def plain_head(model: Any) -> bool:
    """Whether the model's logits are just `hidden @ weight.T`, which :func:`token_logps` relies on."""
    config = model.config.get_text_config()
    scaled = any(getattr(config, name, None) for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"))
    head = model.get_output_embeddings()
    return (
        head is not None
        and getattr(head, "bias", None) is None
        and not scaled
        and "lm_head_multiplier" not in vars(config)
    )


def _head_logps(head: Any, states: Tensor, labels: Tensor) -> Tensor:
    """:func:`token_logps` as a call of the output layer: under ZeRO-3 its weight is there only for its own calls."""
    plain = head.forward
    head.forward = lambda states: token_logps(states, head.weight, labels)
    try:
        logps: Tensor = head(states)
    finally:
        head.forward = plain
    return logps


def reply_logps(model: Any, batch: Batch) -> Tensor:
    """Sum of the log-probabilities of each reply's tokens, one pass of the model.

    Args: a causal language model; where `batch` shares prompts, one that :func:`score_replies_with` prepared.
    Returns: `batch.shape`, that is (examples, replies an example), in nats, float32.
    """
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids,
        "position_ids": batch.position_ids,
        "attention_mask": batch.attention_mask,
        "use_cache": False,
    }
    if batch.segments is not None:
        # Any mask of four dimensions is handed through as it is; the attention goes by the segments.
        inputs |= {"attention_mask": batch.input_ids.new_zeros(1, 1, 1, 1), "segments": batch.segments}
    if plain_head(model):
        states = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[batch.predictors]
        logps = _head_logps(model.get_output_embeddings(), states, batch.labels)
    else:
        # Logits that are scaled or capped after the head (Gemma 2, Granite, Cohere): only the whole model knows how.
        logits = type(model).forward(model, **inputs).logits.flatten(0, 1)[batch.predictors]
        logps = logits.float().log_softmax(-1).gather(1, batch.labels[:, None]).squeeze(1)
    sums = logps.new_zeros(batch.shape[0] * batch.shape[1]).index_add(0, batch.owners, logps)
    return sums.view(batch.shape)


def score_replies_with(model: Any) -> bool:
    """Teach a model `model(batch=...)`, which returns :func:`reply_logps`; other calls stay as they are.

    The call goes through the model's own `forward`, so that whatever wraps it (DDP, FSDP2, ZeRO-3, autocast) does
    its work: bare access to parts of a wrapped model would find empty weights.

    Returns: whether it shares prompts (see :func:`share_prompts`).
    """
    plain = model.forward

    def forward(self: Any, *args: Any, batch: Batch | None = None, **kwargs: Any) -> Any:
        return plain(*args, **kwargs) if batch is None else reply_logps(self, batch)

    model.forward = types.MethodType(forward, model)
    return share_prompts(model)


@torch.no_grad()
def share_prompts(model: Any) -> bool:
    """Give a model the attention that lets replies share their prompt, if it can have it.

    It is tried on a few tokens: a model whose numbers then differ stays as it is.
    Returns: whether batches may be laid out with `shared=True`.
    """
    if not attention.can_share_prompts(model):
        return False
    before = model.config._attn_implementation
    ids = [i % model.config.get_text_config().vocab_size for i in range(3, 15)]
    probe = Example(tuple(ids[:5]), (tuple(ids[5:8]), tuple(ids[8:])))
    apart = reply_logps(model, collate([probe, probe], shared=False).to(model.device))
    model.set_attn_implementation(attention.NAME)
    together = reply_logps(model, collate([probe, probe], shared=True).to(model.device))
    if torch.allclose(apart, together, rtol=1e-4 if model.dtype == torch.float32 else 1e-2):
        return True
    model.set_attn_implementation(before)
    return False
