"""The effect that data of some precision finds four times out of five: by hand, and tried out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from tr_align.metrics.power import detectable


def test_of_a_normal_distribution_by_hand() -> None:
    """(1.959964 + 0.841621) / 1.959964 = 1.429406; the other tail adds nothing that could be seen."""
    assert detectable(1.0, math.inf) == pytest.approx(1.429406, abs=1e-5)
    assert detectable(0.5, 1e7) == pytest.approx(0.714703, abs=1e-5)
    assert detectable(0.0, 5) == 0.0


def test_other_powers_by_hand() -> None:
    """At 97.5 % both quantiles are the same: twice the half-width. At 50 % the effect is where the interval ends."""
    assert detectable(1.0, math.inf, power=0.975) == pytest.approx(2.0, abs=1e-5)
    assert detectable(1.0, math.inf, power=0.5) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("freedom", [1, 3, 19])
def test_the_interval_of_t_finds_it_four_times_out_of_five(freedom: int) -> None:
    """Means of freedom + 1 normal values of standard error 1: 40,000 tries, so that 0.8 is known to 0.002."""
    quantile = float(t.ppf(0.975, freedom))
    effect = detectable(quantile, freedom)
    assert effect is not None
    drawn = np.random.default_rng(0).normal(effect, math.sqrt(freedom + 1), (40_000, freedom + 1))
    error = drawn.std(1, ddof=1) / math.sqrt(freedom + 1)
    assert np.mean(np.abs(drawn.mean(1)) > quantile * error) == pytest.approx(0.8, abs=0.008)


def test_of_one_value_nothing_is_known() -> None:
    assert detectable(0.0, 0) is None
