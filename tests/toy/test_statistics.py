"""Means over worlds, equal KL and recoveries, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from tr_align.toy.statistics import at_kl, estimate, matched, recovery, rounded, spread


def test_three_worlds_by_hand() -> None:
    """Mean 2, standard deviation 1, so the error is 1 / sqrt(3); Student's t of 2 degrees at 97.5 % is 4.302653.

    t = 2 sqrt(3); with 2 degrees of freedom p = 1 - t / sqrt(2 + t^2) = 1 - sqrt(12 / 14).
    """
    found = estimate(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 / math.sqrt(3)
    assert (found.value, found.ci) == (2.0, pytest.approx([2 - half, 2 + half], rel=1e-6))
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14), rel=1e-9)


def test_against_scipy() -> None:
    values = np.random.default_rng(0).normal(0.3, 1, 20)
    found, other = estimate(values), ttest_1samp(values, 0.0)
    interval = other.confidence_interval(0.95)
    assert found.p == pytest.approx(other.pvalue) and found.ci == pytest.approx([interval.low, interval.high])


@pytest.mark.parametrize("value, p", [(0.0, 1.0), (-3.0, 0.0)])
def test_worlds_that_agree(value: float, p: float) -> None:
    found = estimate(np.full(4, value))
    assert (found.value, found.ci, found.p) == (value, [value, value], p)


def test_a_row_has_five_digits() -> None:
    assert spread("x", np.array([123456.0, 123456.0])) == {"x": 123460.0, "x_lo": 123460.0, "x_hi": 123460.0}
    assert rounded(-0.000123456) == -0.00012346


def test_where_a_kl_is_first_reached() -> None:
    """KL 0, 1, 3, 2, 4: 2 is first reached half-way from step 1 to 2, where the quantity is 15; never 5."""
    kl, quantity = np.array([0.0, 1, 3, 2, 4]), np.array([0.0, 10, 20, 70, 30])
    assert [at_kl(quantity, kl, level) for level in (0.0, 0.5, 1.0, 2.0, 3.0)] == [0, 5, 10, 15, 20]
    assert at_kl(quantity, kl, 3.5) == pytest.approx(70 - 40 * 0.75)
    assert math.isnan(at_kl(quantity, kl, 5.0))


def test_equal_kl_world_by_world() -> None:
    """World 0: the base ends at KL 2 with 4, where the method has 1 (1 a nat). World 1: the method ends first, at 1
    with 7, where the base has 5 (5 a nat)."""
    kl, quantity = np.array([[0.0, 0], [4, 1]]), np.array([[0.0, 0], [2, 7]])
    base_kl, base = np.array([[0.0, 0], [2, 2]]), np.array([[0.0, 0], [4, 10]])
    found = matched(quantity, kl, base, base_kl)
    assert found.kl.tolist() == [2, 1]
    assert found.difference.tolist() == [-3, 2]


def test_a_recovery_is_measured_where_the_other_worlds_are_lowest() -> None:
    """Twenty steps. World 0 is lowest at step 5 (-3), world 1 at step 10 (-4): each is measured at the other's.

    World 0 at step 10 is -1 and ends with 1: fall -1, rise 2. World 1 at step 5 is 2 and ends with 0: fall 2, rise -2.
    """
    values = np.zeros((21, 2))
    values[5], values[10], values[20] = [-3, 2], [-1, -4], [1, 0]
    found = recovery(values)
    assert found.trough.tolist() == [10, 5]
    assert found.fall.tolist() == [-1, 2] and found.rise.tolist() == [2, -2]


def test_what_falls_to_the_end_does_not_recover() -> None:
    """Falling 1 a step over 20 steps: the last tenth is two steps, over which it falls by 2."""
    found = recovery(-np.arange(21.0)[:, None].repeat(3, 1))
    assert found.trough.tolist() == [18] * 3
    assert found.fall.tolist() == [-18] * 3 and found.rise.tolist() == [-2] * 3


def test_a_start_above_zero_is_taken_off() -> None:
    found = recovery(np.array([[5.0, 5], [3, 3], *[[4, 4]] * 9]))
    assert found.fall.tolist() == [-2, -2] and found.rise.tolist() == [1, 1]
