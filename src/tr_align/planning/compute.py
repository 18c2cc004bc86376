"""Work of each stage: tokens and floating-point operations, and GPU-hours at an assumed share of a GPU's peak."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tr_align.config import Params
from tr_align.planning.architectures import Sizes
from tr_align.planning.gpus import Gpu

MFU = 0.35
"""Assumed share of the peak that training and scoring reach (`--mfu`)."""
DECODING = 0.5
"""Assumed share of the memory's bandwidth that drawing tokens one by one reaches: each step reads all weights."""
FILL = 0.5
"""Assumed mean length, as a share of the limits of `data` and of generate.max_new_tokens, until it is measured."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a prompt, a reply of the data, and a sampled reply; `measured` on prepared data."""

    prompt: float
    reply: float
    sampled: float
    measured: bool


@dataclass(frozen=True)
class Work:
    """What a stage computes. `tokens` are those the model reads, `generated` those it draws."""

    flops: float
    tokens: float
    generated: float
    gpu_hours: float


def lengths(params: Params, prepared: Path | None = None) -> Lengths:
    """Mean lengths, from data/prepared/stats.json where the data is prepared, else assumed."""
    data, sampled = params.data, FILL * params.generate.max_new_tokens
    if prepared is not None and prepared.exists():
        split = json.loads(prepared.read_text(encoding="utf-8"))["splits"]["preferences"]
        means = split["mean_tokens"]
        reply = (means["chosen"] + means["rejected"]) / 2
        return Lengths(means["prompt"], reply, min(sampled, reply), True)
    return Lengths(FILL * data.max_prompt_tokens, FILL * data.max_reply_tokens, sampled, False)


def replies(params: Params, method: str) -> int:
    """Replies that `generate` draws for a method, or for "sft"."""
    evaluation = params.data.splits.evaluation
    if method == "sft":
        return evaluation
    before_last = len(params.align.evaluation_steps) - 1
    return evaluation + before_last * min(params.generate.curve_prompts, evaluation)


class Counter:
    """Work of stages by DVC's names; those that compute nothing to speak of have none.

    Args: `sizes` of the model. processes: of launch.train. mfu: share of the GPU's peak.
    """

    def __init__(self, params: Params, sizes: Sizes, means: Lengths, gpu: Gpu, processes: int, mfu: float) -> None:
        self.params, self.sizes, self.means = params, sizes, means
        self.gpu, self.processes, self.mfu = gpu, processes, mfu

    def of(self, stage: str) -> Work | None:
        """The work of one stage."""
        kind, _, method = stage.partition("@")
        if kind.endswith("_sft"):
            kind, method = kind.removesuffix("_sft"), "sft"
        match kind:
            case "sft":
                return self._sft()
            case "align":
                return self._align(method)
            case "generate":
                return self._generate(method)
            case "ood":
                points = 1 if method == "sft" else len(self.params.align.evaluation_steps)
                prompts = points * self.params.ood_prompts
                return self._work(*self._forward(prompts, 5))
        return None

    def _sft(self) -> Work:
        sft = self.params.sft
        rows = sft.steps * sft.batch_size * sft.gradient_accumulation * self.processes
        flops, tokens = self._forward(rows, 1)
        return self._work(flops * _passes(sft.gradient_checkpointing), tokens)

    def _align(self, name: str) -> Work:
        align, method = self.params.align, self.params.methods[name]
        rows = align.steps * align.batch_size * align.gradient_accumulation * self.processes
        if method.loss == "kto" and not self.params.kto.paired:
            rows *= 2
        flops, tokens = self._forward(rows, 2)
        # A moving reference scores every window; the SFT model scores the data once, for the base methods and for the
        # rewards against it.
        scorings = (method.update != "none") + (align.sft_rewards or method.update == "none")
        return self._work(flops * (_passes(align.gradient_checkpointing) + scorings), tokens * (1 + scorings))

    def _generate(self, method: str) -> Work:
        settings, count = self.params.generate, replies(self.params, method)
        prompt, new = self.means.prompt, self.means.sampled
        multiplied = self.sizes.total - self.sizes.looked_up
        attention = 4 * self.sizes.layers * self.sizes.heads_width * (prompt + new) / 2
        drawing = count * (2 * multiplied + attention) * (prompt + new)
        scoring = 2 * count * (2 * multiplied + attention) * (prompt + new)  # the KL: policy and SFT model
        # A batch goes on until its longest reply ends, which is taken to be the limit.
        steps = -(-count // settings.batch_size) * settings.max_new_tokens
        reading = steps * 2 * multiplied / (DECODING * self.gpu.bandwidth)
        hours = (max(drawing / self._speed, reading) + scoring / self._speed) / 3600
        return Work(drawing + scoring, 3 * count * (prompt + new), count * new, hours)

    def _forward(self, rows: float, replies: int) -> tuple[float, float]:
        """FLOP and tokens of a forward pass over rows of a prompt and so many replies to it."""
        size, prompt, reply = self.sizes, self.means.prompt, self.means.reply
        tokens = prompt + replies * reply
        body = 2 * (size.total - size.looked_up - size.head) + 4 * size.layers * size.heads_width * (prompt + reply) / 2
        return rows * (body * tokens + 2 * size.head * replies * reply), rows * tokens

    @property
    def _speed(self) -> float:
        return self.mfu * self.gpu.flops

    def _work(self, flops: float, tokens: float) -> Work:
        return Work(flops, tokens, 0.0, flops / self._speed / 3600)


def _passes(checkpointing: bool) -> int:
    """Forward passes that a training step is worth: the backward pass is two, recomputed activations one more."""
    return 4 if checkpointing else 3
