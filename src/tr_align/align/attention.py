"""Attention for rows of [prompt | reply | reply]: every reply sees its prompt and itself, never another reply."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "tr_align_shared_prompt"


def shared_prompt_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    segments: list[tuple[int, tuple[int, ...]]] | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Exact attention within each example of one packed row, example by example, with torch's fused kernels.

    Prompt and first reply are one causal square; each further reply attends to [prompt | itself]. No mask over the
    whole row is ever built. Without `segments` it is transformers' own SDPA.

    Args: query of shape (1, heads, T, D), key and value with as many or (grouped) fewer heads;
        `segments` as in :class:`tr_align.align.batches.Batch`.
    Returns: shape (1, T, heads, D), and no attention weights.
    """
    if segments is None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
    options: dict[str, Any] = {"scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    # One split, whose gradient is one concatenation; a slice's gradient would be a row of zeros each time.
    sizes = [size for prompt, (first, *rest) in segments for size in (prompt + first, *rest)]
    pieces = iter(zip(*(torch.split(tensor, sizes, dim=2) for tensor in (query, key, value)), strict=True))
    outputs = []
    for prompt, (_, *rest) in segments:
        q, k, v = next(pieces)
        outputs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, **options))
        for length in rest:
            q, own_k, own_v = next(pieces)
            if not length:  # a reply of one token feeds none
                continue
            outputs.append(
                F.scaled_dot_product_attention(
                    q,
                    torch.cat([k[:, :, :prompt], own_k], dim=2),
                    torch.cat([v[:, :, :prompt], own_v], dim=2),
                    attn_mask=_after_prompt(prompt, length, q),
                    **options,
                )
            )
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _after_prompt(prompt: int, length: int, like: Tensor) -> Tensor:
    """Additive mask, shape (length, prompt + length): all of the prompt and the reply up to oneself."""
    mask = torch.full((length, prompt + length), float("-inf"), dtype=like.dtype, device=like.device)
    return mask.triu_(prompt + 1)


AttentionInterface.register(NAME, shared_prompt_attention)
# Without segments (generation, another's evaluation loop) masks are built as for SDPA.
AttentionMaskInterface.register(NAME, sdpa_mask)


def can_share_prompts(model: Any) -> bool:
    """Whether a model's attention can be replaced: it has one attention interface and sees its whole context.

    Sliding windows, linear attention and capped scores look at positions in ways `segments` does not describe;
    such models are computed with padded rows instead.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and bool(getattr(model, "_supports_sdpa", False))
        and kinds == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or not getattr(config, "use_sliding_window", True))
        and getattr(config, "attn_logit_softcapping", None) is None
    )
