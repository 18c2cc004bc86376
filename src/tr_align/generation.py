"""Sample replies to prompts, reproducibly: a reply depends on the seed and the prompt, not on its batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from tr_align.data.schema import Message, prompt_id
from tr_align.settings import Generate


class _InverseCdf(LogitsProcessor):
    """Draw each row's token from its own stream of uniform numbers.

    It leaves one finite score a row, so that greedy decoding picks the drawn token. One uniform a token is all
    it needs: `torch.multinomial` fills the vocabulary with random numbers, a quarter of the time on a CPU.
    """

    def __init__(self, uniforms: Tensor, prompt_length: int) -> None:
        self.uniforms = uniforms
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        position = input_ids.shape[1] - self.prompt_length
        cumulative = scores.float().softmax(-1).cumsum(-1)
        # Scaled by the last sum, which float rounding leaves a little off 1.
        targets = self.uniforms[:, position, None] * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, targets, right=True).clamp_(max=scores.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)


def uniforms(prompts: Sequence[list[Message]], seed: int, length: int) -> Tensor:
    """The numbers in [0, 1) that decide each prompt's reply, shape (len(prompts), length), float32."""
    rows = [np.random.default_rng([seed, int(prompt_id(p), 16)]).random(length, dtype=np.float32) for p in prompts]
    return torch.from_numpy(np.stack(rows))


def encode_prompt(tokenizer: Any, prompt: list[Message]) -> list[int]:
    """Token ids of a conversation through the chat template, up to where the reply begins."""
    text = tokenizer.apply_chat_template(
        [message.model_dump() for message in prompt], tokenize=False, add_generation_prompt=True
    )
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def stop_tokens(generation: GenerationConfig, tokenizer: Any) -> list[int]:
    """The tokens that end a reply: the tokenizer's and those of the model's generation settings."""
    configured = generation.eos_token_id
    extra = configured if isinstance(configured, list) else [configured]
    return sorted({tokenizer.eos_token_id, *(token for token in extra if token is not None)})


@torch.no_grad()
def sample(
    model: Any, tokenizer: Any, prompts: Sequence[list[Message]], settings: Generate, seed: int
) -> list[list[int]]:
    """One reply to each prompt, as token ids; the stop token is included where the reply ended by itself.

    The prompts form one batch: the caller cuts them into batches of `settings.batch_size`.
    """
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    width = max(map(len, encoded))
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    processors: list[Any] = [_InverseCdf(uniforms(prompts, seed, settings.max_new_tokens).to(model.device), width)]
    if settings.top_p < 1:
        processors.insert(0, TopPLogitsWarper(settings.top_p))
    if settings.temperature != 1:
        processors.insert(0, TemperatureLogitsWarper(settings.temperature))
    stops = stop_tokens(model.generation_config, tokenizer)
    shipped, model.generation_config = model.generation_config, GenerationConfig()
    try:
        # A model's own generation settings (Qwen's repetition_penalty, say) would make it another policy than
        # the one that was trained and whose KL is measured.
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=False,
            max_new_tokens=settings.max_new_tokens,
            logits_processor=LogitsProcessorList(processors),
            eos_token_id=stops,
            pad_token_id=tokenizer.pad_token_id,
        )
    finally:
        model.generation_config = shipped
    return [_until_stop(row, stops) for row in output[:, width:].tolist()]


def _until_stop(tokens: list[int], stops: list[int]) -> list[int]:
    for position, token in enumerate(tokens):
        if token in stops:
            return tokens[: position + 1]
    return tokens


def pad(prompts: Sequence[list[int]], replies: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Join prompts and replies to one right-padded batch.

    Returns: token ids, attention mask and completion mask (1 on reply tokens), shape (B, L) each. Masks go by
    position: the padding token may be the stop token.
    """
    width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
    ids, attention, completion = [], [], []
    for prompt, reply in zip(prompts, replies, strict=True):
        rest = width - len(prompt) - len(reply)
        ids.append(prompt + reply + [pad_id] * rest)
        attention.append([1] * (len(prompt) + len(reply)) + [0] * rest)
        completion.append([0] * len(prompt) + [1] * len(reply) + [0] * rest)
    return torch.tensor(ids), torch.tensor(attention), torch.tensor(completion)
