"""Log-probabilities of replies against the plain computation: full logits of each reply alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AttentionInterface,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from tr_align import models
from tr_align.align import attention, logps
from tr_align.align.batches import Example, collate
from tr_align.align.logps import plain_head, reply_logps, score_replies_with, share_prompts, token_logps

# Replies of one token, a prompt of one token, lengths that differ: ids below 90, for every vocabulary here.
EXAMPLES = [
    Example((5, 17, 3, 80), ((40, 41, 9), (7,))),
    Example((61,), ((2, 33), (50, 51, 52, 53, 54))),
    Example((8, 8, 70), ((12,), (13,))),
]
SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
GROUPED: dict[str, Any] = SMALL | {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}


def build(kind: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return kind(config).eval()


def expected(model: Any) -> torch.Tensor:
    """Each reply alone behind its prompt, all of it fed, from the model's own logits in float64."""
    rows = []
    for example in EXAMPLES:
        for reply in example.replies:
            ids = torch.tensor([[*example.prompt, *reply]])
            table = type(model).forward(model, input_ids=ids).logits[0].double().log_softmax(-1)
            start = len(example.prompt)
            rows.append(sum(table[start + t - 1, token] for t, token in enumerate(reply)))
    return torch.stack(rows).view(len(EXAMPLES), -1)


def gradients(model: Any, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of a sum with another factor for each reply, so that no two can be confused."""
    model.zero_grad()
    (values * torch.linspace(-1, 2, values.numel()).view(values.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def same_gradients(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()), msg=name)


# The output layer


def test_token_logps_by_hand() -> None:
    # Logits (0, log 3): probabilities 1/4 and 3/4.
    hidden = torch.tensor([[1.0], [1.0]])
    weight = torch.tensor([[0.0], [torch.tensor(3.0).log()]])
    values = token_logps(hidden, weight, torch.tensor([0, 1]))
    assert values.exp().tolist() == pytest.approx([0.25, 0.75])


def head(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, weight, labels (one of them twice) and a factor for each row."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.tensor([0, 10, 3, 3, 7, 1, 5]), torch.randn(7, generator=generator)


def plain_logps(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A linear layer and a float32 log-softmax, as `model(...).logits` would have it, autocast included."""
    logits = torch.nn.functional.linear(hidden, weight)
    logits = logits.float() if logits.dtype == torch.bfloat16 else logits
    return logits.log_softmax(1).gather(1, labels[:, None]).squeeze(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [3, 256])  # of 7 rows: two whole chunks and a part, or one
def test_values_and_gradients_equal_autograd(chunk: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logps, "CHUNK", chunk)
    hidden, weight, labels, factors = head(dtype)
    plain = plain_logps(hidden, weight, labels)
    wanted = torch.autograd.grad((plain * factors).sum(), [hidden, weight])
    ours = token_logps(hidden, weight, labels)
    got = torch.autograd.grad((ours * factors).sum(), [hidden, weight])

    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, plain.float(), rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # the path that keeps nothing
        assert torch.equal(token_logps(hidden, weight, labels), ours)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    hidden, weight, labels, factors = head(torch.float32)
    wanted = torch.autograd.grad((plain_logps(hidden, weight, labels) * factors).sum(), [hidden, weight])
    for index, tensors in enumerate([(hidden, weight.detach()), (hidden.detach(), weight)]):
        (got,) = torch.autograd.grad((token_logps(*tensors, labels) * factors).sum(), [tensors[index]])
        torch.testing.assert_close(got, wanted[index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [3, 256])
def test_under_autocast_it_rounds_as_a_plain_layer_does(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 has 8 bits: the two may differ by a rounding here and there (2^-8), not by a rule."""
    monkeypatch.setattr(logps, "CHUNK", chunk)
    hidden, weight, labels, factors = head(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        plain = plain_logps(hidden, weight, labels)
        ours = token_logps(hidden, weight, labels)
    wanted = torch.autograd.grad((plain * factors).sum(), [hidden, weight])
    got = torch.autograd.grad((ours * factors).sum(), [hidden, weight])

    exact = plain_logps(hidden, weight, labels)
    assert (plain - exact).abs().max() > 1e-3  # autocast does round
    assert ours.dtype == plain.dtype == torch.float32
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5)
    for mine, theirs in zip(got, wanted, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=2**-8, atol=2**-8 * float(theirs.abs().max()))


class OnGpu(torch.Tensor):
    """A tensor in memory that says it were on a GPU."""

    @property
    def device(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(type="cuda")


@pytest.mark.parametrize("columns", [4, logps.VOCABULARY_CHUNK])  # of 11: three tiles, or one
def test_the_kernel_of_a_gpu_is_called_for_the_same_numbers(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's kernel computes on a CPU too; so the call is tested with what it is really given."""
    calls = []

    def apply(hidden: torch.Tensor, *others: Any) -> Any:
        calls.append(others)
        return ChunkedLogProbFunction.apply(hidden.as_subclass(torch.Tensor), *others)

    monkeypatch.setattr(logps, "ChunkedLogProbFunction", SimpleNamespace(apply=apply))
    monkeypatch.setattr(logps, "VOCABULARY_CHUNK", columns)
    hidden, weight, labels, factors = head(torch.float32)
    ours = token_logps(hidden, weight, labels)
    assert not calls
    theirs = token_logps(hidden.as_subclass(OnGpu), weight, labels)
    assert len(calls) == 1

    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-6)
    got = torch.autograd.grad((theirs * factors).sum(), [hidden, weight])
    wanted = torch.autograd.grad((ours * factors).sum(), [hidden, weight])
    for mine, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(mine, other.as_subclass(torch.Tensor), rtol=1e-5, atol=1e-6)


def test_a_second_backward_pass_fails_rather_than_being_wrong() -> None:
    """The first one overwrites the logits with their gradients."""
    hidden, weight, labels, factors = head(torch.float32)
    loss = (token_logps(hidden, weight, labels) * factors).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()


# Replies


def llama() -> Any:
    """Grouped heads, tied embeddings."""
    return models.load_model(models.RANDOM)


def untied() -> Any:
    return build(LlamaForCausalLM, LlamaConfig(**GROUPED, tie_word_embeddings=False))


def pythia() -> Any:
    return build(GPTNeoXForCausalLM, GPTNeoXConfig(**SMALL))


def qwen() -> Any:
    """Biases in the attention."""
    return build(Qwen2ForCausalLM, Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}))


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("make", [llama, untied, pythia, qwen])
def test_values_and_gradients_equal_each_reply_alone(make: Callable[[], Any], shared: bool) -> None:
    model = make()
    assert plain_head(model)
    wanted = expected(model)
    plain = gradients(model, wanted)

    if shared:
        assert share_prompts(model)
    got = reply_logps(model, collate(EXAMPLES, shared))

    assert got.shape == (3, 2) and got.dtype == torch.float32
    torch.testing.assert_close(got, wanted.float(), rtol=1e-5, atol=1e-5)
    same_gradients(gradients(model, got), plain)


