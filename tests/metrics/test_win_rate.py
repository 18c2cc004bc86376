"""All nine pairs of verdicts by hand, missing ones, and how often one method beats another, against rliable."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rliable import metrics as rliable_metrics

from tr_align.judges.base import Preference
from tr_align.metrics.win_rate import (
    improvement_by_task,
    improvement_over_runs,
    improvement_over_tasks,
    outcome,
    probability_of_improvement,
    win_tie_lose,
)
from tr_align.stats import Array, mean_ci


@pytest.mark.parametrize(
    ("shown_first", "shown_second", "expected"),
    [
        # (verdict with the policy's reply shown first, the same with it shown second); the policy gets, by order,
        ("first", "second", 1.0),  # 1 and 1
        ("second", "first", 0.0),  # 0 and 0
        ("first", "first", 0.5),  # 1 and 0: the judge followed the position
        ("second", "second", 0.5),  # 0 and 1: likewise
        ("tie", "tie", 0.5),
        ("first", "tie", 0.75),  # 1 and 0.5
        ("tie", "second", 0.75),  # 0.5 and 1
        ("second", "tie", 0.25),  # 0 and 0.5
        ("tie", "first", 0.25),  # 0.5 and 0
    ],
)
def test_by_hand(shown_first: Preference, shown_second: Preference, expected: float) -> None:
    assert outcome(shown_first, shown_second) == expected


@pytest.mark.parametrize("pair", [(None, "first"), ("second", None), (None, None)])
def test_a_missing_verdict_makes_the_prompt_missing(pair: tuple[Preference | None, Preference | None]) -> None:
    assert math.isnan(outcome(*pair))


@pytest.mark.parametrize("first", ["first", "second", "tie"])
@pytest.mark.parametrize("second", ["first", "second", "tie"])
def test_what_one_wins_the_other_loses(first: Preference, second: Preference) -> None:
    """With the opponent's eyes, its reply is shown first where the policy's is second."""
    assert outcome(first, second) + outcome(second, first) == 1.0


def test_shares_by_hand() -> None:
    """Of 1, 1, 0, 0.5, 0.75, 0.25 and a missing one: won by both orders 2, lost 1, not agreed on 3 of 6."""
    outcomes = np.array([1.0, 1.0, 0.0, 0.5, 0.75, 0.25, np.nan])
    shares = win_tie_lose(outcomes, 500, 0)
    assert {name: share for name, (share, _) in shares.items()} == pytest.approx(
        {"win": 1 / 3, "tie": 1 / 2, "lose": 1 / 6}
    )
    assert list(shares) == ["win", "tie", "lose"]


def test_shares_are_paired_by_prompt() -> None:
    """Each interval is that of its indicator on the same resamples: with no ties the ends of win and lose mirror.

    No tie among 50 does not mean that there are none: (1 - p)^50 = 0.025 at the upper end, p = 0.071.
    """
    outcomes = np.random.default_rng(0).integers(0, 2, size=50).astype(float)
    shares = win_tie_lose(outcomes, 500, 3)
    assert shares["win"] == mean_ci(outcomes, 500, 3)
    assert shares["tie"] == (0.0, [0.0, pytest.approx(1 - 0.025 ** (1 / 50))])
    assert shares["lose"][1] == pytest.approx([1 - end for end in reversed(shares["win"][1])])
    low, high = shares["win"][1]
    assert 0.1 < high - low < 0.4  # 2 * 1.96 * sqrt(.25 / 50) = 0.28


def test_wins_without_exception() -> None:
    """Eight of eight (the ninth is missing): p^8 = 0.025 at the lower end, p = 0.63; over tasks the same."""
    won, end = np.array([1.0] * 8 + [np.nan]), pytest.approx(0.025 ** (1 / 8))
    never = (0.0, [0.0, pytest.approx(1 - 0.025 ** (1 / 8))])
    assert win_tie_lose(won, 100, 0) == {"win": (1.0, [end, 1.0]), "tie": never, "lose": never}
    assert win_tie_lose(1 - won, 100, 0) == {"win": never, "tie": never, "lose": (1.0, [end, 1.0])}
    assert improvement_over_tasks(won[None], np.full((1, 9), 0.5), 100, 0) == [end, 1.0]
    assert improvement_over_tasks(np.full((1, 9), 0.5), won[None], 100, 0) == never[1]


def test_shares_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no value"):
        win_tie_lose(np.array([np.nan]), 100, 0)


def test_improvement_by_hand() -> None:
    """Task 1: of 3 > 1, 3 > 3, 2 > 1, 2 > 3 two are true and 3 = 3 is half: 5/8. Task 2: none of four, 0."""
    x, y = np.array([[3.0, 0.0], [2.0, 1.0]]), np.array([[1.0, 2.0], [3.0, 2.0]])
    assert improvement_by_task(x, y).tolist() == [0.625, 0.0]
    assert probability_of_improvement(x, y) == 0.3125
    assert probability_of_improvement(y, x) == 0.6875
    assert probability_of_improvement(x, x) == 0.5


def test_missing_runs_and_tasks_are_left_out() -> None:
    """Task 1 has the pairs 3 > 1 and 3 > 2 left, task 2 has 1 < 2 alone, task 3 has none: (1 + 0) / 2."""
    nan = np.nan
    x, y = np.array([[3.0, 1.0, nan], [nan, nan, nan]]), np.array([[1.0, 2.0, 5.0], [2.0, nan, 5.0]])
    assert improvement_by_task(x, y)[:2].tolist() == [1.0, 0.0]
    assert np.isnan(improvement_by_task(x, y)[2])
    assert probability_of_improvement(x, y) == 0.5
    assert improvement_over_tasks(x, y, 400, 0) == [0.0, 1.0]
    # Drawing runs: task 1 has x = 3 in three of four resamples, and then every y is less; task 2 likewise 0.
    assert improvement_over_runs(x, y, 400, 0) == [0.0, 1.0]


def test_no_pair_at_all_is_an_error() -> None:
    x, y = np.array([[np.nan, 1.0]]), np.array([[1.0, np.nan]])
    with pytest.raises(ValueError, match="no pair of runs"):
        probability_of_improvement(x, y)
    with pytest.raises(ValueError, match="no pair of runs"):
        improvement_over_runs(x, y, 100, 0)
    with pytest.raises(ValueError, match="no value"):
        improvement_over_tasks(x, y, 100, 0)


def scores(seed: int, runs: tuple[int, int], tasks: int, spread: float = 0.0) -> tuple[Array, Array]:
    """Rounded, so that there are ties; y is better by up to `spread` on the last tasks and worse on the first."""
    generator = np.random.default_rng(seed)
    x, y = (generator.normal(shift, 1, size=(n, tasks)).round(1) for shift, n in zip((0.5, 0.0), runs, strict=True))
    return x, y + np.linspace(-spread, spread, tasks)


@pytest.mark.parametrize("runs", [(1, 1), (1, 4), (5, 5), (7, 3)])
def test_improvement_is_rliables(runs: tuple[int, int]) -> None:
    for seed in range(5):
        x, y = scores(seed, runs, tasks=8)
        x[:, 0] = y[0, 0]  # a task of ties (all of them with one run)
        expected = rliable_metrics.probability_of_improvement(x, y)
        assert probability_of_improvement(x, y) == pytest.approx(expected, abs=1e-12)


@pytest.fixture
def rliable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """rliable's bootstrap. Of arch it needs arch.bootstrap; arch 7 as a whole cannot be imported with pandas 3."""
    found = importlib.util.find_spec("arch")
    assert found is not None and found.submodule_search_locations is not None
    package = types.ModuleType("arch")
    package.__path__ = list(found.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "arch", package)
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from the global generator
    yield importlib.import_module("rliable.library")
    np.random.set_state(state)


