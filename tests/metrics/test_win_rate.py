"""All nine pairs of verdicts by hand, and missing ones."""

from __future__ import annotations

import math

import pytest

from tr_align.judges.base import Preference
from tr_align.metrics.win_rate import outcome


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
