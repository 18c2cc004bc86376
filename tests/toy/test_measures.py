"""Exact sums, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tr_align.toy.measures import OF_POLICY, measure


def test_by_hand() -> None:
    """Probabilities 1/2, 1/4, 1/8, 1/8 from an even start; the last two trajectories are OOD.

    KL = 1/2 log 2 + 1/4 log 1 + 2/8 log (1/2) = log(2) / 4; entropy = (1/2 + 2/4 + 3/8 + 3/8) log 2 = 1.75 log 2;
    reward = 1/2 x 4 + 1/4 x 0 - 1/8 x 8 + 1/8 x 16 = 3.
    """
    p = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64)
    classes = torch.zeros(1, 4, 4, dtype=torch.float64)
    for trajectory, kind in enumerate((0, 1, 3, 3)):
        classes[0, trajectory, kind] = 1
    classes[0, 1, 2] = 1  # one more class, that the mean over its trajectories be one
    start = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    found = measure(p.log(), start, classes, torch.tensor([[4.0, 0.0, -8.0, 16.0]], dtype=torch.float64))
    two = math.log(2)
    expected = {
        "chosen_mass": 0.5,
        "rejected_mass": 0.25,
        "other_mass": 0.25,
        "ood_mass": 0.25,
        "chosen_logp": -two,
        "rejected_logp": -2 * two,
        "other_logp": -2 * two,
        "ood_logp": -3 * two,
        "kl": two / 4,
        "reward": 3.0,
        "entropy": 1.75 * two,
    }
    assert tuple(found) == OF_POLICY
    assert {name: float(tensor) for name, tensor in found.items()} == pytest.approx(expected, rel=1e-12)
