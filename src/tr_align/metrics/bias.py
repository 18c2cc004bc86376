"""What a judge's verdicts follow besides quality: the position and the length of a reply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tr_align.judging import last_step
from tr_align.metrics.diversity import words
from tr_align.metrics.win_rate import outcome
from tr_align.stats import Array, share_ci

Row = dict[str, Any]
POINTS = {"first": 1.0, "tie": 0.5, "second": 0.0}
"""What a verdict gives to the reply shown first."""
OTHER = {"first": "second", "second": "first", "tie": "tie"}


def pairs_of(judgements: Sequence[Row], replies: Sequence[Row], others: Sequence[Row], against: str) -> list[Row]:
    """A policy's duels with one opponent, one row a prompt in the order of its replies, as :func:`bias` reads them.

    Args:
        judgements: rows of `judge_replies`. replies: rows of `generate_replies` of the policy; others: the same of
            the opponent; of both only those of the last step count. against: the opponent's name in `judgements`.
    Returns: prompt_id, first, second (verdicts with the policy's reply shown first and second), length_a (of the
        policy's reply, in words) and length_b (of the opponent's); no rows if the two did not meet.
    Raises:
        KeyError: a prompt without a duel in both orders, or without the opponent's reply.
    """
    verdicts = {
        (row["prompt_id"], row["shown"]): row["preference"]
        for row in judgements
        if row["kind"] == "duel" and row["against"] == against
    }
    if not verdicts:
        return []
    theirs = {row["prompt_id"]: words(row["reply"]) for row in last_step(others)}
    return [
        {
            "prompt_id": row["prompt_id"],
            "first": verdicts[row["prompt_id"], "first"],
            "second": verdicts[row["prompt_id"], "second"],
            "length_a": words(row["reply"]),
            "length_b": theirs[row["prompt_id"]],
        }
        for row in last_step(replies)
    ]


def bias(duels: Sequence[Mapping[str, Any]], resamples: int, seed: int) -> dict[str, Any]:
    """How far a judge's verdicts follow the order of two replies, and their length.

    A reply shown in both places has no better place, so whatever the first one gets beyond half of the points is
    the position's. The longer reply may be the better one: its share is a bias only as far as it is not.

    Args:
        duels: one a pair of replies a and b. `first`: the verdict with a shown first, `second`: with a shown second,
            "first" or "second" as shown, "tie", or None where it could not be read; `length_a`, `length_b` in words.
            Pairs with the same `prompt_id`, where there is one, are drawn together: they are not independent.
        resamples: bootstrap resamples of the pairs behind each 95 % interval.
    Returns:
        `n` (pairs with both verdicts readable), `n_missing` (the others, left out), and, each with `_ci`,
        `consistent` (share of pairs whose verdicts name the same reply, or both tie), `first_shown` (points that go
        to the reply shown first, over both orders: 0.5 without a position bias), `longer` (points of the longer
        reply among the `n_longer` pairs of different length). None where there is nothing to average.
    """
    readable = [duel for duel in duels if duel["first"] is not None and duel["second"] is not None]
    ours = np.array([outcome(duel["first"], duel["second"]) for duel in readable])
    longer_by = np.array([duel["length_a"] - duel["length_b"] for duel in readable])
    clusters = [str(duel.get("prompt_id", f"pair {i}")) for i, duel in enumerate(readable)]
    measures: dict[str, Array] = {
        "consistent": np.array([float(duel["first"] == OTHER[duel["second"]]) for duel in readable]),
        "first_shown": np.array([(POINTS[duel["first"]] + POINTS[duel["second"]]) / 2 for duel in readable]),
        "longer": np.where(longer_by == 0, np.nan, np.where(longer_by > 0, ours, 1 - ours)),
    }
    result: Row = {
        "n": len(readable),
        "n_missing": len(duels) - len(readable),
        "n_longer": int((longer_by != 0).sum()),
    }
    for name, values in measures.items():
        nothing = np.isnan(values).all()  # of no values as well
        mean, interval = (None, None) if nothing else share_ci(values, resamples, seed, clusters=clusters)
        result |= {name: mean, f"{name}_ci": interval}
    return result
