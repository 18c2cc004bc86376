"""All trainings of one loss in the toy world at once: every cell of its grid with every seed.

Losses and updates are those of the real pipeline (`tr_align.align`), on the exact log-probabilities of trajectories.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.func import vmap
from tqdm import tqdm

from tr_align.align import losses
from tr_align.align.objectives import KtoObjective, PairObjective
from tr_align.align.reference import hard_update, soft_update
from tr_align.config import METHODS
from tr_align.errors import UserError
from tr_align.settings import Loss, ToyMdp
from tr_align.stats import Array
from tr_align.toy import curvature
from tr_align.toy.measures import CLASSES, OF_POLICY, measure
from tr_align.toy.policy import Policy, all_logps, new_policy, pretrain
from tr_align.toy.world import Worlds, make_worlds

MAIN = 3
"""Cells of a loss that stand for its methods (base, soft, hard); they come first."""
QUANTITIES = (*OF_POLICY, "margin", "loss_value")
CURVATURE_EVERY = 16
"""Optimizer steps between two looks at the curvature, beside those at each update."""
UNDERFLOW = math.log(torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Cell:
    """A method with one setting of its update; the names of params.yaml."""

    method: str
    alpha: float | None = None
    every: int | None = None
    tau: int | None = None

    def due(self, step: int, steps: int) -> bool:
        """Whether the reference moves after this many of all `steps`; after the last it would serve nothing."""
        interval = self.every or self.tau
        return interval is not None and 0 < step < steps and step % interval == 0


def cells_of(settings: ToyMdp, loss: Loss) -> list[Cell]:
    """The cells of a loss: base, soft and hard as `ref_update` has them, then the rest of the grid."""
    update, grid = settings.ref_update, settings.grid
    soft, hard = f"tr_{loss}_soft", f"tr_{loss}_hard"
    cells = [Cell(loss), Cell(soft, update.alpha, update.every), Cell(hard, tau=update.tau)]
    cells += [Cell(soft, alpha, every) for every in grid.every for alpha in grid.alpha]
    cells += [Cell(hard, tau=tau) for tau in grid.tau]
    return list(dict.fromkeys(cells))


@dataclass(frozen=True)
class Record:
    """What the trainings of one loss did. C cells, S seeds, T steps."""

    cells: list[Cell]
    quantities: dict[str, Tensor]
    """By the names of QUANTITIES, shape (T + 1, C, S): after 0 to T optimizer steps, before the update at that step."""
    moved: Tensor
    """Euclidean distance by which the reference's parameters moved after each step, shape (T + 1, C, S)."""
    points: list[tuple[int, str]]
    """Where the curvature was looked at: the step, and "before" or "after" its update."""
    curvature: dict[str, Tensor]
    """`loss_value`, `gradient`, `curvature` and `gauss_newton` there, shape (points, MAIN or fewer, S)."""

    def along(self, name: str, place: int) -> Array:
        """A quantity of one cell, shape (T + 1, S)."""
        result: Array = self.quantities[name][:, place].numpy()
        return result


