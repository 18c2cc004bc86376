"""The slope within groups, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tr_align.metrics.length import within_slope


def slope(x: list[float], y: list[float], groups: list[object]) -> float:
    return within_slope(np.array(x), np.array(y), groups)


def test_groups_have_levels_of_their_own() -> None:
    """Within a: x -1, 0, 1 and y -2, 1, 1 from their means: 2 + 0 + 1 = 3 of 2. Within b: x -2, 2 and y 1, -1: -4 of 8.
    Together (3 - 4) / (2 + 8) = -0.1, although b's values are far above a's on both axes."""
    x, y = [1.0, 2.0, 3.0, 100.0, 104.0], [1.0, 4.0, 4.0, 901.0, 899.0]
    assert slope(x, y, ["a", "a", "a", "b", "b"]) == pytest.approx(-0.1)
    # The order of the rows and what the groups are called is of no importance.
    order = (3, 0, 4, 2, 1)
    names: list[object] = [1, (0, "p"), 1, (0, "p"), (0, "p")]
    assert slope([x[i] for i in order], [y[i] for i in order], names) == pytest.approx(-0.1)


def test_a_missing_value_leaves_its_row_out() -> None:
    """What is left of the group: x 1 and 3, y 1 and 4."""
    assert slope([1.0, 2.0, 3.0], [1.0, math.nan, 4.0], ["a"] * 3) == pytest.approx(1.5)
    assert slope([1.0, math.nan, 3.0], [1.0, 9.0, 4.0], ["a"] * 3) == pytest.approx(1.5)


def test_without_a_difference_in_length_no_slope_is_needed() -> None:
    assert slope([2.0, 2.0, 7.0], [1.0, 5.0, 9.0], ["a", "a", "b"]) == 0.0
    assert slope([], [], []) == 0.0
