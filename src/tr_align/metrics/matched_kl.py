"""Quality at the same KL: two methods' curves compared where both have been."""

from __future__ import annotations

import warnings

import numpy as np

from tr_align.stats import Array


def quality_at(kl: Array, quality: Array, at: float) -> float:
    """A curve's quality at a given KL, by linear interpolation between its points in order of KL.

    Args: `kl`, `quality` of shape (points,). `at` within the curve's range of KL.
    """
    order = np.argsort(kl)
    return float(np.interp(at, kl[order], quality[order]))


def difference_at_matched_kl(
    method: tuple[Array, Array], base: tuple[Array, Array], resamples: int, seed: int
) -> tuple[float, list[float], float]:
    """How much more quality `method` has than `base` at the largest KL that both reached.

    Args:
        method, base: (kl, quality), shape (points, prompts) each, the same prompts in the same order, quality NaN
            where missing; the first point is the common start (the SFT model).
        resamples: bootstrap resamples of the prompts, drawn jointly for both.
    Returns:
        the difference, its 95 % percentile interval, and the KL (nats) it is taken at.
    """
    prompts = method[0].shape[1]
    draws = np.random.default_rng(seed).integers(0, prompts, size=(resamples, prompts))
    everyone = np.arange(prompts)

    def compare(rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[float, float]:
        curves = [(kl[:, rows].mean(1), np.nanmean(quality[:, rows], axis=1)) for kl, quality in (method, base)]
        at = min(kl.max() for kl, _ in curves)
        ours, theirs = (quality_at(kl, quality, at) for kl, quality in curves)
        return ours - theirs, at

    difference, at = compare(everyone)
    with warnings.catch_warnings():
        # A resample that drew only missing qualities has no mean; the percentiles leave it out.
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        low, high = np.nanpercentile([compare(rows)[0] for rows in draws], [2.5, 97.5])
    return difference, [float(low), float(high)], float(at)
