"""Cells compared in any quantity at the largest KL that all of them reached: the common part of several claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tr_align.metrics.frontier import WEIGHTS, common_kl, contrast
from tr_align.metrics.seeds import Estimate
from tr_align.reports.claims import Finding, says
from tr_align.reports.common import number, signed_with_interval
from tr_align.reports.study import Aligned, Quality, Study, aligned, hc_of


@dataclass(frozen=True)
class AtEqualKL:
    """A weighted sum of a quantity over cells, and the curves it was taken from."""

    estimate: Estimate
    kl: float
    """In nats."""
    curves: Aligned

    @property
    def text(self) -> str:
        """The sum with its interval."""
        return signed_with_interval(self.estimate.value, self.estimate.ci)

    @property
    def where(self) -> str:
        """At which KL, in words."""
        reached = "both" if len(self.curves.curves) == 2 else f"all {len(self.curves.curves)}"
        return f"at {number(self.kl, 1)} nats, the largest KL {reached} reached"

    def finding(
        self,
        kind: str,
        cell: str,
        base: str | tuple[str, ...],
        evidence: str,
        detail: str | None = None,
        supported_by: int = 1,
    ) -> Finding:
        """A claim that the sum has the sign `supported_by`."""
        return Finding(
            kind,
            cell,
            base,
            evidence,
            self.estimate,
            self.estimate.p,
            says(self.estimate.ci, supported_by),
            self.curves.n_prompts,
            self.curves.seeds,
            self.curves.beta,
            self.kl,
            {"detail": detail} if detail else {},
        )


def at_equal_kl(
    study: Study,
    cells: Sequence[str],
    resamples: int,
    seed: int,
    quality: Quality = hc_of,
    weights: Sequence[float] = WEIGHTS,
) -> AtEqualKL:
    """The sum of `quality` over cells with these weights: with the default ones, the first cell's minus the second's.

    Raises:
        ValueError: the cells share no seed, no prompt with a value everywhere, or no range of KL.
    """
    curves = aligned(study, cells, quality)
    groups = [curves.curves[cell] for cell in cells]
    kl = common_kl([curve for group in groups for curve in group])
    (estimate,) = contrast(groups, weights, [kl], resamples, seed)
    return AtEqualKL(estimate, kl, curves)
