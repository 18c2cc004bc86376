"""The two updates by hand, and how far they move."""

import pytest
import torch

from tr_align.align.reference import distance, hard_update, soft_update


def test_soft_update_by_hand() -> None:
    reference, policy = [torch.tensor([1.0, 0.0])], [torch.tensor([3.0, -1.0])]
    soft_update(reference, policy, alpha=0.25)  # 0.25 * 3 + 0.75 * 1, 0.25 * -1
    assert reference[0].tolist() == [1.5, -0.25]
    assert policy[0].tolist() == [3.0, -1.0]


def test_hard_update_copies() -> None:
    reference, policy = [torch.zeros(2)], [torch.tensor([3.0, -1.0])]
    hard_update(reference, policy)
    assert torch.equal(reference[0], policy[0])
    policy[0].add_(1)
    assert reference[0].tolist() == [3.0, -1.0]


def test_alpha_one_is_the_hard_update() -> None:
    reference, policy = [torch.randn(5)], [torch.randn(5)]
    soft_update(reference, policy, alpha=1.0)
    torch.testing.assert_close(reference[0], policy[0])


def test_a_small_alpha_moves_a_float32_reference_towards_a_bfloat16_policy() -> None:
    """200 updates with alpha 0.001: the share of the way is 1 - 0.999^200 = 0.181; bfloat16 would round it away."""
    policy = [torch.full((4,), 1.0, dtype=torch.bfloat16)]
    reference = [torch.full((4,), 1.01)]
    for _ in range(200):
        soft_update(reference, policy, alpha=0.001)
    moved = (1.01 - reference[0][0].item()) / 0.01
    assert moved == pytest.approx(1 - 0.999**200, rel=1e-2)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha"):
        soft_update([torch.zeros(1)], [torch.zeros(1)], alpha)


def test_different_parameters_are_refused() -> None:
    with pytest.raises(ValueError):
        hard_update([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])
    with pytest.raises(ValueError, match="shapes"):
        hard_update([torch.zeros(2)], [torch.zeros(1)])


def test_distance_by_hand() -> None:
    # 3-4-5 over two tensors
    assert distance([torch.zeros(1), torch.zeros(1)], [torch.tensor([3.0]), torch.tensor([4.0])]) == pytest.approx(5.0)
