"""Peak memory of each stage on one GPU, by how the model is split, from passes made on shapes (`measure.py`).

What a training holds: float32 weights, gradients and two moments of Adam; for soft methods a copy of the reference;
activations, logits and autocast's bfloat16 copies of the weights for as long as a pass lasts. No reference model.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch

from tr_align.align.reference import Sketch
from tr_align.align.trainer import SCORING_FACTOR
from tr_align.config import Params
from tr_align.errors import UserError
from tr_align.launch import Sharding
from tr_align.planning.architectures import Sizes, sizes
from tr_align.planning.measure import FakeModel, Layout, whole_model
from tr_align.settings import Method

TEMPLATE = 8
"""Tokens that the trainers allow beside data.max_prompt_tokens and data.max_reply_tokens."""
BUCKET = 500_000_000
"""Elements of DeepSpeed's reduce_bucket_size, its default."""
LIVE = 1_000_000_000
"""Elements of DeepSpeed's stage3_max_live_parameters, its default."""
SAMPLING_COPIES = 5
"""Float32 blocks of (rows, vocabulary) that are there while a token is drawn (`generation.py`)."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU where a stage needs most.

    passes: activations, logits and copies of weights for as long as a pass lasts; a key-value cache in `generate`.
    exchange: what processes gather from and send to each other.
    """

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    reference: float = 0.0
    passes: float = 0.0
    exchange: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class Step:
    """What an optimizer step computes on one process: its largest pass, how many, and the largest pass of scoring."""

    layout: Layout
    passes: int
    scoring: Layout | None = None
    shared: bool = True


def longest(params: Params) -> Layout:
    """A pair at the limits of `data`."""
    reply = params.data.max_reply_tokens
    return Layout(1, params.data.max_prompt_tokens + TEMPLATE, (reply, reply))


def filled(example: Layout, examples: int, max_tokens: int) -> tuple[Layout, int]:
    """The fullest pass over so many examples, none longer than `example`, and the number of passes.

    A pass has at most `max_tokens` positions, but for an example that is longer alone. A full pass of shorter examples
    is as large as one of longest ones, so the examples are shortened until they fill it.
    """
    one = example.positions
    positions = max(one, min(max_tokens, examples * one))
    count = min(examples, math.ceil(positions / one))
    scale = positions / (count * one)
    replies = tuple(max(1, round(scale * reply)) for reply in example.replies)
    prompt = max(1, round(positions / count) - sum(reply - 1 for reply in replies))
    return Layout(count, prompt, replies), math.ceil(examples * one / positions)


