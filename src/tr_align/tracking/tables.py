"""What a method's trained model replied and how it was judged, as a table to read in MLflow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tr_align.judges.base import axes_of, hc, parts_of_hc
from tr_align.judging import last_step
from tr_align.metrics.win_rate import outcome

MOST_ROWS = 50
"""Of a table: enough to read, and light. generations/ and judgements/ have them all."""

Row = dict[str, Any]


def reply_table(replies: Sequence[Row], judgements: Sequence[Row]) -> dict[str, Any]:
    """`columns` and `data` of the trained model's replies to the first evaluation prompts.

    Args:
        replies: rows of `generate_replies`. judgements: rows of `judge_replies`.
    Returns: a row a prompt: the prompt, the reply, what the duels with the SFT model's and the base method's reply
        came to (over both orders: win, tie, lose; empty if there was none), HC, the axes it is the mean of (if it is of
        several), KL in nats, length in tokens.
    Raises:
        UserError: no reply was rated.
    """
    step = max(row["step"] for row in replies)
    ratings = {r["prompt_id"]: r["axes"] for r in judgements if r["kind"] == "rating" and r["step"] == step}
    verdicts = {(r["against"], r["prompt_id"], r["shown"]): r["preference"] for r in judgements if r["kind"] == "duel"}

    def duel(against: str, prompt_id: str) -> str:
        orders = [(against, prompt_id, shown) for shown in ("first", "second")]
        if not all(order in verdicts for order in orders):
            return ""
        points = outcome(*(verdicts[order] for order in orders))
        return "missing" if math.isnan(points) else "win" if points == 1 else "lose" if points == 0 else "tie"

    axes = axes_of(judgements)
    data = []
    for row in last_step(replies)[:MOST_ROWS]:
        rating = ratings.get(row["prompt_id"], dict.fromkeys(axes))
        numbers = [hc(rating), *(rating[axis] for axis in parts_of_hc(axes)), row["kl"]]
        shown = [None if value is None or math.isnan(value) else round(value, 2) for value in numbers]
        duels = [duel(against, row["prompt_id"]) for against in ("sft", "base")]
        data.append([_text(row["prompt"]), row["reply"], *duels, *shown, row["tokens"]])
    return {"columns": ["prompt", "reply", "vs_sft", "vs_base", "hc", *parts_of_hc(axes), "kl", "tokens"], "data": data}


def _text(prompt: Sequence[Row]) -> str:
    """A prompt's messages as one text; who speaks is said where there are several."""
    messages = [message for message in prompt if message["content"]]
    if len(messages) == 1:
        return str(messages[0]["content"])
    return "\n\n".join(f"[{message['role']}] {message['content']}" for message in messages)
