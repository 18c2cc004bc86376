"""The losses of DPO, IPO and KTO as pure functions of sequence log-probabilities.

The trust-region variants (arXiv 2404.09656) are the same losses with a reference that moves during training,
so nothing here knows about updates. All log-probabilities are sums over the tokens of one reply, in nats.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """DPO: `-log sigmoid(beta * h)` with `h = log(pi/ref)(chosen) - log(pi/ref)(rejected)`.

    With label smoothing e (conservative DPO): `-(1 - e) log sigmoid(beta * h) - e log sigmoid(-beta * h)`.

    Args: four tensors of shape (B,), in nats; `beta` > 0; `label_smoothing` in [0, 0.5).
    Returns: the loss of each pair, shape (B,).
    Source: arXiv 2305.18290, eq. 7.
    """
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return -(1 - label_smoothing) * F.logsigmoid(beta * h) - label_smoothing * F.logsigmoid(-beta * h)


def ipo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float
) -> Tensor:
    """IPO: `(h - 1 / (2 * beta))^2`, `h` as in :func:`dpo_loss`.

    Give sums of log-probabilities for the form of the TR paper's authors, or averages over the reply's tokens
    for TRL's form; `beta` then is on another scale (the paper of IPO calls it tau).
    Returns: the loss of each pair, shape (B,).
    Source: arXiv 2310.12036, eq. 17.
    """
    h = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return (h - 1 / (2 * beta)) ** 2


def kto_kl(kl_logps: Tensor, ref_kl_logps: Tensor) -> Tensor:
    """KTO's reference point `z_ref`: the mean log-ratio of mismatched replies, detached, at least 0.

    Args: log-probabilities of replies y' given prompts x they do not belong to, shape (B,), in nats; the
        reference is the one in force, so for TR-KTO the point moves with it.
    Returns: a scalar.
    Source: arXiv 2402.01306, section 4.1.
    """
    return (kl_logps - ref_kl_logps).mean().detach().clamp(min=0)


def kto_loss(
    logps: Tensor,
    ref_logps: Tensor,
    desirable: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO on single replies: `lambda_D (1 - sigmoid(beta (r - z)))` or `lambda_U (1 - sigmoid(beta (z - r)))`.

    `r = log(pi/ref)` of the reply, `z` from :func:`kto_kl`.

    Args: `logps`, `ref_logps` of shape (B,), in nats; `desirable` a boolean tensor of shape (B,); `kl` a scalar.
    Returns: the loss of each reply, shape (B,).
    Source: arXiv 2402.01306, eq. 7.
    """
    ratios = logps - ref_logps
    gains = torch.sigmoid(beta * torch.where(desirable, ratios - kl, kl - ratios))
    weights = torch.where(desirable, desirable_weight, undesirable_weight)
    return weights * (1 - gains)


def paired_kto_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float
) -> Tensor:
    """KTO on pairs, as in the DPO trainer of the TR paper's authors; each side is measured against the other's mean.

    With `r = log(pi/ref)`, `z_w = max(0, mean r_w)` and `z_l = max(0, mean r_l)` over the batch:
    `(1 - sigmoid(beta (r_w - z_l)) + 1 - sigmoid(beta (z_w - r_l))) / 2`. Unlike :func:`kto_kl` the means are of
    the replies themselves, and gradients flow through them: every pair's loss depends on the whole batch.

    Args: four tensors of shape (B,), in nats; `beta` > 0.
    Returns: the loss of each pair, shape (B,); its mean is the mean over the 2B replies.
    Source: github.com/turbo-llm/turbo-alignment, `trainers/dpo.py`, `KTOLoss`; removed from TRL in 2024.
    """
    chosen, rejected = chosen_logps - ref_chosen_logps, rejected_logps - ref_rejected_logps
    z_chosen, z_rejected = chosen.mean().clamp(min=0), rejected.mean().clamp(min=0)
    gains = torch.sigmoid(beta * (chosen - z_rejected)) + torch.sigmoid(beta * (z_chosen - rejected))
    return 1 - gains / 2
