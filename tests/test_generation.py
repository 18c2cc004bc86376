"""A reply depends on the seed and its prompt alone, and its tokens come with their probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tr_align import models
from tr_align.data.schema import Message, prompt_id
from tr_align.generation import _InverseCdf, encode_prompt, pad, sample, stop_tokens, uniforms
from tr_align.settings import Generate

PROMPTS = [
    [Message(role="user", content=text)]
    for text in ("Hi", "Why is the sea salty, and since when?", "Tea or coffee?", "A longer story, please. " * 4)
]


def settings(**changes: Any) -> Generate:
    plain = {"curve_prompts": 1, "max_new_tokens": 16, "temperature": 1.0, "top_p": 1.0, "batch_size": 4}
    return Generate.model_validate(plain | changes)


@pytest.fixture
def model() -> Any:
    return models.load_model(models.RANDOM).eval()


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.load_tokenizer(models.RANDOM)


def drawn(probabilities: list[float] | Tensor, points: list[float]) -> list[int]:
    """The token that each number in [0, 1) draws from one distribution."""
    scores = torch.as_tensor(probabilities).log().expand(len(points), -1)
    left = _InverseCdf(torch.tensor(points)[:, None], prompt_length=3)(torch.zeros(len(points), 3), scores)
    assert torch.isfinite(left).sum(1).tolist() == [1] * len(points)
    return left.argmax(1).tolist()


BELOW_ONE = 1 - 2**-24
"""The largest float32 below 1, and the largest number `uniforms` can give."""


def test_the_token_whose_interval_holds_the_number() -> None:
    """Chances 1/8, 1/2, 1/4, 1/8 share [0, 1) into [0, .125), [.125, .625), [.625, .875), [.875, 1)."""
    points = [0.0, 0.124, 0.126, 0.5, 0.624, 0.626, 0.874, 0.876, BELOW_ONE]
    assert drawn([1 / 8, 1 / 2, 1 / 4, 1 / 8], points) == [0, 0, 1, 1, 1, 2, 2, 3, 3]


def test_a_token_without_probability_is_never_drawn() -> None:
    assert drawn([0.0, 0.5, 0.5, 0.0], [0.0, 0.25, 0.75, BELOW_ONE]) == [1, 1, 2, 2]


def test_ends_of_large_distributions_whose_float_sum_is_not_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        inner = torch.rand(5000, generator=generator)
        first, last = drawn(torch.cat([torch.zeros(3), inner / inner.sum(), torch.zeros(3)]), [0.0, BELOW_ONE])
        assert first >= 3
        assert last < 5003


def test_frequencies_are_the_probabilities() -> None:
    """A count of 4000 draws with chance p has a standard deviation of sqrt(4000 p (1 - p))."""
    logits = torch.randn(8, generator=torch.Generator().manual_seed(3))
    chances = logits.softmax(0)
    points = np.random.default_rng(5).random(4000, dtype=np.float32).tolist()
    counts = np.bincount(drawn(chances, points), minlength=8)
    for count, p in zip(counts, chances.tolist(), strict=True):
        assert abs(count - 4000 * p) < 3 * np.sqrt(4000 * p * (1 - p))


def test_each_position_has_its_own_number() -> None:
    """Two rows, two positions, two tokens with chance 1/2 each."""
    draw = _InverseCdf(torch.tensor([[0.1, 0.9], [0.6, 0.2]]), prompt_length=5)
    scores = torch.zeros(2, 2)
    assert draw(torch.zeros(2, 5), scores).argmax(1).tolist() == [0, 1]
    assert draw(torch.zeros(2, 6), scores).argmax(1).tolist() == [1, 0]


def test_the_numbers_come_from_seed_and_prompt() -> None:
    rows = uniforms(PROMPTS[:2], seed=4, length=6)
    for row, prompt in zip(rows, PROMPTS, strict=False):
        expected = np.random.default_rng([4, int(prompt_id(prompt), 16)]).random(6, dtype=np.float32)
        assert row.tolist() == expected.tolist()
    assert ((rows >= 0) & (rows < 1)).all()
    torch.testing.assert_close(uniforms(PROMPTS[1:2], 4, 6)[0], rows[1])
    # A longer reply begins with the same numbers.
    torch.testing.assert_close(uniforms(PROMPTS[:2], 4, 9)[:, :6], rows)
    assert not torch.equal(rows, uniforms(PROMPTS[:2], 5, 6))
    assert not torch.equal(rows[0], rows[1])


def test_a_reply_is_the_same_alone_and_among_others(model: Any, tokenizer: Any) -> None:
    together = sample(model, tokenizer, PROMPTS, settings(), seed=0)
    assert [sample(model, tokenizer, [prompt], settings(), seed=0)[0] for prompt in PROMPTS] == together
    assert sample(model, tokenizer, PROMPTS[::-1], settings(), seed=0) == together[::-1]
    assert len({tuple(reply) for reply in together}) == 4


def test_another_seed_gives_another_reply(model: Any, tokenizer: Any) -> None:
    first, again, other = (sample(model, tokenizer, PROMPTS, settings(), seed) for seed in (0, 0, 1))
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_a_reply_is_drawn_token_by_token_from_the_model(model: Any, tokenizer: Any) -> None:
    """The same reply by hand: whole forward passes, float64 sums, the numbers of this prompt."""
    [reply] = sample(model, tokenizer, PROMPTS[:1], settings(), seed=2)
    ids = encode_prompt(tokenizer, PROMPTS[0])
    for token, number in zip(reply, uniforms(PROMPTS[:1], 2, 16)[0].tolist(), strict=False):
        with torch.no_grad():
            chances = model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        assert token == int((chances.cumsum(-1) <= number).sum())
        ids.append(token)


def test_the_models_own_generation_settings_change_nothing_but_the_stop(model: Any, tokenizer: Any) -> None:
    """Some hub models come with a repetition penalty or the like: the policy would not be the one whose KL is taken."""
    plain = sample(model, tokenizer, PROMPTS, settings(), seed=0)
    for name, value in {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "temperature": 0.1, "top_k": 1}.items():
        setattr(model.generation_config, name, value)
    assert sample(model, tokenizer, PROMPTS, settings(), seed=0) == plain
    assert model.generation_config.repetition_penalty == 5.0  # still the model's, to be saved with it


def test_a_stop_token_ends_the_reply(model: Any, tokenizer: Any) -> None:
    """The tokens that came third are made stop tokens: each reply now ends where it first meets one of them."""
    free = sample(model, tokenizer, PROMPTS, settings(), seed=0)
    extra = sorted({reply[2] for reply in free})
    model.generation_config.eos_token_id = extra
    stops = stop_tokens(model.generation_config, tokenizer)
    assert stops == sorted({tokenizer.eos_token_id, *extra})
    expected = [reply[: next(i for i, token in enumerate(reply) if token in stops) + 1] for reply in free]
    assert sample(model, tokenizer, PROMPTS, settings(), seed=0) == expected
    assert max(len(reply) for reply in expected) <= 3


def test_the_tokenizers_stop_token_is_one_whatever_the_model_says(model: Any, tokenizer: Any) -> None:
    for configured in (None, tokenizer.eos_token_id, [tokenizer.eos_token_id]):
        model.generation_config.eos_token_id = configured
        assert stop_tokens(model.generation_config, tokenizer) == [tokenizer.eos_token_id]


def test_a_cold_or_narrow_distribution_is_greedy(model: Any, tokenizer: Any) -> None:
    """Near temperature 0, or with the top token alone, every seed gives the most probable reply."""
    ids = encode_prompt(tokenizer, PROMPTS[0])
    greedy: list[int] = []
    for _ in range(6):
        with torch.no_grad():
            greedy.append(int(model(input_ids=torch.tensor([ids + greedy])).logits[0, -1].argmax()))
    for narrow in ({"temperature": 1e-4}, {"top_p": 1e-6}):
        for seed in (0, 1):
            assert sample(model, tokenizer, PROMPTS[:1], settings(max_new_tokens=6, **narrow), seed) == [greedy]
    assert sample(model, tokenizer, PROMPTS[:1], settings(max_new_tokens=6), 0) != [greedy]


def test_the_temperature_comes_before_top_p(model: Any, tokenizer: Any) -> None:
    """The first token by hand: divide the logits by 2, keep the fewest tokens that reach 0.3, draw among them."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([encode_prompt(tokenizer, PROMPTS[0])])).logits[0, -1]
    chances = (logits / 2).softmax(-1)
    ranked = chances.argsort(descending=True)
    kept = ranked[: int((chances[ranked].cumsum(0) < 0.3).sum()) + 1]
    assert 1 < len(kept) < len(chances)
    narrowed = torch.zeros_like(chances).index_copy(0, kept, chances[kept])
    narrowed /= narrowed.sum()
    for seed in range(20):
        [[token]] = sample(model, tokenizer, PROMPTS[:1], settings(max_new_tokens=1, temperature=2, top_p=0.3), seed)
        number = uniforms(PROMPTS[:1], seed, 1).item()
        assert token in kept
        assert token == int((narrowed.cumsum(-1) <= number).sum())


def test_the_prompt_ends_where_the_reply_begins(tokenizer: Any) -> None:
    text = tokenizer.decode(encode_prompt(tokenizer, PROMPTS[0]))
    assert text == "<|im_start|>u\nHi<|im_end|><|im_start|>a\n"


def test_masks_go_by_position_not_by_token() -> None:
    """9 pads, stops, and stands within a prompt; only what fills up a row is masked."""
    ids, attention, completion = pad([[1, 9, 2], [3]], [[4, 9], [9]], pad_id=9)
    assert ids.tolist() == [[1, 9, 2, 4, 9], [3, 9, 9, 9, 9]]
    assert attention.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert completion.tolist() == [[0, 0, 0, 1, 1], [0, 1, 0, 0, 0]]
