"""MT-Bench: ratings and scores by hand, and 330 real ratings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.metrics.mt_bench import parse, scores

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "mt_bench" / "judgment_gpt-4_single_llama3-8b.jsonl.gz"

Rows = list[tuple[str, Any]]


def rated(*ratings: tuple[int, int, float | None], model: str = "m") -> Rows:
    """Judgments from (question, turn, rating)."""
    return [
        (
            f"f:{number}",
            {
                "question_id": question,
                "turn": turn,
                "model": model,
                "judgment": "$ERROR$" if rating is None else f"Fine. Rating: [[{rating}]]",
            },
        )
        for number, (question, turn, rating) in enumerate(ratings, 1)
    ]


@pytest.mark.parametrize(
    "text, rating",
    [
        ("Rating: [[7]]", 7),
        ("Rating: [[7.5]]", 7.5),
        ("Rating: [[10]]", 10),
        ("Rating: [[1]]", 1),
        ("[[8]], not [[3]]", 8),  # the first, as FastChat has it
        ("Rating: [7]", 7),
        ("In [2] it errs. Rating: [[9]]", 9),
        ("In [2] it errs. Rating: [[9.5]]", 9.5),
        ("Rating: [[11]]", None),
        ("Rating: [[0]]", None),
        ("Rating: [[0.5]]", None),
        ("Rating: [[-1]]", None),
        ("Rating: [[seven]]", None),
        ("Rating: [[7/10]]", None),
        ("Rating: 7", None),
        ("$ERROR$", None),
        ("", None),
    ],
)
def test_ratings(text: str, rating: float | None) -> None:
    assert parse(text) == rating


def test_scores_by_hand() -> None:
    """First turns 8 and 5, second turns 3 and one missing: 16 / 3, 6.5 and 3."""
    (line,) = scores(rated((1, 1, 8), (1, 2, 3), (2, 1, 5), (2, 2, None)), 50, 0)
    assert list(line) == ["model", "score", "ci", "turn_1", "turn_2", "n", "n_missing", "score_missing_as_0"]
    assert (line["score"], line["turn_1"], line["turn_2"]) == pytest.approx((16 / 3, 6.5, 3))
    assert (line["n"], line["n_missing"]) == (3, 1)


def test_a_question_rated_again_counts_with_each_rating() -> None:
    (line,) = scores(rated((1, 1, None), (1, 1, 9), (1, 1, 6), (2, 1, 3)), 50, 0)
    assert (line["score"], line["n"], line["n_missing"], line["turn_2"]) == (6, 3, 1, None)


def test_questions_are_drawn_with_both_turns() -> None:
    """Each question averages 5, whatever its turns: no draw of questions has another mean."""
    rows = rated(*[(question, turn, 1 if (question + turn) % 2 else 9) for question in range(8) for turn in (1, 2)])
    assert scores(rows, 200, 0)[0]["ci"] == [5, 5]


def test_an_interval_by_hand() -> None:
    """Questions at 2 and 8: a draw's mean is 2, 5 or 8, at the odds 1 : 2 : 1."""
    (line,) = scores(rated((1, 1, 2), (1, 2, 2), (2, 1, 8), (2, 2, 8)), 500, 0)
    assert line["ci"] == [2, 8]


def test_the_width_of_an_interval() -> None:
    """400 questions, half at 4 and half at 8: the standard error is 0.1, the interval ± 1.96 of it."""
    rows = rated(*[(question, 1, 4 + 4 * (question % 2)) for question in range(400)])
    (line,) = scores(rows, 4000, 0)
    assert line["ci"] == pytest.approx([6 - 0.196, 6 + 0.196], abs=0.015)


