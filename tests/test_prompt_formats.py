"""Prompt formats to the token: what training, sampling and the token limits make of a chat is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tr_align import models
from tr_align.align.tokens import encode_pairs
from tr_align.data.lengths import Lengths
from tr_align.data.schema import Demonstration, Message, Pair
from tr_align.errors import UserError
from tr_align.generation import encode_prompt

TEXT = (
    "\n\nHuman: Yes, is it hot?\n\nAssistant: No, it is not hot. TL;DR: it is cold. Gladly: yes, no.\n\n"
    "Human: Why? It was so :) last year!\n\nAssistant: No idea."
)


def bpe(bos: bool) -> Any:
    """A byte-level BPE as GPT-NeoX has it, with a few merges; Llama's begin every text with BOS."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|begin|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TEXT] * 9, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|endoftext|>", bos_token="<|begin|>" if bos else "<|endoftext|>"
    )
    if bos:
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", made.bos_token_id)]
        )
    return made


@cache
def packaged() -> Any:
    return models.load_tokenizer(models.PACKAGED)


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "packaged": lambda: copy.deepcopy(packaged()),
    "bytes": lambda: models.load_tokenizer(models.RANDOM),
    "neox": lambda: bpe(bos=False),
    "bos": lambda: bpe(bos=True),
}


def load(tokenizer: Any, folder: Path, chat_template: str | None) -> Any:
    """Through a folder, as SFT saves it."""
    tokenizer.save_pretrained(folder)
    return models.load_tokenizer(str(folder), chat_template=chat_template)


def user(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(texts)]  # type: ignore[arg-type]


PAIRS = [
    Pair(prompt=user("Why?"), chosen="No idea.", rejected="It was hot"),
    Pair(prompt=user("Is it hot?", "No.", "Why? "), chosen=":) yes", rejected="- no\n- yes"),
    Pair(prompt=[Message(role="system", content=""), *user("so:")], chosen="1", rejected="\n\nGladly"),
    Pair(prompt=[Message(role="system", content="Be kind."), *user("POST: hot\n\nTL;DR:")], chosen="it", rejected="¿"),
]


@pytest.mark.parametrize("template", ["transcript", "plain"])
@pytest.mark.parametrize("name", list(TOKENIZERS))
def test_all_paths_agree_and_replies_begin_where_prompts_end(tmp_path: Path, name: str, template: str) -> None:
    tokenizer = load(TOKENIZERS[name](), tmp_path, template)
    models.check_prompt_format(tokenizer)
    examples, _ = encode_pairs(tokenizer, PAIRS, 10_000, 0.0)
    lengths = Lengths(tokenizer)
    lengths.add([("here", pair) for pair in PAIRS])
    for pair, example in zip(PAIRS, examples, strict=True):
        prompt = encode_prompt(tokenizer, pair.prompt)
        assert list(example.prompt) == prompt
        assert lengths.prompt(pair) == len(prompt)
        begins = name == "bos"
        assert (prompt[0] == tokenizer.bos_token_id) == begins and tokenizer.bos_token_id not in prompt[1:2]
        for reply, text in zip(example.replies, (pair.chosen, pair.rejected), strict=True):
            assert reply[-1] == tokenizer.eos_token_id and reply.count(tokenizer.eos_token_id) == 1
            assert tokenizer.decode(list(reply[:-1])) == f" {text.strip()}"
        row = Demonstration(prompt=pair.prompt, completion=[Message(role="assistant", content=pair.chosen)])
        lengths.add_demonstrations([("here", row)])
        assert lengths.completion(row) == len(example.replies[0])


def rendered(template: str, messages: list[Message], opening: bool) -> str:
    tokenizer = models.load_tokenizer(models.RANDOM, chat_template=template)
    chat = [message.model_dump() for message in messages]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=opening))


def test_a_transcript_is_hhs() -> None:
    whole = [Message(role="system", content=""), *user("Is it hot? ", " No.", "Why?", "So.")]
    text = "\n\nHuman: Is it hot?\n\nAssistant: No.<|im_end|>\n\nHuman: Why?\n\nAssistant:"
    assert rendered("transcript", whole[:-1], True) == text
    assert rendered("transcript", whole, False) == text + " So.<|im_end|>"
    assert rendered("transcript", [Message(role="system", content="Be kind."), *user("a")], True) == (
        "Be kind.\n\nHuman: a\n\nAssistant:"
    )


