"""The log-probabilities of fixed texts under each policy, over prompts and seeds, and what they changed by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tr_align.metrics.seeds import mean_over_seeds
from tr_align.reports.compare import spread
from tr_align.reports.runs import Trained
from tr_align.reports.study import Study
from tr_align.stats import mean_ci

Row = dict[str, Any]


def likelihood_rows(study: Study, resamples: int, seed: int) -> list[Row]:
    """`Report.ood`: a row a cell, beta, step and kind of text."""
    rows = []
    for (cell, beta), by_seed in study.trained.items():
        measured = {s: trained for s, trained in by_seed.items() if trained.likelihoods and cell != "sft"}
        lines = {s: _with_start(trained, study.trained["sft", None][s]) for s, trained in measured.items()}
        keys = dict.fromkeys((line["step"], line["kind"]) for rows_of in lines.values() for line in rows_of)
        for step, kind in keys:
            found = [
                [line for line in rows_of if (line["step"], line["kind"]) == (step, kind)] for rows_of in lines.values()
            ]
            seeds = [s for s, own in zip(lines, found, strict=True) if own]
            found = [own for own in found if own]
            ids = [[line["prompt_id"] for line in own] for own in found]
            row = study.cells[cell] | {"beta": beta, "seeds": sorted(seeds), "step": step, "kind": kind}
            for name, value in MEASURES.items():
                values = [np.array([value(line) for line in own], dtype=float) for own in found]
                row |= spread(name, mean_over_seeds(values, ids, resamples, seed, mean_ci))
            rows.append(row | {"n": min(map(len, ids))})
    return rows


MEASURES: Mapping[str, Callable[[Row], float]] = {
    "per_token": lambda line: line["logp"] / line["tokens"],
    "per_reply": lambda line: line["logp"],
    # Text by text, so that how much texts differ from each other does not hide what training does to them.
    "change": lambda line: (line["logp"] - line["start"]) / line["tokens"],
    "change_per_reply": lambda line: line["logp"] - line["start"],
}


def _with_start(trained: Trained, sft: Trained) -> list[Row]:
    """The lines of a training after those of the SFT model, which every policy is before the first step; each with
    the log-probability at that `start`, NaN where it was not measured."""
    start = {(line["prompt_id"], line["kind"]): line["logp"] for line in sft.likelihoods}
    return [
        line | {"start": start.get((line["prompt_id"], line["kind"]), float("nan"))}
        for line in [*sft.likelihoods, *trained.likelihoods]
    ]
