"""What the paper says of the toy world, tested over many worlds. Rows as :mod:`tr_align.reports.claims` has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tr_align.config import METHODS
from tr_align.metrics.recovery import recovers
from tr_align.metrics.seeds import Estimate
from tr_align.reports.claims import SIGNIFICANT
from tr_align.reports.common import label, number, p_text, signed_with_interval
from tr_align.reports.study import cell_columns
from tr_align.settings import ToyMdp
from tr_align.stats import Array, holm
from tr_align.toy.statistics import estimate, matched, recovery, rounded
from tr_align.toy.train import Record

Row = dict[str, Any]

CLAIMS = {
    "toy_ood": "toy world: {method} puts less probability on trajectories outside the data than {base} at the same KL",
    "toy_reward": "toy world: {method} earns more true reward than {base} at the same KL",
    "toy_recovery": "toy world: with {method} the log-probability of chosen trajectories first falls, then recovers",
    "toy_gradient": "toy world: an update of {method}'s reference brings back the loss's gradient",
    "toy_curvature": "toy world: an update of {method}'s reference brings back the loss's curvature",
}
UNITS = {
    "toy_ood": "percentage points of mass",
    "toy_reward": "standard deviations of the reward",
    "toy_recovery": "nats",
    "toy_gradient": "doublings of the gradient's norm",
    "toy_curvature": "% of the mean of before and after",
}
SUPPORTED_BY = {kind: 1 for kind in CLAIMS} | {"toy_ood": -1}
"""The sign of an effect that supports the claim."""
PAPER: Mapping[str, Row] = {
    "toy_ood": {
        "text": "a toy MDP with log-probabilities of chosen, rejected and OOD trajectories; TR keeps the model from "
        "giving OOD data more probability",
        "source": "a summary of v3",
        "trust": "weak",
    },
    "toy_reward": {
        "text": "of language models, in HC points: more quality at the same KL; no reward of its toy is known",
        "source": "abstract of v4",
        "trust": "verified",
    },
    "toy_recovery": {
        "text": "the chosen probability first drops and recovers with TR, towards memorisation at the end",
        "source": "a published review of the submission",
        "trust": "secondary",
    },
    "toy_gradient": {"text": "no number of it is known", "source": None, "trust": None},
    "toy_curvature": {
        "text": "over-optimisation sits where the loss has no curvature, and resetting the reference restores it; "
        "argued from the second derivative of DPO",
        "source": "published reviews of the submission",
        "trust": "secondary",
    },
}


@dataclass(frozen=True)
class Finding:
    """An effect, what is said of it, and the KL it was taken at, if at one."""

    effect: Estimate
    said: str
    kl: float | None = None
    verdict: tuple[float, str] | None = None
    """Its p-value and what it says if that is small enough, where they are not those of the effect alone."""
    detail: str | None = None
    """What a reader needs beside the effect, where that is only a part of what was tested."""


def claims(settings: ToyMdp, records: Mapping[str, Record]) -> list[Row]:
    """Every claim on the six main trust-region cells, Holm-corrected over the cells of its kind.

    Args: the records of :func:`tr_align.toy.train.train` by loss, the base method's cell first, soft and hard next.
    """
    rows = []
    for kind, find in FINDERS.items():
        found = [(record, place, find(record, place)) for record in records.values() for place in (1, 2)]
        verdicts = [finding.verdict or _of_effect(kind, finding.effect) for _, _, finding in found]
        corrected = holm([p for p, _ in verdicts])
        for (record, place, finding), (p, says), p_holm in zip(found, verdicts, corrected, strict=True):
            verdict = says if p_holm < SIGNIFICANT else "inconclusive"
            rows.append(_row(kind, settings, record, place, finding, p, p_holm, verdict))
    return rows


def _of_effect(kind: str, effect: Estimate) -> tuple[float, str]:
    sign = SUPPORTED_BY[kind] * (int(effect.ci[0] > 0) - int(effect.ci[1] < 0))
    return effect.p, {1: "supported", -1: "contradicted", 0: "inconclusive"}[sign]


def _row(
    kind: str,
    settings: ToyMdp,
    record: Record,
    place: int,
    finding: Finding,
    p: float,
    p_holm: float,
    verdict: str,
) -> Row:
    cell, base = record.cells[place], label(record.cells[0].method)
    return {
        "id": f"{kind}/{cell.method}",
        "kind": kind,
        **cell_columns(cell.method, (cell.alpha, cell.every, cell.tau), several=False),
        "base": base,
        "claim": CLAIMS[kind].format(method=label(cell.method), base=base),
        "verdict": verdict,
        "effect": rounded(finding.effect.value),
        "unit": UNITS[kind],
        "ci": [rounded(end) for end in finding.effect.ci],
        "p": rounded(p),
        "p_holm": rounded(p_holm),
        "kl": None if finding.kl is None else rounded(finding.kl),
        "beta": getattr(settings.beta, METHODS[cell.method].loss),
        "n_prompts": 0,
        "seeds": list(range(settings.seeds)),
        **({"detail": finding.detail} if finding.detail else {}),
        "evidence": f"{finding.said} ({settings.seeds} worlds); Holm-corrected p {p_text(p_holm)}",
        "paper": {"value": None, "unit": None} | PAPER[kind],
    }


def _said(found: Estimate, scale: float = 1.0) -> str:
    return signed_with_interval(scale * found.value, [scale * end for end in found.ci])


def _percent(value: float) -> str:
    return f"{value:,.0f} %" if abs(value) >= 10 else f"{value:.1g} %"


def _at_equal_kl(quantity: str, scale: float, what: str) -> Callable[[Record, int], Finding]:
    def find(record: Record, place: int) -> Finding:
        (ours, kl), (theirs, base_kl) = (
            (record.along(quantity, cell), record.along("kl", cell)) for cell in (place, 0)
        )
        one = matched(ours, kl, theirs, base_kl)
        effect = estimate(scale * one.difference)
        mean_kl = float(one.kl.mean())
        said = (
            f"{what} differs by {_said(effect)} at the largest KL both reached, world by world ({number(mean_kl, 1)} "
            f"nats on average); at the end {number(scale * float(ours[-1].mean()), 2)} against "
            f"{number(scale * float(theirs[-1].mean()), 2)}, with a KL of {number(float(kl[-1].mean()), 1)} against "
            f"{number(float(base_kl[-1].mean()), 1)} nats"
        )
        return Finding(effect, said, mean_kl)

    return find


def _recovers(record: Record, place: int) -> Finding:
    ours, base = (recovery(record.along("chosen_logp", cell)) for cell in (place, 0))
    fall, rise, base_rise = estimate(ours.fall), estimate(ours.rise), estimate(base.rise)
    steps = len(record.moved) - 1
    said = (
        f"{_said(fall)} nats from the start to step {round(float(ours.trough.mean()))} of {steps}, then "
        f"{_said(rise)} to the end (the base's rise: {_said(base_rise)})"
    )
    return Finding(rise, said, verdict=recovers(fall, rise), detail=f"after a fall of {_said(fall)} from the start")


def _jumps(name: str) -> Callable[[Record, int], Finding]:
    """What an update does to a quantity of the loss, over all updates of a training."""

    def find(record: Record, place: int) -> Finding:
        values, gauss_newton = (record.curvature[key][:, place].numpy() for key in (name, "gauss_newton"))
        detail = None
        afters = [
            index
            for index, (step, moment) in enumerate(record.points)
            if moment == "after" and record.moved[step, place].max() > 0
        ]
        befores = [index - 1 for index in afters]
        before, after = values[befores], values[afters]
        if name == "gradient":
            effect = estimate(np.log2(after / before).mean(0))
            change = f"the gradient's norm changes by a factor of {number(2**effect.value, 2)} at an update"
            change += f" ({_said(effect)} doublings)"
        else:
            effect = estimate(_relative(before, after))
            own = estimate(_relative(gauss_newton[befores], gauss_newton[afters]))
            change = f"the curvature changes by {_said(effect)} % of the mean of before and after at an update"
            detail = f"its Gauss-Newton part by {_said(own)} %"
            change += f", {detail}"
        ends = [record.curvature[name][:, cell].mean(1) for cell in (0, place)]
        base_end, own_end = (float(100 * end[-1] / end[0]) for end in ends)
        said = (
            f"{change} (mean of {len(afters)}); at the end of the training it is {_percent(own_end)} of its start, "
            f"the base's {_percent(base_end)}"
        )
        return Finding(effect, said, detail=detail)

    return find


def _relative(before: Array, after: Array) -> Array:
    """Changes in per cent of the mean of the two sizes, the mean over updates, shape (seeds,).

    A curvature may be negative, or near zero in one world of twenty: a plain quotient would be that world's.
    """
    result: Array = 100 * (2 * (after - before) / (abs(after) + abs(before))).mean(0)
    return result


FINDERS: Mapping[str, Callable[[Record, int], Finding]] = {
    "toy_ood": _at_equal_kl("ood_mass", 100.0, "probability mass outside the data (%)"),
    "toy_reward": _at_equal_kl("reward", 1.0, "the expected true reward"),
    "toy_recovery": _recovers,
    "toy_gradient": _jumps("gradient"),
    "toy_curvature": _jumps("curvature"),
}
