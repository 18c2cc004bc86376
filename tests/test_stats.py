"""Bootstrap intervals and p-values: tiny samples by hand, missing values, pairing, and how often they are right."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests

from tr_align.stats import bootstrap_means, bootstrap_p, holm, interval, mean_ci, share_ci


def test_two_values_by_hand() -> None:
    """Of 0 and 1, a resample is 0 0, 0 1, 1 0 or 1 1: its mean is 0, 1/2, 1 with chances 1/4, 1/2, 1/4."""
    means = bootstrap_means(np.array([0.0, 1.0]), 4000, seed=0)
    values, counts = np.unique(means, return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    # Three standard deviations of a share of 1/4 of 4000: 3 sqrt(.25 .75 / 4000) = 0.0205; of 1/2: 0.0237.
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.024)
    # The 2.5 % and 97.5 % points lie inside the outer quarters.
    assert mean_ci(np.array([0.0, 1.0]), 4000, seed=0) == (0.5, [0.0, 1.0])
    # Of 20 %: t with one degree of freedom is tan(0.1 pi) = 0.325 at 60 %, and Phi(-sqrt(2) 0.325) = 0.323: between
    # the 32.3 % and the 67.7 % point, inside the middle half.
    assert mean_ci(np.array([0.0, 1.0]), 4000, seed=0, level=0.2) == (0.5, [0.5, 0.5])
    # Of 40 % it is tan(0.2 pi) = 0.727, Phi(-1.03) = 0.152: inside the outer quarters again.
    assert mean_ci(np.array([0.0, 1.0]), 4000, seed=0, level=0.4) == (0.5, [0.0, 1.0])


def test_the_percentiles_are_moved_outwards_for_few_rows() -> None:
    """With 20 rows: t = 2.093, Phi(-sqrt(20/19) 2.093) = Phi(-2.1474) = 0.01588; with a million 0.025."""
    draws = np.arange(100_001) / 1000.0  # the p % point is p
    assert interval(draws, 20) == pytest.approx([1.588, 98.412], abs=2e-3)
    assert interval(draws, 1_000_000) == pytest.approx([2.5, 97.5], abs=1e-3)
    assert interval(draws, 1) == [0.0, 100.0]
    assert interval(np.append(draws, np.nan), 20) == pytest.approx([1.588, 98.412], abs=2e-3)


def test_missing_rows_and_clusters_are_not_counted_as_rows() -> None:
    """Twenty values and twenty gaps have the interval of n = 20; forty rows in twenty clusters of two too."""
    values = np.random.default_rng(0).normal(size=20)
    gaps = np.concatenate([values, np.full(20, np.nan)])
    clusters = [str(i) for i in range(20)] * 2
    twice = np.tile(values, 2)
    draws = bootstrap_means(twice, 999, 3, clusters)
    assert mean_ci(twice, 999, 3, clusters=clusters)[1] == interval(draws, 20)
    assert mean_ci(gaps, 999, 3)[1] == interval(bootstrap_means(gaps, 999, 3), 20)


def test_equal_values_have_no_width() -> None:
    assert mean_ci(np.array([3.0, 3.0, 3.0]), 100, seed=1) == (3.0, [3.0, 3.0])
    assert mean_ci(np.array([-2.0]), 100, seed=1) == (-2.0, [-2.0, -2.0])


@pytest.mark.filterwarnings("error")
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


def test_clusters_are_drawn_whole() -> None:
    """Rows 0, 0 of cluster a and 1 of cluster b. Of a a, a b, b a, b b the means are 0, 1/3, 1/3, 1."""
    values, clusters = np.array([0.0, 1.0, 0.0]), ["a", "b", "a"]
    means, counts = np.unique(bootstrap_means(values, 4000, 0, clusters), return_counts=True)
    assert means == pytest.approx([0, 1 / 3, 1])
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.024)
    mean, (low, high) = mean_ci(values, 4000, 0, clusters=clusters)
    assert (mean, low, high) == (pytest.approx(1 / 3), 0.0, 1.0)


def test_a_missing_value_weighs_nothing_in_its_cluster() -> None:
    """Cluster a has 4 and a missing value, b has 1: a a, a b, b a, b b give 4, 5/2, 5/2, 1; c has nothing."""
    values, clusters = np.array([4.0, np.nan, 1.0, np.nan]), ["a", "a", "b", "c"]
    means = np.unique(bootstrap_means(values[:3], 500, 0, clusters[:3]))
    assert means.tolist() == [1.0, 2.5, 4.0]
    # Only c: (1/3)^3 of the resamples; 3 sqrt(1/27 * 26/27 / 2000) = 0.013.
    assert np.isnan(bootstrap_means(values, 2000, 0, clusters)).mean() == pytest.approx(1 / 27, abs=0.013)


def test_clusters_of_one_row_are_no_clusters() -> None:
    values = np.random.default_rng(0).normal(size=26)
    names = list("abcdefghijklmnopqrstuvwxyz")
    assert mean_ci(values, 300, 5, clusters=names) == mean_ci(values, 300, 5)


def test_p_by_hand() -> None:
    """Of n = 4 resamples one is at or below zero: 2 (1 + 1) / (1 + 4); none of them: 2 / 5, and never 0."""
    assert bootstrap_p(np.array([-1.0, 1.0, 2.0, 3.0])) == pytest.approx(0.8)
    assert bootstrap_p(np.array([1.0, -1.0, -2.0, -3.0])) == pytest.approx(0.8)
    assert bootstrap_p(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.4)
    # Zero is on either side: 2 (1 + 1) / 5. Zero everywhere is 2 (1 + 4) / 5, more than a p-value can be.
    assert bootstrap_p(np.array([0.0, 2.0, 3.0, 4.0])) == pytest.approx(0.8)
    assert bootstrap_p(np.zeros(4)) == 1.0
    # A resample without a value is none: 2 (1 + 0) / (1 + 3).
    assert bootstrap_p(np.array([1.0, np.nan, 2.0, 3.0])) == pytest.approx(0.5)
    assert bootstrap_p(np.ones(1999)) == pytest.approx(0.001)
    with pytest.raises(ValueError, match="no resample"):
        bootstrap_p(np.array([np.nan]))


def test_p_agrees_with_the_interval() -> None:
    """The interval of 40 rows leaves Phi(-sqrt(40/39) 2.0227) = 2.026 % on a side: it excludes zero where p < 4.05 %,
    but for two resamples."""
    generator = np.random.default_rng(0)
    excluded = []
    for repetition in range(100):
        values = generator.normal(0.3, 1.0, size=40)  # about two standard errors from zero
        _, (low, high) = mean_ci(values, 1999, repetition)
        p = bootstrap_p(bootstrap_means(values, 1999, repetition))
        excluded.append(low > 0 or high < 0)
        assert (p < 0.0405) == excluded[-1] or abs(p - 0.0405) <= 4 / 2000
    assert 30 < sum(excluded) < 70


def test_p_is_under_5_percent_about_5_times_in_100_where_there_is_no_difference() -> None:
    """400 samples of 64: the standard deviation of a share of 0.05 is 0.011; percentile intervals are a bit narrow."""
    generator = np.random.default_rng(0)
    ps = [bootstrap_p(bootstrap_means(generator.normal(size=64), 400, repetition)) for repetition in range(400)]
    assert 0.02 < np.mean(np.array(ps) < 0.05) < 0.09
    # Uniform: half of them are over 0.5, give or take three standard deviations of 0.025.
    assert np.mean(np.array(ps) > 0.5) == pytest.approx(0.5, abs=0.075)


def test_holm_by_hand() -> None:
    """In order 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1: the last is less than the one before it and takes its 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]  # 1.2 is no probability
    assert holm([0.02, 0.02, 0.02]) == pytest.approx([0.06] * 3)
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize("count", [1, 2, 6, 40])
def test_holm_against_statsmodels(count: int) -> None:
    for seed in range(5):
        p = np.random.default_rng(seed).uniform(size=count) ** 3
        assert holm(p.tolist()) == pytest.approx(multipletests(p, method="holm")[1].tolist(), abs=1e-12)


def test_a_share_of_all_or_nothing_is_not_certain() -> None:
    """Clopper-Pearson: 24 of 24 have the lower end (0.05 / 2)^(1/24) = 0.8575, 0 of 24 the upper end 0.1425."""
    ones, zeros = np.ones(24), np.zeros(24)
    assert share_ci(ones, 200, 0) == (1.0, [pytest.approx(0.025 ** (1 / 24)), 1.0])
    assert share_ci(zeros, 200, 0) == (0.0, [0.0, pytest.approx(1 - 0.025 ** (1 / 24))])
    # Gaps are no rows, and forty-eight rows of 24 prompts are 24.
    assert share_ci(np.append(ones, np.nan), 200, 0) == share_ci(ones, 200, 0)
    assert share_ci(np.ones(48), 200, 0, [str(i) for i in range(24)] * 2) == share_ci(ones, 200, 0)
    # Anything in between is a mean like any other.
    mixed = np.array([1.0, 0.5, 0.0, 1.0])
    assert share_ci(mixed, 200, 0) == mean_ci(mixed, 200, 0)
