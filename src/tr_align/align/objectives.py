"""What a method minimises and what is logged of it: losses of `losses.py` on (examples, 2) log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from tr_align.align import losses

Sums = dict[str, tuple[Tensor, Tensor]]
"""Metrics as (sum, count), so that they can be added up over passes, steps and processes."""


class Objective(Protocol):
    """The loss of a method on one pass."""

    grouped: bool
    """Whether the loss mixes the examples of a batch, which then has to be one pass."""

    def __call__(self, policy: Tensor, reference: Tensor, rows: Tensor) -> Tensor:
        """The loss of each example, shape (B,).

        Args: summed log-probabilities in nats, shape (B, 2), `policy` with a gradient; the examples' indices (B,).
        """

    def metrics(self, policy: Tensor, reference: Tensor, rows: Tensor) -> Sums:
        """Of detached log-probabilities: rewards, margin's parts, accuracy against this reference."""


def pair_metrics(policy: Tensor, reference: Tensor, beta: float) -> Sums:
    """Of chosen and rejected replies' log-probabilities, shape (B, 2): rewards `beta log(pi/ref)`, and how often the
    chosen one's is larger."""
    rewards = beta * (policy - reference)
    count = policy.new_tensor(float(len(policy)))
    return {
        "reward_chosen": (rewards[:, 0].sum(), count),
        "reward_rejected": (rewards[:, 1].sum(), count),
        "accuracy": (_half_for_ties(rewards[:, 0] - rewards[:, 1]).sum(), count),
        "logps_chosen": (policy[:, 0].sum(), count),
        "logps_rejected": (policy[:, 1].sum(), count),
    }


def _half_for_ties(difference: Tensor) -> Tensor:
    """1 where positive, 0 where negative; where policy and reference are one and the same, a coin's toss."""
    return (torch.sign(difference) + 1) / 2


class PairObjective:
    """Losses on pairs: the columns are chosen and rejected.

    Args:
        loss: of four (B,) tensors of log-probabilities, with beta bound. beta: scales the logged rewards.
        lengths: tokens of each reply, shape (examples, 2), if the loss is on averages over tokens.
        grouped: whether the loss of a pair depends on the others in its batch.
    """

    def __init__(
        self, loss: Callable[..., Tensor], beta: float, lengths: Tensor | None = None, grouped: bool = False
    ) -> None:
        self.loss = loss
        self.beta = beta
        self.lengths = lengths
        self.grouped = grouped

    def __call__(self, policy: Tensor, reference: Tensor, rows: Tensor) -> Tensor:
        if self.lengths is not None:
            self.lengths = self.lengths.to(rows.device)  # once: rows are where the model is
            lengths = self.lengths[rows].to(policy.dtype)
            policy, reference = policy / lengths, reference / lengths
        return self.loss(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])

    def metrics(self, policy: Tensor, reference: Tensor, rows: Tensor) -> Sums:
        return pair_metrics(policy, reference, self.beta)


class KtoObjective:
    """KTO on single replies: the columns are the reply and the mismatched one that estimates the KL.

    Args:
        desirable: shape (examples,), boolean. gather: all processes' values of a tensor, for the KL is one number for
            all of them.
    """

    grouped = True

    def __init__(
        self,
        desirable: Tensor,
        beta: float,
        desirable_weight: float,
        undesirable_weight: float,
        gather: Callable[[Tensor], Any] = lambda tensor: tensor,
    ) -> None:
        self.desirable = desirable
        self.beta = beta
        self.weights = (desirable_weight, undesirable_weight)
        self.gather = gather

    def _desirable(self, rows: Tensor) -> Tensor:
        self.desirable = self.desirable.to(rows.device)  # once: rows are where the model is
        return self.desirable[rows]

    def _kl(self, policy: Tensor, reference: Tensor) -> Tensor:
        return losses.kto_kl(self.gather(policy[:, 1].detach().contiguous()), self.gather(reference[:, 1].contiguous()))

    def __call__(self, policy: Tensor, reference: Tensor, rows: Tensor) -> Tensor:
        desirable, kl = self._desirable(rows), self._kl(policy, reference)
        return losses.kto_loss(policy[:, 0], reference[:, 0], desirable, kl, self.beta, *self.weights)

    def metrics(self, policy: Tensor, reference: Tensor, rows: Tensor) -> Sums:
        desirable, kl = self._desirable(rows), self._kl(policy, reference)
        rewards = self.beta * (policy[:, 0] - reference[:, 0])
        good, bad = desirable.float(), (~desirable).float()
        # Unpaired: accuracy is the share of replies on the right side of the reference point.
        right = _half_for_ties((rewards - self.beta * kl) * (good - bad))
        return {
            "reward_chosen": ((rewards * good).sum(), good.sum()),
            "reward_rejected": ((rewards * bad).sum(), bad.sum()),
            "accuracy": (right.sum(), good.sum() + bad.sum()),
            "logps_chosen": ((policy[:, 0] * good).sum(), good.sum()),
            "logps_rejected": ((policy[:, 0] * bad).sum(), bad.sum()),
            "kto_kl": (kl, torch.ones_like(kl)),
        }