def test_examples_of_a_pass_do_not_see_each_other() -> None:
    model = llama()
    assert share_prompts(model)
    together = reply_logps(model, collate(EXAMPLES, shared=True))
    alone = torch.cat([reply_logps(model, collate([example], shared=True)) for example in EXAMPLES])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_activation_checkpointing_gives_the_same_gradients(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return attention.shared_prompt_attention(*args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.NAME, counted)
    model = llama().train()
    assert share_prompts(model)
    batch = collate(EXAMPLES, shared)
    calls.clear()
    wanted = gradients(model, reply_logps(model, batch))
    assert len(calls) == 2  # layers
    model.activation_checkpointing_enable({"use_reentrant": False})
    calls.clear()
    got = gradients(model, reply_logps(model, batch))
    assert len(calls) == 4  # it did compute them again
    same_gradients(got, wanted)


def test_a_taught_model_scores_batches_and_does_everything_else_as_before() -> None:
    model = llama().eval()
    ids = torch.tensor([[5, 6, 7, 8], [9, 9, 9, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    logits = model(input_ids=ids, attention_mask=mask).logits
    generated = model.generate(ids[:1], max_new_tokens=5, do_sample=False)
    wanted = expected(model)

    assert score_replies_with(model)
    assert model.config._attn_implementation == attention.NAME

    torch.testing.assert_close(model(batch=collate(EXAMPLES, True)), wanted.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(batch=collate(EXAMPLES, False)), wanted.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[mask.bool()], logits[mask.bool()])
    assert torch.equal(model.generate(ids[:1], max_new_tokens=5, do_sample=False), generated)


# Models that cannot have everything


def mistral(window: int | None) -> Any:
    return build(MistralForCausalLM, MistralConfig(**GROUPED, sliding_window=window))


def test_a_sliding_window_is_computed_with_padded_rows() -> None:
    """A window of 3 is shorter than the examples, so what is looked at differs from full attention."""
    model = mistral(3)
    assert not attention.can_share_prompts(model)
    before = model.config._attn_implementation
    assert not score_replies_with(model)
    assert model.config._attn_implementation == before

    got = reply_logps(model, collate(EXAMPLES, shared=False))
    torch.testing.assert_close(got, expected(model).float(), rtol=1e-5, atol=1e-5)
    full = mistral(None)
    assert attention.can_share_prompts(full)
    assert not torch.allclose(got, expected(full).float(), rtol=1e-3)


def test_models_that_cannot_share_prompts_are_known_by_their_configuration() -> None:
    assert attention.can_share_prompts(llama())
    qwen_config = {key: value for key, value in GROUPED.items() if key != "head_dim"}
    sliding = Qwen2Config(**qwen_config, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert not attention.can_share_prompts(build(Qwen2ForCausalLM, sliding))
    assert not attention.can_share_prompts(build(Gemma2ForCausalLM, Gemma2Config(**GROUPED)))

    hybrid = llama()
    hybrid.config.layer_types = ["linear_attention", "full_attention"]
    assert not attention.can_share_prompts(hybrid) and not share_prompts(hybrid)
    capped = llama()
    capped.config.attn_logit_softcapping = 50.0
    assert not attention.can_share_prompts(capped)
    for name in ("_supports_attention_backend", "_supports_sdpa"):
        other = llama()
        setattr(other, name, False)
        assert not attention.can_share_prompts(other)


def cross_talk(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
) -> Any:
    """Plain causal attention over the row: a reply sees the replies and examples before it."""
    return attention.shared_prompt_attention(module, query, key, value, None, [(key.shape[2], (0,))], kwargs["scaling"])


def nothing(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    return torch.full_like(query.transpose(1, 2), float("nan")), None


@pytest.mark.parametrize("wrong", [cross_talk, nothing])
def test_a_model_whose_numbers_differ_stays_as_it_is(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    before = model.config._attn_implementation
    with monkeypatch.context() as patch:
        patch.setitem(AttentionInterface._global_mapping, attention.NAME, wrong)
        assert not share_prompts(model)
        assert model.config._attn_implementation == before != attention.NAME
    torch.testing.assert_close(reply_logps(model, collate(EXAMPLES, False)), expected(model).float(), rtol=1e-5, atol=0)
    assert share_prompts(model)


def granite() -> Any:
    return build(GraniteForCausalLM, GraniteConfig(**GROUPED, logits_scaling=3.0))


def cohere() -> Any:
    config = {key: value for key, value in GROUPED.items() if key != "head_dim"}
    return build(CohereForCausalLM, CohereConfig(**config, logit_scale=0.25))


def gemma() -> Any:
    return build(Gemma2ForCausalLM, Gemma2Config(**GROUPED, final_logit_softcapping=2.0))


@pytest.mark.parametrize(("make", "shares"), [(granite, True), (cohere, True), (gemma, False)])
def test_logits_changed_after_the_head_are_taken_from_the_model(
    make: Callable[[], Any], shares: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make()
    assert not plain_head(model)
    wanted = expected(model)
    plain = gradients(model, wanted)
    monkeypatch.setattr(logps, "token_logps", None)
    assert score_replies_with(model) == shares
    for shared in [False, True][: 1 + shares]:
        got = model(batch=collate(EXAMPLES, shared))
        torch.testing.assert_close(got, wanted.float(), rtol=1e-5, atol=1e-5)
        same_gradients(gradients(model, got), plain)


def test_a_head_with_a_bias_is_not_plain_and_both_ways_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    assert plain_head(model)
    plain = reply_logps(model, collate(EXAMPLES, False))
    bias = torch.nn.Parameter(torch.zeros(model.config.vocab_size))
    model.get_output_embeddings().bias = bias
    assert not plain_head(model)
    monkeypatch.setattr(logps, "token_logps", None)
    torch.testing.assert_close(reply_logps(model, collate(EXAMPLES, False)), plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        bias[40] = 5.0  # a token of the first reply
    assert reply_logps(model, collate(EXAMPLES, False))[0, 0] > plain[0, 0] + 1
