"""From a judge's verdicts on both orders of a pair to win rates, and how often one method beats another."""

from __future__ import annotations

import math

import numpy as np

from tr_align.judges.base import Preference
from tr_align.stats import Array, share_ci


def outcome(shown_first: Preference | None, shown_second: Preference | None) -> float:
    """What one prompt adds to a policy's win rate, from the verdicts with its reply shown first and second.

    The mean over the two orders of 1 for a win, 0.5 for a tie and 0 for a loss: verdicts that flip with the order
    come to a tie, for the judge followed the position. NaN (missing) if either verdict could not be read.
    """
    if shown_first is None or shown_second is None:
        return math.nan
    points = {"first": 1.0, "tie": 0.5, "second": 0.0}
    return (points[shown_first] + 1 - points[shown_second]) / 2


def win_tie_lose(outcomes: Array, resamples: int, seed: int) -> dict[str, tuple[float, list[float]]]:
    """Shares of prompts that a policy wins, ties and loses, each with its 95 % bootstrap interval over prompts.

    Only what both orders agree on is a win or a loss; all else is a tie, a reply that won one order and tied the
    other as well (the rule of MT-Bench: Zheng et al. 2023, section 3.4). Shares add up to 1.

    Args: `outcomes` of shape (prompts,) as from :func:`outcome`, NaN where missing (left out).
    Returns: by "win", "tie", "lose" the share and [low, high], as :func:`tr_align.stats.share_ci` has it. All three,
        and the win rate at the same seed, come from the same resamples.
    Raises:
        ValueError: no prompt has an outcome.
    """
    shares = {"win": outcomes == 1, "tie": (outcomes > 0) & (outcomes < 1), "lose": outcomes == 0}
    missing = np.isnan(outcomes)
    return {
        name: share_ci(np.where(missing, np.nan, share.astype(float)), resamples, seed)
        for name, share in shares.items()
    }


def probability_of_improvement(x: Array, y: Array) -> float:
    """How often X beats Y: the mean over tasks of the share of pairs of runs with x > y, ties counting half.

    The definition of Agarwal et al. 2021 (arXiv 2108.13264) and of their library rliable.

    Args:
        x, y: scores of shape (runs, tasks), the same tasks in the same order; the numbers of runs may differ. NaN
            where missing: a run is left out of its task's pairs, and a task without a pair out of the mean.
    Raises:
        ValueError: no task has a pair of runs to compare.
    """
    shares = improvement_by_task(x, y)
    if np.isnan(shares).all():
        raise ValueError("there is no pair of runs to compare")
    return float(np.nanmean(shares))


def improvement_by_task(x: Array, y: Array) -> Array:
    """Share of pairs of runs with x > y in each task, ties counting half: shape (tasks,), NaN without a pair.

    Args: as for :func:`probability_of_improvement`.
    """
    ours, theirs = x[:, None], y[None]
    present = ~(np.isnan(ours) | np.isnan(theirs))
    points = np.where(present, (ours > theirs) + 0.5 * (ours == theirs), 0.0).sum((0, 1))
    pairs = present.sum((0, 1))
    shares: Array = np.divide(points, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return shares


def improvement_over_runs(x: Array, y: Array, resamples: int, seed: int) -> list[float]:
    """95 % interval of the probability of improvement if both were trained again, on the same tasks.

    rliable's stratified bootstrap: within each task the runs of X and of Y are drawn anew, each by themselves. It
    covers the training seeds and not the choice of tasks; with one run of each there is nothing to draw, and it has
    no width.

    Args: as for :func:`probability_of_improvement`; resamples that have no pair in any task are left out.
    Returns: [low, high], percentiles.
    Raises:
        ValueError: no task has a pair of runs to compare.
    """
    probability_of_improvement(x, y)  # raises if there is nothing to resample
    generator = np.random.default_rng(seed)

    def drawn(scores: Array) -> Array:
        return np.take_along_axis(scores, generator.integers(0, len(scores), size=scores.shape), axis=0)

    shares = np.array([improvement_by_task(drawn(x), drawn(y)) for _ in range(resamples)])
    present = ~np.isnan(shares)
    some = present.any(1)
    means = np.where(present, shares, 0.0).sum(1)[some] / present.sum(1)[some]
    low, high = np.percentile(means, [2.5, 97.5])
    return [float(low), float(high)]


def improvement_over_tasks(x: Array, y: Array, resamples: int, seed: int) -> list[float]:
    """95 % interval of the probability of improvement on other tasks (prompts) like these, by the same trained models.

    Tasks are drawn anew with all of their runs, X and Y together. It covers the choice of prompts and says nothing
    about another training run: the one that remains where each method was trained once.

    Args: as for :func:`probability_of_improvement`.
    Returns: [low, high], as :func:`tr_align.stats.share_ci` has it.
    Raises:
        ValueError: no task has a pair of runs to compare.
    """
    return share_ci(improvement_by_task(x, y), resamples, seed)[1]
