"""What is minimised and what is logged, on numbers small enough for a sheet of paper."""

from __future__ import annotations

from functools import partial
from math import exp, log

import pytest
import torch

from tr_align.align.losses import dpo_loss, ipo_loss, paired_kto_loss
from tr_align.align.objectives import KtoObjective, PairObjective, Sums, pair_metrics

ROWS = torch.tensor([2, 0])
"""The pass has the examples 2 and 0 of three, in this order."""
# Chosen, rejected; log-ratios (2, -1), so h = 3, and (-1, -1), so h = 0: a tie.
POLICY = torch.tensor([[-10.0, -9.0], [-4.0, -6.0]])
REFERENCE = torch.tensor([[-12.0, -8.0], [-3.0, -5.0]])


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def plain(sums: Sums) -> dict[str, tuple[float, float]]:
    return {name: (total.item(), count.item()) for name, (total, count) in sums.items()}


def test_dpo_pairs_by_hand() -> None:
    objective = PairObjective(partial(dpo_loss, beta=0.1), 0.1)
    assert not objective.grouped
    losses = objective(POLICY, REFERENCE, ROWS)
    assert losses.tolist() == pytest.approx([-log(sigmoid(0.3)), log(2)])


def test_dpo_gradient_by_hand() -> None:
    """dL/d chosen = -b sigmoid(-b h), the opposite for rejected; h = 3 and 0."""
    policy = POLICY.clone().requires_grad_()
    PairObjective(partial(dpo_loss, beta=0.1), 0.1)(policy, REFERENCE, ROWS).sum().backward()
    assert policy.grad is not None
    slopes = [0.1 * sigmoid(-0.3), 0.1 * 0.5]
    assert policy.grad.flatten().tolist() == pytest.approx([-slopes[0], slopes[0], -slopes[1], slopes[1]])


def test_summed_ipo_by_hand() -> None:
    # 1 / (2 * 0.5) = 1: (3 - 1)^2 and (0 - 1)^2
    losses = PairObjective(partial(ipo_loss, beta=0.5), 0.5)(POLICY, REFERENCE, ROWS)
    assert losses.tolist() == pytest.approx([4.0, 1.0])


def test_averaged_ipo_by_hand() -> None:
    """Lengths of the examples 2 and 0, by the rows: (4, 5) and (2, 1).

    h = 2 / 4 + 1 / 5 = 0.7 and -1 / 2 + 1 / 1 = 0.5; the losses are (0.7 - 1)^2 and (0.5 - 1)^2.
    """
    lengths = torch.tensor([[2, 1], [100, 100], [4, 5]])
    objective = PairObjective(partial(ipo_loss, beta=0.5), 0.5, lengths)
    assert objective(POLICY, REFERENCE, ROWS).tolist() == pytest.approx([0.09, 0.25])
    # What is logged stays on sums.
    assert plain(objective.metrics(POLICY, REFERENCE, ROWS)) == plain(pair_metrics(POLICY, REFERENCE, 0.5))


def test_paired_kto_mixes_the_pairs() -> None:
    objective = PairObjective(partial(paired_kto_loss, beta=0.2), 0.2, grouped=True)
    assert objective.grouped
    # r_w = (2, -1), z_w = 0.5; r_l = (-1, -1), z_l = 0
    expected = [2 - sigmoid(0.4) - sigmoid(0.3), 2 - sigmoid(-0.2) - sigmoid(0.3)]
    assert objective(POLICY, REFERENCE, ROWS).tolist() == pytest.approx([x / 2 for x in expected])


def test_pair_metrics_by_hand() -> None:
    """Rewards 0.1 * (2, -1) and 0.1 * (-1, -1): the first pair is right, the second a tie, which counts half."""
    assert plain(pair_metrics(POLICY, REFERENCE, 0.1)) == {
        "reward_chosen": (pytest.approx(0.1), 2.0),
        "reward_rejected": (pytest.approx(-0.2), 2.0),
        "accuracy": (1.5, 2.0),
        "logps_chosen": (-14.0, 2.0),
        "logps_rejected": (-15.0, 2.0),
    }
    objective = PairObjective(partial(dpo_loss, beta=0.1), 0.1)
    assert plain(objective.metrics(POLICY, REFERENCE, ROWS)) == plain(pair_metrics(POLICY, REFERENCE, 0.1))


@pytest.mark.parametrize(("chosen", "accuracy"), [(-1.0, 1.0), (-2.0, 0.5), (-3.0, 0.0)])
def test_accuracy_of_one_pair(chosen: float, accuracy: float) -> None:
    policy, reference = torch.tensor([[chosen, -2.0]]), torch.tensor([[-2.0, -2.0]])
    assert pair_metrics(policy, reference, 0.3)["accuracy"][0].item() == accuracy


# KTO: the reply and the mismatched one. Log-ratios of the replies (1, -2, 3), of the mismatched ones (2, -1, 0.5).
KTO_ROWS = torch.tensor([3, 0, 1])
DESIRABLE = torch.tensor([False, True, False, True])  # by the rows: desirable, undesirable, desirable
KTO_POLICY = torch.tensor([[-4.0, -8.0], [-8.0, -7.0], [-2.0, -5.5]])
KTO_REFERENCE = torch.tensor([[-5.0, -10.0], [-6.0, -6.0], [-5.0, -6.0]])
KL = (2 - 1 + 0.5) / 3  # = 0.5, from the mismatched column; the replies' own would be 2/3


