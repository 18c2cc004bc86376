"""Losses against values worked out by hand."""

from math import exp, log

import pytest
import torch

from tr_align.align.losses import dpo_loss, ipo_loss, kto_kl, kto_loss, paired_kto_loss


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


# One pair: log-ratios chosen -10 - (-12) = 2 and rejected -9 - (-8) = -1, so h = 3.
PAIR = tuple(torch.tensor([x]) for x in (-10.0, -9.0, -12.0, -8.0))


def test_dpo_by_hand() -> None:
    assert dpo_loss(*PAIR, beta=0.1).item() == pytest.approx(-log(sigmoid(0.3)))


def test_dpo_with_label_smoothing_by_hand() -> None:
    expected = -0.9 * log(sigmoid(0.3)) - 0.1 * log(sigmoid(-0.3))
    assert dpo_loss(*PAIR, beta=0.1, label_smoothing=0.1).item() == pytest.approx(expected)


def test_ipo_by_hand() -> None:
    # 1 / (2 * 0.5) = 1, (3 - 1)^2 = 4
    assert ipo_loss(*PAIR, beta=0.5).item() == pytest.approx(4.0)


def test_a_reference_equal_to_the_policy_gives_the_known_start() -> None:
    logps = torch.tensor([-3.0, -7.5])
    assert dpo_loss(logps, logps, logps, logps, beta=0.3).tolist() == pytest.approx([log(2)] * 2)
    assert ipo_loss(logps, logps, logps, logps, beta=0.25).tolist() == pytest.approx([4.0] * 2)


def test_dpo_gradient_by_hand() -> None:
    # dL/d chosen = -beta * sigmoid(-beta h), and the opposite for rejected.
    chosen, rejected, ref_chosen, ref_rejected = (x.clone() for x in PAIR)
    chosen.requires_grad_(), rejected.requires_grad_()
    dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1).sum().backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.item() == pytest.approx(-0.1 * sigmoid(-0.3))
    assert rejected.grad.item() == pytest.approx(0.1 * sigmoid(-0.3))


def test_kto_reference_point_is_a_clamped_detached_mean() -> None:
    logps = torch.tensor([-5.0, -6.0], requires_grad=True)
    kl = kto_kl(logps, torch.tensor([-6.0, -9.0]))  # (1 + 3) / 2
    assert kl.item() == pytest.approx(2.0)
    assert not kl.requires_grad
    assert kto_kl(logps, torch.tensor([-1.0, -1.0])).item() == 0.0


def test_kto_by_hand() -> None:
    # Desirable: r = 1, z = 0.5: 1.5 * (1 - sigmoid(0.2 * 0.5)). Undesirable: r = -2: 0.7 * (1 - sigmoid(0.2 * 2.5)).
    losses = kto_loss(
        torch.tensor([-4.0, -8.0]),
        torch.tensor([-5.0, -6.0]),
        torch.tensor([True, False]),
        torch.tensor(0.5),
        beta=0.2,
        desirable_weight=1.5,
        undesirable_weight=0.7,
    )
    assert losses.tolist() == pytest.approx([1.5 * (1 - sigmoid(0.1)), 0.7 * (1 - sigmoid(0.5))])


def paired(chosen: list[float], rejected: list[float], beta: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The paired loss of these log-ratios, whatever the reference is, and the two tensors it has gradients in."""
    reference = torch.linspace(-20, -10, len(chosen))
    policy = (reference + torch.tensor(chosen)).requires_grad_(), (reference + torch.tensor(rejected)).requires_grad_()
    return paired_kto_loss(*policy, reference, reference, beta), *policy


def test_paired_kto_by_hand() -> None:
    """r_w = (3, 1), r_l = (2, -1): z_w = 2, z_l = 0.5. Each side is measured against the other side's mean.

    First pair: 1 - sigmoid(b (3 - 0.5)) and 1 - sigmoid(b (2 - 2)); second: b (1 - 0.5) and b (2 + 1); b = 0.2.
    """
    losses, *_ = paired([3.0, 1.0], [2.0, -1.0], beta=0.2)
    first = (1 - sigmoid(0.5)) + (1 - sigmoid(0.0))
    second = (1 - sigmoid(0.1)) + (1 - sigmoid(0.6))
    assert losses.tolist() == pytest.approx([first / 2, second / 2])
    # The mean over the pairs is the mean over the four replies.
    assert losses.mean().item() == pytest.approx((first + second) / 4)


def test_paired_kto_clamps_both_means_at_zero() -> None:
    """r_w = (-3, 1), r_l = (-2, -4): both means are negative, so both points are 0."""
    losses, *_ = paired([-3.0, 1.0], [-2.0, -4.0], beta=0.5)
    expected = [2 - sigmoid(-1.5) - sigmoid(1.0), 2 - sigmoid(0.5) - sigmoid(2.0)]
    assert losses.tolist() == pytest.approx([x / 2 for x in expected])


def test_paired_kto_gradient_flows_through_the_means() -> None:
    """As above z_w = 2, z_l = 0.5. With s' = s (1 - s), b = 0.2, and L the first pair's loss alone:

    dL/d r_w = -b/2 (s'(0.5) own, + s'(0) / 2 through z_w), and for the *second* pair's r_w, only through z_w:
    -b/2 s'(0) / 2. dL/d r_l = b/2 (s'(0) own, + s'(0.5) / 2 through z_l); the second pair's: b/2 s'(0.5) / 2.
    """
    losses, chosen, rejected = paired([3.0, 1.0], [2.0, -1.0], beta=0.2)
    losses[0].backward()
    slope = {x: sigmoid(x) * (1 - sigmoid(x)) for x in (0.0, 0.5)}
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.1 * (slope[0.5] + slope[0.0] / 2), -0.1 * slope[0.0] / 2])
    assert rejected.grad.tolist() == pytest.approx([0.1 * (slope[0.0] + slope[0.5] / 2), 0.1 * slope[0.5] / 2])


def test_paired_kto_gradient_does_not_flow_through_a_clamped_mean() -> None:
    losses, chosen, rejected = paired([-3.0, 1.0], [-2.0, -4.0], beta=0.5)
    losses[0].backward()
    assert chosen.grad is not None and rejected.grad is not None
    assert chosen.grad[1].item() == rejected.grad[1].item() == 0.0


def test_paired_kto_starts_at_one_half() -> None:
    """A policy equal to its reference: every ratio and both means are 0, and 1 - sigmoid(0) = 1/2."""
    losses, *_ = paired([0.0] * 3, [0.0] * 3, beta=0.7)
    assert losses.tolist() == [0.5] * 3
