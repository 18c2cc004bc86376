"""A tree of trajectories with a true reward, demonstrations of a part of it, and preferences over a part of those.

The world of Rafailov et al. 2024 (arXiv 2406.02900, section 5): three actions at each state, deterministic, and the
depth is small enough to enumerate every trajectory. A trajectory's index, written in base three with as many digits as
the tree is deep, is the sequence of its actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tr_align.settings import TOY_ACTIONS, ToyMdp
from tr_align.stats import Array


@dataclass(frozen=True)
class Worlds:
    """One world a seed. S seeds, N trajectories, D demonstrations, P pairs."""

    rewards: Tensor
    """The true reward of each trajectory, shape (S, N), of mean 0 and standard deviation 1 in each world."""
    demonstrations: Tensor
    """Indices of the trajectories in the data, shape (S, D). All others are out of distribution (OOD)."""
    chosen: Tensor
    """Indices, shape (S, P)."""
    rejected: Tensor
    """Indices, shape (S, P): of each pair of demonstrations the one with the lower reward."""

    def mask(self, indices: Tensor) -> Tensor:
        """Which trajectories these are, boolean, shape (S, N)."""
        return torch.zeros_like(self.rewards, dtype=torch.bool).scatter(1, indices, True)

    @property
    def classes(self) -> dict[str, Tensor]:
        """The four classes of trajectories, boolean, shape (S, N); each trajectory is in one."""
        chosen, rejected = self.mask(self.chosen), self.mask(self.rejected)
        known = self.mask(self.demonstrations)
        return {"chosen": chosen, "rejected": rejected, "other": known & ~chosen & ~rejected, "ood": ~known}


def tree_rewards(edges: list[Array]) -> Array:
    """The reward of each trajectory, the sum over its edges, shifted and scaled to mean 0 and standard deviation 1.

    Args: `edges`, one array a level, root first, of shape (states of that level, actions).
    Returns: shape (trajectories,).
    """
    total = np.zeros(1)
    for level in edges:
        total = (total[:, None] + level).ravel()
    result: Array = (total - total.mean()) / total.std()
    return result


def make_worlds(settings: ToyMdp) -> Worlds:
    """The worlds of a run, one for each of `settings.seeds`; the first k of them do not depend on how many there are.

    The reward of an edge is a standard normal number. Demonstrations are drawn one after the other, each with a
    probability proportional to exp(reward), as if by people who mostly do well. Pairs are of demonstrations, chosen
    by the true reward without error; no trajectory is in two of them, so that the four classes are clean.
    """
    found = [_world(settings, np.random.default_rng([settings.seed, place])) for place in range(settings.seeds)]
    columns = [torch.from_numpy(np.stack(column)) for column in zip(*found, strict=True)]
    return Worlds(*columns)


def _world(settings: ToyMdp, draw: np.random.Generator) -> tuple[NDArray[Any], ...]:
    rewards = tree_rewards([draw.standard_normal((TOY_ACTIONS**level, TOY_ACTIONS)) for level in range(settings.depth)])
    # Gumbel noise on the logits and the largest of the sums: a draw without replacement.
    drawn = np.argsort(-(rewards + draw.gumbel(size=len(rewards))))[: settings.demonstrations]
    paired = draw.permutation(drawn)[: 2 * settings.pairs].reshape(settings.pairs, 2)
    paired = np.take_along_axis(paired, np.argsort(-rewards[paired], axis=1), axis=1)
    return rewards, drawn, paired[:, 0], paired[:, 1]
