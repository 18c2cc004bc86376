"""Attention over shared prompts against a softmax with the whole mask written out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from tr_align.align.attention import shared_prompt_attention

Segments = list[tuple[int, tuple[int, ...]]]

SEGMENTS: list[Segments] = [
    [(3, (2, 4))],
    [(3, (2, 4, 1)), (1, (1, 3, 2))],  # three replies, a prompt of one token
    [(2, (0, 3)), (4, (2, 0)), (3, (0, 0)), (1, (0, 0))],  # replies of one token feed none
    [(2, (3,)), (5, (0,)), (1, (1,))],  # single replies
    [(2, (0, 0, 4)), (3, (1, 0, 2))],
]


def allowed(segments: Segments) -> torch.Tensor:
    """Who may look at whom, shape (T, T): the same example, not later, and in the prompt or in one's own reply."""
    places = []  # (example, part) of each position; part 0 is the prompt
    for number, (prompt, replies) in enumerate(segments):
        places += [(number, 0)] * prompt
        for part, length in enumerate(replies, 1):
            places += [(number, part)] * length
    return torch.tensor(
        [
            [j <= i and there[0] == here[0] and there[1] in (0, here[1]) for j, there in enumerate(places)]
            for i, here in enumerate(places)
        ]
    )


def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, segments: Segments, scaling: float) -> torch.Tensor:
    """The plain formula, key and value heads repeated for their groups."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)) * scaling
    weights = scores.masked_fill(~allowed(segments), float("-inf")).softmax(-1)
    return (weights @ v).transpose(1, 2)


def draw(length: int, heads: int, groups: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length + heads)
    return [
        torch.randn(1, n, length, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for n in (heads, groups, groups)
    ]


def test_the_mask_of_this_test_by_hand() -> None:
    """One token of prompt, replies of 1 and 2, then another prompt: rows are who looks."""
    assert allowed([(1, (1, 2)), (1, (0,))]).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("segments", SEGMENTS)
def test_values_and_gradients_equal_a_dense_mask(segments: Segments, groups: int) -> None:
    length = sum(prompt + sum(replies) for prompt, replies in segments)
    tensors = draw(length, 4, groups)
    factors = torch.randn(1, length, 4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    module: Any = SimpleNamespace()

    output, weights = shared_prompt_attention(module, *tensors, None, segments=segments, scaling=0.3)
    expected = dense(*tensors, segments, 0.3)

    assert weights is None
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-12)
    got = torch.autograd.grad((output * factors).sum(), tensors)
    wanted = torch.autograd.grad((expected * factors).sum(), tensors)
    for mine, plain in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_lower_precisions_stay_near(dtype: torch.dtype, tolerance: float) -> None:
    segments = SEGMENTS[1]
    tensors = draw(17, 4, 2, dtype)
    output, _ = shared_prompt_attention(SimpleNamespace(), *tensors, None, segments=segments)  # type: ignore[arg-type]
    assert output.dtype == dtype
    expected = dense(*(x.double() for x in tensors), segments, 8**-0.5)  # without a scale: 1 / sqrt(head size)
    torch.testing.assert_close(output.double(), expected, rtol=tolerance, atol=tolerance)


def test_a_mask_it_is_handed_is_not_looked_at() -> None:
    """The model's own mask for a row of several examples would be wrong; the segments decide."""
    tensors = draw(6, 2, 2)
    module: Any = SimpleNamespace()
    without, _ = shared_prompt_attention(module, *tensors, None, segments=[(2, (2, 2))])
    given, _ = shared_prompt_attention(module, *tensors, torch.zeros(1, 1, 1, 1), segments=[(2, (2, 2))])
    assert torch.equal(without, given)


@pytest.mark.parametrize("masked", [False, True])
def test_without_segments_it_is_the_sdpa_of_transformers(masked: bool) -> None:
    tensors = draw(7, 4, 2, torch.float32)
    module: Any = SimpleNamespace(is_causal=True, num_key_value_groups=2, training=False)
    mask = torch.rand(1, 1, 7, 7, generator=torch.Generator().manual_seed(3)).log() if masked else None
    output, _ = shared_prompt_attention(module, *tensors, mask, scaling=0.2)
    expected, _ = sdpa_attention_forward(module, *tensors, mask, scaling=0.2)
    assert torch.equal(output, expected)
    if not masked:  # and that is causal
        torch.testing.assert_close(output, dense(*tensors, [(7, (0,))], 0.2), rtol=1e-4, atol=1e-5)
