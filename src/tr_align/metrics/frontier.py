"""Methods' curves of quality against KL: how far apart they are at the same KL, and where quality peaks.

A curve is piecewise linear through its points (the SFT model, then betas or steps of training) in order of KL. All
functions are pure; arrays have the shapes stated. KL in nats per reply, quality in HC points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tr_align.metrics.seeds import Estimate, mean_over_seeds, over_seeds, resample, weighted_means
from tr_align.stats import Array, interval, mean_ci

WEIGHTS = (1.0, -1.0)
"""Of a method and its base, in their difference."""


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
        ValueError: as :func:`common_kl`.
    """
    end = common_kl([*method, *base])
    grid = [float(kl) for kl in np.linspace(0, end, points + 1)[1:]]
    at = contrast([method, base], WEIGHTS, grid, resamples, seed)
    counts = resample([curve.prompts for curve in method], resamples, seed)
    pairs = list(zip(method, base, strict=True))
    areas = [float(_areas(pair, WEIGHTS, end, _once(pair[0]))[0]) for pair in pairs]
    draws = [_areas(pair, WEIGHTS, end, drawn) for pair, drawn in zip(pairs, counts, strict=True)]
    return Difference(grid, at, over_seeds(areas, draws, min(len(curve.prompts) for curve in method)), end)


def contrast(
    groups: Sequence[Sequence[Curve]], weights: Sequence[float], grid: Sequence[float], resamples: int, seed: int
) -> list[Estimate]:
    """A weighted sum of the quality of several methods at equal KL, over prompts and seeds; an estimate a KL.

    Args:
        groups: a method's curves each, one a seed, of the same seeds in the same order and, within a seed, on the same
            prompts. weights: of the methods; 1 and -1 make the difference of two.
        grid: KLs in nats, none larger than :func:`common_kl` of all curves.
    """
    counts = resample([curve.prompts for curve in groups[0]], resamples, seed)
    where, n = np.array(grid), min(len(curve.prompts) for curve in groups[0])
    values = [_sums(own, weights, where, _once(own[0]))[:, 0] for own in zip(*groups, strict=True)]
    draws = [_sums(own, weights, where, drawn) for *own, drawn in zip(*groups, counts, strict=True)]
    return [over_seeds([row[i] for row in values], [row[i] for row in draws], n) for i in range(len(where))]


def common_kl(curves: Sequence[Curve]) -> float:
    """The largest KL that all curves reach, in nats.

    Raises:
        ValueError: no prompt of some curve has a rating at one of its points, or there is no range of KL to compare.
    """
    _readable(curves)
    reached = min(float(curve.kl.mean(1).max()) for curve in curves)
    if not reached > 0:
        raise ValueError("the curves share no range of KL: one of them never left the SFT model")
    return reached


def _once(curve: Curve) -> NDArray[np.int64]:
    """Each prompt drawn once: the sample itself."""
    return np.ones((1, len(curve.prompts)), dtype=np.int64)


def _means(curves: Sequence[Curve], counts: NDArray[np.int64]) -> Iterator[tuple[tuple[Array, Array], ...]]:
    """A resample after the other: of each curve the means of KL and quality at its points."""
    drawn = [
        zip(weighted_means(curve.kl, counts).T, weighted_means(curve.quality, counts).T, strict=True)
        for curve in curves
    ]
    return zip(*drawn, strict=True)


def _sums(curves: Sequence[Curve], weights: Sequence[float], where: Array, counts: NDArray[np.int64]) -> Array:
    """Shape (len(where), resamples)."""
    return np.stack([_sum(points, weights, where) for points in _means(curves, counts)], axis=1)


def _areas(curves: Sequence[Curve], weights: Sequence[float], end: float, counts: NDArray[np.int64]) -> Array:
    """The integral of the sum from KL 0 to `end`, shape (resamples,)."""
    areas = np.empty(len(counts))
    for draw, points in enumerate(_means(curves, counts)):
        # Exact: the sum is linear between the knots of the curves.
        knots = np.concatenate([[0.0, end], *(kl for kl, _ in points)])
        knots = np.unique(knots[(knots >= 0) & (knots <= end)])
        areas[draw] = np.trapezoid(_sum(points, weights, knots), knots)
    return areas


def _sum(points: Sequence[tuple[Array, Array]], weights: Sequence[float], where: Array) -> Array:
    result = np.zeros(len(where))
    for (kl, quality), weight in zip(points, weights, strict=True):
        result += weight * _at(kl, quality, where)
    return result


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
