"""Quality at the same KL: two methods' curves compared where both have been."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from tr_align.stats import Array, interval


def quality_at(kl: Array, quality: Array, at: float) -> float:
    """A curve's quality at a given KL, by linear interpolation between its points in order of KL.

    Args: `kl`, `quality` of shape (points,). `at` within the curve's range of KL.
    """
    order = np.argsort(kl)
    return float(np.interp(at, kl[order], quality[order]))


def difference_at_matched_kl(
    method: tuple[Array, Array], base: tuple[Array, Array], resamples: int, seed: int
) -> tuple[float, list[float], float, Array]:
    """How much more quality `method` has than `base` at the largest KL that both reached.

    Args:
        method, base: (kl, quality), shape (points, prompts) each, the same prompts in the same order, quality NaN
            where missing; the first point is the common start (the SFT model).
        resamples: bootstrap resamples of the prompts, drawn jointly for both.
    Returns:
        the difference, its 95 % bootstrap interval, the KL (nats) it is taken at, and the resamples behind the
        interval (see :func:`resampled_differences`).
    """
    draws = resampled_differences(method, base, resamples, seed)
    difference, at = _compare(method, base, np.arange(method[0].shape[1]))
    return difference, interval(draws, method[0].shape[1]), float(at), draws


def resampled_differences(method: tuple[Array, Array], base: tuple[Array, Array], resamples: int, seed: int) -> Array:
    """The difference on each of the resamples behind its interval: shape (resamples,).

    NaN where a resample drew only missing qualities. Args: as for :func:`difference_at_matched_kl`.
    """
    prompts = method[0].shape[1]
    draws = np.random.default_rng(seed).integers(0, prompts, size=(resamples, prompts))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.array([_compare(method, base, rows)[0] for rows in draws])


def _compare(method: tuple[Array, Array], base: tuple[Array, Array], rows: NDArray[np.int64]) -> tuple[float, float]:
    """The difference on some of the prompts, and the KL it is taken at."""
    curves = [(kl[:, rows].mean(1), np.nanmean(quality[:, rows], axis=1)) for kl, quality in (method, base)]
    at = min(kl.max() for kl, _ in curves)
    ours, theirs = (quality_at(kl, quality, at) for kl, quality in curves)
    return ours - theirs, at
