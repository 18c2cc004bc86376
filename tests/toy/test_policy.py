"""The probability of every trajectory, against a loop over each of them."""

from __future__ import annotations

import itertools
import math

import torch

from tr_align.toy.policy import Policy, all_logps, new_policy, pretrain, trajectory_logps


def one(policies: Policy, place: int) -> Policy:
    return {name: tensor[place] for name, tensor in policies.items()}


def test_without_a_state_probabilities_multiply() -> None:
    """Actions of 0.5, 0.3 and 0.2 everywhere: trajectory 5 is (1, 2) in base three, with 0.3 x 0.2."""
    policy = {name: torch.zeros_like(tensor[0]) for name, tensor in new_policy(4, 1, 0).items()}
    policy["out_bias"] = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    found = trajectory_logps(policy, 2).exp()
    expected = [0.25, 0.15, 0.1, 0.15, 0.09, 0.06, 0.1, 0.06, 0.04]
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12)


def test_each_trajectory_by_itself() -> None:
    """`state <- tanh(state W + action + bias)`, written out for one trajectory after another."""
    policies = new_policy(5, 2, 3)
    together = all_logps(policies, 3)
    for place in range(2):
        p = one(policies, place)
        for index, actions in enumerate(itertools.product(range(3), repeat=3)):
            state, total = torch.tanh(p["state_bias"]), 0.0
            for action in actions:
                total += float((state @ p["out"] + p["out_bias"]).log_softmax(0)[action])
                state = torch.tanh(state @ p["state"] + p["action"][action] + p["state_bias"])
            assert math.isclose(float(together[place, index]), total, rel_tol=1e-12)
    assert torch.allclose(together.exp().sum(1), torch.ones(2, dtype=torch.float64))


def test_policies_of_different_seeds_differ_and_do_not_depend_on_how_many_there_are() -> None:
    three, two = new_policy(4, 3, 1), new_policy(4, 2, 1)
    assert all(torch.equal(three[name][:2], two[name]) for name in two)
    assert not torch.equal(three["state"][0], three["state"][1])
    assert not torch.equal(three["state"], new_policy(4, 3, 2)["state"])


def test_pretraining_approaches_the_demonstrations() -> None:
    """Three equally likely ones of nine: the cross-entropy falls towards log 3, and all the mass goes to them."""
    new = new_policy(8, 2, 0)
    before = {name: tensor.clone() for name, tensor in new.items()}
    known = torch.zeros(2, 9, dtype=torch.bool)
    known[0, [0, 4, 8]] = known[1, [1, 2, 6]] = True
    trained = all_logps(pretrain(new, known, 2, 300, 0.02), 2)
    cross_entropy = -(trained * known).sum(1) / 3
    assert ((cross_entropy - math.log(3)) < 0.01).all() and (cross_entropy > math.log(3)).all()
    assert ((trained.exp() * ~known).sum(1) < 0.01).all()
    assert all(torch.equal(new[name], before[name]) for name in new)
