"""Curves of quality against KL: every expected number is worked out in the test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tr_align.metrics.frontier import Curve, common_kl, contrast, difference, losses, peak


def flat_curve(kl: list[float], quality: list[float], prompts: int = 6) -> Curve:
    """A curve on which every prompt has the same numbers."""
    return Curve(
        np.repeat(np.array(kl)[:, None], prompts, 1),
        np.repeat(np.array(quality)[:, None], prompts, 1),
        [f"p{i}" for i in range(prompts)],
    )


def test_the_difference_is_interpolated_up_to_the_largest_common_kl() -> None:
    """Method (0,1) (4,3) (10,3), base (0,1) (8,2): common range 0 to 8. At 4: 3 - 1.5; at 8: 3 - 2."""
    found = difference([flat_curve([0, 4, 10], [1, 3, 3])], [flat_curve([0, 8], [1, 2])], 100, 0, points=2)
    assert found.grid == [4.0, 8.0]
    assert [estimate.value for estimate in found.at] == pytest.approx([1.5, 1.0])
    assert found.at[0].ci == pytest.approx([1.5, 1.5])  # all prompts agree
    # 0 to 4: the difference grows from 0 to 1.5, area 3; 4 to 8: from 1.5 to 1, area 5
    assert found.area.value == pytest.approx(8.0)
    assert found.range == 8.0


def test_points_may_come_in_any_order_of_kl() -> None:
    swapped = difference([flat_curve([0, 10, 4], [1, 3, 3])], [flat_curve([0, 8], [1, 2])], 100, 0, points=2)
    assert [estimate.value for estimate in swapped.at] == pytest.approx([1.5, 1.0])


def test_equal_curves_differ_by_nothing() -> None:
    generator = np.random.default_rng(0)
    curve = Curve(np.array([[0.0] * 9, [5.0] * 9]), generator.normal(6, 1, (2, 9)), [f"{i}" for i in range(9)])
    found = difference([curve], [curve], 200, 0)
    assert all(estimate.value == 0 and estimate.ci == [0, 0] and estimate.p == 1 for estimate in found.at)
    assert found.area.value == 0


def test_prompts_are_paired() -> None:
    """The same noise in both curves cancels: 0.5 more on every prompt has no width, however the prompts differ."""
    noise = np.random.default_rng(1).normal(0, 3, 30)
    kl, names = np.array([[0.0] * 30, [6.0] * 30]), [f"{i}" for i in range(30)]
    ours = Curve(kl, np.stack([noise, noise + 1.5]), names)
    theirs = Curve(kl, np.stack([noise, noise + 1.0]), names)
    found = difference([ours], [theirs], 300, 0)
    assert found.at[-1].value == pytest.approx(0.5)
    assert found.at[-1].ci == pytest.approx([0.5, 0.5])
    assert found.at[-1].p < 0.01


def test_two_seeds_by_hand() -> None:
    """Differences at the largest common KL are 1 and 3: mean 2, half-width 12.7062 (one degree of freedom)."""
    base = flat_curve([0, 4], [1, 1])
    found = difference([flat_curve([0, 4], [1, 2]), flat_curve([0, 4], [1, 4])], [base, base], 100, 0)
    assert found.at[-1].value == pytest.approx(2.0)
    assert found.at[-1].ci == pytest.approx([2 - 12.7062, 2 + 12.7062], rel=1e-4)


def test_seeds_share_the_smallest_range() -> None:
    base = flat_curve([0, 4], [1, 1])
    found = difference([flat_curve([0, 9], [1, 2]), flat_curve([0, 3], [1, 2])], [base, base], 50, 0)
    assert found.range == 3.0


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (flat_curve([0, 4], [1, math.nan]), "none of the ratings"),
        (flat_curve([0, 0], [1, 1]), "no range of KL"),
    ],
)
def test_what_cannot_be_compared(method: Curve, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference([method], [flat_curve([0, 4], [1, 1])], 50, 0)
    with pytest.raises(ValueError, match="no training"):
        difference([], [], 50, 0)


def test_one_missing_rating_is_left_out_of_its_point() -> None:
    quality = np.array([[1.0, 1.0, 1.0], [2.0, 4.0, math.nan]])
    curve = Curve(np.array([[0.0] * 3, [4.0] * 3]), quality, ["a", "b", "c"])
    base = flat_curve([0, 4], [1, 1], prompts=3)
    base = Curve(base.kl, base.quality, ["a", "b", "c"])
    assert difference([curve], [base], 100, 0).at[-1].value == pytest.approx(2.0)


def test_the_peak_and_what_is_lost_after_it() -> None:
    found = peak([flat_curve([0, 5, 9], [6, 8, 7])], 200, 0)
    assert (found.kl, found.quality, found.at_end) == (5.0, 8.0, False)
    assert found.kl_ci == pytest.approx([5, 5])
    assert found.drop.value == pytest.approx(1.0)


def test_a_curve_that_only_rises_has_its_peak_at_the_end() -> None:
    found = peak([flat_curve([0, 5, 9], [6, 7, 8])], 200, 0)
    assert found.at_end
    assert found.drop.value == 0


def test_noise_is_no_peak() -> None:
    """Three points of pure noise: on the same prompts the highest always seems to fall, by 0.25 on average here;
    measured on the other half of the prompts the loss is zero on average."""
    generator = np.random.default_rng(0)
    kl = np.repeat(np.array([[0.0], [5.0], [9.0]]), 20, 1)
    names = [f"{i}" for i in range(20)]
    drops, naive = [], []
    for _ in range(300):
        quality = generator.normal(6, 1, (3, 20))
        drops.append(np.mean(losses(Curve(kl, quality, names), 2)))
        naive.append(quality.mean(1).max() - quality.mean(1)[2])
    assert abs(np.mean(drops)) < 0.05
    assert np.mean(naive) > 0.15


def test_losses_by_hand() -> None:
    """Even prompts peak at the middle point, odd ones at the start: each half's loss is taken from the other's peak."""
    quality = np.array([[1.0, 9.0, 1.0, 9.0], [5.0, 2.0, 5.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    curve = Curve(np.repeat(np.array([[0.0], [5.0], [9.0]]), 4, 1), quality, list("abcd"))
    # even prompts (5 at the middle) are measured at the odd ones' peak, the start: 1 - 0; odd ones at the middle: 2 - 0
    assert losses(curve, 2).tolist() == [1.0, 2.0, 1.0, 2.0]


def test_too_few_prompts_for_a_peak() -> None:
    with pytest.raises(ValueError, match="fewer than two prompts"):
        peak([flat_curve([0, 5], [1, 2], prompts=1)], 50, 0)


def test_the_interval_of_the_peak_covers_both_candidates() -> None:
    """Two points as high as each other, opposite prompts: the peak is now at the one and now at the other."""
    generator = np.random.default_rng(2)
    quality = np.stack([np.full(30, 5.0), 7 + generator.normal(0, 2, 30), 7 + generator.normal(0, 2, 30)])
    curve = Curve(np.repeat(np.array([[0.0], [5.0], [9.0]]), 30, 1), quality, [f"{i}" for i in range(30)])
    low, high = peak([curve], 500, 0).kl_ci
    assert (low, high) == (5.0, 9.0)


def test_a_contrast_of_three_by_hand() -> None:
    """At 2 nats the curves are at 1 + 2 * 2 / 4 = 2, at 1 + 6 * 2 / 8 = 2.5 and at 1: 2 - 2.5 / 2 - 1 / 2 = 0.25."""
    groups = [[flat_curve([0, 4], [1, 3])], [flat_curve([0, 8], [1, 7])], [flat_curve([0, 5], [1, 1])]]
    found = contrast(groups, [1.0, -0.5, -0.5], [2.0, 4.0], 100, 0)
    assert [one.value for one in found] == pytest.approx([0.25, 3 - 4 / 2 - 1 / 2])
    assert found[0].ci == pytest.approx([0.25, 0.25])
    assert common_kl([curve for group in groups for curve in group]) == 4.0


def test_a_difference_is_a_contrast() -> None:
    """Two seeds of noise: the same numbers to the last digit, and the degrees of freedom of their t."""
    generator = np.random.default_rng(3)
    names = [f"p{i}" for i in range(12)]
    ours, theirs = (
        [Curve(np.stack([np.zeros(12), np.full(12, 5.0)]), generator.normal(6, 1, (2, 12)), names) for _ in range(2)]
        for _ in range(2)
    )
    found = difference(ours, theirs, 200, 7)
    assert contrast([ours, theirs], [1.0, -1.0], found.grid, 200, 7) == found.at
    assert 1 <= found.at[-1].freedom < 12
    assert difference(ours[:1], theirs[:1], 200, 7).at[-1].freedom == 11


def test_one_method_alone_has_its_own_height() -> None:
    (found,) = contrast([[flat_curve([0, 4], [1, 3])]], [1.0], [3.0], 50, 0)
    assert found.value == pytest.approx(2.5)


def test_what_has_no_kl_in_common() -> None:
    with pytest.raises(ValueError, match="no range of KL"):
        common_kl([flat_curve([0, 4], [1, 3]), flat_curve([0, 0], [1, 1])])