@pytest.mark.parametrize("runs", [(5, 5), (8, 4)])
def test_the_interval_over_runs_is_rliables(rliable: Any, runs: tuple[int, int]) -> None:
    """4000 resamples each, so that an end is off by 0.003 or so; a 90 % interval would be narrower by 0.015 an end."""
    x, y = scores(3, runs, tasks=12)
    _, intervals = rliable.get_interval_estimates(
        {"both": [x, y]}, lambda *drawn: np.array([probability_of_improvement(*drawn)]), reps=4000
    )
    interval = improvement_over_runs(x, y, 4000, seed=0)
    assert interval == pytest.approx(intervals["both"].ravel().tolist(), abs=0.01)
    assert interval[0] < probability_of_improvement(x, y) < interval[1]


def test_tasks_that_differ_are_nothing_to_an_interval_over_runs() -> None:
    """X always wins the first tasks and loses the last ones: the choice of tasks matters more than that of runs."""
    x, y = scores(3, (5, 5), tasks=12, spread=6.0)
    runs, tasks = improvement_over_runs(x, y, 1000, seed=0), improvement_over_tasks(x, y, 1000, seed=0)
    assert tasks[1] - tasks[0] > 2 * (runs[1] - runs[0]) > 0


def test_one_run_has_nothing_to_draw_but_its_prompts() -> None:
    """Of 100 prompts X is better on 70: over runs no width, over prompts 0.7 -+ 1.96 sqrt(.7 * .3 / 100) = 0.09."""
    x, y = np.array([[1.0] * 70 + [0.0] * 30]), np.full((1, 100), 0.5)
    assert improvement_over_runs(x, y, 200, 0) == [0.7, 0.7]
    assert improvement_over_tasks(x, y, 4000, 0) == pytest.approx([0.61, 0.79], abs=0.02)
    assert improvement_over_tasks(x, y, 4000, 0) == mean_ci(x[0], 4000, 0)[1]
