"""Gradient and curvature against a whole Hessian, a difference quotient, and the closed form at h = 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

from tr_align.settings import Loss
from tr_align.toy.curvature import slope_and_curvature
from tr_align.toy.policy import Policy, all_logps, new_policy, trajectory_logps
from tr_align.toy.train import run_loss

DEPTH, BETA = 3, 0.3
CHOSEN, REJECTED = torch.tensor([[0, 5, 26], [3, 4, 9]]), torch.tensor([[1, 13, 20], [8, 2, 11]])


def flat(policy: Policy) -> tuple[Tensor, Callable[[Tensor], Policy]]:
    shapes = {name: tensor.shape for name, tensor in policy.items()}

    def back(vector: Tensor) -> Policy:
        parts = vector.split([shape.numel() for shape in shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    return torch.cat([tensor.flatten() for tensor in policy.values()]), back


def margins(place: int, back: Callable[[Tensor], Policy]) -> Callable[[Tensor], Tensor]:
    def of(vector: Tensor) -> Tensor:
        logps = trajectory_logps(back(vector), DEPTH)
        return logps[CHOSEN[place]] - logps[REJECTED[place]]

    return of


def first(policies: Policy, place: int) -> Policy:
    return {name: tensor[place] for name, tensor in policies.items()}


@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto"])
def test_against_the_whole_hessian(loss: Loss) -> None:
    policies, reference = new_policy(3, 2, 0), all_logps(new_policy(3, 2, 1), DEPTH)
    of_run = run_loss(loss, BETA, 3)
    found = slope_and_curvature(of_run, policies, reference, CHOSEN, REJECTED, DEPTH)
    for place in range(2):
        vector, back = flat(first(policies, place))

        def value(at: Tensor, back: Any = back, place: int = place) -> Tensor:
            return of_run(trajectory_logps(back(at), DEPTH), reference[place], CHOSEN[place], REJECTED[place])

        way = jacobian(margins(place, back), vector).mean(0)
        way = way / way.norm()
        assert float(found["loss_value"][place]) == pytest.approx(float(value(vector)), rel=1e-12)
        assert float(found["gradient"][place]) == pytest.approx(float(jacobian(value, vector).norm()), rel=1e-10)
        curvature = float(found["curvature"][place])
        assert curvature == pytest.approx(float(way @ hessian(value, vector) @ way), rel=1e-8)

        logps = trajectory_logps(back(vector), DEPTH)
        pushed = jacobian(lambda at, back=back: trajectory_logps(back(at), DEPTH), vector) @ way
        inner = hessian(lambda at, place=place: of_run(at, reference[place], CHOSEN[place], REJECTED[place]), logps)
        assert float(found["gauss_newton"][place]) == pytest.approx(float(pushed @ inner @ pushed), rel=1e-8)
        if loss == "kto":
            continue  # its reference point is held fixed in derivatives, but moves in a difference of values
        step = 1e-4
        quotient = (value(vector + step * way) + value(vector - step * way) - 2 * value(vector)) / step**2
        assert curvature == pytest.approx(float(quotient), rel=1e-4, abs=1e-6)


def test_the_closed_form_where_policy_and_reference_are_one() -> None:
    """DPO at h = 0: the gradient is -(beta / 2) grad h, the mean over the pairs; along the unit vector v the curvature
    is (beta^2 / 4) mean (v . grad h)^2 - (beta / 2) v' Hess h v."""
    policies = new_policy(3, 2, 4)
    reference = all_logps(policies, DEPTH)
    found = slope_and_curvature(run_loss("dpo", BETA, 3), policies, reference, CHOSEN, REJECTED, DEPTH)
    for place in range(2):
        vector, back = flat(first(policies, place))
        of_pairs = margins(place, back)
        slopes = jacobian(of_pairs, vector)
        bend = hessian(lambda at, of=of_pairs: of(at).mean(), vector)
        way = slopes.mean(0) / slopes.mean(0).norm()
        assert float(found["loss_value"][place]) == pytest.approx(float(torch.tensor(2.0).log()), rel=1e-6)
        assert float(found["gradient"][place]) == pytest.approx(BETA / 2 * float(slopes.mean(0).norm()), rel=1e-10)
        own = BETA**2 / 4 * (slopes @ way).square().mean()
        expected = own - BETA / 2 * way @ bend @ way
        assert float(found["curvature"][place]) == pytest.approx(float(expected), rel=1e-8)
        assert float(found["gauss_newton"][place]) == pytest.approx(float(own), rel=1e-8)
