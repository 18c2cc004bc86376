"""Statistics over the worlds of the toy, which are independent: plain means, Student's t, and equal KL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from tr_align.metrics.seeds import Estimate
from tr_align.reports import compare
from tr_align.stats import Array

Row = dict[str, Any]
DIGITS = 5
"""Significant ones in files: what is further right differs from machine to machine."""


def estimate(values: Array) -> Estimate:
    """The mean over worlds, its 95 % interval and the two-sided p-value of it being zero, by Student's t.

    Args: shape (seeds,), two or more. Worlds that all agree leave no doubt: the interval is the value itself.
    """
    mean, error = float(values.mean()), float(values.std(ddof=1)) / np.sqrt(len(values))
    if not error > 0:
        return Estimate(mean, [mean, mean], float(mean == 0))
    freedom = len(values) - 1
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Estimate(mean, [mean - half, mean + half], float(2 * stats.t.sf(abs(mean) / error, freedom)))


def spread(name: str, values: Array) -> Row:
    """The mean and the ends of its interval as the columns of a row."""
    return {key: rounded(value) for key, value in compare.spread(name, estimate(values)).items()}


def rounded(value: float) -> float:
    """To DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def at_kl(quantity: Array, kl: Array, level: float) -> float:
    """A quantity where a training first reached a KL, between two steps by linear interpolation.

    KL need not grow all the time, and a training that comes back to a KL has been through others: the first time is
    the one that compares like with like.
    Args: `quantity` and `kl` along the steps, shape (T + 1,); `level` in nats.
    Returns: NaN if that KL was never reached.
    """
    reached = np.flatnonzero(kl >= level)
    if not len(reached):
        return float("nan")
    after = int(reached[0])
    if after == 0:
        return float(quantity[0])
    share = (level - kl[after - 1]) / (kl[after] - kl[after - 1])
    return float(quantity[after - 1] + share * (quantity[after] - quantity[after - 1]))


@dataclass(frozen=True)
class Matched:
    """A method beside its base in each world at the largest KL that both reached there."""

    difference: Array
    """Of the quantity, method minus base, shape (seeds,)."""
    kl: Array
    """Where, in nats, shape (seeds,)."""


def matched(quantity: Array, kl: Array, base_quantity: Array, base_kl: Array) -> Matched:
    """Args: shape (T + 1, seeds) each."""
    levels = np.minimum(kl.max(0), base_kl.max(0))
    found = [
        at_kl(quantity[:, place], kl[:, place], level) - at_kl(base_quantity[:, place], base_kl[:, place], level)
        for place, level in enumerate(levels)
    ]
    return Matched(np.array(found), levels)


@dataclass(frozen=True)
class Recovery:
    """A fall and a rise, a world each, shape (seeds,)."""

    fall: Array
    """From the start to the trough; negative where it fell."""
    rise: Array
    """From the trough to the end; negative where it went on falling."""
    trough: Array
    """The step of it."""


def recovery(quantity: Array) -> Recovery:
    """What a quantity lost on its way to its lowest point, and won back after it.

    The lowest of many points always seems to be followed by a rise, so the trough of a world is where the mean of the
    *other* worlds is lowest after the start. Where that is in the last tenth of the training, the rise is that over
    the last tenth: it is negative if the quantity still falls there.
    Args: shape (T + 1, seeds), two seeds or more.
    """
    steps, seeds = len(quantity) - 1, quantity.shape[1]
    others = (quantity.sum(1, keepdims=True) - quantity) / (seeds - 1)
    trough = np.minimum(1 + others[1:].argmin(0), steps - max(1, steps // 10))
    lowest = quantity[trough, np.arange(seeds)]
    return Recovery(lowest - quantity[0], quantity[-1] - lowest, trough)
