"""How large an effect has to be for data of some precision to find it: the other half of "not significant"."""

from __future__ import annotations

import math

import numpy as np

QUADRATURE = 4000
"""Points of the integral over the standard error's own distribution."""


def detectable(half_width: float, freedom: float, power: float = 0.8, level: float = 0.95) -> float | None:
    """The effect whose interval would exclude zero with this probability, were the experiment done again.

    An interval of Student's t is half_width = t * s wide to either side, s being the standard error and t the quantile
    for its degrees of freedom. An effect d is found if |estimate / s| > t. Were the true standard error s, that ratio
    would have the noncentral t distribution with noncentrality d / s (Cohen 1988, section 2.5); d is solved for. With
    many degrees of freedom d = half_width * (1.960 + 0.842) / 1.960 = 1.43 half_width.

    Args:
        half_width: of the interval, in the unit of the effect. freedom: degrees of freedom of its t, infinite for a
            normal distribution.
        level: of the interval; two-sided, for one claim alone (correcting for several makes the effect larger).
    Returns: None where one value is all there was, so that nothing is known of the spread.
    """
    from scipy.optimize import brentq
    from scipy.special import gammaincinv, ndtr
    from scipy.stats import t

    if not freedom > 0:
        return None
    quantile = float(t.ppf((1 + level) / 2, freedom))
    # scipy's own noncentral t is NaN at some arguments. Its tail is a mean of normal ones over s, whose square has a
    # chi-squared distribution.
    squares = np.ones(1)
    if math.isfinite(freedom):
        squares = gammaincinv(freedom / 2, (np.arange(QUADRATURE) + 0.5) / QUADRATURE) * 2 / freedom
    limits = quantile * np.sqrt(squares)

    def excess(shift: float) -> float:
        return float(np.mean(ndtr(shift - limits) + ndtr(-shift - limits))) - power

    return half_width / quantile * float(brentq(excess, 0.0, 10 * quantile))
