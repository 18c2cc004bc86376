"""What a report shows, as rows: the one thing that figures, tables, claims and page are made from.

A report covers one or more runs of the pipeline: the workspace, and experiments with other seeds, betas or update
settings. A *cell* is a method with one setting of its reference update; it is trained once for each beta and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

QUANTITIES = ("kl", "hc", "self_bleu", "reply_words")
"""What each policy is measured by, beside the axes that HC is the mean of; every one stands beside `<name>_lo` and
`<name>_hi`, its 95 % interval (None where there is none). KL in nats per reply, HC and axes in points from 1 to 10,
Self-BLEU 0 to 100, words a reply."""

CELL = ("cell", "name", "method", "loss", "update", "alpha", "every", "tau")
"""The columns that say which cell a row is of: `cell` is its identifier, `name` its label for readers
("TR-DPO soft", with the update's setting only where a report has several of a method). `method`, `loss`, `update`
as in params.yaml; `alpha` and `every` are None but for soft updates, `tau` but for hard ones. The SFT model has
cell and method "sft", loss None, update "none"."""


@dataclass(frozen=True)
class Report:
    """Rows by topic. All are plain JSON values; numbers that could not be computed are None, never NaN."""

    context: Mapping[str, Any]
    """The runs: `model`, `data`, `judge`, `axes` (those that HC is the mean of; none where the judge has one axis,
    which HC is), `hc_unit`, `seeds` (list), `betas` (loss -> list), `steps`, `main` (cells with the first run's
    settings of the update, or the only ones of their method), `points_along`
    ("beta" if finals of several betas make the curves, else "steps"), `runs` (a row a run: `run`, `seed`, `alpha`,
    `every`, `tau`, `beta` by loss, `methods`, and `made` as
    :class:`tr_align.reports.runs.Run` has it), `learning_rates` (cell -> list, for it is tuned method by method),
    `judge_accuracy`, `judge_bias`, `calibration`, `judge_warning`,
    `settings` (flat params.yaml of the first run), `versions` (package -> version), `seconds` (stage -> seconds, of
    the stages that ran on this machine), `cost` (`usd`, `calls`, `tokens` of the judge; None for the embedded one),
    `n_curve_prompts`, `n_prompts` (text such as "24 to 130"), `date`, `verdict` (the two sentences the page opens
    with, a list), `judges` (of a study with several: see :func:`tr_align.reports.agreement.side_by_side`)."""

    points: Sequence[Row]
    """A row a policy, over all its seeds: CELL, `beta`, `step`, `final` (the trained model), `seeds` (list),
    `n_prompts`, QUANTITIES, the axes of `context`. One row is the SFT model: `beta` None, `step` 0, `final` True."""

    wins: Sequence[Row]
    """A row a trained model and opponent: CELL, `beta`, `versus` ("sft" or "base"), `opponent` (its label), `seeds`,
    `n_prompts`, and `win`, `tie`, `lose`, `rate` (shares), each with `_lo` and `_hi`."""

    frontier: Sequence[Row]
    """TR minus base at the same KL, a row a KL: CELL, `base` (its label), `kl`, `difference`, `difference_lo`,
    `difference_hi` (HC points), `n_prompts`, `seeds`; `largest` is True on the row of the largest KL both reached."""

    peaks: Sequence[Row]
    """Over-optimisation, a row a cell: CELL, `kl`, `kl_lo`, `kl_hi` (nats at which HC is highest), `hc` there, `drop`,
    `drop_lo`, `drop_hi` (HC lost from there to the largest KL reached), `at_end` (True if the highest point is the last
    one, so that no peak was passed), `seeds`, `n_prompts`."""

    claims: Sequence[Row]
    """See :mod:`tr_align.reports.claims`."""

    training: Sequence[Row]
    """A row a logged optimizer step: CELL, `beta`, `seed`, `step` and the columns of the training log (`margin`,
    `logps_chosen`, `logps_rejected`, `ref_from_sft`, `policy_from_ref`, ...; None where missing). The log's `loss`, a
    number, is `loss_value` here."""

    updates: Mapping[str, Sequence[int]]
    """By cell, the optimizer steps after which its reference moved."""

    ood: Sequence[Row]
    """Log-probabilities of fixed texts under each policy: CELL, `beta`, `seeds`, `step`, `kind` ("chosen", "rejected",
    "sft", "mismatched", "foreign"; see :mod:`tr_align.metrics.ood`), and in nats `per_token`, `per_token_lo`,
    `per_token_hi`, the same of `per_reply`, and of `change` and `change_per_reply` (since the SFT model, per token and
    per reply, text by text); `n`. Empty where it was not measured."""

    toy: Mapping[str, Any] | None
    """What the stage `toy_mdp` of the first run measured in a world small enough to compute everything; None where it
    was not run. Every measured name stands beside its `_lo` and `_hi`, the 95 % interval over seeds.
    `world`: what was run: `depth`, `actions`, `trajectories`, `demonstrations`, `pairs`, `seeds` (how many), `steps`,
    `beta` (by loss), `main` (`alpha`, `every`, `tau` of the nine main cells), `start` (of the pre-trained policy).
    `curves`: a row a main cell and step: CELL, `step`, `n` (seeds), the probability mass on a class of trajectories and
    their mean log-probability in nats (`chosen_mass`, `chosen_logp`, and the same of `rejected`, `other`, `ood`), `kl`,
    `reward` (expected, in standard deviations of the tree's), `entropy`, `margin`, `loss_value`.
    `along_kl`: a row a main cell and KL that every seed reached: CELL, `kl`, `n`, `ood_mass`, `reward`, `chosen_logp`.
    `grid`: a row a cell of the alpha and tau grids, and a base: CELL, `n`, at the end of training `ood_mass`, `reward`,
    `kl`, `chosen_logp`, and at `matched_kl`, the largest KL it and its base reached, `ood_difference` (percentage
    points) and `reward_difference`.
    `curvature`: a row a main cell, step and `moment` ("before" or "after" an update): CELL, `n`, `loss_value`,
    `gradient` (norm), `curvature` (of the loss along the direction in which the margin grows fastest) and
    `gauss_newton`, the part of it that the loss's own bend makes.
    `claims`: those rows of :attr:`claims` that are about it."""

    prompts: Sequence[Row]
    """The reply browser, a row a prompt of one run (context["runs"][0]): `id`, `prompt` (text), `replies`: by cell, in
    order, `name`, `update`, `text`, `words`, `kl`, `hc`, `axes` (axis -> points or None), and `vs_sft`, `vs_base`
    ("win", "tie", "lose", "flipped" where the judge followed the position, "unread", or None where they never met)."""

    problems: Sequence[str]
    """What is missing or was left out, and where: one sentence each."""

    by_setting: Sequence[Row] = ()
    """Quality against α or τ, where a method has three of them or more: a row a cell, and one of its base, of a `panel`
    ("DPO soft, every 4 steps"): CELL, `base` (its label), `beta` (None where several make the curves), `kl` (the
    largest that all of a panel reached), `hc` there with `hc_lo` and `hc_hi`, `difference` from the base in HC points
    with its ends (None of the base), `n_prompts`, `seeds`."""
