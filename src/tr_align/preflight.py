"""What would only fail hours later is found before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tr_align import calibration, labelled, models
from tr_align.config import Params
from tr_align.data.schema import Pair
from tr_align.errors import UserError


def check_settings(params: Params) -> None:
    """The model is there and the judge answers; what the judge of the whole run will cost is printed.

    Raises:
        UserError: it names the key and the way out.
    """
    models.check(params.model.name)
    if params.judge.name == "openai":
        from tr_align.judges.cache import default_path
        from tr_align.judges.openai import OpenAIJudge

        judge = OpenAIJudge(params.judge.openai, default_path(), params.judge.max_usd)
        judge.check()
        ratings, comparisons = judge_calls(params)
        longest = params.data.max_prompt_tokens, params.generate.max_new_tokens
        print(judge.forecast(ratings, comparisons, *longest), file=sys.stderr)


def judge_calls(params: Params) -> tuple[int, int]:
    """How many ratings and comparisons the whole run asks for, its calibration included, if none is known yet."""
    prompts, at_points = params.data.splits.evaluation, params.generate.curve_prompts
    before_last = len(params.align.evaluation_steps) - 1
    ratings = prompts + len(params.methods) * (prompts + before_last * min(at_points, prompts))
    opponents = sum(1 if method.base == "sft" else 2 for method in params.methods.values())
    measured = calibration.questions(params.calibrate.pairs)
    return ratings + measured[0], 2 * prompts * opponents + measured[1]


def check_splits(params: Params, splits: Mapping[str, list[Pair]]) -> None:
    """Every split holds at least one batch, and there are pairs to measure the judge with.

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
    if Path(params.calibrate.path) == labelled.JUDGE_SPLIT:
        prompts = {pair.prompt_id for pair in labelled.unseen(splits["judge"], params.judge)}
        if len(prompts) < calibration.FEWEST_PROMPTS:
            raise UserError(
                f"data.splits.judge: is {params.data.splits.judge}, which leaves {len(prompts)} prompts to measure the "
                "judge with; raise it, or name labelled pairs of your own in calibrate.path"
            )