def run_loss(loss: Loss, beta: float, pairs: int) -> curvature.Loss:
    """The loss of one run on all of its pairs, from the pipeline's objectives.

    KTO takes chosen and rejected trajectories as single replies. The world has one prompt, so the replies that estimate
    KTO's reference point, elsewhere those to other prompts, are all of the replies.
    """
    if loss == "kto":
        desirable = torch.arange(2 * pairs) < pairs
        rows = torch.arange(2 * pairs)
        unpaired = KtoObjective(desirable, beta, 1.0, 1.0)

        def kto(policy: Tensor, reference: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
            replies = torch.cat([chosen, rejected])
            columns = torch.stack([replies, replies], dim=1)
            return unpaired(policy[columns], reference[columns], rows).mean()

        return kto
    pure = {"dpo": losses.dpo_loss, "ipo": losses.ipo_loss}[loss]
    paired = PairObjective(partial(pure, beta=beta), beta)

    def of_pairs(policy: Tensor, reference: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
        columns = torch.stack([chosen, rejected], dim=1)
        return paired(policy[columns], reference[columns], torch.arange(pairs)).mean()

    return of_pairs


def train(settings: ToyMdp, loss: Loss, cells: Sequence[Cell], start: Policy, worlds: Worlds) -> Record:
    """Train each cell from the same pre-trained policies with Adam, on all pairs at every step.

    Args: `start`, stacked over seeds, as are the `worlds`.
    Raises:
        UserError: a log-probability is not finite, or a probability too small for float64.
    """
    seeds, depth, steps = len(worlds.rewards), settings.depth, settings.steps
    rewards, chosen, rejected = (
        _for_each(len(cells), tensor) for tensor in (worlds.rewards, worlds.chosen, worlds.rejected)
    )
    classes = _for_each(len(cells), torch.stack([worlds.classes[name] for name in CLASSES], dim=2).double())
    policies = {name: _for_each(len(cells), tensor).clone().requires_grad_() for name, tensor in start.items()}
    references = {name: tensor.detach().clone() for name, tensor in policies.items()}
    optimizer = torch.optim.Adam(policies.values(), lr=settings.learning_rate)
    of_run = run_loss(loss, getattr(settings.beta, loss), settings.pairs)
    of_all: Callable[..., Tensor] = vmap(of_run)
    reference = initial = all_logps(references, depth)

    quantities = {name: torch.empty(steps + 1, len(cells), seeds, dtype=torch.float64) for name in QUANTITIES}
    moved = torch.zeros(steps + 1, len(cells), seeds, dtype=torch.float64)
    points: list[tuple[int, str]] = []
    looks: list[dict[str, Tensor]] = []
    main = slice(0, min(MAIN, len(cells)) * seeds)

    def look(step: int, moment: str) -> None:
        own = {name: tensor.detach()[main] for name, tensor in policies.items()}
        found = curvature.slope_and_curvature(of_run, own, reference[main], chosen[main], rejected[main], depth)
        points.append((step, moment))
        looks.append({name: tensor.view(-1, seeds) for name, tensor in found.items()})

    for step in tqdm(range(steps + 1), desc=f"toy {loss}", unit="step"):
        logps = all_logps(policies, depth)
        _check(logps, cells, seeds, step)
        values = of_all(logps, reference, chosen, rejected)
        now = logps.detach()
        measured = measure(now, initial, classes, rewards)
        measured["margin"] = _margin(now - reference, chosen, rejected)
        measured["loss_value"] = values.detach()
        for name, tensor in measured.items():
            quantities[name][step] = tensor.view(len(cells), seeds)
        due = [place for place, cell in enumerate(cells) if cell.due(step, steps)]
        if step % CURVATURE_EVERY == 0 or any(place < MAIN for place in due):
            look(step, "before")
        if step == steps:
            break
        if due:
            for place in due:
                own_runs = slice(place * seeds, (place + 1) * seeds)
                moved[step, place] = _update(cells[place], references, policies, own_runs)
            runs = torch.cat([torch.arange(place * seeds, (place + 1) * seeds) for place in due])
            new = all_logps({name: tensor[runs] for name, tensor in references.items()}, depth)
            reference = reference.index_copy(0, runs, new)
            values = of_all(logps, reference, chosen, rejected)
            if due[0] < MAIN:
                look(step, "after")
        optimizer.zero_grad()
        # The sum over runs: their parameters are their own, and so are the gradients.
        values.sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    found = {name: torch.stack([one[name] for one in looks]) for name in looks[0]}
    return Record(list(cells), quantities, moved, points, found)


def train_all(settings: ToyMdp, main_only: bool = False) -> dict[str, Record]:
    """Worlds, pre-trained policies, and the trainings of every loss, by loss; `main_only` leaves out the grid."""
    worlds = make_worlds(settings)
    new = new_policy(settings.hidden, settings.seeds, settings.seed)
    known = worlds.mask(worlds.demonstrations)
    start = pretrain(new, known, settings.depth, settings.pretrain_steps, settings.pretrain_learning_rate)
    cells = {loss: cells_of(settings, loss)[: MAIN if main_only else None] for loss in get_args(Loss)}
    return {loss: train(settings, loss, own, start, worlds) for loss, own in cells.items()}


def _for_each(cells: int, tensor: Tensor) -> Tensor:
    """(S, ...) repeated to (cells * S, ...)."""
    return tensor.repeat(cells, *[1] * (tensor.dim() - 1))


def _margin(ratios: Tensor, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The mean of `h` over the pairs, shape (runs,)."""
    return (ratios.gather(1, chosen) - ratios.gather(1, rejected)).mean(1)


def _update(cell: Cell, references: Policy, policies: Policy, runs: slice) -> Tensor:
    """Move the references of a cell's runs; how far each went, shape (S,)."""
    own, policy = ([tensor.detach()[runs] for tensor in group.values()] for group in (references, policies))
    before = [tensor.clone() for tensor in own]
    if METHODS[cell.method].update == "soft":
        assert cell.alpha is not None
        soft_update(own, policy, cell.alpha)
    else:
        hard_update(own, policy)
    squares = [(new - old).flatten(1).square().sum(1) for new, old in zip(own, before, strict=True)]
    return torch.stack(squares).sum(0).sqrt()


def _check(logps: Tensor, cells: Sequence[Cell], seeds: int, step: int) -> None:
    """Stop where a number is no longer what it should be."""
    lowest = logps.detach().amin(1)  # NaN where any is
    broken = (~(lowest >= UNDERFLOW)).nonzero()
    if len(broken):
        run = int(broken[0])
        cell = cells[run // seeds]
        setting = "".join(
            f", {name} {value}" for name in ("alpha", "every", "tau") if (value := getattr(cell, name)) is not None
        )
        raise UserError(
            f"toy_mdp: after {step} steps of {cell.method}{setting} (world {run % seeds}) a trajectory's "
            f"log-probability is {float(lowest[run]):.4g}: its probability underflows, and sums over the tree would no "
            "longer be exact; lower toy_mdp.learning_rate or toy_mdp.steps, or raise the beta or the update's interval"
        )
