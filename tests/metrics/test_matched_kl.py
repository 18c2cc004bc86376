"""Two curves compared at the largest KL both reached: by hand, and an interval that tells noise from a difference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tr_align.metrics.matched_kl import difference_at_matched_kl, quality_at
from tr_align.stats import Array


def same(points: list[float], prompts: int) -> Array:
    """A curve every prompt follows exactly, shape (points, prompts)."""
    return np.repeat(np.array(points)[:, None], prompts, axis=1)


def test_interpolation_by_hand() -> None:
    """Through (0, 0), (2, 1), (6, 2): at 1 half of 1; at 3 a quarter of the way from 1 to 2."""
    kl, quality = np.array([0.0, 2.0, 6.0]), np.array([0.0, 1.0, 2.0])
    assert [quality_at(kl, quality, at) for at in (0.0, 1.0, 2.0, 3.0, 6.0)] == [0.0, 0.5, 1.0, 1.25, 2.0]


def test_points_may_come_in_any_order_of_kl() -> None:
    """KL need not grow with the steps (a moved reference can bring the policy back)."""
    kl, quality = np.array([0.0, 6.0, 2.0]), np.array([0.0, 2.0, 1.0])
    assert quality_at(kl, quality, 3.0) == 1.25


def test_compared_at_the_largest_kl_both_reached() -> None:
    """The method went to KL 8, its base to 4. At 4 the method has 0 -> 2 half-way: 1; the base has 0.4."""
    method = same([0.0, 8.0], 5), same([0.0, 2.0], 5)
    base = same([0.0, 4.0], 5), same([0.0, 0.4], 5)
    difference, interval, at, _ = difference_at_matched_kl(method, base, 200, seed=0)
    assert (difference, at) == (pytest.approx(0.6), 4.0)
    assert interval == pytest.approx([0.6, 0.6])
    swapped, interval, at, _ = difference_at_matched_kl(base, method, 200, seed=0)
    assert (swapped, at) == (pytest.approx(-0.6), 4.0)
    assert interval == pytest.approx([-0.6, -0.6])


def test_curves_that_cross() -> None:
    """Lines 0.5 x and 3 - x from x = 0 to the end cross at x = 2: there the difference is 0, before it negative."""
    for end, expected in ((1.0, -1.5), (2.0, 0.0), (3.0, 1.5)):
        # The base starts at quality 3, as a made-up start: the formula does not care.
        method = same([0.0, end], 4), same([0.0, 0.5 * end], 4)
        base = same([0.0, 4.0], 4), same([3.0, -1.0], 4)
        difference, _, at, _ = difference_at_matched_kl(method, base, 100, seed=0)
        assert (difference, at) == (pytest.approx(expected), end)


def test_the_largest_kl_need_not_be_the_last() -> None:
    """The method's KL is 0, 5, 3 (it came back); the base ended at 4: compared at 4, half-way from (3, 2) to (5, 1)."""
    method = same([0.0, 5.0, 3.0], 3), same([0.0, 1.0, 2.0], 3)
    base = same([0.0, 4.0], 3), same([0.0, 1.0], 3)
    difference, _, at, _ = difference_at_matched_kl(method, base, 100, seed=0)
    assert (difference, at) == (pytest.approx(0.5), 4.0)


def noisy(gap: float, prompts: int = 60) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Both at KL 4 with quality noise 1 a prompt, most of it common to both; the method is `gap` better."""
    generator = np.random.default_rng(1)
    common = generator.normal(size=prompts)
    own = 0.3 * generator.normal(size=(2, prompts))
    own -= own.mean(1, keepdims=True)  # so that the measured difference is exactly `gap`
    kl = same([0.0, 4.0], prompts)
    zero = np.zeros(prompts)
    return (kl, np.stack([zero, common + own[0] + gap])), (kl, np.stack([zero, common + own[1]]))


def test_the_interval_excludes_zero_where_there_is_a_difference() -> None:
    """Paired noise is 0.3 sqrt 2 / sqrt 60 = 0.055, so that 0.3 is more than five of it; unpaired it would be 0.19."""
    method, base = noisy(0.3)
    difference, (low, high), *_ = difference_at_matched_kl(method, base, 1000, seed=0)
    assert difference == pytest.approx(0.3)
    assert 0.15 < low < 0.3 < high < 0.45


def test_the_interval_includes_zero_where_there_is_none() -> None:
    method, base = noisy(0.0)
    difference, (low, high), *_ = difference_at_matched_kl(method, base, 1000, seed=0)
    assert difference == pytest.approx(0.0)
    assert -0.2 < low < 0.0 < high < 0.2


def test_missing_qualities_are_left_out_even_by_whole_resamples() -> None:
    """Of four prompts three have no quality at the end: a resample without the fourth says nothing."""
    nan = np.nan
    method = same([0.0, 4.0], 4), np.array([[0.0] * 4, [nan, nan, nan, 1.0]])
    base = same([0.0, 4.0], 4), np.array([[0.0] * 4, [nan, nan, nan, 0.25]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        difference, interval, *_ = difference_at_matched_kl(method, base, 200, seed=0)
    assert difference == pytest.approx(0.75)
    assert interval == pytest.approx([0.75, 0.75])
