"""A small recurrent policy whose probability of every trajectory of the tree is computed in one pass.

Parameters are plain tensors by name, so that `torch.func` can train many policies at once: with a leading dimension
each is a run of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.func import vmap

from tr_align.settings import TOY_ACTIONS

Policy = dict[str, Tensor]


def new_policy(hidden: int, seeds: int, seed: int) -> Policy:
    """Random policies in float64, one a seed, stacked: `action` (S, 3, H), `state` (S, H, H), `state_bias` (S, H),
    `out` (S, H, 3), `out_bias` (S, 3)."""
    shapes = {
        "action": (TOY_ACTIONS, hidden),
        "state": (hidden, hidden),
        "state_bias": (hidden,),
        "out": (hidden, TOY_ACTIONS),
        "out_bias": (TOY_ACTIONS,),
    }
    scales = {"action": 1.0, "state": 1 / math.sqrt(hidden), "out": 0.5 / math.sqrt(hidden)}
    policies = []
    for place in range(seeds):
        generator = torch.Generator().manual_seed(1_000_000 * seed + place)
        policies.append(
            {
                name: scales.get(name, 0.0) * torch.randn(shape, generator=generator, dtype=torch.float64)
                for name, shape in shapes.items()
            }
        )
    return {name: torch.stack([policy[name] for policy in policies]) for name in shapes}


def trajectory_logps(policy: Policy, depth: int) -> Tensor:
    """Log-probability of every trajectory under one policy, in nats.

    The state after action a is `tanh(state W + action[a] + bias)`, as in an Elman network; each state of the tree is
    computed once.
    Args: tensors of :func:`new_policy` without the dimension of the seeds.
    Returns: shape (3^depth,); their exponentials sum to 1.
    """
    state = torch.tanh(policy["state_bias"])[None]
    total = state.new_zeros(1)
    for level in range(depth):
        actions = (state @ policy["out"] + policy["out_bias"]).log_softmax(-1)
        total = (total[:, None] + actions).flatten()
        if level < depth - 1:
            carried = state @ policy["state"] + policy["state_bias"]
            state = torch.tanh(carried[:, None] + policy["action"]).flatten(0, 1)
    return total


def all_logps(policies: Policy, depth: int) -> Tensor:
    """:func:`trajectory_logps` of stacked policies, shape (runs, 3^depth)."""
    result: Tensor = vmap(lambda policy: trajectory_logps(policy, depth))(policies)
    return result


def pretrain(policies: Policy, demonstrations: Tensor, depth: int, steps: int, learning_rate: float) -> Policy:
    """Policies fitted to demonstrations by Adam on the exact cross-entropy, each demonstration being equally likely.

    Args: `demonstrations`, boolean, shape (runs, 3^depth). Returns: new tensors; those given stay as they are.
    """
    trained = {name: tensor.clone().requires_grad_() for name, tensor in policies.items()}
    optimizer = torch.optim.Adam(trained.values(), lr=learning_rate)
    wanted = demonstrations / demonstrations.sum(1, keepdim=True)
    for _ in range(steps):
        optimizer.zero_grad()
        # The sum over runs: their parameters are their own, and so are the gradients.
        (-(wanted * all_logps(trained, depth)).sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.detach() for name, tensor in trained.items()}
