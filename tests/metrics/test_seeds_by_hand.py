"""The variance over prompts and seeds, each part of it worked out by hand on four resamples."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import t

from tr_align.metrics.seeds import mean_over_seeds, over_seeds, resample, weighted_means
from tr_align.stats import mean_ci

SHARED, OWN = np.array([3.0, 3.0, -3.0, -3.0]), np.array([1.0, -1.0, 1.0, -1.0])
DRAWS = [SHARED + OWN, SHARED - OWN]
"""Two seeds on five prompts, 5 / 4 of every variance. Of their mean it is 9: 11.25 is the prompts'. About the mean each
has 1, together 2: by prompts alone the seeds would differ with a variance of 2.5, of which 1.25 is in the mean's."""


@pytest.mark.parametrize(
    ("second", "variance", "freedom"),
    [
        # They differ by 5, a variance of 12.5: 10 more than the prompts make them, 5 in the mean's.
        (5.0, 11.25 + 5.0, 16.25**2 / (6.25**2 + 10.0**2 / 4)),
        # By 1, a variance of 0.5: less than the prompts make them, so that nothing is the seeds'.
        (1.0, 11.25, 11.25**2 / (0.25**2 + 10.0**2 / 4)),
    ],
)
def test_prompts_and_seeds_both_count(second: float, variance: float, freedom: float) -> None:
    found = over_seeds([0.0, second], DRAWS, 5)
    mean, error = second / 2, math.sqrt(variance)
    half = float(t.ppf(0.975, freedom)) * error
    assert found.value == mean
    assert found.ci == pytest.approx([mean - half, mean + half])
    assert found.p == pytest.approx(2 * float(t.sf(mean / error, freedom)))


def test_one_seed_has_the_expanded_interval_of_its_prompts() -> None:
    """Fewer prompts, a wider interval: Phi(-sqrt(5 / 4) 2.776) = 0.095 % of the resamples on either side."""
    draws = np.linspace(-1.0, 3.0, 4001)
    found = over_seeds([1.25], [draws], 5)
    tail = float(ndtr(-math.sqrt(5 / 4) * 2.776445))
    assert (found.value, found.ci) == (1.25, pytest.approx([-1 + 4 * tail, 3 - 4 * tail], abs=1e-6))
    # 1001 of 4001 are at zero or less.
    assert found.p == pytest.approx(2 * 1002 / 4002)


def test_three_seeds_by_hand() -> None:
    """Without any prompts' doing: 0, 3 and 6 have a variance of 9, their mean of 3, with two degrees of freedom."""
    found = over_seeds([0.0, 3.0, 6.0], [np.zeros(4)] * 3, 5)
    half = 4.302653 * math.sqrt(3)
    assert found.ci == pytest.approx([3 - half, 3 + half], rel=1e-6)


def test_three_seeds_share_what_prompts_make_them_differ_by() -> None:
    """About their mean the seeds have OWN, -OWN and 0: together 2, 1.25 of it, over two degrees of freedom 1.25.
    0, 3, 6 differ by 9: (9 - 1.25) / 3 more than the prompts' 11.25."""
    found = over_seeds([0.0, 3.0, 6.0], [*DRAWS, SHARED], 5)
    variance = 11.25 + 7.75 / 3
    freedom = variance**2 / (3.0**2 / 2 + (11.25 - 1.25 / 3) ** 2 / 4)
    half = float(t.ppf(0.975, freedom)) * math.sqrt(variance)
    assert found.ci == pytest.approx([3 - half, 3 + half])


def test_one_prompt_says_nothing_of_prompts_and_the_seeds_of_seeds() -> None:
    found = over_seeds([1.0, 3.0], [np.full(4, 1.0), np.full(4, 3.0)], 1)
    assert found.ci == pytest.approx([2 - 12.7062, 2 + 12.7062], rel=1e-5)
    assert found.p == pytest.approx(1 - 2 * math.atan(2) / math.pi)


def test_resamples_without_a_value_are_left_out() -> None:
    holes = [np.append(draws, math.nan) for draws in DRAWS]
    holes[0] = np.append(holes[0], 99.0)
    holes[1] = np.append(holes[1], math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert over_seeds([0.0, 5.0], holes, 5) == over_seeds([0.0, 5.0], DRAWS, 5)


def test_the_mean_is_of_the_seeds_and_not_of_all_prompts_together() -> None:
    """1, 1, 1 and 4: 2.5, though three of the four values are 1. The missing one is in neither."""
    values = [np.array([1.0, 1.0, 1.0]), np.array([4.0, math.nan])]
    found = mean_over_seeds(values, [["a", "b", "c"], ["a", "d"]], 100, 0, mean_ci)
    assert found is not None and found.value == 2.5


def test_n_is_the_readable_prompts_of_the_seed_with_the_fewest() -> None:
    """Of the second seed two of four can be read; a bootstrap of two divides by 2 instead of 1, and so for both."""
    values = [np.array([0.0, 2.0, 0.0, 2.0]), np.array([0.0, 2.0, math.nan, math.nan])]
    ids = [list("abcd"), list("efgh")]
    found = mean_over_seeds(values, ids, 4000, 0, mean_ci)
    assert found is not None
    half = (found.ci[1] - found.ci[0]) / 2
    # Seeds that agree: all of the variance is the prompts', twice that of the resamples, with one degree of freedom.
    draws = np.stack([weighted_means(v, c) for v, c in zip(values, resample(ids, 4000, 0), strict=True)])
    draws = draws[:, ~np.isnan(draws).any(0)]
    prompts, within = 2 * draws.mean(0).var(), 2 * 2 * (draws[0] - draws[1]).var() / 4
    freedom = prompts**2 / (prompts - within / 2) ** 2
    assert half == pytest.approx(float(t.ppf(0.975, freedom)) * math.sqrt(prompts), rel=1e-6)
