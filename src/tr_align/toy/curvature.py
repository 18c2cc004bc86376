"""How steep and how curved a loss is where a policy stands, by exact derivatives.

With `h` the log-ratio difference of a pair, DPO has `grad L = -beta s(-beta h) grad h` and
`Hess L = beta^2 s(beta h) s(-beta h) grad h grad h^T - beta s(-beta h) Hess h`, s being the sigmoid: both vanish as h
grows. An update of the reference takes h back to, or towards, zero; the paper argues from the second derivative that
over-optimisation lives where the loss is flat (arXiv 2404.09656; as its reviewers tell).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, jvp, vmap

from tr_align.toy.policy import Policy, trajectory_logps

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of one run: the policy's and the reference's log-probabilities (N,), indices of chosen and rejected ones (P,)."""


def slope_and_curvature(
    loss: Loss, policies: Policy, reference: Tensor, chosen: Tensor, rejected: Tensor, depth: int
) -> dict[str, Tensor]:
    """Of each run: the loss, the norm of its gradient, and its curvature along the way in which the margin grows.

    That way v is the unit vector of the gradient of the mean of `h`. It does not depend on the reference, so before
    and after an update it is the same, and what changes is the loss alone. The curvature is `v' H v`, H being the
    Hessian of the loss in the policy's parameters, from one exact Hessian-vector product (reverse over reverse). Its
    Gauss-Newton part is what the loss's own bend in the log-probabilities contributes, `(J v)' B (J v)` with the
    Jacobian J of the log-probabilities and the Hessian B of the loss in them; for DPO that is the first of the two
    terms above. The rest is the bend of the log-probabilities themselves.
    KTO's reference point is held fixed, as in its training.
    Args: stacked policies; `reference` (runs, N), `chosen` and `rejected` (runs, P).
    Returns: `loss_value`, `gradient`, `curvature` and `gauss_newton`, shape (runs,).
    """

    def one(policy: Policy, reference: Tensor, chosen: Tensor, rejected: Tensor) -> tuple[Tensor, ...]:
        def of_logps(logps: Tensor) -> Tensor:
            return loss(logps, reference, chosen, rejected)

        def objective(at: Policy) -> Tensor:
            return of_logps(trajectory_logps(at, depth))

        def margin(at: Policy) -> Tensor:
            logps = trajectory_logps(at, depth)
            return (logps[chosen] - logps[rejected]).mean()

        way = grad(margin)(policy)
        length = _dot(way, way).sqrt()
        way = {name: tensor / length for name, tensor in way.items()}
        gradient, value = grad_and_value(objective)(policy)
        # Forward over reverse would do as well, but torch 2.13 warns about logsigmoid there.
        turned = grad(lambda at: _dot(grad(objective)(at), way))(policy)
        logps, pushed = jvp(lambda at: trajectory_logps(at, depth), (policy,), (way,))[:2]
        bent = grad(lambda at: (grad(of_logps)(at) * pushed).sum())(logps)
        return value, _dot(gradient, gradient).sqrt(), _dot(way, turned), (pushed * bent).sum()

    found = vmap(one)(policies, reference, chosen, rejected)
    return dict(zip(("loss_value", "gradient", "curvature", "gauss_newton"), found, strict=True))


def _dot(first: Policy, second: Policy) -> Tensor:
    return torch.stack([(first[name] * second[name]).sum() for name in first]).sum()
