"""Intervals over prompts and seeds: by hand, against the one-seed bootstrap, and by how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tr_align.metrics.seeds import mean_over_seeds, over_seeds, resample, weighted_means
from tr_align.stats import mean_ci


def ids(n: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{i:03}" for i in range(n)]


def test_one_seed_is_the_bootstrap_over_prompts() -> None:
    values = np.random.default_rng(3).normal(1.0, 2.0, 40)
    estimate = mean_over_seeds([values], [ids(40)], 500, 7, mean_ci)
    assert estimate is not None
    mean, ci = mean_ci(values, 500, 7)
    assert (estimate.value, estimate.ci) == (mean, ci)


def test_resamples_draw_shared_prompts_together() -> None:
    first, second = resample([["a", "b", "c"], ["c", "d", "a"]], 200, 0)
    assert first.shape == second.shape == (200, 3)
    np.testing.assert_array_equal(first[:, 0], second[:, 2])  # a
    np.testing.assert_array_equal(first[:, 2], second[:, 0])  # c
    assert (first.sum(1) + second[:, 1] == 4).all()  # four different prompts, four draws


def test_resamples_of_one_seed_keep_its_size() -> None:
    (counts,) = resample([ids(9)], 50, 1)
    assert (counts.sum(1) == 9).all()


def test_weighted_means_by_hand() -> None:
    values = np.array([[1.0, 2.0, math.nan]])
    counts = np.array([[1, 1, 1], [0, 3, 0], [0, 0, 3]])
    means = weighted_means(values, counts)
    np.testing.assert_allclose(means[0, :2], [1.5, 2.0])
    assert math.isnan(means[0, 2])


def test_seeds_that_differ_by_hand() -> None:
    """Seeds at 0 and 2, prompts that say nothing: variance of the mean 2 / 2 = 1, one degree of freedom,
    half-width 12.7062."""
    estimate = over_seeds([0.0, 2.0], [np.full(100, 0.0), np.full(100, 2.0)], 50)
    assert estimate.value == 1.0
    np.testing.assert_allclose(estimate.ci, [1 - 12.7062, 1 + 12.7062], rtol=1e-5)
    assert estimate.p == pytest.approx(0.5)  # t = 1 with one degree of freedom (Cauchy)


def test_seeds_that_agree_have_the_prompts_interval() -> None:
    """Two seeds with the same resamples: all of the variance is the prompts', n / (n - 1) times theirs."""
    draws = np.random.default_rng(0).normal(0.5, 0.2, 4000)
    estimate = over_seeds([0.5, 0.5], [draws, draws], 20)
    half = (estimate.ci[1] - estimate.ci[0]) / 2
    # Student's t with 19 degrees of freedom
    assert half == pytest.approx(2.093 * draws.std() * math.sqrt(20 / 19), rel=1e-3)


def test_no_spread_at_all() -> None:
    estimate = over_seeds([1.0, 1.0], [np.ones(10), np.ones(10)], 5)
    assert (estimate.ci, estimate.p) == ([1.0, 1.0], 0.0)


def test_a_seed_without_any_value_gives_nothing() -> None:
    assert mean_over_seeds([np.ones(3), np.full(3, math.nan)], [ids(3), ids(3)], 100, 0, mean_ci) is None
    assert mean_over_seeds([], [], 100, 0, mean_ci) is None


@pytest.mark.parametrize("shared", [True, False], ids=["same prompts", "own prompts"])
@pytest.mark.parametrize(("seeds", "sd"), [(3, 0.0), (3, 0.5), (5, 0.2)])
def test_coverage(seeds: int, sd: float, shared: bool) -> None:
    """Three seeds on 24 prompts, 500 experiments: the interval holds the true mean 92 to 99 % of the time."""
    generator = np.random.default_rng(1)
    names = [ids(24, "" if shared else f"{seed}/") for seed in range(seeds)]
    hits = 0
    for run in range(500):
        prompts = generator.normal(0, 1, (1 if shared else seeds, 24))
        values = generator.normal(0, sd, (seeds, 1)) + prompts + generator.normal(0, 0.7, (seeds, 24))
        estimate = mean_over_seeds(list(values), names, 200, run, mean_ci)
        assert estimate is not None
        hits += estimate.ci[0] <= 0 <= estimate.ci[1]
    assert 0.92 <= hits / 500 <= 0.99
