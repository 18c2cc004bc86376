"""What the paper says of log-probabilities, tested: of text outside the data, and of chosen replies along training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tr_align.metrics.recovery import low_and_rise, recovers
from tr_align.metrics.seeds import Estimate, mean_over_seeds
from tr_align.reports.claims import Finding
from tr_align.reports.common import listed, signed_with_interval
from tr_align.reports.equal_kl import at_equal_kl
from tr_align.reports.runs import Trained
from tr_align.reports.study import Quality, Study
from tr_align.stats import mean_ci

OUTSIDE = {"mismatched": "mismatched replies", "foreign": "foreign texts"}
"""The kinds of :mod:`tr_align.metrics.ood` that are in no data, and what evidence calls them."""


def likelihood_claims(study: Study, resamples: int, seed: int) -> list[Finding]:
    """Both claims about every trust-region cell; none about a cell whose log-probabilities were never measured."""
    found = []
    for cell in study.cells:
        base = study.base(cell)
        if base is not None and _lines(study, cell):
            found.append(_outside(study, cell, base, resamples, seed))
            found.append(_recovery(study, cell, base, resamples, seed))
    return found


def _lines(study: Study, cell: str) -> list[Trained]:
    return [
        trained
        for (name, _), by_seed in study.trained.items()
        if name == cell
        for trained in by_seed.values()
        if trained.likelihoods
    ]


def _outside(study: Study, cell: str, base: str, resamples: int, seed: int) -> Finding:
    """Method minus base in the log-probability of text outside the data, at the largest KL that both reached.

    A text's log-probability under the SFT model is the same for both, so that the difference is one of changes.
    """
    untested = partial(Finding, "ood", cell, base)
    measured = {line["kind"] for trained in _lines(study, cell) for line in trained.likelihoods}
    missing = [name for kind, name in OUTSIDE.items() if kind not in measured]
    if missing:
        return untested(f"the log-probability of {listed(missing)} was not measured")
    try:
        found = at_equal_kl(study, (cell, base), resamples, seed, _logp_of(*OUTSIDE))
        apart = []
        for kind, name in OUTSIDE.items():
            own = at_equal_kl(study, (cell, base), resamples, seed, _logp_of(kind)).estimate
            apart.append(f"{name} {signed_with_interval(own.value, own.ci)}")
    except ValueError as error:
        return untested(str(error))
    detail = ", ".join(apart)
    evidence = (
        f"log-probability of text outside the data differs by {found.text} nats per token {found.where} ({detail})"
    )
    return found.finding("ood", cell, base, evidence, detail, supported_by=-1)


def _logp_of(*kinds: str) -> Quality:
    return lambda trained, step, _: _per_token(trained, step, kinds)


def _per_token(trained: Trained, step: int, kinds: Sequence[str]) -> Mapping[str, float]:
    """Log-probability per token, by prompt: the mean over kinds, of prompts that have a text of each."""
    values: dict[str, list[float]] = {}
    for line in trained.likelihoods:
        if line["step"] == step and line["kind"] in kinds:
            values.setdefault(line["prompt_id"], []).append(line["logp"] / line["tokens"])
    return {prompt: float(np.mean(found)) for prompt, found in values.items() if len(found) == len(kinds)}


@dataclass(frozen=True)
class Course:
    """Chosen replies along the trainings of a cell: see :func:`tr_align.metrics.recovery.low_and_rise`."""

    low: Estimate
    """Change in log-probability per token since SFT at the lowest point before the end."""
    rise: Estimate
    steps: list[int]
    """At which that lowest point was, increasing; several where the halves of the texts, or the seeds, differ."""
    n_prompts: int
    seeds: list[int]

    @property
    def text(self) -> str:
        at = f"step{'s' if len(self.steps) > 1 else ''} {listed([str(step) for step in self.steps])}"
        low, rise = (signed_with_interval(one.value, one.ci) for one in (self.low, self.rise))
        return f"{low} at its lowest before the end ({at}), {rise} from there to the end"


def _recovery(study: Study, cell: str, base: str, resamples: int, seed: int) -> Finding:
    """Chosen replies fall below SFT and then rise."""
    shared = study.betas(cell, base)
    beta = study.compared_beta(cell, base) if shared else study.main_beta(cell)
    try:
        own = _course(study, cell, beta, resamples, seed)
    except ValueError as error:
        return Finding("recovery", cell, base, str(error))
    p, says = recovers(own.low, own.rise)
    detail = f"since SFT {own.text}"
    try:
        theirs = _course(study, base, beta, resamples, seed).text
    except (KeyError, ValueError):  # the base was not trained with this beta, or its texts were not measured
        theirs = "was not measured"
    detail += f"; {study.cells[base]['name']} {theirs}"
    evidence = f"log-probability of chosen replies in nats per token, {detail}"
    more = {"detail": detail}
    return Finding("recovery", cell, base, evidence, own.rise, p, says, own.n_prompts, own.seeds, beta, None, more)


def _course(study: Study, cell: str, beta: float, resamples: int, seed: int) -> Course:
    lows, rises, ids, seeds = [], [], [], []
    steps: set[int] = set()
    for number_, trained in sorted(study.trained[cell, beta].items()):
        start = _per_token(study.trained["sft", None][number_], 0, ("chosen",))
        along = sorted({line["step"] for line in trained.likelihoods})
        points = [_per_token(trained, step, ("chosen",)) for step in along]
        prompts = sorted(set(start).intersection(*points))
        if not points or not prompts:
            continue
        low, rise, chosen = low_and_rise(
            np.array([[point[prompt] - start[prompt] for prompt in prompts] for point in points])
        )
        steps |= {along[place] for place in chosen}
        lows.append(low)
        rises.append(rise)
        ids.append(prompts)
        seeds.append(number_)
    lowest, rise_ = (mean_over_seeds(values, ids, resamples, seed, mean_ci) for values in (lows, rises))
    if lowest is None or rise_ is None:
        raise ValueError("the log-probability of chosen replies was not measured under both the SFT model and a policy")
    return Course(lowest, rise_, sorted(steps), min(map(len, ids)), seeds)
