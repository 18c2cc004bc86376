"""Two methods' curves of quality against KL: how far apart they are at the same KL, and where quality peaks.

A curve is piecewise linear through its points (the SFT model, then betas or steps of training) in order of KL. All
functions are pure; arrays have the shapes stated. KL in nats per reply, quality in HC points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tr_align.metrics.seeds import Estimate, mean_over_seeds, over_seeds, resample, weighted_means
from tr_align.stats import Array, interval, mean_ci


@dataclass(frozen=True)
class Curve:
    """One training's points: `kl` and `quality` of shape (points, prompts), the first point being the SFT model.

    `prompts` are the prompts' ids; quality is NaN where a rating is missing.
    """

    kl: Array
    quality: Array
    prompts: Sequence[str]


@dataclass(frozen=True)
class Difference:
    """Method minus base along KL."""

    grid: list[float]
    """KL in nats, increasing; the last is the largest that every curve reaches."""
    at: list[Estimate]
    """The difference in quality at each."""
    area: Estimate
    """The area between the curves from KL 0 to the last of `grid`, in quality points x nats."""
    range: float
    """That last KL."""


def difference(
    method: Sequence[Curve], base: Sequence[Curve], resamples: int, seed: int, points: int = 12
) -> Difference:
    """How much more quality a method has than its base at equal KL, over prompts and seeds.

    Args:
        method, base: one curve a seed, of the same seeds in the same order and, within a seed, on the same prompts.
        points: how many KLs, evenly spaced, the difference is taken at.
    Raises:
        ValueError: no prompt of some seed has a rating at one of the points, or there is no range of KL to compare.
    """
    _readable([*method, *base])
    end = min(float(curve.kl.mean(1).max()) for curve in [*method, *base])
    if not end > 0:
        raise ValueError("the curves share no range of KL: one of them never left the SFT model")
    counts = resample([curve.prompts for curve in method], resamples, seed)
    grid = np.linspace(0, end, points + 1)[1:]
    per_seed = [_along(a, b, grid, weights) for a, b, weights in zip(method, base, counts, strict=True)]
    n = min(len(curve.prompts) for curve in method)
    at = [
        over_seeds([value[i] for value, _, _, _ in per_seed], [draws[i] for _, draws, _, _ in per_seed], n)
        for i in range(points)
    ]
    area = over_seeds([value for _, _, value, _ in per_seed], [draws for _, _, _, draws in per_seed], n)
    return Difference([float(kl) for kl in grid], at, area, end)


def _along(method: Curve, base: Curve, grid: Array, counts: NDArray[np.int64]) -> tuple[Array, Array, float, Array]:
    """Of one seed: the differences on the grid, shape (points,), their resamples, and the area with its resamples."""
    ones = np.ones((1, len(method.prompts)), dtype=np.int64)
    values, area = _between(method, base, grid, ones)
    draws, areas = _between(method, base, grid, counts)
    return values[:, 0], draws, float(area[0]), areas


def _between(method: Curve, base: Curve, grid: Array, counts: NDArray[np.int64]) -> tuple[Array, Array]:
    ours, theirs = (
        list(zip(weighted_means(curve.kl, counts).T, weighted_means(curve.quality, counts).T, strict=True))
        for curve in (method, base)
    )
    values, areas = np.empty((len(grid), len(counts))), np.empty(len(counts))
    for draw, ((kl, quality), (kl_base, quality_base)) in enumerate(zip(ours, theirs, strict=True)):
        values[:, draw] = _at(kl, quality, grid) - _at(kl_base, quality_base, grid)
        # Exact: the difference is linear between the knots of the two curves.
        knots = np.concatenate([[0.0, grid[-1]], kl, kl_base])
        knots = np.unique(knots[(knots >= 0) & (knots <= grid[-1])])
        areas[draw] = np.trapezoid(_at(kl, quality, knots) - _at(kl_base, quality_base, knots), knots)
    return values, areas


def _at(kl: Array, quality: Array, where: Array) -> Array:
    order = np.argsort(kl)
    result: Array = np.interp(where, kl[order], quality[order])
    return result


@dataclass(frozen=True)
class Peak:
    """Where a method's quality is highest, and what is lost after it: its over-optimisation."""

    kl: float
    """KL of the highest point, in nats."""
    kl_ci: list[float]
    """Over prompts and seeds, by resampling both; of few seeds it knows little."""
    quality: float
    """Quality there."""
    drop: Estimate
    """Quality lost from the peak to the largest KL, see :func:`losses`."""
    at_end: bool
    """Whether the highest point is the one of the largest KL: no peak was passed."""


def peak(curves: Sequence[Curve], resamples: int, seed: int) -> Peak:
    """The KL at which quality peaks, over the SFT model and the points of the curves.

    Args: `curves`, one a seed, with the same points.
    Raises:
        ValueError: fewer than two prompts of some seed, or no rating at one of the points.
    """
    _readable(curves)
    if min(len(curve.prompts) for curve in curves) < 2:
        raise ValueError("fewer than two prompts have a rating at every point")
    counts = resample([curve.prompts for curve in curves], resamples, seed)
    kl = np.mean([curve.kl.mean(1) for curve in curves], axis=0)
    quality = np.mean([np.nanmean(curve.quality, axis=1) for curve in curves], axis=0)
    top, last = int(np.argmax(quality)), int(np.argmax(kl))
    # Seeds are drawn anew too; with one there is no other to draw.
    drawn = np.random.default_rng(seed).integers(0, len(curves), size=(len(curves), resamples))
    kls, heights = (
        np.take_along_axis(np.stack(means), drawn[:, None], 0).mean(0)
        for means in (
            [weighted_means(curve.kl, w) for curve, w in zip(curves, counts, strict=True)],
            [weighted_means(curve.quality, w) for curve, w in zip(curves, counts, strict=True)],
        )
    )
    valid = ~np.isnan(heights).any(0)
    lost = [losses(curve, last) for curve in curves]
    drop = mean_over_seeds(lost, [curve.prompts for curve in curves], resamples, seed, mean_ci)
    if drop is None:
        raise ValueError("no prompt has a rating both at the peak and at the end")
    tops = heights[:, valid].argmax(0)
    return Peak(
        float(kl[top]),
        interval(np.take_along_axis(kls[:, valid], tops[None], 0)[0], min(len(c.prompts) for c in curves)),
        float(quality[top]),
        drop,
        top == last,
    )


def losses(curve: Curve, last: int) -> Array:
    """Quality that each prompt's reply has lost from the curve's highest point to the point `last`, shape (prompts,).

    The highest point is chosen on one half of the prompts and the loss measured on the other, both ways round: on the
    same prompts the highest of several noisy points always seems to fall afterwards. NaN where a rating is missing.
    """
    half = np.arange(len(curve.prompts)) % 2 == 0
    loss = np.full(len(curve.prompts), np.nan)
    for chosen_on in (half, ~half):
        means = [_mean(row) for row in curve.quality[:, chosen_on]]
        top = int(np.argmax(means))
        loss[~chosen_on] = curve.quality[top, ~chosen_on] - curve.quality[last, ~chosen_on]
    return loss


def _mean(values: Array) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else -np.inf


def _readable(curves: Sequence[Curve]) -> None:
    if not curves:
        raise ValueError("there is no training to compare")
    for curve in curves:
        if not curve.quality.size or np.isnan(curve.quality).all(1).any():
            raise ValueError("at one of the points none of the ratings could be read")
