"""From replies and judgements to numbers with intervals; a pure function of files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tr_align.config import AXES
from tr_align.errors import UserError
from tr_align.judging import last_step
from tr_align.metrics.win_rate import outcome
from tr_align.stats import Array, mean_ci

Row = dict[str, Any]


def score(replies: Sequence[Row], judgements: Sequence[Row], resamples: int, seed: int) -> Row:
    """A policy's numbers at each point of its training, and those of the trained model.

    Args:
        replies: rows of `generate_replies`; judgements: rows of `judge_replies` about them.
        resamples: bootstrap resamples of the prompts behind each 95 % interval.
    Returns:
        `curve`: per step kl, hc and the axes, each with `_lo` and `_hi`, and n_prompts; `final`: the trained
        model's kl, log_ratio, hc, axes and win rates, each with `_ci`, n_prompts, n_missing (its axis ratings
        and duel outcomes for which the judge's answer could not be read), reply_tokens and step. KL in nats per reply.
    Raises:
        UserError: the judge gave no readable answer at all.
    """
    ratings = {(row["step"], row["prompt_id"]): row["axes"] for row in judgements if row["kind"] == "rating"}
    curve = []
    for step in sorted({row["step"] for row in replies}):
        rows = [row for row in replies if row["step"] == step]
        point: Row = {"step": step, "n_prompts": len(rows)}
        for name, values in _measures(rows, [ratings[step, row["prompt_id"]] for row in rows]).items():
            mean, (low, high) = _summary(name, values, resamples, seed)
            point |= {name: mean, f"{name}_lo": low, f"{name}_hi": high}
        curve.append(point)
    trained = last_step(replies)
    last = curve[-1]
    final: Row = {}
    for name in ("kl", "log_ratio", "hc", *AXES):
        final |= {name: last[name], f"{name}_ci": [last[f"{name}_lo"], last[f"{name}_hi"]]}
    missing = sum(value is None for row in trained for value in ratings[last["step"], row["prompt_id"]].values())
    for against in ("sft", "base"):
        outcomes = _outcomes(trained, judgements, against)
        rate, interval = (
            _summary(f"win_rate_vs_{against}", outcomes, resamples, seed) if len(outcomes) else (None, None)
        )
        final |= {f"win_rate_vs_{against}": rate, f"win_rate_vs_{against}_ci": interval}
        missing += int(np.isnan(outcomes).sum())
    final |= {
        "n_prompts": len(trained),
        "n_missing": missing,
        "reply_tokens": float(np.mean([row["tokens"] for row in trained])),
        "step": last["step"],
    }
    return {"curve": curve, "final": final}


def _measures(rows: Sequence[Row], axes: Sequence[dict[str, float | None]]) -> dict[str, Array]:
    """Values a prompt, shape (n,) each; hc is the mean of the five axes, missing if one of them is."""
    values = {axis: np.array([_number(rating[axis]) for rating in axes]) for axis in AXES}
    hc = np.mean([values[axis] for axis in AXES], axis=0)
    kl = np.array([row["kl"] for row in rows], dtype=float)
    ratio = np.array([row["log_ratio"] for row in rows], dtype=float)
    return {"kl": kl, "log_ratio": ratio, "hc": hc, **values}


def _outcomes(trained: Sequence[Row], judgements: Sequence[Row], against: str) -> Array:
    verdicts = {
        (row["prompt_id"], row["shown"]): row["preference"]
        for row in judgements
        if row["kind"] == "duel" and row["against"] == against
    }
    if not verdicts:
        return np.array([])
    return np.array(
        [outcome(verdicts[row["prompt_id"], "first"], verdicts[row["prompt_id"], "second"]) for row in trained]
    )


def _summary(name: str, values: Array, resamples: int, seed: int) -> tuple[float, list[float]]:
    if np.isnan(values).all():
        raise UserError(
            f"{name}: the judge gave no readable answer to any of {len(values)} questions; "
            "look at the raw answers under judgements/ and choose another judge.openai.model or prompt"
        )
    return mean_ci(values, resamples, seed)


def _number(value: float | None) -> float:
    return math.nan if value is None else value