def test_draws_weigh_questions_by_their_ratings() -> None:
    """One question has both turns at 9, one only a 3: drawn together they average 7, as the score does."""
    (line,) = scores(rated((1, 1, 9), (1, 2, 9), (2, 1, 3), (2, 2, None)), 1, 1)
    assert line["score"] == 7
    draws = {scores(rated((1, 1, 9), (1, 2, 9), (2, 1, 3), (2, 2, None)), 1, seed)[0]["ci"][0] for seed in range(30)}
    assert draws == {3, 7, 9}


def test_the_seed_decides() -> None:
    rows = rated(*[(question, 1, question % 10 + 1) for question in range(37)])
    assert scores(rows, 50, 1) == scores(rows, 50, 1)
    assert scores(rows, 50, 1) != scores(rows, 50, 2)


def test_no_rating_at_all() -> None:
    rows = rated((1, 1, None)) + rated((1, 1, 4), model="n")
    rows[0][1]["judgment"] = None
    assert scores(rows, 50, 0)[0] == {
        "model": "m", "score": None, "ci": None, "turn_1": None, "turn_2": None, "n": 0, "n_missing": 1,
        "score_missing_as_0": 0.0,
    }  # fmt: skip
    assert scores(rows, 50, 0)[1]["score"] == 4


def test_a_questions_lack_of_ratings_leaves_the_draws_alone() -> None:
    assert scores(rated((1, 1, 6), *[(question, 1, None) for question in range(2, 30)]), 1, 0)[0]["ci"] == [6, 6]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"model": None}, "f:1: model: has to be text, is None; pairwise judgments have no scores"),
        ({"question_id": None}, "f:1: question_id: has to be a number or text"),
        ({"turn": 3}, "f:1: turn: has to be 1 or 2, is 3"),
        ({"turn": None}, "f:1: turn: has to be 1 or 2, is None"),
        ({"turn": 1.0}, "f:1: turn: has to be 1 or 2, is 1.0"),
        ({"judgment": 7}, "f:1: judgment: has to be the judge's text"),
    ],
)
def test_bad_rows(change: dict[str, Any], message: str) -> None:
    rows = rated((1, 1, 5))
    rows[0][1].update(change)
    with pytest.raises(UserError, match=message):
        scores(rows, 10, 0)


def test_rows_that_are_no_judgments() -> None:
    with pytest.raises(UserError, match="f:1: is not a JSON object with model"):
        scores([("f:1", "m")], 10, 0)
    with pytest.raises(UserError, match="there is no judgment"):
        scores([], 10, 0)
    rows = rated((1, 1, 5))
    del rows[0][1]["judgment"]
    with pytest.raises(UserError, match="f:1: judgment: has to be the judge's text"):
        scores(rows, 10, 0)


@pytest.mark.skipif(not REAL.is_file(), reason="the MT-Bench judgments are not beside the repository")
def test_real_ratings() -> None:
    """All as FastChat read them (its -1 is our None), and its averages of them: 1302 / 166 and 432 / 160.

    The judge failed on four of ten answers that were rated a second time, so that one model has 170 judgments.
    """
    with gzip.open(REAL, "rt") as lines:
        rows = [(f"f:{number}", json.loads(line)) for number, line in enumerate(lines, 1)]
    assert len(rows) == 330
    for _, row in rows:
        assert parse(row["judgment"]) == (None if row["score"] == -1 else row["score"])
    normal, griffin = scores(rows, 200, 0)
    assert normal["score"] == pytest.approx(1302 / 166)
    assert (normal["n"], normal["n_missing"]) == (166, 4)
    # 1302 / 170 = 7.66, the number of a table that leaves the four failed judgments in as 0.
    assert round(normal["score_missing_as_0"], 2) == 7.66
    assert (normal["turn_1"], normal["turn_2"]) == pytest.approx((721 / 86, 581 / 80))
    assert griffin["score"] == pytest.approx(2.7)
    assert (griffin["n"], griffin["n_missing"]) == (160, 0)
    for line in (normal, griffin):
        assert line["ci"][0] < line["score"] < line["ci"][1]
