"""The paper's claim put to the test on this run, once for each trust-region method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tr_align.config import Params
from tr_align.errors import UserError
from tr_align.judges.base import hc
from tr_align.metrics.matched_kl import difference_at_matched_kl
from tr_align.metrics.win_rate import improvement_over_tasks, probability_of_improvement
from tr_align.reports.common import in_order, label
from tr_align.stats import Array, bootstrap_p, holm

Row = dict[str, Any]
Answers = dict[tuple[int, str], tuple[float, float]]
"""KL and HC (NaN where a rating could not be read) of each reply of a model, by (step, prompt)."""
SIGNIFICANT = 0.05


def answers_of(replies: Sequence[Row], judgements: Sequence[Row]) -> Answers:
    """From rows of `generate_replies` of one model and of `judge_replies` about them."""
    axes = {(row["step"], row["prompt_id"]): row["axes"] for row in judgements if row["kind"] == "rating"}
    result = {}
    for row in replies:
        key = row["step"], row["prompt_id"]
        result[key] = (row["kl"], hc(axes[key]))
    return result


def claims(params: Params, answers: Mapping[str, Answers]) -> list[Row]:
    """Does each TR method have more quality than its base at the same KL?

    Args: `answers` by model: "sft" and every method of the run.
    Returns:
        one row a TR method: claim, verdict, evidence (texts); difference (of HC at the largest KL both reached, in
        points), its 95 % interval ci, its two-sided bootstrap p and p_holm (corrected for the number of rows), kl
        (nats), n_prompts; and probability_of_improvement of HC between the two trained models with its interval
        over prompts, probability_of_improvement_ci. All over prompts: a claim about these trained models.
        The verdict is "supported" or "contradicted" if both the interval excludes zero and p_holm is under 5 %.
    Raises:
        UserError: two methods without a prompt on which the ratings of both could be read.
    """
    rows = []
    for name in in_order(params.methods):
        base = params.methods[name].base
        if base == "sft":
            continue
        try:
            rows.append(_compared(params, answers, name, base))
        except ValueError as error:
            raise UserError(
                f"{label(name)} and {label(base)}: {error}; too few of their ratings could be read, look at the raw "
                "answers under judgements/ and choose another judge.openai.model or prompt"
            ) from error
    for row, p_holm in zip(rows, holm([row["p"] for row in rows]), strict=True):
        low, high = row["ci"]
        row["p_holm"] = p_holm
        if p_holm < SIGNIFICANT and (low > 0 or high < 0):
            row["verdict"] = "supported" if low > 0 else "contradicted"
        row["evidence"] += f"; Holm-corrected p = {p_holm:.2g}"
    return rows


def _compared(params: Params, answers: Mapping[str, Answers], name: str, base: str) -> Row:
    """A row of :func:`claims` by itself: not corrected yet, and so not supported yet."""
    # Prompts that were answered at every point of both trainings.
    prompts = sorted(set.intersection(*(_everywhere(answers[model]) for model in ("sft", base, name))))
    curves = [_curve(answers["sft"], answers[model], prompts) for model in (name, base)]
    resamples, seed = params.score.bootstrap, params.seed
    difference, (low, high), at, draws = difference_at_matched_kl(curves[0], curves[1], resamples, seed)
    trained = _trained(answers[name], answers[base])
    return {
        "claim": f"{label(name)} keeps more quality than {label(base)} at the same KL",
        "verdict": "not supported",
        "evidence": (
            f"HC differs by {difference:+.2f} [{low:+.2f}, {high:+.2f}] at {at:.1f} nats, the largest KL both "
            f"reached ({len(prompts)} prompts, paired; one seed)"
        ),
        "difference": difference,
        "ci": [low, high],
        "p": bootstrap_p(draws),
        "kl": at,
        "n_prompts": len(prompts),
        "probability_of_improvement": probability_of_improvement(*trained),
        "probability_of_improvement_ci": improvement_over_tasks(*trained, resamples, seed),
    }


def _everywhere(answers: Answers) -> set[str]:
    steps = {step for step, _ in answers}
    return set.intersection(*({prompt for s, prompt in answers if s == step} for step in steps))


def _curve(start: Answers, answers: Answers, prompts: Sequence[str]) -> tuple[Array, Array]:
    """KL and HC of the SFT model and of each point, shape (points, prompts) each."""
    steps = sorted({step for step, _ in answers})
    rows = [[start[0, prompt] for prompt in prompts]]
    rows += [[answers[step, prompt] for prompt in prompts] for step in steps]
    both = np.array(rows)
    return both[..., 0], both[..., 1]


def _trained(method: Answers, base: Answers) -> tuple[Array, Array]:
    """HC of the two trained models on the prompts that both answered, shape (1, prompts) each."""
    ours, theirs = (
        {prompt: hc for (step, prompt), (_, hc) in answers.items() if step == last}
        for answers, last in ((answers, max(step for step, _ in answers)) for answers in (method, base))
    )
    prompts = sorted(ours.keys() & theirs.keys())
    x, y = (np.array([[scores[prompt] for prompt in prompts]]) for scores in (ours, theirs))
    return x, y
