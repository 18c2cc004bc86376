"""Arena-Hard v0.1: verdicts, Bradley–Terry and intervals by hand, and what was published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.optimize import minimize

from tr_align.errors import UserError
from tr_align.metrics import arena_hard
from tr_align.metrics.arena_hard import bradley_terry, parse, scores, win_rates

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "arena_hard"
WEAK = REAL / "zeppombal_gpt-3.5-turbo-0125_judges_Athene-V2-Chat.jsonl"
needs_rows = pytest.mark.skipif(not REAL.is_dir(), reason="the Arena-Hard files are not beside the repository")

Rows = list[tuple[str, Any]]


def judged(*verdicts: tuple[str | None, str | None], model: str = "m") -> Rows:
    """A judgment for each pair of verdicts: with the baseline as Assistant A, then with the model as A."""
    return [
        (
            f"f:{number}",
            {
                "question_id": f"q{number}",
                "model": model,
                "games": [{"judgment": None if label is None else f"So: [[{label}]]."} for label in pair],
            },
        )
        for number, pair in enumerate(verdicts, 1)
    ]


def line_of(rows: Rows, model: str = "m", resamples: int = 50, seed: int = 0) -> dict[str, Any]:
    (line,) = [line for line in scores(rows, "base", resamples, seed) if line["model"] == model]
    return line


# Verdicts


@pytest.mark.parametrize(
    "text, verdict",
    [
        ("My final verdict is [[A>>B]].", "A>>B"),
        ("[[A>B]]", "A>B"),
        ("[[A=B]]", "A=B"),
        ("[[B>A]]", "B>A"),
        ("[[B>>A]]", "B>>A"),
        ("[[A>B]] ... to repeat: [[A>B]]", "A>B"),
        ("[A>B], in single brackets", "A>B"),
        ("[A>B] is not enough: [[B>A]]", "B>A"),  # single brackets count only where there are no double ones
        ("[[A>B]], or rather [[B>A]]", None),
        ("[[A>B]], or rather [[A>>B]]", None),
        ("[[A>B]], as against [[B]]", None),
        ("[A>B] or [B>A]", None),
        ("[[B]]", None),
        ("[[A>>>B]]", None),
        ("A>B", None),
        ("Assistant A is better", None),
        ("", None),
    ],
)
def test_verdicts(text: str, verdict: str | None) -> None:
    assert parse(text) == verdict


@needs_rows
def test_the_patterns_are_the_settings_files() -> None:
    settings = yaml.safe_load((REAL / "arena-hard-v0.1.yaml").read_text())
    assert list(arena_hard.PATTERNS) == settings["regex_patterns"]


# Games


def test_sides_are_swapped() -> None:
    """A judge that always likes the first reply finds model and baseline alike."""
    assert line_of(judged(("A>B", "A>B"), ("A>>B", "A>>B")))["score"] == pytest.approx(50)
    assert line_of(judged(("B>A", "A>B"), ("A>B", "A>B")))["score"] == pytest.approx(75)
    assert line_of(judged(("A>B", "B>A"), ("A>B", "A>B")))["score"] == pytest.approx(25)


def test_much_better_counts_three_times() -> None:
    """Won 3 and 1, lost 1 and 1: four of six; and lost 3 + 3 beside won 1 + 1: two of eight."""
    assert line_of(judged(("B>>A", "A>B"), ("A>B", "B>A")))["score"] == pytest.approx(100 * 4 / 6)
    assert line_of(judged(("A>>B", "B>>A"), ("B>A", "A>B")))["score"] == pytest.approx(25)


def test_a_tie_is_half_a_win() -> None:
    """Half, half, won, lost three times: 2 of 6."""
    assert line_of(judged(("A=B", "A=B"), ("B>A", "B>>A")))["score"] == pytest.approx(100 * 2 / 6)


def test_missing_verdicts_are_counted_and_left_out() -> None:
    """Game by game: the other game of a judgment stays."""
    rows = judged(("B>A", None), (None, "B>A"), (None, None), ("B>A", "A=B"))
    rows[2][1]["games"][0] = None
    line = line_of(rows)
    assert (line["n_games"], line["n_missing"]) == (4, 4)
    assert line["score"] == pytest.approx(100 * 2.5 / 4)
    base = line_of(rows + judged(("A>B", None), model="n"), "base")
    assert (base["n_games"], base["n_missing"]) == (5, 5)


def test_a_model_without_any_verdict_has_no_score() -> None:
    line = line_of(judged((None, None), model="n") + judged(("A>B", "A>B")), "n")
    assert line == {"model": "n", "score": None, "lower": None, "upper": None, "n_games": 0, "n_missing": 2}
    with pytest.raises(UserError, match="no game has a readable verdict"):
        scores(judged((None, None)), "base", 10, 0)


def test_lines_are_in_the_order_of_the_rows_after_the_baseline() -> None:
    rows = judged(("A>B", "A>B"), model="z") + judged(("B>A", "A>B"), ("A>B", "A>B"), model="a")
    first, *rest = scores(rows, "base", 10, 0)
    assert first | {"n_games": 0} == {
        "model": "base", "score": 50, "lower": 50, "upper": 50, "n_games": 0, "n_missing": 0,
    }  # fmt: skip
    assert [(line["model"], round(line["score"])) for line in rest] == [("z", 50), ("a", 75)]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": None}, "f:1: model: has to be text, is None"),
        ({"model": "base"}, "f:1: model: is the baseline base itself"),
        ({"question_id": None}, "f:1: question_id: has to be text or a number, is None"),
        ({"games": None}, "f:1: games: has to be a list of two"),
        ({"games": [{"judgment": ""}]}, "f:1: games: has to be a list of two"),
        ({"games": [None, {"score": "A>B"}]}, r"f:1: games\[1\]\.judgment: has to be the judge's text"),
        ({"games": ["[[A>B]]", None]}, r"f:1: games\[0\]\.judgment: has to be the judge's text"),
    ],
)
def test_bad_rows(change: dict[str, Any], message: str) -> None:
    rows = judged(("A>B", "A>B"))
    rows[0][1].update(change)
    with pytest.raises(UserError, match=message):
        scores(rows, "base", 10, 0)


def test_a_row_that_is_no_object() -> None:
    with pytest.raises(UserError, match="f:1: is not a JSON object with model, question_id and games"):
        scores([("f:1", ["m"])], "base", 10, 0)


def test_a_question_judged_twice() -> None:
    """Also if it is the same line of a file that was given twice."""
    rows = judged(("A>B", "A>B"))
    with pytest.raises(UserError, match="f:1: m was judged on question q1 in f:1 too"):
        scores(rows + rows, "base", 10, 0)
    assert len(scores(rows + judged(("A>B", "A>B"), model="n"), "base", 10, 0)) == 3


# Bradley–Terry


def test_two_players_by_hand() -> None:
    """Three of four games are odds of 3 : 1; the baseline is player 0."""
    strengths = bradley_terry(np.array([[1, 0]]), np.array([3.0]), np.array([1.0]))
    assert strengths == pytest.approx([0, np.log(3)], abs=1e-6)
    assert bradley_terry(np.array([[0, 1]]), np.array([3.0]), np.array([1.0])) == pytest.approx(
        [0, -np.log(3)], abs=1e-6
    )
    assert win_rates(np.array([[3.0, 1.0], [0.5, 1.5]])) == pytest.approx([75, 25])


def test_a_chain_by_hand() -> None:
    """2 beats 1 at 2 : 1, 1 beats the baseline at 3 : 1, and 2 never met it: odds of 6 : 1."""
    strengths = bradley_terry(np.array([[2, 1], [1, 0]]), np.array([2.0, 3.0]), np.array([1.0, 1.0]))
    assert strengths == pytest.approx([0, np.log(3), np.log(6)], abs=1e-6)


def test_three_players_against_another_optimiser() -> None:
    """Results that no strengths fit exactly, ties as halves."""
    pairs = np.array([[0, 1], [1, 2], [2, 0], [1, 0]])
    won, lost = np.array([7.5, 4.0, 9.0, 2.0]), np.array([3.5, 8.0, 2.0, 1.0])

    def loss(free: np.ndarray[Any, Any]) -> float:
        strengths = np.concatenate([[0.0], free])
        gap = strengths[pairs[:, 0]] - strengths[pairs[:, 1]]
        return float((won * np.logaddexp(0, -gap) + lost * np.logaddexp(0, gap)).sum())

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14}).x
    assert bradley_terry(pairs, won, lost) == pytest.approx([0, *found], abs=1e-5)


def test_who_never_lost_or_won() -> None:
    assert win_rates(np.array([[900.0, 0], [0, 3], [7, 9]])) == pytest.approx([100, 0, 43.75], abs=1e-4)


def test_players_that_never_met() -> None:
    with pytest.raises(ValueError, match="no chain of games"):
        bradley_terry(np.array([[1, 0], [2, 3]]), np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="no chain of games"):
        bradley_terry(np.array([[1, 0], [2, 0]]), np.array([1.0, 0.0]), np.array([1.0, 0.0]))


# Intervals


def test_the_width_of_an_interval() -> None:
    """400 judgments, half won in both games: the share's standard error is 2.5 points, the interval ± 1.96 of these."""
    line = line_of(judged(*[("B>A", "A>B")] * 200, *[("A>B", "B>A")] * 200), resamples=2000)
    assert line["score"] == pytest.approx(50)
    assert line["lower"] == pytest.approx(50 - 4.9, abs=0.45)
    assert line["upper"] == pytest.approx(50 + 4.9, abs=0.45)


