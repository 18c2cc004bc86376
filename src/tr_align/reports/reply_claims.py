"""Claims about replies at equal KL: how diverse they are, and what is left of HC with their length held fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from tr_align.metrics.diversity import self_bleu_scores
from tr_align.metrics.length import within_slope
from tr_align.reports.claims import Finding
from tr_align.reports.common import number
from tr_align.reports.equal_kl import at_equal_kl
from tr_align.reports.runs import Trained
from tr_align.reports.study import Quality, Study


def reply_claims(study: Study, resamples: int, seed: int) -> list[Finding]:
    """Both claims about every trust-region cell that has a base."""
    slope, alike = length_slope(study), self_bleu_of()
    found = []
    for cell in study.cells:
        base = study.base(cell)
        if base is not None:
            found.append(_length(study, cell, base, slope, resamples, seed))
            found.append(_diversity(study, cell, base, alike, resamples, seed))
    return found


def length_slope(study: Study) -> float:
    """What HC rises by for each unit of log(1 + words of a reply), between replies to the same prompt.

    By least squares over every rated reply of every policy and step, the SFT model's among them, with a level of its
    own for each prompt and seed.
    """
    longer, rated, groups = [], [], []
    for by_seed in study.trained.values():
        for seed, trained in by_seed.items():
            for answers in trained.answers.values():
                for prompt, answer in answers.items():
                    longer.append(math.log1p(answer["words"]))
                    rated.append(answer["hc"])
                    groups.append((seed, prompt))
    return within_slope(np.array(longer, dtype=float), np.array(rated, dtype=float), groups)


def _length(study: Study, cell: str, base: str, slope: float, resamples: int, seed: int) -> Finding:
    """Method minus base in HC less what the report's slope gives for length, and in words, at the same KL."""
    try:
        found = at_equal_kl(study, (cell, base), resamples, seed, partial(_adjusted, slope=slope))
        words = at_equal_kl(study, (cell, base), resamples, seed, _words)
    except ValueError as error:
        return Finding("length_adjusted", cell, base, str(error))
    detail = f"{words.text} words a reply; b = {number(slope, 2)} HC points per unit of log(1 + words)"
    evidence = f"HC less b log(1 + words) differs by {found.text} points {found.where} ({detail})"
    return found.finding("length_adjusted", cell, base, evidence, detail)


def _adjusted(trained: Trained, step: int, prompts: Sequence[str], slope: float) -> Mapping[str, float]:
    answers = trained.answers[step]
    return {prompt: answers[prompt]["hc"] - slope * math.log1p(answers[prompt]["words"]) for prompt in prompts}


def _words(trained: Trained, step: int, prompts: Sequence[str]) -> Mapping[str, float]:
    return {prompt: float(trained.answers[step][prompt]["words"]) for prompt in prompts}


def _diversity(study: Study, cell: str, base: str, alike: Quality, resamples: int, seed: int) -> Finding:
    """Method minus base in the BLEU of a reply against the policy's other replies, at the same KL."""
    try:
        found = at_equal_kl(study, (cell, base), resamples, seed, alike)
    except ValueError as error:
        return Finding("diversity", cell, base, str(error))
    evidence = f"Self-BLEU differs by {found.text} {found.where}"
    return found.finding("diversity", cell, base, evidence, supported_by=-1)


def self_bleu_of() -> Quality:
    """The BLEU of each reply against those of the same policy and step to the other prompts of a curve.

    Always of as many prompts: a reply finds more to share among more others, so that a checkpoint with fewer replies
    than the trained model would seem to be more diverse. What was computed is kept: a base is compared several times.
    """
    kept: dict[tuple[int, int, tuple[str, ...]], Mapping[str, float]] = {}

    def alike(trained: Trained, step: int, prompts: Sequence[str]) -> Mapping[str, float]:
        key = id(trained), step, tuple(prompts)
        if key not in kept:
            texts = [trained.answers[step][prompt]["text"] for prompt in prompts]
            kept[key] = dict(zip(prompts, self_bleu_scores(texts), strict=True))
        return kept[key]

    return alike
