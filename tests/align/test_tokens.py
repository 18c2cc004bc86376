"""Pairs as token ids, against what TRL's own trainers make of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tr_align import models
from tr_align.align.batches import Example
from tr_align.align.tokens import encode_pairs
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError

NEVER = 10_000
"""A length that nothing reaches."""


def conversation(*turns: str, system: str | None = None) -> list[Message]:
    messages = [Message(role="system", content=system)] if system else []
    roles = ("user", "assistant")
    return messages + [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]


PAIRS = [
    Pair(prompt=conversation("Say yes"), chosen="yes, gladly", rejected="no"),
    Pair(
        prompt=conversation("Who are you?", "A model.", "Whose?", system="Answer in one word."),
        chosen="Nobody's",
        rejected="I would rather not say, for it is a long story.",
    ),
    Pair(prompt=conversation("Grüße, 你好 👋🏽\n\n  "), chosen="Здравствуйте — e\u0301té 🌍", rejected="\u2028?"),
    # Whitespace that may merge with the newline at the end of the template's opening: on one side only, and on both.
    Pair(prompt=conversation("A poem"), chosen="\n\nRoses", rejected="Violets"),
    Pair(prompt=conversation("A list"), chosen="\n- one\n- two  ", rejected="\n\n"),
    Pair(prompt=conversation("A gap"), chosen="  two spaces", rejected="\ta tab"),
    Pair(prompt=conversation("Twice"), chosen="same start, one end", rejected="same start, another"),
]


@cache
def read_once() -> Any:
    """Reading a GGUF file takes seconds."""
    return models.load_tokenizer(models.PACKAGED)


def packaged() -> Any:
    """SmolLM2: the template puts a newline after the end of a turn."""
    return copy.deepcopy(read_once())


def bytewise() -> Any:
    return models.load_tokenizer(models.RANDOM)


def with_bos() -> Any:
    """As Llama does it: the template begins with BOS, and so would the tokenizer itself with any text."""
    tokenizer = bytewise()
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def thinking() -> Any:
    """The opening of the assistant's turn has an empty thought that a finished turn has not."""
    tokenizer = bytewise()
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_start|>a\n", "<|im_start|>a\n<think></think>")
    assert "<think>" in tokenizer.chat_template
    return tokenizer


TOKENIZERS = [packaged, bytewise, with_bos, thinking]


