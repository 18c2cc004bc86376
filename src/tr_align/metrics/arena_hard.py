"""Arena-Hard v0.1: a judge's verdicts on swapped pairs, and Bradley–Terry win rates against a fixed baseline.

Sources: Li et al., "From Crowdsourced Data to High-Quality Benchmarks" (arXiv 2406.11939), and its code,
arena-hard-auto v0.1 (gen_judgment.py, show_result.py). A judgment is a question with two games: in the first the
baseline is Assistant A, in the second the model is. A "much better" verdict counts as three games, a tie as half a
win. A game without a readable verdict is left out and counted.

Strengths are the maximum of the Bradley–Terry likelihood, as there, but on the scale of natural logarithms: Elo's
400 and base 10 cancel in a win rate.

Intervals differ from that code on purpose. It resamples games after each "much better" has become three rows, as if
these were independent; here whole judgments are drawn, both games with their weights, and intervals are wider for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tr_align.errors import UserError
from tr_align.stats import Array

PATTERNS = (r"\[\[([AB<>=]+)\]\]", r"\[([AB<>=]+)\]")
"""`regex_patterns` of arena-hard-v0.1.yaml: the next is tried where one finds nothing."""

VERDICTS = {"A>>B": (1.0, 3.0), "A>B": (1.0, 1.0), "A=B": (0.5, 1.0), "B>A": (0.0, 1.0), "B>>A": (0.0, 3.0)}
"""What a game gives Assistant A (1 for a win), and how many games it counts as."""


def parse(text: str) -> str | None:
    """The verdict in a judge's reply, a key of :data:`VERDICTS`; None if there is none, or more than one.

    The same label twice is one verdict, and two of different strength are two.
    """
    for pattern in PATTERNS:
        found = set(re.findall(pattern, text))
        if found:
            label = found.pop()
            return label if not found and label in VERDICTS else None
    return None


@dataclass
class Tally:
    """A model's games: `totals` has won and lost, weighted, a tie half of each, for every judgment with a verdict."""

    totals: list[Array] = field(default_factory=list)
    games: int = 0
    missing: int = 0


def read_games(rows: Iterable[tuple[str, Any]], baseline: str) -> dict[str, Tally]:
    """What each model won and lost, in the order of the rows.

    Args: `rows` of (place for messages, judgment with model, question_id and games of {judgment: text or null}).
    Raises:
        UserError: a row is no judgment, is of the baseline itself, or judges a model on a question again.
    """
    tallies: dict[str, Tally] = {}
    seen: dict[tuple[str, str], str] = {}
    for where, row in rows:
        model, question, replies = _judgment(where, row)
        if model == baseline:
            raise UserError(f"{where}: model: is the baseline {baseline} itself; leave the row out, or see --baseline")
        if (model, question) in seen:
            earlier = seen[model, question]
            raise UserError(f"{where}: {model} was judged on question {question} in {earlier} too; keep one of the two")
        seen[model, question] = where
        tally = tallies.setdefault(model, Tally())
        total = np.zeros(2)
        for game, text in enumerate(replies):
            verdict = parse(text or "")
            if verdict is None:
                tally.missing += 1
                continue
            tally.games += 1
            share, weight = VERDICTS[verdict]
            won = share if game == 1 else 1 - share
            total += weight * np.array([won, 1 - won])
        if total.any():
            tally.totals.append(total)
    return tallies


