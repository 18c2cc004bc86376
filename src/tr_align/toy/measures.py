"""What is known exactly of a policy on the tree: where its probability is, how far it went, what it earns."""

from __future__ import annotations

import torch
from torch import Tensor

CLASSES = ("chosen", "rejected", "other", "ood")
MASSES = tuple(f"{name}_mass" for name in CLASSES)
LOGPS = tuple(f"{name}_logp" for name in CLASSES)
OF_POLICY = (*MASSES, *LOGPS, "kl", "reward", "entropy")


def measure(logps: Tensor, start: Tensor, classes: Tensor, rewards: Tensor) -> dict[str, Tensor]:
    """Sums over all trajectories of the tree; nothing is sampled.

    Args:
        logps, start: log-probabilities of the trajectories under the policies and under those they started from, in
            nats, shape (runs, N). classes: 1 where a trajectory is in a class, else 0, shape (runs, N, 4), in the
            order of CLASSES. rewards: shape (runs, N).
    Returns: by the names of OF_POLICY, shape (runs,): the probability mass of each class; the mean log-probability of
        the trajectories in it (nats); KL to the start, `sum p log(p / p_0)` (nats); the expected reward; the entropy
        (nats).
    """
    p = logps.exp()
    masses = torch.einsum("rn,rnc->rc", p, classes).unbind(1)
    means = (torch.einsum("rn,rnc->rc", logps, classes) / classes.sum(1)).unbind(1)
    found = dict(zip(MASSES, masses, strict=True)) | dict(zip(LOGPS, means, strict=True))
    found["kl"] = (p * (logps - start)).sum(1)
    found["reward"] = (p * rewards).sum(1)
    found["entropy"] = -(p * logps).sum(1)
    return found
