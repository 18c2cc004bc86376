"""HC and the axes it is the mean of, whichever a judge has."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.judges.base import axes_of, hc, parts_of_hc


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"coherence": 1.0, "correctness": 2.0, "helpfulness": 3.0, "harmlessness": 4.0, "detail": 10.0}, 4.0),
        ({"preference": 7.5}, 7.5),
        ({"coherence": 1.0, "detail": None}, math.nan),
        ({"preference": None}, math.nan),
    ],
    ids=["five", "one", "one-of-two-missing", "missing"],
)
def test_hc_is_the_mean_of_the_axes_of_a_rating(axes: dict[str, float | None], expected: float) -> None:
    assert hc(axes) == pytest.approx(expected, nan_ok=True)


def test_the_axes_of_a_file_of_judgements_are_those_of_its_first_rating() -> None:
    rows: list[dict[str, Any]] = [
        {"kind": "duel", "preference": "first"},
        {"kind": "rating", "axes": {"detail": 1.0, "coherence": None}},
        {"kind": "rating", "axes": {"preference": 2.0}},
    ]
    assert axes_of(rows) == ("detail", "coherence")
    with pytest.raises(UserError, match="no reply was rated; run `dvc repro` again"):
        axes_of(rows[:1])


def test_one_axis_is_no_part_of_hc_for_it_is_all_of_it() -> None:
    assert parts_of_hc(["detail", "coherence"]) == ("detail", "coherence")
    assert parts_of_hc(["preference"]) == ()
