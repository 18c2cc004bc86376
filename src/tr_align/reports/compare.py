"""Trust-region methods against their base: along KL, at the peak, in duels. The statistics of a report, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from tr_align.metrics.frontier import Difference, Peak, difference, peak
from tr_align.metrics.seeds import Estimate, mean_over_seeds
from tr_align.metrics.win_rate import improvement_over_runs, improvement_over_tasks, probability_of_improvement
from tr_align.reports.study import Pairing, Study, pairing
from tr_align.stats import Array, mean_ci

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A trust-region cell against its base, by every measure; None where a measure could not be had."""

    cell: str
    base: str
    pairing: Pairing
    difference: Difference
    duel: Estimate | None
    """Wins minus losses in duels of the trained models, as a share."""
    duel_prompts: int
    reach: Estimate | None
    """How much further from the SFT model the trained model is than the base's, in nats."""
    reach_prompts: int
    quality: Estimate | None
    """How much higher the trained model's HC is than the base's, wherever along KL the two are, in points."""
    improvement: tuple[float, list[float]] | None
    """Probability of improvement in HC between the trained models, and its interval."""
    beta: float
    """Of the trained models in `duel`, `reach`, `quality` and `improvement`."""
    seeds: list[int]
    """And their seeds."""


def comparisons(study: Study, resamples: int, seed: int) -> tuple[list[Comparison], Mapping[str, str]]:
    """Every trust-region cell with its base; and, by cell, why one of them could not be compared."""
    found, failed = [], {}
    for cell in study.cells:
        base = study.base(cell)
        if base is None:
            continue
        try:
            found.append(_compare(study, cell, base, resamples, seed))
        except ValueError as error:
            failed[cell] = str(error)
    return found, failed


def _compare(study: Study, cell: str, base: str, resamples: int, seed: int) -> Comparison:
    curves = pairing(study, cell, base)
    beta = study.compared_beta(cell, base)
    ours, theirs = study.trained[cell, beta], study.trained[base, beta]
    seeds = sorted(ours.keys() & theirs.keys())
    finals = [(ours[s].answers[ours[s].last], theirs[s].answers[theirs[s].last]) for s in seeds]
    ids = [sorted(a.keys() & b.keys()) for a, b in finals]
    kl, hc = (
        [
            np.array([[answers[p][key] for p in prompts] for answers in pair])
            for pair, prompts in zip(finals, ids, strict=True)
        ]
        for key in ("kl", "hc")
    )
    duels = [ours[s].outcomes.get("base", {}) for s in seeds]
    met = [sorted(rows) for rows in duels]
    points = [
        np.array([_points(rows[p]["outcome"]) for p in prompts]) for rows, prompts in zip(duels, met, strict=True)
    ]
    return Comparison(
        cell,
        base,
        curves,
        difference(curves.method, curves.base, resamples, seed),
        _duel(points, met, resamples, seed),
        min(map(len, met), default=0),
        mean_over_seeds([pair[0] - pair[1] for pair in kl], ids, resamples, seed, mean_ci),
        min(map(len, ids), default=0),
        mean_over_seeds([pair[0] - pair[1] for pair in hc], ids, resamples, seed, mean_ci),
        _improvement(hc, ids, resamples, seed),
        beta,
        seeds,
    )


def _points(outcome: float) -> float:
    """1 for a win, -1 for a loss, 0 for what is neither (as in the paper's win minus lose); NaN where unread."""
    return outcome if np.isnan(outcome) else float(outcome == 1) - float(outcome == 0)


def _duel(points: Sequence[Array], met: Sequence[Sequence[str]], resamples: int, seed: int) -> Estimate | None:
    """Wins minus losses, a difference of two shares: its interval ends at -1 and 1, which Student's t does not know.

    Where every duel went the same way resampling shows no spread; interval and p are then exact, as for a coin.
    """
    estimate = mean_over_seeds(points, met, resamples, seed, mean_ci)
    if estimate is None:
        return None
    if abs(estimate.value) == 1:
        n = sum(int((~np.isnan(values)).sum()) for values in points)
        exact = binomtest(n if estimate.value > 0 else 0, n)
        ends = exact.proportion_ci(method="exact")
        return Estimate(estimate.value, [2 * float(ends.low) - 1, 2 * float(ends.high) - 1], float(exact.pvalue))
    return Estimate(estimate.value, [max(estimate.ci[0], -1.0), min(estimate.ci[1], 1.0)], estimate.p)


def _improvement(
    hc: Sequence[Array], ids: Sequence[Sequence[str]], resamples: int, seed: int
) -> tuple[float, list[float]] | None:
    """Over seeds where they share their prompts (rliable's bootstrap of runs), else over all prompts together."""
    try:
        if len(hc) > 1 and all(prompts == ids[0] for prompts in ids):
            x, y = (np.stack([pair[side] for pair in hc]) for side in (0, 1))
            return probability_of_improvement(x, y), improvement_over_runs(x, y, resamples, seed)
        x, y = (np.concatenate([pair[side] for pair in hc])[None] for side in (0, 1))
        return probability_of_improvement(x, y), improvement_over_tasks(x, y, resamples, seed)
    except ValueError:  # no prompt with a rating of both
        return None


def frontier_rows(study: Study, found: Sequence[Comparison]) -> list[Row]:
    """`Report.frontier`: the difference along KL."""
    rows: list[Row] = []
    for one in found:
        common = study.cells[one.cell] | {"base": study.cells[one.base]["name"], "seeds": one.pairing.seeds}
        common |= {"n_prompts": one.pairing.n_prompts}
        for kl, estimate in zip(one.difference.grid, one.difference.at, strict=True):
            rows.append(
                {**common, "kl": kl, **spread("difference", estimate), "largest": kl == one.difference.grid[-1]}
            )
    return rows


def peak_rows(study: Study, resamples: int, seed: int) -> list[Row]:
    """`Report.peaks`: where each cell's quality peaks and what it loses after; without cells of too few ratings."""
    rows = []
    for cell, columns in study.cells.items():
        if cell == "sft":
            continue
        try:
            curves = pairing(study, cell, cell)
            top: Peak = peak(curves.method, resamples, seed)
        except ValueError:
            continue
        row = columns | spread("kl", Estimate(top.kl, top.kl_ci, float("nan"))) | {"hc": top.quality}
        row |= spread("drop", top.drop) | {"at_end": top.at_end, "along": curves.along}
        rows.append(row | {"seeds": curves.seeds, "n_prompts": curves.n_prompts})
    return rows


def spread(name: str, estimate: Estimate | None) -> Row:
    """A number and the ends of its interval as the columns of a row; None where there is none."""
    if estimate is None:
        return {name: None, f"{name}_lo": None, f"{name}_hi": None}
    return {name: estimate.value, f"{name}_lo": estimate.ci[0], f"{name}_hi": estimate.ci[1]}
