"""Memory of a pass, found by making it: the project's own code on tensors that have a shape and no data.

No formula stands for a layer, so a model of any kind is measured as it is. What counts is what the pass allocates:
activations kept for the backward pass, bfloat16 copies of the weights that autocast makes, logits, gradients.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from tr_align.align import attention
from tr_align.align.batches import Batch, Example, collate
from tr_align.align.logps import CHUNK, VOCABULARY_CHUNK, plain_head, token_logps
from tr_align.align.lora import add_adapter
from tr_align.align.shards import base_model
from tr_align.planning.architectures import decoder_layers
from tr_align.settings import Lora

TILE_TOKENS = 4096
"""Rows a tile of TRL's fused output layer has (`trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE`)."""


@dataclass(frozen=True)
class Layout:
    """The examples of a pass: how many, and the tokens of each one's prompt and replies."""

    examples: int
    prompt: int
    replies: tuple[int, ...]

    @property
    def positions(self) -> int:
        """What the model computes; a reply's last token is not fed."""
        return self.examples * (self.prompt + sum(reply - 1 for reply in self.replies))

    @property
    def scored(self) -> int:
        """Tokens whose probability is computed."""
        return self.examples * sum(self.replies)

    def batch(self, shared: bool) -> Batch:
        """Such a pass, of whatever tokens."""
        example = Example((0,) * self.prompt, tuple((0,) * reply for reply in self.replies))
        return collate([example] * self.examples, shared)


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all storages made within it: alive now, and at most in each stretch between two marks."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peaks = [0]
        self._known: set[int] = set()

    def mark(self) -> None:
        """Begin a new stretch."""
        self.peaks.append(self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.add(leaf)
        return result

    def ignore(self, tensors: Sequence[Tensor]) -> None:
        """Storages that were there before."""
        self._known |= {tensor.untyped_storage()._cdata for tensor in tensors}

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, until it is freed."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.peaks[-1] = max(self.peaks[-1], self.now)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


class _FusedHead(torch.autograd.Function):
    """What TRL's fused output layer allocates on a GPU (`trl.kernels.chunked_logprob`, 1.16), and no more."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        _tile(hidden, weight)
        ctx.save_for_backward(hidden, weight)
        return hidden.new_empty(len(hidden), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        hidden, weight = ctx.saved_tensors
        of_hidden = torch.empty_like(hidden, dtype=torch.float32)
        of_weight = torch.empty_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        _tile(hidden, weight)
        return of_hidden.to(hidden.dtype), None if of_weight is None else of_weight.to(weight.dtype)


def _tile(hidden: Tensor, weight: Tensor) -> None:
    rows, columns = min(len(hidden), TILE_TOKENS), min(len(weight), VOCABULARY_CHUNK)
    buffers = [hidden.new_empty(rows, columns, dtype=torch.bfloat16)]
    buffers += [hidden.new_empty(size, hidden.shape[1], dtype=torch.bfloat16) for size in (rows, columns)]


class FakeModel:
    """A model of shapes alone.

    Layers are alike, so a pass is made with two and with three of them and continued along a straight line: apart for
    the forward pass, the backward pass of the output layer, that of the last layer, and that of the first.

    Args:
        config: of transformers. dtype: of its parameters. checkpointing: activations are computed again in the backward
            pass. lora: an adapter is all that is trained. gpu: the output layer is TRL's fused one.
        bf16: passes run under bfloat16 autocast.
    """

    def __init__(
        self,
        config: Any,
        dtype: torch.dtype = torch.float32,
        checkpointing: bool = False,
        lora: Lora | None = None,
        gpu: bool = False,
        bf16: bool = True,
    ) -> None:
        self.gpu = gpu
        self.layers: int = config.get_text_config().num_hidden_layers
        self._cut = [_Cut(config, layers, dtype, checkpointing, lora, gpu, bf16) for layers in FEW]

    def training(self, layout: Layout, again: bool, drop: bool = False, shared: bool = True) -> int:
        """The most bytes that forward and backward take beside the parameters, gradients among them.

        Args:
            again: gradients of an earlier pass of the step are there already. drop: a gradient is gone as soon as it is
                there (sharded models hand it on). shared: prompts once, if the model can, else padded rows.
        """
        return self._examples(layout, lambda cut, part: cut.training(part, again, drop, shared))

    def scoring(self, layout: Layout) -> int:
        """The most bytes that a pass without gradients takes beside the parameters."""
        return self._examples(layout, lambda cut, part: [cut.scoring(part)])

    def prefill(self, rows: int, prompt: int) -> int:
        """The most bytes of the first pass of a generation, its key-value cache among them."""
        return self._continued([[cut.prefill(rows, prompt)] for cut in self._cut])

    def states(self, rows: int, length: int) -> int:
        """The most bytes of a pass that only wants the last hidden states of padded rows."""
        return self._continued([[cut.states(rows, length)] for cut in self._cut])

    def _examples(self, layout: Layout, peaks: Callable[[_Cut, Layout], list[int]]) -> int:
        """Of many examples, which are alike, a few more than fill the output layer's blocks are tried."""
        few = max(2, math.ceil((TILE_TOKENS if self.gpu else CHUNK) / sum(layout.replies)))
        if layout.examples <= few + 1:
            return self._continued([peaks(cut, layout) for cut in self._cut])
        found = []
        for cut in self._cut:
            less, more = (peaks(cut, replace(layout, examples=count)) for count in (few, few + 1))
            found.append([a + (b - a) * (layout.examples - few) for a, b in zip(less, more, strict=True)])
        return self._continued(found)

    def _continued(self, peaks: list[list[int]]) -> int:
        few, more = peaks
        stretches = (0, 1, 2, -1) if len(few) > 1 else (0,)
        ends = [few[i] + (more[i] - few[i]) * (self.layers - FEW[0]) for i in stretches]
        return max(ends)


FEW = (2, 3)


class _Cut:
    """The model with a few of its layers."""

    def __init__(
        self,
        config: Any,
        layers: int,
        dtype: torch.dtype,
        checkpointing: bool,
        lora: Lora | None,
        gpu: bool,
        bf16: bool,
    ) -> None:
        self.gpu, self.bf16 = gpu, bf16
        config = cut_config(config, layers)
        model = whole_model(config, dtype=dtype)
        self.shared = attention.can_share_prompts(model)
        if self.shared:
            model.set_attn_implementation(attention.NAME)
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        self.layers = decoder_layers(model)
        self.model = model if lora is None else add_adapter(model, lora, 0)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        with self.mode:
            _on_cpu(self.model)

    @property
    def trained(self) -> list[Any]:
        """The parameters that get a gradient."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def _logps(self, batch: Batch) -> Tensor:
        """As :func:`tr_align.align.logps.reply_logps`, with the output layer of the device that is planned for."""
        model = base_model(self.model)
        inputs: dict[str, Any] = {
            "input_ids": batch.input_ids,
            "position_ids": batch.position_ids,
            "attention_mask": batch.attention_mask,
            "use_cache": False,
        }
        if batch.segments is not None:
            inputs |= {"attention_mask": batch.input_ids.new_zeros(1, 1, 1, 1), "segments": batch.segments}
        if not plain_head(model):
            logits = model(**inputs).logits.flatten(0, 1)[batch.predictors]
            return logits.float().log_softmax(-1).gather(1, batch.labels[:, None]).squeeze(1)  # type: ignore[no-any-return]
        states = model.base_model(**inputs).last_hidden_state.flatten(0, 1)[batch.predictors]
        weight = model.get_output_embeddings().weight
        return _FusedHead.apply(states, weight) if self.gpu else token_logps(states, weight, batch.labels)  # type: ignore

    @contextmanager
    def _counted(self) -> Iterator[Live]:
        with self.mode:
            live = Live()
            live.ignore([*self.model.parameters(), *self.model.buffers()])
            with live:
                yield live

    def _autocast(self) -> Any:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    def training(self, layout: Layout, again: bool, drop: bool, shared: bool) -> list[int]:
        """The peaks in the forward pass, and in the backward pass of the output layer, the last, ..., the first."""
        handles = [p.register_post_accumulate_grad_hook(_forget) for p in self.trained] if drop else []
        try:
            with self._counted() as live:
                handles += [layer.register_forward_hook(_marking(live)) for layer in self.layers]
                if again:
                    for parameter in self.trained:
                        parameter.grad = torch.empty_like(parameter)
                self.model.train()
                with self._autocast():
                    logps = self._logps(layout.batch(shared and self.shared))
                live.mark()  # here autocast forgets its copies of the weights
                logps.sum().backward()  # type: ignore[no-untyped-call]
                return live.peaks
        finally:
            for handle in handles:
                handle.remove()
            for parameter in self.trained:
                parameter.grad = None

    def scoring(self, layout: Layout) -> int:
        with self._counted() as live, torch.no_grad(), self._autocast():
            self._logps(layout.batch(self.shared))
            return max(live.peaks)

    def prefill(self, rows: int, prompt: int) -> int:
        with self._counted() as live, torch.no_grad():
            ids = torch.zeros(rows, prompt, dtype=torch.long)
            self.model.eval()  # a model that recomputes its activations keeps no cache
            self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, logits_to_keep=1)
            return max(live.peaks)

    def states(self, rows: int, length: int) -> int:
        with self._counted() as live, torch.no_grad():
            ids = torch.zeros(rows, length, dtype=torch.long)
            self.model.eval()
            self.model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
            return max(live.peaks)


def whole_model(config: Any, lora: Lora | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """The model on the meta device: exact shapes, no memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model if lora is None else add_adapter(model, lora, 0)


def cut_config(config: Any, layers: int) -> Any:
    """The configuration of the same model with so many layers."""
    config = copy.deepcopy(config)
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]
    return config


def _on_cpu(model: Any) -> None:
    """In place of the tensors on the meta device, of which some operations tell nothing, ones that seem to be real."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = torch.nn.Parameter(empty, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _marking(live: Live) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        if states.requires_grad:
            states.register_hook(lambda gradient: live.mark())

    return hook


def _forget(parameter: Any) -> None:
    parameter.grad = None
