"""Losses against values worked out by hand."""

from math import exp, log

import pytest
import torch

from tr_align.align.losses import dpo_loss, ipo_loss, kto_kl, kto_loss


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