def test_whole_judgments_are_drawn() -> None:
    """Every judgment has a game won and a game lost, so that no draw of judgments has another share."""
    line = line_of(judged(*[("A>B", "A>B")] * 20))
    assert (line["lower"], line["upper"]) == pytest.approx((50, 50))


def test_the_seed_decides() -> None:
    rows = judged(*[("B>A", "A>B")] * 5, *[("A>B", "B>A")] * 8)
    assert line_of(rows, seed=3) == line_of(rows, seed=3)
    assert line_of(rows, seed=3) != line_of(rows, seed=4)


def test_judgments_without_a_verdict_are_not_drawn() -> None:
    """Else one draw in three of these twenty would have no game."""
    line = line_of(judged(("B>A", None), *[(None, None)] * 19), resamples=50)
    assert (line["lower"], line["upper"]) == pytest.approx((100, 100), abs=1e-4)


# What was published


@needs_rows
def test_real_verdicts() -> None:
    """All 216 games as the code of the benchmark read them, two without a verdict; and the score by hand.

    Baseline first: 94 A>>B, 8 A>B, 2 A=B, 2 B>A, 1 B>>A; model first: 1 A>>B, 1 A>B, 3 A=B, 23 B>A, 79 B>>A. So the
    model won 2 + 3 + 1 + 3 + 1 + 1.5 = 11.5 and lost 282 + 8 + 1 + 1.5 + 23 + 237 = 552.5.
    """
    rows = [(f"f:{number}", json.loads(line)) for number, line in enumerate(WEAK.open(), 1)]
    games = [game for _, row in rows for game in row["games"]]
    assert [parse(game["judgment"]) for game in games] == [game["score"] for game in games]
    _, line = scores(rows, "gpt-4-0314", 10, 0)
    assert line["score"] == pytest.approx(100 * 11.5 / 564)
    assert (line["n_games"], line["n_missing"]) == (214, 2)


@needs_rows
def test_published_intervals_from_their_resamples() -> None:
    """Linear 2.5 and 97.5 percentiles of the samples, which are rounded to 0.01; the score is of all games together."""
    table = pd.read_csv(REAL / "arena_hard_leaderboard_20240731.csv", index_col="model")
    found = 0
    for line in (REAL / "bootstrap_stats_arena_hard.jsonl").open():
        row = json.loads(line)
        assert arena_hard.interval(np.array(row["results"])) == pytest.approx((row["lower"], row["upper"]), abs=1e-9)
        if row["model"] in table.index:
            found += 1
            assert row["score"] == table["score"][row["model"]]
            assert np.median(row["results"]) == pytest.approx(row["score"], abs=0.2)
    assert found == 17
