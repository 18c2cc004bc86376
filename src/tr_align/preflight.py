"""What would only fail hours later is found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tr_align import models
from tr_align.config import Params
from tr_align.data.schema import Pair
from tr_align.errors import UserError


def check_settings(params: Params, answers: Path) -> None:
    """The model is there and the judge answers.

    Args: `answers` is a file the judge may keep its answers in.
    Raises:
        UserError: it names the key and the way out.
    """
    models.check(params.model.name)
    if params.judge.name == "openai":
        from tr_align.judges.openai import OpenAIJudge

        OpenAIJudge(params.judge.openai, answers).check()


def check_splits(params: Params, splits: Mapping[str, list[Pair]]) -> None:
    """Every split holds at least one batch.

    Raises:
        UserError: it names the split, its size and what to change.
    """
    for split, batch, key in (
        ("sft", params.sft.batch_size, "sft.batch_size"),
        ("preferences", params.align.batch_size, "align.batch_size"),
    ):
        if len(splits[split]) < batch:
            raise UserError(
                f"{key}: is {batch}, but the {split} split has only {len(splits[split])} pairs; "
                f"lower it or raise data.splits.{split}"
            )