def test_plain_is_the_prompt_and_the_reply() -> None:
    assert rendered("plain", user("POST: x\n\nTL;DR:"), True) == "POST: x\n\nTL;DR:"
    assert rendered("plain", user("POST: x\n\nTL;DR:", "y"), False) == "POST: x\n\nTL;DR: y<|im_end|>"
    assert rendered("plain", [Message(role="system", content=""), *user("a")], True) == "a"
    assert rendered("plain", [Message(role="system", content="Be kind."), *user("a", "b", "c")], True) == (
        "Be kind.\n\na b<|im_end|>\n\nc"
    )


def test_a_space_that_ends_the_prompt_would_be_another_token() -> None:
    """Why the space belongs to the reply: GPT-NeoX's way of cutting text joins it to the word that follows."""
    tokenizer = bpe(bos=False)
    whole = tokenizer("\n\nAssistant: No idea.")["input_ids"]
    colon, space = (tokenizer(f"\n\nAssistant:{end}")["input_ids"] for end in ("", " "))
    assert whole[: len(colon)] == colon and whole[: len(space)] != space


def test_the_template_is_saved_with_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = load(bpe(bos=True), tmp_path / "base", "transcript")
    tokenizer.save_pretrained(tmp_path / "sft")
    again = models.load_tokenizer(str(tmp_path / "sft"))
    assert again.chat_template == tokenizer.chat_template
    assert encode_prompt(again, user("Why?")) == encode_prompt(tokenizer, user("Why?"))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}", encoding="utf-8")
    tokenizer = models.load_tokenizer(models.RANDOM, chat_template=str(tmp_path / "mine.jinja"))
    assert tokenizer.decode(encode_prompt(tokenizer, user("a", "b"))) == "[a][b]"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("chatml", "'chatml' is unknown; it is null .*, transcript, plain, or a .jinja file"),
        ("nowhere.jinja", r"nowhere\.jinja cannot be read as a text file"),
    ],
)
def test_an_unknown_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.chat_template: {message}"):
        models.load_tokenizer(models.RANDOM, chat_template=template)


def test_a_tokenizer_without_template_says_how_to_give_it_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no chat template; model\.chat_template gives it one \(transcript"):
        load(bpe(bos=False), tmp_path, None)


LLAMA = (
    "{% for m in messages %}{% set text = '<|start|>' + m.role + '\n\n' + m.content | trim + '<|endoftext|>' %}"
    "{% if loop.first %}{% set text = bos_token + text %}{% endif %}{{ text }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)


def test_llama_3_begins_once(tmp_path: Path) -> None:
    """Its template writes BOS, and its tokenizer puts one before every text: no path may do both."""
    tokenizer = bpe(bos=True)
    tokenizer.chat_template = LLAMA
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    tokenizer = load(tokenizer, tmp_path, None)
    models.check_prompt_format(tokenizer)
    examples, _ = encode_pairs(tokenizer, PAIRS[:2], 10_000, 0.0)
    lengths = Lengths(tokenizer)
    lengths.add([("here", pair) for pair in PAIRS[:2]])
    for pair, example in zip(PAIRS[:2], examples, strict=True):
        prompt = encode_prompt(tokenizer, pair.prompt)
        assert prompt == list(example.prompt) and lengths.prompt(pair) == len(prompt)
        assert prompt.count(tokenizer.bos_token_id) == 1 and prompt[0] == tokenizer.bos_token_id
        assert all(tokenizer.bos_token_id not in reply for reply in example.replies)


def check(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    models.check_prompt_format(tokenizer)


def test_formats_that_would_do_harm_are_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.chat_template: prompts begin with two '<\|begin\|>'; take one"):
        check(bpe(bos=True), "{{ bos_token }}" + LLAMA)
    spaced = "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' else ': ' }}{% endfor %}"
    with pytest.raises(UserError, match=r"^model\.chat_template: a reply does not begin where its prompt ends: .*' '"):
        check(bpe(bos=False), spaced)
    other = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    with pytest.raises(UserError, match=r"a reply does not begin where its prompt ends: .*'bot>'"):
        check(models.load_tokenizer(models.RANDOM), other)
    with pytest.raises(UserError, match="a reply does not begin where its prompt ends"):
        check(bpe(bos=False), "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match=r"^model\.chat_template: the template cannot be rendered"):
        check(bpe(bos=False), "{% for m in messages %}")


@pytest.mark.parametrize("name", ["packaged", "bytes"])
def test_the_models_that_come_along_pass(name: str) -> None:
    models.check_prompt_format(TOKENIZERS[name]())