def stock(kind: str, tokenizer: Any, pairs: list[Pair], max_length: int, folder: Path) -> Any:
    """TRL's trainer, whose constructor prepares the data; it is never run."""
    rows = [
        {
            "prompt": [message.model_dump() for message in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_length": max_length,
        "per_device_train_batch_size": 2,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
    }
    config, trainer = {"dpo": (DPOConfig, DPOTrainer), "kto": (KTOConfig, KTOTrainer)}[kind]
    return trainer(
        model=models.load_model(models.RANDOM),
        ref_model=models.load_model(models.RANDOM),
        args=config(**options),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def encode(
    tokenizer: Any, pairs: list[Pair], max_length: int = NEVER, max_dropped: float = 0.0, **options: Any
) -> list[Example]:
    return encode_pairs(tokenizer, pairs, max_length, max_dropped, **options)[0]


@pytest.mark.parametrize("make", TOKENIZERS)
def test_pairs_are_those_of_the_dpo_trainer(make: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = make()
    theirs = stock("dpo", tokenizer, PAIRS, NEVER, tmp_path).train_dataset
    examples, ids = encode_pairs(tokenizer, PAIRS, NEVER, 0.0)

    assert ids == [pair.prompt_id for pair in PAIRS]
    assert [list(example.prompt) for example in examples] == list(theirs["prompt_ids"])
    assert [list(example.replies[0]) for example in examples] == list(theirs["chosen_ids"])
    assert [list(example.replies[1]) for example in examples] == list(theirs["rejected_ids"])


@pytest.mark.parametrize("make", TOKENIZERS)
def test_single_replies_are_those_of_the_kto_trainer(make: Callable[[], Any], tmp_path: Path) -> None:
    """Where a pair's replies share less with the opening than each alone does, KTO's prompt is longer than DPO's."""
    tokenizer = make()
    theirs = stock("kto", tokenizer, PAIRS, NEVER, tmp_path).train_dataset
    for side, label in (("chosen", True), ("rejected", False)):
        rows = [row for row in theirs if row["label"] == label]
        examples = encode(tokenizer, PAIRS, sides=(side,))
        assert [list(example.prompt) for example in examples] == [row["prompt_ids"] for row in rows]
        assert [[list(reply) for reply in example.replies] for example in examples] == [
            [row["completion_ids"]] for row in rows
        ]


def test_the_opening_and_a_reply_may_merge() -> None:
    """The newline of SmolLM2's `<|im_start|>assistant\\n` and those of the reply are one token: it is the reply's.

    A pair has one prompt, so what one of its replies takes is missing for the other too.
    """
    tokenizer = packaged()
    newline = tokenizer.encode("\n")
    assert len(newline) == 1
    pairs, chosen, rejected = (
        encode(tokenizer, PAIRS[3:4], sides=sides) for sides in (("chosen", "rejected"), ("chosen",), ("rejected",))
    )
    assert rejected[0].prompt[-1:] == tuple(newline)
    assert chosen[0].prompt == pairs[0].prompt == rejected[0].prompt[:-1]
    assert pairs[0].replies[1] == (*newline, *rejected[0].replies[0])
    assert tokenizer.decode(pairs[0].replies[0]) == "\n\n\nRoses<|im_end|>\n"


@pytest.mark.parametrize("make", TOKENIZERS)
def test_prompt_and_reply_together_are_the_whole_conversation(make: Callable[[], Any]) -> None:
    """Nothing is lost or doubled between them, and the end is scored: EOS, and what the template puts after it."""
    tokenizer = make()
    after = tokenizer.encode("\n") if make is packaged else []
    for pair, example in zip(PAIRS, encode(tokenizer, PAIRS), strict=True):
        for text, reply in zip((pair.chosen, pair.rejected), example.replies, strict=True):
            messages = [*(message.model_dump() for message in pair.prompt), {"role": "assistant", "content": text}]
            rendered = tokenizer.apply_chat_template(messages, tokenize=False)
            assert tokenizer.decode([*example.prompt, *reply]) == rendered
            assert list(reply[len(reply) - 1 - len(after) :]) == [tokenizer.eos_token_id, *after]
            assert reply.count(tokenizer.eos_token_id) == 1


def test_there_is_one_bos() -> None:
    tokenizer = with_bos()
    for example in encode(tokenizer, PAIRS):
        assert example.prompt[0] == tokenizer.bos_token_id
        for reply in example.replies:
            assert [*example.prompt, *reply].count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("make", "max_length", "left"),
    # Prompts of 12 to 64 bytes; of SmolLM2's 31 to 47 tokens. A prompt of just `max_length` leaves nothing.
    [(bytewise, 13, 2), (bytewise, 20, 5), (bytewise, 64, 6), (packaged, 32, 3), (packaged, 33, 5), (packaged, 44, 6)],
)
def test_truncation_is_that_of_trl(make: Callable[[], Any], max_length: int, left: int, tmp_path: Path) -> None:
    """`keep_start`: TRL leaves out pairs whose prompt fills everything, and its collator cuts the others at the end."""
    tokenizer = make()
    trainer = stock("dpo", tokenizer, PAIRS, max_length, tmp_path)
    rows = list(trainer.train_dataset)
    batch = trainer.data_collator(rows)
    kept = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["input_ids"], batch["completion_mask"] * batch["attention_mask"], strict=True)
    ]

    examples = encode(tokenizer, PAIRS, max_length, max_dropped=1.0)
    assert len(rows) == left
    assert max(len(example.prompt) + len(reply) for example in examples for reply in example.replies) == max_length
    assert [list(example.prompt) for example in examples] == [row["prompt_ids"] for row in rows]
    assert [list(example.replies[0]) for example in examples] == kept[: len(rows)]
    assert [list(example.replies[1]) for example in examples] == kept[len(rows) :]


def test_truncation_by_hand() -> None:
    """Bytes: `<|im_start|>u\\nab<|im_end|><|im_start|>a\\n` are 9 tokens, then the reply and `<|im_end|>`."""
    tokenizer = bytewise()
    pair = Pair(prompt=conversation("ab"), chosen="wxyz", rejected="v")
    whole = encode(tokenizer, [pair])[0]
    assert [len(whole.prompt), *map(len, whole.replies)] == [9, 5, 2]
    for length, sizes in [(14, [5, 2]), (13, [4, 2]), (11, [2, 2]), (10, [1, 1])]:
        (cut,) = encode(tokenizer, [pair], length)
        assert cut.prompt == whole.prompt
        assert list(map(len, cut.replies)) == sizes
        assert all(reply == full[: len(reply)] for reply, full in zip(cut.replies, whole.replies, strict=True))


def long_and_short(long: int, short: int) -> list[Pair]:
    prompts = [f"{i:02}" + "-" * 40 for i in range(long)] + [f"{i:02}" for i in range(short)]
    return [Pair(prompt=conversation(prompt), chosen="yes", rejected="n") for prompt in prompts]


def test_what_is_cut_to_nothing_is_left_out_counted_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    pairs = long_and_short(7, 13)
    examples, ids = encode_pairs(bytewise(), pairs[::-1], 20, max_dropped=0.35)
    assert len(examples) == 13
    assert ids == [pair.prompt_id for pair in pairs[7:][::-1]]
    told = capsys.readouterr().err
    assert "7 of 20 rows have nothing left to score and are left out" in told
    named = [pair.prompt_id for pair in pairs[:7][::-1]]
    assert ", ".join(named[:5]) + " and 2 more" in told
    assert named[5] not in told
    assert "7 of 20 rows are cut at 20 tokens" in told


def test_rows_that_are_only_cut_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """9 tokens of prompt; chosen 4, which is cut, and rejected 2, which is not."""
    encode(bytewise(), long_and_short(0, 3), 12)
    told = capsys.readouterr().err
    assert told == "3 of 3 rows are cut at 12 tokens\n"
    encode(bytewise(), long_and_short(0, 3), 13)
    assert capsys.readouterr().err == ""


def test_more_than_the_share_allowed_is_refused() -> None:
    pairs = long_and_short(7, 13)
    with pytest.raises(UserError) as refused:
        encode(bytewise(), pairs, 20, max_dropped=0.349)
    message = str(refused.value)
    assert "7 of 20 rows" in message and "20 tokens" in message
    assert all(pair.prompt_id in message for pair in pairs[:5]) and "and 2 more" in message
    for setting in ("data.max_prompt_tokens", "data.max_reply_tokens", "data.max_dropped"):
        assert setting in message


def test_a_template_that_writes_no_prompt_leaves_nothing_to_predict_from() -> None:
    """The first token of a reply needs a position before it."""
    tokenizer = bytewise()
    tokenizer.chat_template = (
        "{% if messages[-1]['role'] == 'assistant' %}{{ messages[-1]['content'] }}<|im_end|>{% else %}?{% endif %}"
    )
    with pytest.raises(UserError, match="1 of 1 rows"):
        encode(tokenizer, PAIRS[:1], max_dropped=0.0)


def test_a_pair_with_one_empty_reply_is_left_out_whole() -> None:
    """A template that ends no turn: an empty reply then has not even EOS, and a loss needs both sides."""
    tokenizer = bytewise()
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}"
    )
    pairs = [
        Pair(prompt=conversation("both"), chosen="yes", rejected="no"),
        Pair(prompt=conversation("one"), chosen="yes", rejected=""),
    ]
    examples, ids = encode_pairs(tokenizer, pairs, NEVER, max_dropped=0.5)
    assert len(examples) == 1 and ids == [pairs[0].prompt_id]
    assert len(encode(tokenizer, pairs, sides=("chosen",))) == 2


def test_batches_of_the_tokenizer_do_not_mix_pairs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode_pairs(bytewise(), PAIRS, NEVER, 0.0)
    monkeypatch.setattr("tr_align.align.tokens._BATCH", 3)
    assert encode_pairs(bytewise(), PAIRS, NEVER, 0.0) == whole
    monkeypatch.setattr("tr_align.align.tokens._BATCH", 1)
    assert encode_pairs(bytewise(), PAIRS, NEVER, 0.0) == whole
    assert encode_pairs(bytewise(), [], NEVER, 0.0) == ([], [])
