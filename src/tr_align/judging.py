"""What a judge is asked about one policy's replies: ratings of all, duels of the trained model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tr_align.data.schema import Message
from tr_align.errors import UserError
from tr_align.judges.base import Duel, Judge, Reply
from tr_align.settings import Judge as JudgeSettings

Row = dict[str, Any]


def load_judge(settings: JudgeSettings, folder: Path) -> Judge:
    """The judge named in params.yaml: the one fitted and stored in `folder`, or an endpoint, all of whose answers are
    kept."""
    if settings.name == "openai":
        from tr_align.judges.cache import default_path
        from tr_align.judges.openai import OpenAIJudge

        return OpenAIJudge(settings.openai, default_path(), settings.max_usd)
    if settings.name == "reward":
        from tr_align.judges import reward

        return reward.load(folder, settings.reward.batch_size)
    from tr_align.judges import probe

    return probe.load(folder, settings.probe)


def judge_replies(judge: Judge, replies: Sequence[Row], opponents: Mapping[str, Sequence[Row]]) -> list[Row]:
    """Rate every reply, and let the trained model's replies meet the opponents' in both orders.

    Args:
        replies: rows of `generate_replies` of one policy. opponents: the same of others, by name
            ("sft", "base"); only the replies of their last step count.
    Returns:
        one row a rating (kind, step, prompt_id, axes, raw) and one a duel (kind, against, prompt_id, shown:
        whether the policy's reply was shown first or second, preference, raw).
    Raises:
        UserError: an opponent did not answer one of the prompts.
    """
    rows: list[Row] = []
    ratings = judge.rate([Reply(f"{row['step']}/{row['prompt_id']}", _prompt(row), row["reply"]) for row in replies])
    for row, rating in zip(replies, ratings, strict=True):
        rows.append(
            {
                "kind": "rating",
                "step": row["step"],
                "prompt_id": row["prompt_id"],
                "axes": rating.axes,
                "raw": rating.raw,
            }
        )
    trained = last_step(replies)
    duels, labels = [], []
    for against, others in opponents.items():
        theirs = {row["prompt_id"]: row for row in last_step(others)}
        for row in trained:
            other = theirs.get(row["prompt_id"])
            if other is None:
                raise UserError(
                    f"generations of {against}: no reply to prompt {row['prompt_id']}; run `dvc repro` again"
                )
            for shown in ("first", "second"):
                pair = (row["reply"], other["reply"]) if shown == "first" else (other["reply"], row["reply"])
                duels.append(Duel(f"{against}/{row['prompt_id']}/{shown}", _prompt(row), *pair))
                labels.append({"kind": "duel", "against": against, "prompt_id": row["prompt_id"], "shown": shown})
    for label, verdict in zip(labels, judge.prefer(duels) if duels else [], strict=True):
        rows.append({**label, "preference": verdict.preference, "raw": verdict.raw})
    return rows


def last_step(rows: Sequence[Row]) -> list[Row]:
    """The rows of the trained model."""
    last = max(row["step"] for row in rows)
    return [row for row in rows if row["step"] == last]


def _prompt(row: Row) -> list[Message]:
    return [Message.model_validate(message) for message in row["prompt"]]
