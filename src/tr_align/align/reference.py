"""The moving reference: soft and hard updates, how far things have moved, and the callback that drives them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

REFERENCE_FILE = "reference.safetensors"


@torch.no_grad()
def soft_update(reference: Iterable[Tensor], policy: Iterable[Tensor], alpha: float) -> None:
    """In place: `ref <- alpha * policy + (1 - alpha) * ref`, tensor by tensor.

    The reference has to be float32: in bfloat16 a small `alpha` is rounded away.
    Source: arXiv 2404.09656, section 3.2 (soft update).
    Raises:
        ValueError: `alpha` outside (0, 1], or the two differ in number or shape of tensors.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha has to be in (0, 1], it is {alpha}")
    for old, new in _matched(reference, policy):
        old.lerp_(new.to(old.dtype), alpha)


@torch.no_grad()
def hard_update(reference: Iterable[Tensor], policy: Iterable[Tensor]) -> None:
    """In place: `ref <- policy`.

    Source: arXiv 2404.09656, section 3.2 (hard update).
    Raises:
        ValueError: the two differ in number or shape of tensors.
    """
    for old, new in _matched(reference, policy):
        old.copy_(new)


@torch.no_grad()
def distance(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    """Euclidean distance between two sets of parameters taken as one vector each."""
    squares = [(a.float() - b.float()).pow_(2).sum(dtype=torch.float64) for a, b in _matched(first, second)]
    return float(torch.stack(squares).sum().sqrt())


def _matched(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    pairs = list(zip(first, second, strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"parameters of different shapes: {tuple(a.shape)} and {tuple(b.shape)}")
    return pairs


class ReferenceUpdate(TrainerCallback):
    """Updates the reference after every `interval` optimizer steps, and measures how far things have moved.

    `alpha=None` means never (base methods), `alpha=1` the hard update. `on_step_end` fires once an optimizer
    step, after it, whatever the gradient accumulation. Distances are taken before the update, so those of a
    step describe the reference that step's loss was computed with.

    The reference goes into every checkpoint: without it a resumed run would silently start again from the
    SFT model as reference, as TRL 1.16 does.
    """

    def __init__(self, reference: torch.nn.Module, interval: int, alpha: float | None) -> None:
        self.reference = reference
        self.interval = interval
        self.alpha = alpha
        self.initial = [p.detach().clone() for p in reference.parameters()]
        self.distances: dict[str, float] = {}
        self.updated_at: list[int] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        policy = list(model.parameters())
        reference = list(self.reference.parameters())
        self.distances = {
            "ref_from_sft": distance(reference, self.initial),
            "policy_from_ref": distance(policy, reference),
        }
        if self.alpha is None or state.global_step % self.interval:
            return
        if self.alpha == 1:
            hard_update(reference, policy)
        else:
            soft_update(reference, policy, self.alpha)
        self.updated_at.append(state.global_step)

    def save(self, folder: Path) -> None:
        """Write the reference beside a checkpoint's weights."""
        save_model(self.reference, str(folder / REFERENCE_FILE))

    def load(self, folder: Path) -> None:
        """Take the reference back from a checkpoint; `initial` stays the SFT model."""
        load_model(self.reference, folder / REFERENCE_FILE)
