"""Bootstrap intervals over prompts, as pure functions on arrays of stated shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def bootstrap_means(values: Array, resamples: int, seed: int) -> Array:
    """Means of resamples of the rows with replacement.

    Args: `values` of shape (n,), NaN where missing (left out of each mean).
    Returns: shape (resamples,). The same `seed`, `n` and `resamples` draw the same rows, so that means of two
        quantities measured on the same prompts are paired.
    """
    rows = np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values)))
    drawn = values[rows]
    counts = (~np.isnan(drawn)).sum(1)
    # A resample that drew only missing values has no mean; percentiles below leave it out.
    means: Array = np.divide(np.nansum(drawn, axis=1), counts, out=np.full(resamples, np.nan), where=counts > 0)
    return means


def mean_ci(values: Array, resamples: int, seed: int, level: float = 0.95) -> tuple[float, list[float]]:
    """Mean over the rows that are not NaN and its percentile bootstrap interval.

    Returns: the mean and [low, high].
    Raises:
        ValueError: no row has a value.
    """
    if np.isnan(values).all():
        raise ValueError("there is no value to average")
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(bootstrap_means(values, resamples, seed), [tail, 100 - tail])
    return float(np.nanmean(values)), [float(low), float(high)]
