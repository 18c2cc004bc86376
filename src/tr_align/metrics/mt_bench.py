"""MT-Bench, single-answer grading: a judge's ratings of 80 two-turn questions, 1 to 10 points a turn.

Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv 2306.05685), and its code,
FastChat's llm_judge (common.py, show_result.py), whose numbers these are: ratings are read by its two patterns, a
score is the mean of all ratings read, of both turns, and a question that is rated again (after the judge failed, say)
counts with each of its ratings. A judgment without a rating, FastChat's -1, is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from tr_align.errors import UserError
from tr_align.stats import Array

PATTERNS = (r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]")
"""FastChat's `[[rating]]`, and its `[rating]` where that finds nothing."""

LOWEST, HIGHEST = 1, 10


def parse(text: str) -> float | None:
    """The rating in a judge's reply, its first one in brackets; None if there is none or it is not 1 to 10."""
    for pattern in PATTERNS:
        found = re.search(pattern, text)
        if found:
            rating = float(found[1])
            return rating if LOWEST <= rating <= HIGHEST else None
    return None


def scores(rows: Iterable[tuple[str, Any]], resamples: int, seed: int) -> list[dict[str, Any]]:
    """A line for each model, in the order of the rows.

    Args: `rows` of (place for messages, judgment with model, question_id, turn and judgment: the judge's text).
    Returns:
        model, score (mean of its ratings, 1 to 10 points), ci (95 % percentile bootstrap over questions), turn_1,
        turn_2 (means of the turns), n (ratings read), n_missing (judgments without one), score_missing_as_0 (the
        mean if those counted as 0: what a table shows whose maker left them in). None where nothing was read.
    Raises:
        UserError: a row is no single-answer judgment, or there is none.
    """
    ratings: dict[str, dict[Any, list[list[float]]]] = {}
    missing: dict[str, int] = {}
    for where, row in rows:
        model, question, turn, rating = _judgment(where, row)
        turns = ratings.setdefault(model, {}).setdefault(question, [[], []])
        missing.setdefault(model, 0)
        if rating is None:
            missing[model] += 1
        else:
            turns[turn - 1].append(rating)
    if not ratings:
        raise UserError("there is no judgment; give files with FastChat's single-answer judgments")
    lines = []
    for model, questions in ratings.items():
        first, second = ([rating for turns in questions.values() for rating in turns[turn]] for turn in (0, 1))
        lines.append(
            {
                "model": model,
                "score": _mean(first + second),
                "ci": _interval(questions, resamples, seed),
                "turn_1": _mean(first),
                "turn_2": _mean(second),
                "n": len(first + second),
                "n_missing": missing[model],
                "score_missing_as_0": sum(first + second) / (len(first + second) + missing[model]),
            }
        )
    return lines


def _judgment(where: str, row: Any) -> tuple[str, Any, int, float | None]:
    """Model, question, turn and rating."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: is not a JSON object with model, question_id, turn and judgment")
    if not isinstance(row.get("model"), str):
        raise UserError(f"{where}: model: has to be text, is {row.get('model')!r}; pairwise judgments have no scores")
    if not isinstance(row.get("question_id"), int | str):
        raise UserError(f"{where}: question_id: has to be a number or text, is {row.get('question_id')!r}")
    if not isinstance(row.get("turn"), int) or row["turn"] not in (1, 2):
        raise UserError(f"{where}: turn: has to be 1 or 2, is {row.get('turn')!r}")
    if not isinstance(row.get("judgment", 0), str | None):
        raise UserError(f"{where}: judgment: has to be the judge's text, or null where it failed")
    return row["model"], row["question_id"], row["turn"], parse(row["judgment"] or "")


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _interval(questions: dict[Any, list[list[float]]], resamples: int, seed: int) -> list[float] | None:
    """95 % percentile interval of the mean rating over resamples of the questions, each with all its ratings."""
    rated = [first + second for first, second in questions.values() if first or second]
    if not rated:
        return None
    sums: Array = np.array([sum(ratings) for ratings in rated])
    counts: Array = np.array([float(len(ratings)) for ratings in rated])
    drawn = np.random.default_rng(seed).integers(0, len(rated), size=(resamples, len(rated)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return [float(low), float(high)]
