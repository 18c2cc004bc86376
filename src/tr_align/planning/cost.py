"""What a run takes beside GPUs: the judge's calls and dollars, and disk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tr_align import calibration
from tr_align.config import Params
from tr_align.judges import prices, rubric
from tr_align.judges.book import USUAL_TOKENS
from tr_align.planning.compute import replies


def judge_calls(params: Params, stages: Collection[str] | None = None) -> tuple[int, int]:
    """How many ratings and comparisons stages ask for, by default all of the run's, if no answer is known yet."""
    wanted = {"judge_sft", "calibrate", *(f"judge@{name}" for name in params.methods)}
    if stages is not None:
        wanted &= set(stages)
    ratings = comparisons = 0
    for stage in wanted:
        if stage == "calibrate":
            measured = calibration.questions(params.calibrate.pairs)
            ratings, comparisons = ratings + measured[0], comparisons + measured[1]
        elif stage == "judge_sft":
            ratings += replies(params, "sft")
        else:
            name = stage.partition("@")[2]
            ratings += replies(params, name)
            opponents = 1 if params.methods[name].base == "sft" else 2
            comparisons += 2 * params.data.splits.evaluation * opponents
    return ratings, comparisons


def judge_usd(params: Params, ratings: int, comparisons: int) -> float | None:
    """Dollars for so many calls at the limits of `data` and `generate`, at most; None where no price is known.

    Raises:
        UserError: the questions or the price list cannot be read.
    """
    if params.judge.name != "openai":
        return 0.0
    settings = params.judge.openai
    price = prices.load(settings.prices, settings.model, settings.batch)
    if price is None:
        return None
    rate = prices.tokens_of(rubric.load("rate", settings.prompts.rate).text)
    prefer = prices.tokens_of(rubric.load("prefer", settings.prompts.prefer).text)
    prompt, reply = params.data.max_prompt_tokens, params.generate.max_new_tokens
    tokens = ratings * (rate + prompt + reply) + comparisons * (prefer + prompt + 2 * reply)
    return price.of(tokens, USUAL_TOKENS * (ratings + comparisons))


@dataclass(frozen=True)
class Disk:
    """Bytes: models that stay (DVC's cache and the working copy share them where links can be made), and what one
    training needs beside them while it runs: two checkpoints, for the old one goes when the new one is complete."""

    models: float
    checkpoints: float


def disk(params: Params, parameters: int, trained: int, stages: Collection[str]) -> Disk:
    """Of the stages `sft` and `align@...` among `stages`; `trained` parameters change in `align`."""
    snapshots = len(params.align.evaluation_steps)
    methods = [params.methods[name] for name in params.methods if f"align@{name}" in stages]
    models = 2 * parameters * (snapshots * len(methods) + ("sft" in stages))
    kept = [12 * parameters] if "sft" in stages and params.sft.steps else []
    for method in methods:
        reference = 4 * trained if method.update == "soft" else 0
        weights = 4 * parameters if trained == parameters else 4 * trained
        kept.append(weights + 8 * trained + reference)
    return Disk(models, 2 * max(kept, default=0))
