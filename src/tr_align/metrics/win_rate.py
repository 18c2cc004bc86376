"""From a judge's verdicts on both orders of a pair to a win rate."""

from __future__ import annotations

import math

from tr_align.judges.base import Preference


def outcome(shown_first: Preference | None, shown_second: Preference | None) -> float:
    """What one prompt adds to a policy's win rate, from the verdicts with its reply shown first and second.

    The mean over the two orders of 1 for a win, 0.5 for a tie and 0 for a loss: verdicts that flip with the order
    come to a tie, for the judge followed the position. NaN (missing) if either verdict could not be read.
    """
    if shown_first is None or shown_second is None:
        return math.nan
    points = {"first": 1.0, "tie": 0.5, "second": 0.0}
    return (points[shown_first] + 1 - points[shown_second]) / 2
