"""The moving reference: the two update rules, and a reference that needs no model of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


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


def _matched(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    pairs = list(zip(first, second, strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            raise ValueError(f"parameters of different shapes: {tuple(a.shape)} and {tuple(b.shape)}")
    return pairs


@torch.no_grad()
def _exchange(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for first, second in pairs:
        kept = first.clone()
        first.copy_(second)
        second.copy_(kept)


class Sketch:
    """Euclidean distances between parameter vectors from a fixed, even sample of their coordinates.

    Tensors of up to `SMALL` elements are taken whole, of larger ones every k-th element, so a few megabytes stand for
    the model. Exact for small models; for 134M parameters the error is below 1 % (docs/core.md).
    """

    SMALL = 16_384

    def __init__(self, shards: Sequence[Tensor], reduce: Callable[[Tensor], Tensor] = lambda total: total) -> None:
        self.strides = [_stride(shard, self.SMALL) for shard in shards]
        counts = [max(1, -(-shard.numel() // k)) for shard, k in zip(shards, self.strides, strict=True)]
        self.scales = [shard.numel() / count for shard, count in zip(shards, counts, strict=True)]
        self.reduce = reduce

    def sample(self, shards: Sequence[Tensor]) -> list[Tensor]:
        """The sampled coordinates, copied, float32."""
        return [
            s.detach().reshape(-1)[::k].to(torch.float32, copy=True) for s, k in zip(shards, self.strides, strict=True)
        ]

    def distance(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
        """Estimated distance of two samples, a scalar on their device; summed over processes where shards are."""
        squares = [scale * (a - b).square().sum() for a, b, scale in zip(first, second, self.scales, strict=True)]
        return self.reduce(torch.stack(squares).sum()).sqrt()


def _stride(tensor: Tensor, size: int) -> int:
    """Every how many elements to sample; coprime to the row's length, else whole columns would never be seen."""
    stride = max(1, tensor.numel() // size)
    while math.gcd(stride, tensor.shape[-1] if tensor.dim() else 1) > 1:
        stride += 1
    return stride


class Reference:
    """The reference policy in force, as log-probabilities; of its weights only what the rule needs is kept.

    Between updates the reference is constant and the order of the data is known, so all that training needs of it is
    the log-probabilities of the coming window's replies, scored at the update. For hard updates the policy *is* the
    reference at that moment and no weights are kept at all; for soft updates a float32 copy is, which takes the
    policy's place for as long as a window is scored. There never is a second model.

    Args:
        interval: optimizer steps between updates. alpha: weight of the policy; None: never updated (base methods), 1:
            the hard update.
        shards: this process's part of each trained parameter, in place (see `shards.py`).
        shape: (examples, replies an example). device: where log-probabilities are kept.
        reduce: sums a scalar over the processes that share the model.
        read: what forward passes read, where that is not `shards` themselves (ZeRO-3).
    Raises:
        ValueError: alpha outside (0, 1], or an interval below 1.
    """

    def __init__(
        self,
        interval: int,
        alpha: float | None,
        shards: Sequence[Tensor],
        shape: tuple[int, int],
        device: torch.device,
        reduce: Callable[[Tensor], Tensor] = lambda total: total,
        read: Sequence[Tensor] | None = None,
    ) -> None:
        if interval < 1 or (alpha is not None and not 0 < alpha <= 1):
            raise ValueError(f"interval has to be at least 1 and alpha in (0, 1], they are {interval} and {alpha}")
        self.interval = interval
        self.alpha = alpha
        self.shards = shards
        self.read = shards if read is None else read
        self.updated_at: list[int] = []
        soft = alpha is not None and alpha < 1
        # float32 whatever the policy is: in bfloat16 a small alpha is rounded away.
        self.master = [shard.detach().to(torch.float32, copy=True) for shard in shards] if soft else []
        self.sketch = Sketch(shards, reduce)
        self.sft_sample = self.sketch.sample(shards)
        self.sample = [tensor.clone() for tensor in self.sft_sample]  # safetensors refuses tensors that share memory
        unknown = torch.full(shape, float("nan"), device=device)
        self.logps, self.sft_logps = unknown.clone(), unknown

    @property
    def follows_policy(self) -> bool:
        """Whether an update makes the reference equal to the policy."""
        return self.alpha == 1

    def due(self, step: int) -> bool:
        """Whether the reference moves after this many optimizer steps, and has not yet."""
        return self.alpha is not None and step > 0 and step % self.interval == 0 and step not in self.updated_at[-1:]

    def since_update(self, step: int) -> int:
        """Optimizer steps since the last update (or since the start), that of `step` included."""
        return step - (self.updated_at[-1] if self.updated_at else 0)

    def update(self, step: int) -> None:
        """Move the reference; what it thought of replies is forgotten."""
        assert self.alpha is not None
        if self.master:
            soft_update(self.master, self.shards, self.alpha)
        self.sample = self.sketch.sample(self.master or self.shards)
        self.logps.fill_(float("nan"))
        self.updated_at.append(step)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """For as long as it lasts the policy's parameters hold the reference's weights (no gradients meanwhile)."""
        alike, filled = [], []
        for read, values, reference in zip(self.read, self.shards, self.master, strict=True) if self.master else []:
            same = read.data_ptr() == values.data_ptr()
            if same and read.dtype == reference.dtype:
                alike.append((read, reference))
            else:
                # Read is a copy of the values (ZeRO-3), or has fewer bits than the reference, which must not lose them.
                filled.append((read, reference, values.clone() if same else values))
        _exchange(alike)
        hard_update([read for read, _, _ in filled], [reference for _, reference, _ in filled])
        try:
            yield
        finally:
            _exchange(alike)
            hard_update([read for read, _, _ in filled], [values for _, _, values in filled])

    def distances(self) -> dict[str, Tensor]:
        """`ref_from_sft` and `policy_from_ref`, scalars on the device."""
        return {
            "ref_from_sft": self.sketch.distance(self.sample, self.sft_sample),
            "policy_from_ref": self.sketch.distance(self.sketch.sample(self.shards), self.sample),
        }

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs beside policy and optimizer, by name."""
        tensors = {"logps": self.logps, "sft_logps": self.sft_logps}
        tensors["updated_at"] = torch.tensor(self.updated_at, dtype=torch.long)
        for name in ("master", "sft_sample", "sample"):
            tensors |= {f"{name}.{i}": tensor.contiguous() for i, tensor in enumerate(getattr(self, name))}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back a :meth:`state`.

        Raises:
            ValueError: it is of another rule, model or data set.
        """
        here = {name: tensor.shape for name, tensor in self.state().items() if name != "updated_at"}
        there = {name: tensor.shape for name, tensor in tensors.items() if name != "updated_at"}
        if here != there:
            raise ValueError("the checkpoint's reference is of another rule, model or data set")
        self.updated_at = tensors["updated_at"].tolist()
        self.logps.copy_(tensors["logps"])
        self.sft_logps.copy_(tensors["sft_logps"])
        for name in ("master", "sft_sample"):
            for i, tensor in enumerate(getattr(self, name)):
                tensor.copy_(tensors[f"{name}.{i}"])
        device = [tensor.device for tensor in self.sft_sample]
        self.sample = [tensors[f"sample.{i}"].to(device[i]) for i in range(len(device))]