def _judgment(where: str, row: Any) -> tuple[str, str, list[str | None]]:
    """Model, question and the judge's two replies, None where there is none."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: is not a JSON object with model, question_id and games")
    if not isinstance(row.get("model"), str):
        raise UserError(f"{where}: model: has to be text, is {row.get('model')!r}")
    if not isinstance(row.get("question_id"), str | int):
        raise UserError(f"{where}: question_id: has to be text or a number, is {row.get('question_id')!r}")
    games = row.get("games")
    if not isinstance(games, list) or len(games) != 2:
        raise UserError(f"{where}: games: has to be a list of two, the baseline first in one and second in the other")
    for number, game in enumerate(games):
        if game is not None and not (isinstance(game, dict) and isinstance(game.get("judgment", 0), str | None)):
            raise UserError(f"{where}: games[{number}].judgment: has to be the judge's text, or null where it failed")
    return row["model"], str(row["question_id"]), [game and game["judgment"] for game in games]


def bradley_terry(pairs: NDArray[np.int64], won: Array, lost: Array) -> Array:
    """Strengths whose differences are the log-odds of winning; player 0, the baseline, has strength 0.

    The likelihood has no penalty, as in arena-hard-auto: who never lost comes out at a strength that is merely large.

    Args: `pairs` of shape (n, 2), numbers of two players from 0 on; `won`, `lost` of shape (n,), games of the first of
        each pair against the second, not necessarily whole.
    Returns: shape (players,).
    Raises:
        ValueError: a player is linked to the baseline by no chain of games.
    """
    from sklearn.linear_model import LogisticRegression

    players = int(pairs.max()) + 1
    linked = np.zeros(players, dtype=bool)
    linked[0] = True
    played = pairs[won + lost > 0]
    for _ in range(players):  # no chain is longer
        linked[played[linked[played].any(1)]] = True
    if not linked.all():
        raise ValueError("no chain of games links every player to the baseline")
    sides = np.zeros((len(pairs), players))
    np.add.at(sides, (np.arange(len(pairs)), pairs[:, 0]), 1.0)
    np.add.at(sides, (np.arange(len(pairs)), pairs[:, 1]), -1.0)
    # Only differences count; leaving out the baseline's column fixes it at 0.
    sides = sides[:, 1:]
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10, solver="newton-cholesky")
    model.fit(np.vstack([sides, sides]), np.repeat([1, 0], len(pairs)), sample_weight=np.concatenate([won, lost]))
    return np.concatenate([[0.0], model.coef_[0]])


def win_rates(totals: Array) -> Array:
    """Win rates against the baseline in percent, shape (models,), from games won and lost to it, shape (models, 2)."""
    models = np.arange(1, len(totals) + 1)
    strengths = bradley_terry(np.column_stack([models, np.zeros_like(models)]), totals[:, 0], totals[:, 1])
    rates: Array = 50 * (1 + np.tanh(strengths[1:] / 2))  # the logistic function, safe far out
    return rates


def interval(samples: Array) -> tuple[float, float]:
    """The middle 95 % of bootstrap scores, shape (resamples,)."""
    lower, upper = np.percentile(samples, [2.5, 97.5])
    return float(lower), float(upper)


def scores(rows: Iterable[tuple[str, Any]], baseline: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """The leaderboard: a line for the baseline and each model, in the order of the rows.

    Args: `rows` as in :func:`read_games`.
    Returns:
        model, score (win rate against the baseline in percent, 50 for itself), lower and upper (95 % percentile
        bootstrap over a model's judgments), n_games (with a verdict; of all models for the baseline), n_missing.
        Score and interval are None for a model without any verdict.
    Raises:
        UserError: as :func:`read_games`, or no game has a verdict.
    """
    tallies = read_games(rows, baseline)
    totals = {model: np.array(tally.totals) for model, tally in tallies.items() if tally.games}
    if not totals:
        raise UserError("no game has a readable verdict; give judgments whose text has one like [[A>B]]")
    rates = win_rates(np.array([total.sum(0) for total in totals.values()]))
    found = dict(zip(totals, map(float, rates), strict=True))
    rng = np.random.default_rng(seed)
    samples = np.empty((resamples, len(totals)))
    for resample in samples:
        drawn = [total[rng.integers(0, len(total), size=len(total))].sum(0) for total in totals.values()]
        resample[:] = win_rates(np.array(drawn))
    bounds = dict(zip(totals, map(interval, samples.T), strict=True))
    games = sum(tally.games for tally in tallies.values())
    missing = sum(tally.missing for tally in tallies.values())
    lines = [_line(baseline, 50.0, (50.0, 50.0), games, missing)]
    for model, tally in tallies.items():
        lines.append(_line(model, found.get(model), bounds.get(model, (None, None)), tally.games, tally.missing))
    return lines


def _line(
    model: str, score: float | None, bounds: tuple[float | None, float | None], games: int, missing: int
) -> dict[str, Any]:
    lower, upper = bounds
    return {"model": model, "score": score, "lower": lower, "upper": upper, "n_games": games, "n_missing": missing}