def test_kto_by_hand() -> None:
    """1.5 (1 - sigmoid(0.2 (1 - 0.5))), 0.7 (1 - sigmoid(0.2 (0.5 + 2))), 1.5 (1 - sigmoid(0.2 (3 - 0.5)))."""
    objective = KtoObjective(DESIRABLE, 0.2, 1.5, 0.7)
    assert objective.grouped
    losses = objective(KTO_POLICY, KTO_REFERENCE, KTO_ROWS)
    expected = [1.5 * (1 - sigmoid(0.1)), 0.7 * (1 - sigmoid(0.5)), 1.5 * (1 - sigmoid(0.5))]
    assert losses.tolist() == pytest.approx(expected)


def test_kto_has_no_gradient_through_the_mismatched_replies() -> None:
    """The first reply's slope is -1.5 * 0.2 * s' (0.1) and no other entry of the first column sees it."""
    policy = KTO_POLICY.clone().requires_grad_()
    KtoObjective(DESIRABLE, 0.2, 1.5, 0.7)(policy, KTO_REFERENCE, KTO_ROWS)[0].backward()
    assert policy.grad is not None
    assert policy.grad[0, 0].item() == pytest.approx(-0.3 * sigmoid(0.1) * sigmoid(-0.1))
    policy.grad[0, 0] = 0
    assert policy.grad.count_nonzero() == 0


def test_kto_metrics_by_hand() -> None:
    """Rewards 0.2 * (1, -2, 3). On their side of 0.2 * KL are all three: 1 > 0.5, -2 < 0.5, 3 > 0.5."""
    objective = KtoObjective(DESIRABLE, 0.2, 1.5, 0.7)
    assert plain(objective.metrics(KTO_POLICY, KTO_REFERENCE, KTO_ROWS)) == {
        "reward_chosen": (pytest.approx(0.8), 2.0),
        "reward_rejected": (pytest.approx(-0.4), 1.0),
        "accuracy": (3.0, 3.0),
        "logps_chosen": (-6.0, 2.0),
        "logps_rejected": (-8.0, 1.0),
        "kto_kl": (pytest.approx(KL), 1.0),
    }


def test_kto_accuracy_counts_replies_at_the_point_itself_half() -> None:
    """KL = mean(1, 1) = 1. Desirable at 1: half; undesirable at 2: wrong."""
    objective = KtoObjective(torch.tensor([True, False]), 0.5, 1.0, 1.0)
    policy, reference = torch.tensor([[1.0, 1.0], [2.0, 1.0]]), torch.zeros(2, 2)
    metrics = plain(objective.metrics(policy, reference, torch.tensor([0, 1])))
    assert metrics["accuracy"] == (0.5, 2.0)
    assert metrics["kto_kl"] == (1.0, 1.0)


def test_kto_gathers_both_sides_of_the_kl_detached() -> None:
    """Another process has the log-ratios 5, 5, 5: the KL is that of six replies, (1.5 + 15) / 6 = 2.75."""
    seen = []

    def gather(values: torch.Tensor) -> torch.Tensor:
        assert not values.requires_grad and values.is_contiguous()
        seen.append(values.tolist())
        return torch.cat([values, torch.full((3,), 5.0 if len(seen) % 2 else 0.0)])

    policy = KTO_POLICY.clone().requires_grad_()
    objective = KtoObjective(DESIRABLE, 0.2, 1.0, 1.0, gather)
    losses = objective(policy, KTO_REFERENCE, KTO_ROWS)
    expected = [1 - sigmoid(0.2 * (1 - 2.75)), 1 - sigmoid(0.2 * (2.75 + 2)), 1 - sigmoid(0.2 * (3 - 2.75))]
    assert losses.tolist() == pytest.approx(expected)
    assert seen == [[-8.0, -7.0, -5.5], [-10.0, -6.0, -6.0]]  # the mismatched column and no other
    metrics = plain(objective.metrics(policy.detach(), KTO_REFERENCE, KTO_ROWS))
    assert metrics["kto_kl"] == (pytest.approx(2.75), 1.0)


def test_what_an_objective_keeps_goes_to_the_device_of_its_rows() -> None:
    """A GPU's indices may not index a tensor on the CPU; torch's meta device stands in for the GPU."""
    policy, rows = POLICY.to("meta"), ROWS.to("meta")
    kto = KtoObjective(torch.tensor([True, False, False]), 0.1, 1.0, 1.0)
    kto.metrics(policy, policy, rows)
    assert kto.desirable.device.type == "meta"
    averaged = PairObjective(partial(ipo_loss, beta=0.1), 0.1, lengths=torch.ones(3, 2))
    assert averaged(policy, policy, rows).device.type == "meta"
    assert averaged.lengths is not None
    assert averaged.lengths.device.type == "meta"
