"""Log-probabilities of fixed texts: against a plain forward pass of the random two-layer model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tr_align import models
from tr_align.align.batches import Example
from tr_align.data.schema import Message, Pair
from tr_align.generation import encode_prompt
from tr_align.metrics.ood import KINDS, fixed_texts, likelihoods


def pair(question: str, chosen: str, rejected: str) -> Pair:
    return Pair(prompt=[Message(role="user", content=question)], chosen=chosen, rejected=rejected)


PAIRS = [
    pair("Why is the sky blue?", "Because of scattering.", "No idea"),
    pair("Hi", "Hello, how can I help?", ""),
    pair("Name a prime number, please, one that is even", "2", "There are many primes and all of them are odd"),
]


def sampled(*finished: bool) -> dict[str, dict[str, Any]]:
    return {
        each.prompt_id: {"reply": f"sampled reply {place}", "finished": ended, "prompt_id": each.prompt_id}
        for place, (each, ended) in enumerate(zip(PAIRS, finished, strict=True))
    }


FOREIGN = ["A tide table, and gales.", "SELECT 1;", "one two three four five six seven eight", "never used"]
LONGEST = 400


def fixed(tokenizer: Any, pairs: list[Pair], *finished: bool) -> list[Example]:
    return fixed_texts(tokenizer, pairs, sampled(*finished), FOREIGN, LONGEST)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.load_tokenizer(models.RANDOM)


@pytest.fixture
def model() -> Any:
    return models.load_model(models.RANDOM).eval()


def tokens(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def plainly(model: Any, prompt: tuple[int, ...], reply: tuple[int, ...]) -> float:
    """One forward pass over prompt and reply; the position before a token predicts it."""
    logits = model(input_ids=torch.tensor([prompt + reply])).logits[0].float()
    predicted = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(predicted[torch.arange(len(reply)), torch.tensor(reply)].sum())


def test_the_kinds_in_order_and_the_end_of_each_reply(tokenizer: Any) -> None:
    """Chosen, rejected, mismatched and foreign ones end; of the samples those that ended by themselves."""
    end = (tokenizer.eos_token_id,)
    examples = fixed(tokenizer, PAIRS, True, False, True)
    assert KINDS == ("chosen", "rejected", "sft", "mismatched", "foreign")
    assert [example.prompt for example in examples] == [tuple(encode_prompt(tokenizer, p.prompt)) for p in PAIRS]
    for place, (example, each) in enumerate(zip(examples, PAIRS, strict=True)):
        following = PAIRS[(place + 1) % 3]  # the last prompt's is the first one's
        assert example.replies == (
            tokens(tokenizer, each.chosen) + end,
            tokens(tokenizer, each.rejected) + end,
            tokens(tokenizer, f"sampled reply {place}") + (() if place == 1 else end),
            tokens(tokenizer, following.chosen) + end,
            tokens(tokenizer, FOREIGN[place]) + end,
        )


def test_an_empty_reply_is_its_end(tokenizer: Any) -> None:
    """Also one that was cut off before its first token: there is nothing else to score."""
    found = sampled(True, False, True)
    found[PAIRS[1].prompt_id]["reply"] = ""
    examples = fixed_texts(tokenizer, PAIRS, found, FOREIGN, LONGEST)
    assert examples[1].replies[1:3] == ((tokenizer.eos_token_id,), (tokenizer.eos_token_id,))


def test_no_token_is_put_before_a_reply(tokenizer: Any) -> None:
    """Many tokenizers begin every text with a token of their own, if they are let."""

    class Greeting:
        eos_token_id = tokenizer.eos_token_id

        def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            return {"input_ids": [1, *ids] if add_special_tokens else ids}

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    found = sampled(True, False, True)
    greeted = fixed_texts(Greeting(), PAIRS, found, FOREIGN, LONGEST)
    assert greeted == fixed_texts(tokenizer, PAIRS, found, FOREIGN, LONGEST)


def test_a_foreign_text_is_no_longer_than_replies_of_the_data(tokenizer: Any) -> None:
    """Cut before its end, it has no end; the other kinds were measured against that limit before."""
    whole = fixed(tokenizer, PAIRS, True, True, True)
    cut = fixed_texts(tokenizer, PAIRS, sampled(True, True, True), FOREIGN, 3)
    for one, other in zip(cut, whole, strict=True):
        assert one.replies[:4] == other.replies[:4]
        assert len(other.replies[4]) > 3 and one.replies[4] == other.replies[4][:3]


@pytest.mark.parametrize(("template", "before"), [("transcript", " "), ("plain", " "), (None, "")])
def test_a_reply_begins_with_what_the_template_writes_before_it(template: str | None, before: str) -> None:
    """A space, which byte-level BPE joins to the first word: without it the first token is another one."""
    formatted = models.load_tokenizer(models.RANDOM, None, template)
    example = fixed(formatted, PAIRS, True, True, True)[0]
    assert example.replies[0][:-1] == tokens(formatted, f"{before}Because of scattering.")
    assert example.replies[2][:-1] == tokens(formatted, f"{before}sampled reply 0")
    assert example.replies[4][:-1] == tokens(formatted, f"{before}A tide table, and gales.")
    # As in training: the whole conversation through the template begins with these tokens.
    messages = [message.model_dump() for message in PAIRS[0].prompt]
    answered = [*messages, {"role": "assistant", "content": PAIRS[0].chosen}]
    whole = tokens(formatted, formatted.apply_chat_template(answered, tokenize=False))
    assert whole[: len(example.prompt + example.replies[0])] == example.prompt + example.replies[0]
    # What was cut off before its first token is its end, and nothing before it.
    found = sampled(True, True, True)
    found[PAIRS[0].prompt_id]["reply"] = ""
    empty = fixed_texts(formatted, PAIRS, found, FOREIGN, LONGEST)[0].replies[2]
    assert empty == (formatted.eos_token_id,)


def test_a_template_that_rewrites_what_it_opened(tokenizer: Any) -> None:
    """As those of reasoning models, which open a thought and leave it out of a finished turn."""

    class Thinking:
        def apply_chat_template(self, messages: Any, tokenize: bool, add_generation_prompt: bool = False) -> Any:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
            return f"{text}<think>" if add_generation_prompt else text

        def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
            return tokenizer(text, add_special_tokens=add_special_tokens)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    replies = [example.replies for example in fixed(Thinking(), PAIRS, True, True, True)]
    assert replies == [example.replies for example in fixed(tokenizer, PAIRS, True, True, True)]


def test_fewer_foreign_texts_than_prompts(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=r"^there are 2 foreign texts for 3 prompts$"):
        fixed_texts(tokenizer, PAIRS, sampled(True, True, True), FOREIGN[:2], LONGEST)


def test_two_prompts_mismatch_each_other_and_one_cannot(tokenizer: Any) -> None:
    examples = fixed(tokenizer, PAIRS[:2], True, True, True)
    assert [example.replies[3] for example in examples] == [examples[1].replies[0], examples[0].replies[0]]
    for few in (PAIRS[:1], []):
        with pytest.raises(ValueError, match=r"^two prompts at least are needed"):
            fixed(tokenizer, few, True, True, True)


def test_a_prompt_without_a_sample(tokenizer: Any) -> None:
    found = sampled(True, True, True)
    del found[PAIRS[2].prompt_id]
    with pytest.raises(KeyError, match=PAIRS[2].prompt_id):
        fixed_texts(tokenizer, PAIRS, found, FOREIGN, LONGEST)


@pytest.mark.parametrize("max_tokens", [1, 150, 10_000], ids=["one at a time", "some", "all at once"])
def test_log_probabilities_are_those_of_a_plain_forward_pass(tokenizer: Any, model: Any, max_tokens: int) -> None:
    examples = fixed(tokenizer, PAIRS, True, False, True)
    expected = [plainly(model, example.prompt, reply) for example in examples for reply in example.replies]
    assert all(value < -1 for value in expected)
    ids = ["z", "a", "m"]  # rows come in the order of the examples, not of the names
    rows = likelihoods(model, examples, ids, 7, max_tokens, "a test")
    assert [(row["step"], row["prompt_id"], row["kind"]) for row in rows] == [
        (7, name, kind) for name in ids for kind in KINDS
    ]
    assert [row["tokens"] for row in rows] == [len(reply) for example in examples for reply in example.replies]
    # Rows are rounded to four decimals.
    assert [row["logp"] for row in rows] == pytest.approx(expected, rel=1e-5, abs=6e-5)
    assert all(set(row) == {"step", "prompt_id", "kind", "logp", "tokens"} for row in rows)
    assert all(round(row["logp"], 4) == row["logp"] for row in rows)


def test_nothing_is_trained(model: Any) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    followed: list[bool] = []  # gradients would take as much memory as in a training
    model.base_model.layers[0].register_forward_pre_hook(lambda *_: followed.append(torch.is_grad_enabled()))
    likelihoods(model, [Example((5, 6), ((7,), (8, 9), (10,), (11,), (12,)))], ["p"], 0, 100, "a test")
    assert followed and not any(followed)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_another_policy_has_other_log_probabilities(tokenizer: Any, model: Any) -> None:
    examples = fixed(tokenizer, PAIRS, True, True, True)
    before = likelihoods(model, examples, ["a", "b", "c"], 0, 500, "before")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    after = likelihoods(model, examples, ["a", "b", "c"], 1, 500, "after")
    assert all(a["logp"] != b["logp"] for a, b in zip(before, after, strict=True))
    assert after[6]["logp"] == pytest.approx(plainly(model, examples[1].prompt, examples[1].replies[1]), rel=1e-5)
