"""Whether a quantity that was followed along a training first falls and then recovers."""

from __future__ import annotations

import numpy as np

from tr_align.metrics.seeds import Estimate
from tr_align.stats import Array


def recovers(low: Estimate, rise: Estimate) -> tuple[float, str]:
    """Whether something lies below its start at its lowest, and rises from there: an intersection-union test.

    Both have to show, so the larger p counts. It is contradicted if it is above its start even at its lowest, or falls
    from there: two ways to be wrong, so that the smaller p of these counts twice.
    Args: the changes from the start to the lowest point, and from there to the end.
    Returns: the p-value, and what it says where it is small enough: "supported", "contradicted" or "inconclusive".
    """
    against = [one.p for one, contrary in ((low, low.value >= 0), (rise, rise.value <= 0)) if contrary]
    if against:
        says = "contradicted" if low.ci[0] > 0 or rise.ci[1] < 0 else "inconclusive"
        return min(1.0, 2 * min(against)), says
    return max(low.p, rise.p), "supported" if low.ci[1] < 0 and rise.ci[0] > 0 else "inconclusive"


def low_and_rise(changes: Array) -> tuple[Array, Array, list[int]]:
    """Of each text: its change from the start to the lowest point before the end, and from there to the end.

    The lowest point is chosen on one half of the texts and both are measured on the other, both ways round: on the same
    texts the lowest of several noisy points always seems to lie below the start and to be followed by a rise. The end
    is not among the points chosen from, so that what goes on falling to the end has a rise below zero.

    Args: `changes` since the start, shape (points, texts), the last point being the end.
    Returns: two arrays of shape (texts,), and the points that the halves chose.
    Raises:
        ValueError: fewer than two points, so that the end is the first that was evaluated, or fewer than two texts.
    """
    points, texts = changes.shape
    if points < 2:
        raise ValueError("the end is the first point at which the training was evaluated")
    if texts < 2:
        raise ValueError("fewer than two texts were measured at every point")
    half = np.arange(texts) % 2 == 0
    low, rise, chosen = np.empty(texts), np.empty(texts), []
    for chosen_on in (half, ~half):
        lowest = int(changes[:-1, chosen_on].mean(1).argmin())
        low[~chosen_on] = changes[lowest, ~chosen_on]
        rise[~chosen_on] = changes[-1, ~chosen_on] - changes[lowest, ~chosen_on]
        chosen.append(lowest)
    return low, rise, chosen