def align_step(params: Params, method: Method, processes: int) -> Step:
    """A method's step at the limits of `data`."""
    align, example = params.align, longest(params)
    group = align.batch_size * (2 if method.loss == "kto" and not params.kto.paired else 1)
    rows = group * align.gradient_accumulation
    most = rows * align.steps * processes
    scoring, _ = filled(example, max(1, most // processes), SCORING_FACTOR * align.max_tokens)
    if method.loss == "kto":  # its batch is one pass, whatever max_tokens is
        return Step(replace(example, examples=group), align.gradient_accumulation, scoring)
    layout, passes = filled(example, rows, align.max_tokens)
    return Step(layout, passes, scoring)


def sft_step(params: Params, gpu: bool, processes: int) -> Step:
    """A step of SFT at the limits of `data`: padded rows, but without padding for one process on a CPU."""
    sft = params.sft
    layout = Layout(sft.batch_size, params.data.max_prompt_tokens + TEMPLATE, (params.data.max_reply_tokens,))
    return Step(layout, sft.gradient_accumulation, shared=not gpu and processes == 1)


class Estimator:
    """Memory of a model's stages.

    Args: `config`: of transformers. gpu: planned for one; else for this machine's CPU. bf16: autocast.
    """

    def __init__(self, config: Any, params: Params, gpu: bool = True, bf16: bool = True) -> None:
        self.config, self.params, self.gpu, self.bf16 = config, params, gpu, bf16
        self._known: dict[Any, Any] = {}

    @cached_property
    def sizes(self) -> Sizes:
        """Of the whole model."""
        return sizes(whole_model(self.config))

    @cached_property
    def trained(self) -> list[int]:
        """Elements of each tensor that is trained by `align`."""
        model = whole_model(self.config, self.params.align.lora)
        return [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]

    @cached_property
    def buffers(self) -> int:
        """Elements of the floating-point buffers, which the reference has, too."""
        return sum(buffer.numel() for buffer in whole_model(self.config).buffers() if buffer.is_floating_point())

    def sft(self, sharding: Sharding, processes: int) -> Memory:
        """Of SFT."""
        step = sft_step(self.params, self.gpu, processes)
        return self._training(step, sharding, processes, self.params.sft.gradient_checkpointing, lora=False)

    def align(self, method: Method, sharding: Sharding, processes: int) -> Memory:
        """Of one method's training, the scoring of its reference included."""
        step = align_step(self.params, method, processes)
        checkpointing = self.params.align.gradient_checkpointing
        lora = self.params.align.lora is not None
        memory = self._training(step, sharding, processes, checkpointing, lora)
        trained = sum(self.trained)
        # DeepSpeed below stage 3 leaves the weights, and so the copy of the reference, whole.
        share = processes if sharding in ("fsdp", "zero3") else 1
        reference = 4 * (trained / share + self.buffers) if method.update == "soft" else 0.0
        # Distances in the log come from samples of the weights: the SFT model's, the reference's, the policy's.
        samples = 3 * 4 * sum(_sampled(elements) for elements in self.trained) / share
        return replace(memory, reference=memory.reference + reference, passes=memory.passes + samples)

    def generate(self) -> Memory:
        """Of sampling: policy and SFT model, the key-value cache, the token's distribution. One process."""
        settings, data, size = self.params.generate, self.params.data, self.sizes
        width = 2 if self.bf16 else 4
        rows = min(settings.batch_size, data.splits.evaluation)
        prompt, new = data.max_prompt_tokens + TEMPLATE, settings.max_new_tokens
        model = self._model(torch.bfloat16 if self.bf16 else torch.float32, False, False, bf16=False)
        layer = 2 * rows * (prompt + new) * size.kv_width * width
        vocabulary = self.config.get_text_config().vocab_size
        # A layer's cache is copied to grow.
        drawing = layer * (size.layers + 1) + SAMPLING_COPIES * 4 * rows * vocabulary
        passes = max(self._once(model.prefill, rows, prompt), drawing, self._once(model.states, rows, prompt + new))
        return Memory(weights=2 * width * size.total, passes=passes)

    def _model(self, dtype: torch.dtype, checkpointing: bool, lora: bool, bf16: bool | None = None) -> FakeModel:
        settings = self.params.align.lora if lora else None
        return self._once(  # type: ignore[no-any-return]
            FakeModel, self.config, dtype, checkpointing, settings, self.gpu, self.bf16 if bf16 is None else bf16
        )

    def _once(self, call: Any, *arguments: Any) -> Any:
        """A pass takes a second or so; many stages share it."""
        key = (call, *(id(a) if a is self.config else a for a in arguments))
        if key not in self._known:
            try:
                self._known[key] = call(*arguments)
            except UserError:
                raise
            except Exception as error:  # a model may do anything; what cannot be planned may still run
                reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
                raise UserError(f"a {self.config.model_type} cannot be planned for: {reason[0]}") from error
        return self._known[key]

    def _training(self, step: Step, sharding: Sharding, processes: int, checkpointing: bool, lora: bool) -> Memory:
        total, trained = self.sizes.total, sum(self.trained) if lora else self.sizes.total
        split = sharding in ("fsdp", "zero2", "zero3")
        # FSDP2 gathers bfloat16 copies of its float32 parts; DeepSpeed trains bfloat16 weights.
        model = self._model(torch.bfloat16 if split else torch.float32, checkpointing, lora)
        if split:
            passes = self._once(model.training, step.layout, False, True, step.shared)
            if step.scoring:
                passes = max(passes, self._once(model.scoring, step.scoring))
            return replace(_divided(sharding, processes, total, trained, self.sizes), passes=passes)
        gradients = 4 * trained
        peak = self._once(model.training, step.layout, step.passes > 1, False, step.shared)
        if step.scoring:
            peak = max(peak, self._once(model.scoring, step.scoring))
        if not self.gpu:  # a snapshot: the weights rounded to bfloat16, and with an adapter first added up in float32
            peak = max(peak, 2 * total + (4 * total if lora else 0))
        return Memory(
            weights=4 * total + (4 * (trained if lora else 0)),
            gradients=min(gradients, peak),
            optimizer=8 * trained,
            passes=max(0, peak - gradients),
            # DDP's buckets are a second copy of the gradients.
            exchange=gradients if sharding == "ddp" else 0,
        )


def _sampled(elements: int) -> int:
    return -(-elements // max(1, elements // Sketch.SMALL))


def _divided(sharding: Sharding, processes: int, total: int, trained: int, size: Sizes) -> Memory:
    """What a process holds of a split model, beside passes."""
    frozen = total - trained if trained < total else 0
    if sharding == "fsdp":
        # Whole in bfloat16, with their gradients: what lies outside the layers, and two layers (one is fetched ahead).
        exchange = 2 * 2 * (size.outside + 2 * size.layer)
        return Memory(
            weights=4 * (frozen + trained) / processes,
            gradients=4 * trained / processes,
            optimizer=8 * trained / processes,
            exchange=exchange,
        )
    bucket = 2 * min(BUCKET, trained)
    # DeepSpeed: bfloat16 weights and gradients; float32 weights and moments are the optimizer's.
    optimizer, gradients = 12 * trained / processes, 2 * trained / processes
    if sharding == "zero2":
        return Memory(2 * (frozen + trained), gradients, optimizer, exchange=bucket)
    gathered = 2 * min(LIVE, total)
    return Memory(2 * (frozen + trained) / processes, gradients, optimizer, exchange=bucket + gathered)
