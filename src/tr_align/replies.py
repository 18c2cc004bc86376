"""Replies of one policy to the evaluation prompts, each with its KL to the SFT model; resumes batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from tr_align import models
from tr_align.data.schema import Message, Pair
from tr_align.generation import encode_prompt, pad, sample, stop_tokens
from tr_align.metrics.kl import reply_kl
from tr_align.runtime import device, has_bf16
from tr_align.scratch import append_rows, read_rows, write_rows
from tr_align.settings import Generate


def generate_replies(
    points: Sequence[tuple[int, Path]],
    sft: Path,
    pairs: Sequence[Pair],
    settings: Generate,
    seed: int,
    done: Path,
    title: str,
) -> list[dict[str, Any]]:
    """Sample a reply to every evaluation prompt from the policy at each point of its training.

    Args:
        points: (optimizer step, folder of the policy), the last being the trained model, which answers every
            prompt; the others answer the first `settings.curve_prompts`.
        sft: folder of the SFT model. pairs: the evaluation split, one pair a prompt.
        done: JSON Lines file of finished batches, in the scratch folder of these settings and inputs.
    Returns:
        rows with step, prompt_id, prompt, reply, tokens, finished (ended by itself), kl and log_ratio (nats,
        sums over the reply's tokens).
    """
    tokenizer = models.load_tokenizer(str(sft))
    rows = read_rows(done)
    write_rows(done, rows)  # without a torn last line, so that appending is safe
    finished = {(row["step"], row["prompt_id"]) for row in rows}
    batches = [
        (step, folder, batch) for step, folder in points for batch in _batches(pairs, step, points[-1][0], settings)
    ]
    todo = [
        (step, folder, batch)
        for step, folder, batch in batches
        if any((step, pair.prompt_id) not in finished for pair in batch)
    ]
    where = device()
    dtype = torch.bfloat16 if has_bf16() else torch.float32
    sft_model = models.load_model(str(sft), dtype).to(where).eval()
    loaded: Path | None = None
    policy: Any = None
    total = sum(len(batch) for _, _, batch in batches)
    with tqdm(total=total, initial=len(rows), desc=title, unit="reply") as bar:
        for step, folder, batch in todo:
            if folder != loaded:
                policy = models.load_model(str(folder), dtype).to(where).eval()
                loaded = folder
            new = _answer(policy, sft_model, tokenizer, batch, step, settings, seed)
            append_rows(done, new)
            rows.extend(new)
            bar.update(len(new))
    order = {pair.prompt_id: position for position, pair in enumerate(pairs)}
    unique = {(row["step"], row["prompt_id"]): row for row in rows}
    return sorted(unique.values(), key=lambda row: (row["step"], order[row["prompt_id"]]))


def _batches(pairs: Sequence[Pair], step: int, last: int, settings: Generate) -> list[list[Pair]]:
    """Batches of prompts of similar length, the same ones after a restart."""
    chosen = pairs if step == last else pairs[: settings.curve_prompts]
    ordered = sorted(chosen, key=lambda pair: sum(len(message.content) for message in pair.prompt))
    return [ordered[start : start + settings.batch_size] for start in range(0, len(ordered), settings.batch_size)]


def _answer(
    policy: Any, sft: Any, tokenizer: Any, batch: Sequence[Pair], step: int, settings: Generate, seed: int
) -> list[dict[str, Any]]:
    prompts: list[list[Message]] = [pair.prompt for pair in batch]
    replies = sample(policy, tokenizer, prompts, settings, seed)
    tensors = pad([encode_prompt(tokenizer, prompt) for prompt in prompts], replies, tokenizer.pad_token_id)
    kl, ratio = reply_kl(policy, sft, *(tensor.to(policy.device) for tensor in tensors))
    stops = set(stop_tokens(policy, tokenizer))
    return [
        {
            "step": step,
            "prompt_id": pair.prompt_id,
            "prompt": [message.model_dump() for message in pair.prompt],
            "reply": tokenizer.decode(reply, skip_special_tokens=True).strip(),
            "tokens": len(reply),
            "finished": reply[-1] in stops,
            "kl": float(kl[i]),
            "log_ratio": float(ratio[i]),
        }
        for i, (pair, reply) in enumerate(zip(batch, replies, strict=True))
    ]
