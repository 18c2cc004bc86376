"""From replies and judgements to numbers with intervals; a pure function of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tr_align.errors import UserError
from tr_align.judges.base import as_number, axes_of, hc
from tr_align.judging import last_step
from tr_align.metrics.bias import bias, pairs_of
from tr_align.metrics.diversity import distinct, self_bleu, words
from tr_align.metrics.win_rate import outcome, win_tie_lose
from tr_align.stats import Array, mean_ci, share_ci

Row = dict[str, Any]


def score(
    replies: Sequence[Row],
    judgements: Sequence[Row],
    opponents: Mapping[str, Sequence[Row]],
    resamples: int,
    seed: int,
) -> Row:
    """A policy's numbers at each point of its training, and those of the trained model.

    Args:
        replies: rows of `generate_replies`; judgements: rows of `judge_replies` about them.
        opponents: the replies of those it met in duels, by name ("sft", "base"); none for the SFT model.
        resamples: bootstrap resamples of the prompts behind each 95 % interval.
    Returns:
        `curve`: per step kl, hc and the judge's axes, each with `_lo` and `_hi`, and n_prompts.
        `final`: the trained model's kl, log_ratio, hc, axes and, against "sft" and "base", win_rate, win, tie and
        lose, each with `_ci` (None where it met none); n_prompts, n_missing (its axis ratings and duel outcomes for
        which the judge's answer could not be read); self_bleu, distinct_1 to distinct_3, reply_words, reply_tokens
        (means); judge_bias by opponent, as :func:`tr_align.metrics.bias.bias` has it; and step.
        KL in nats per reply.
    Raises:
        UserError: the judge gave no readable answer at all.
    """
    ratings = {(row["step"], row["prompt_id"]): row["axes"] for row in judgements if row["kind"] == "rating"}
    curve = []
    for step in sorted({row["step"] for row in replies}):
        rows = [row for row in replies if row["step"] == step]
        point: Row = {"step": step, "n_prompts": len(rows)}
        for name, values in _measures(rows, [ratings[step, row["prompt_id"]] for row in rows]).items():
            _readable(name, values)
            mean, (low, high) = mean_ci(values, resamples, seed)
            point |= {name: mean, f"{name}_lo": low, f"{name}_hi": high}
        curve.append(point)
    trained = last_step(replies)
    last = curve[-1]
    final: Row = {}
    for name in ("kl", "log_ratio", "hc", *axes_of(judgements)):
        final |= {name: last[name], f"{name}_ci": [last[f"{name}_lo"], last[f"{name}_hi"]]}
    missing = sum(value is None for row in trained for value in ratings[last["step"], row["prompt_id"]].values())
    judge_bias: Row = {}
    for against in ("sft", "base"):
        duels = pairs_of(judgements, replies, opponents.get(against, ()), against)
        judge_bias[against] = bias(duels, resamples, seed) if duels else None
        outcomes = np.array([outcome(duel["first"], duel["second"]) for duel in duels])
        final |= _wins(outcomes, against, resamples, seed)
        missing += int(np.isnan(outcomes).sum())
    texts = [row["reply"] for row in trained]
    final |= {
        "n_prompts": len(trained),
        "n_missing": missing,
        "self_bleu": self_bleu(texts),
        **{f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
        "reply_words": float(np.mean([words(text) for text in texts])),
        "reply_tokens": float(np.mean([row["tokens"] for row in trained])),
        "judge_bias": judge_bias,
        "step": last["step"],
    }
    return {"curve": curve, "final": final}


def _measures(rows: Sequence[Row], axes: Sequence[dict[str, float | None]]) -> dict[str, Array]:
    """Values a prompt, shape (n,) each; hc is the mean of a rating's axes, missing if one of them is."""
    values = {axis: np.array([as_number(rating[axis]) for rating in axes]) for axis in axes[0]}
    kl = np.array([row["kl"] for row in rows], dtype=float)
    ratio = np.array([row["log_ratio"] for row in rows], dtype=float)
    return {"kl": kl, "log_ratio": ratio, "hc": np.array(list(map(hc, axes))), **values}


def _wins(outcomes: Array, against: str, resamples: int, seed: int) -> Row:
    """The win rate and the shares of wins, ties and losses, with intervals; None each without duels."""
    found: dict[str, tuple[float | None, list[float] | None]]
    found = dict.fromkeys(("win_rate", "win", "tie", "lose"), (None, None))
    if len(outcomes):
        _readable(f"win_rate_vs_{against}", outcomes)
        found |= {"win_rate": share_ci(outcomes, resamples, seed), **win_tie_lose(outcomes, resamples, seed)}
    row: Row = {}
    for name, (mean, interval) in found.items():
        row |= {f"{name}_vs_{against}": mean, f"{name}_vs_{against}_ci": interval}
    return row


def _readable(name: str, values: Array) -> None:
    if np.isnan(values).all():
        raise UserError(
            f"{name}: the judge gave no readable answer to any of {len(values)} questions; "
            "look at the raw answers under judgements/ and choose another judge.openai.model or prompt"
        )
