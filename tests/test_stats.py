"""Bootstrap intervals: tiny samples by hand, missing values, pairing, and how often they cover the truth."""

from __future__ import annotations

import numpy as np
import pytest

from tr_align.stats import bootstrap_means, mean_ci


def test_two_values_by_hand() -> None:
    """Of 0 and 1, a resample is 0 0, 0 1, 1 0 or 1 1: its mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    means = bootstrap_means(np.array([0.0, 1.0]), 4000, seed=0)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    # Three standard deviations of a share of 1/4 of 4000: 3 sqrt(.25 .75 / 4000) = 0.0205; of 1/2: 0.0237.
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.024)
    # The 2.5 % and 97.5 % points lie inside the outer quarters.
    assert mean_ci(np.array([0.0, 1.0]), 4000, seed=0) == (0.5, [0.0, 1.0])
    # The middle 40 % lies inside the middle half.
    assert mean_ci(np.array([0.0, 1.0]), 4000, seed=0, level=0.4) == (0.5, [0.5, 0.5])


def test_equal_values_have_no_width() -> None:
    assert mean_ci(np.array([3.0, 3.0, 3.0]), 100, seed=1) == (3.0, [3.0, 3.0])
    assert mean_ci(np.array([-2.0]), 100, seed=1) == (-2.0, [-2.0, -2.0])


def test_missing_values_are_left_out() -> None:
    """Of 1, missing, 3 the mean is 2. A resample has at most three values: 1, 5/3, 2, 7/3, 3 or no mean."""
    values = np.array([1.0, np.nan, 3.0])
    mean, (low, high) = mean_ci(values, 2000, seed=0)
    assert mean == 2.0
    # Without a 3, with a 1: (2/3)^3 - (1/3)^3 = 7/27 of the resamples have the mean 1, and as many 3.
    assert (low, high) == (1.0, 3.0)
    means = bootstrap_means(values, 2000, seed=0)
    # All three draws missing: 1/27 of the resamples, give or take 3 sqrt(1/27 * 26/27 / 2000) = 0.013.
    assert set(np.round(means[~np.isnan(means)], 9)) == {1.0, round(5 / 3, 9), 2.0, round(7 / 3, 9), 3.0}
    assert np.isnan(means).mean() == pytest.approx(1 / 27, abs=0.013)


def test_only_missing_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="no value"):
        mean_ci(np.array([np.nan, np.nan]), 100, seed=0)


def test_the_same_seed_draws_the_same_rows_whatever_the_values() -> None:
    one = np.random.default_rng(3).normal(size=30)
    a, b = bootstrap_means(one, 500, seed=7), bootstrap_means(2 * one + 1, 500, seed=7)
    np.testing.assert_allclose(b, 2 * a + 1)
    assert not np.allclose(a, bootstrap_means(one, 500, seed=8))
    assert mean_ci(one, 500, seed=7) == mean_ci(one, 500, seed=7)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    """200 samples of 40: a share of 0.95 has a standard deviation of 0.015; percentile intervals are a bit narrow."""
    generator = np.random.default_rng(0)
    covered = 0
    for repetition in range(200):
        _, (low, high) = mean_ci(generator.normal(5.0, 2.0, size=40), 400, seed=repetition)
        covered += low <= 5.0 <= high
    assert 0.88 <= covered / 200 <= 0.99
