"""A fall and a recovery, by hand; and that noise alone shows neither."""

from __future__ import annotations

import numpy as np
import pytest

from tr_align.metrics.recovery import low_and_rise


def test_a_fall_and_a_rise_by_hand() -> None:
    """Texts 0 and 2 are lowest at point 1 (means -2 and -4), texts 1 and 3 at point 0 (-6 and -3); each half is
    measured at the other's point, and the end, though lowest for text 1, is not chosen from."""
    changes = np.array(
        [
            [-1.0, -5.0, -3.0, -7.0],
            [-3.0, -2.0, -5.0, -4.0],
            [0.5, -9.0, 1.5, 2.0],
        ]
    )
    low, rise, chosen = low_and_rise(changes)
    assert chosen == [1, 0]
    assert low.tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert rise.tolist() == [1.5, -7.0, 4.5, 6.0]


def test_what_goes_on_falling_has_a_rise_below_zero() -> None:
    changes = np.array([[-1.0, -1.0], [-2.0, -2.0], [-4.0, -4.0]])
    low, rise, chosen = low_and_rise(changes)
    assert (chosen, low.tolist(), rise.tolist()) == ([1, 1], [-2.0, -2.0], [-2.0, -2.0])


def test_noise_neither_falls_nor_recovers() -> None:
    """Six points of pure noise, 2,000 times: on the same texts the lowest mean would lie about -0.4 under the start."""
    random = np.random.default_rng(0)
    lows, rises, same = [], [], []
    for _ in range(2000):
        changes = random.normal(size=(7, 10))
        low, rise, _ = low_and_rise(changes)
        lows.append(low.mean())
        rises.append(rise.mean())
        same.append(changes[:-1].mean(1).min())
    assert np.mean(same) < -0.35
    # Of 2,000 means of about 0.32 and 0.45 standard deviations: three standard errors.
    assert abs(np.mean(lows)) < 3 * np.std(lows) / np.sqrt(2000)
    assert abs(np.mean(rises)) < 3 * np.std(rises) / np.sqrt(2000)


def test_nothing_to_test() -> None:
    with pytest.raises(ValueError, match=r"^the end is the first point at which the training was evaluated$"):
        low_and_rise(np.zeros((1, 8)))
    with pytest.raises(ValueError, match=r"^fewer than two texts were measured at every point$"):
        low_and_rise(np.zeros((3, 1)))
