"""Replies of one policy to the evaluation prompts, each with its KL to the SFT model; resumes batch by batch."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import GenerationConfig

from tr_align import models, vllm_engine
from tr_align.data.schema import Pair
from tr_align.generation import encode_prompt, pad, sample, stop_tokens
from tr_align.metrics.kl import reply_kl
from tr_align.processes import Process
from tr_align.runtime import device, has_bf16
from tr_align.scratch import append_rows, read_rows, write_rows
from tr_align.settings import Generate

Row = dict[str, Any]

POLL_SECONDS = 0.5
"""How often the first process looks whether the others are done."""


def generate_replies(
    points: Sequence[tuple[int, Path]],
    sft: Path,
    pairs: Sequence[Pair],
    settings: Generate,
    seed: int,
    scratch: Path,
    title: str,
    process: Process | None = None,
) -> list[Row] | None:
    """Sample a reply to every evaluation prompt from the policy at each point of its training.

    Several processes share the batches. Each writes what it has finished to a file of its own, and the first waits
    for the others: what started them has to end all of them when one fails, as torchrun and accelerate do.

    Args:
        points: (optimizer step, folder of the policy), the last being the trained model, which answers every
            prompt; the others answer the first `settings.curve_prompts`.
        sft: folder of the SFT model. pairs: the evaluation split, one pair a prompt.
        settings: their engine is "transformers", or "vllm" in a single process.
        scratch: folder for finished batches with these settings and inputs, the same one for all processes.
        process: this one; by default there are no others.
    Returns:
        rows with step, prompt_id, prompt, reply, tokens, finished (ended by itself), kl and log_ratio (nats,
        sums over the reply's tokens); None in every process but the first.
    """
    process = process or Process()
    tokenizer = models.load_tokenizer(str(sft))
    asked = {step: pairs if step == points[-1][0] else pairs[: settings.curve_prompts] for step, _ in points}
    # Shares must not depend on what is finished: the processes may look at different times.
    share = [
        (step, folder, batch)
        for step, folder in points
        for batch in _batches(asked[step], settings.batch_size, process.count)[process.rank :: process.count]
    ]
    done = scratch / f"replies-{process.rank}.jsonl"
    write_rows(done, read_rows(done))  # without a torn last line, so that appending is safe
    finished = _finished(scratch)
    todo = [
        (step, folder, batch)
        for step, folder, batch in share
        if any((step, pair.prompt_id) not in finished for pair in batch)
    ]
    dtype = torch.bfloat16 if has_bf16() else torch.float32
    sampled: dict[int, dict[str, list[int]]] = {}
    if settings.engine == "vllm":  # all of it before the models for the KL take the GPU's memory
        for step, folder in dict.fromkeys((step, folder) for step, folder, _ in todo):
            prompts = {pair.prompt_id: encode_prompt(tokenizer, pair.prompt) for pair in asked[step]}
            stops = stop_tokens(GenerationConfig.from_pretrained(folder), tokenizer)
            job = scratch / f"sampled-{step}.jsonl"
            sampled[step] = vllm_engine.sample(folder, prompts, stops, settings, seed, dtype, job)
    with _progress(share, todo, title, process) as bar:
        sft_model = models.load_model(str(sft), dtype).to(device()).eval() if todo else None
        loaded: Path | None = None
        policy: Any = None
        for step, folder, batch in todo:
            if folder != loaded:
                policy = models.load_model(str(folder), dtype).to(device()).eval()
                loaded = folder
            if settings.engine == "vllm":
                replies = [sampled[step][pair.prompt_id] for pair in batch]
            else:
                replies = sample(policy, tokenizer, [pair.prompt for pair in batch], settings, seed)
            append_rows(done, _rows(policy, sft_model, tokenizer, batch, replies, step))
            bar.update(len(batch))
    if process.rank > 0:
        return None
    # Also for one that has no batch: it may not have started when the rest is done and the folder goes.
    others = [scratch / f"replies-{rank}.jsonl" for rank in range(process.count)]
    total = sum(map(len, asked.values()))
    while len(finished := _finished(scratch)) < total or not all(path.exists() for path in others):
        time.sleep(POLL_SECONDS)
    order = {pair.prompt_id: position for position, pair in enumerate(pairs)}
    return sorted(finished.values(), key=lambda row: (row["step"], order[row["prompt_id"]]))


def _finished(scratch: Path) -> dict[tuple[int, str], Row]:
    """The rows of all processes, an earlier run's with more of them included, by step and prompt."""
    rows = (row for path in sorted(scratch.glob("replies-*.jsonl")) for row in read_rows(path))
    return {(row["step"], row["prompt_id"]): row for row in rows}


def _batches(pairs: Sequence[Pair], largest: int, processes: int) -> list[list[Pair]]:
    """Batches of prompts of similar length, the same ones after a restart, and work for every process."""
    size = min(largest, math.ceil(len(pairs) / processes))
    ordered = sorted(pairs, key=lambda pair: sum(len(message.content) for message in pair.prompt))
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def _progress(share: Sequence[Any], todo: Sequence[Any], title: str, process: Process) -> Any:
    """A bar over this process's share, shown by the first one."""
    total, left = (sum(len(batch) for _, _, batch in batches) for batches in (share, todo))
    return tqdm(total=total, initial=total - left, desc=title, unit="reply", disable=process.rank > 0)


def _rows(
    policy: Any, sft: Any, tokenizer: Any, batch: Sequence[Pair], replies: Sequence[list[int]], step: int
) -> list[Row]:
    prompts = [encode_prompt(tokenizer, pair.prompt) for pair in batch]
    tensors = pad(prompts, replies, tokenizer.pad_token_id)
    kl, ratio = reply_kl(policy, sft, *(tensor.to(policy.device) for tensor in tensors))
    stops = set(stop_tokens(policy.generation_config, tokenizer))
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
