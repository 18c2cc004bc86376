"""The runs of a report sorted into cells: who was trained with which beta and seed, and who is compared with whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tr_align.config import METHODS, Params
from tr_align.metrics.frontier import Curve
from tr_align.reports.common import in_order, label
from tr_align.reports.runs import Run, Trained

Row = dict[str, Any]
Quality = Callable[[Trained, int, Sequence[str]], Mapping[str, float]]
"""What curves are drawn of: of a training's policy at a step, a value by prompt id, NaN where it could not be read. The
prompts it is asked for are those that were answered at every point of the curves; others in its answer do not count."""


@dataclass
class Study:
    """What was trained. A cell is a method with one setting of its update."""

    runs: list[Run]
    cells: dict[str, Row] = field(default_factory=dict)
    """By identifier, in the order of every table: the columns `results.CELL`."""
    trained: dict[tuple[str, float | None], dict[int, Trained]] = field(default_factory=dict)
    """By cell and beta (None for "sft"), then by seed."""
    cell_of: dict[tuple[str, str], str] = field(default_factory=dict)
    """By run and method."""
    learning_rates: dict[str, dict[tuple[float, int], float]] = field(default_factory=dict)
    """`align.learning_rate` of what `trained` holds: by cell (but for "sft"), then by beta and seed."""
    problems: list[str] = field(default_factory=list)

    @property
    def seeds(self) -> list[int]:
        return sorted(self.trained["sft", None])

    def betas(self, *cells: str) -> list[float]:
        """The betas that all of these cells were trained with, increasing."""
        found = [{beta for name, beta in self.trained if name == cell and beta is not None} for cell in cells]
        return sorted(set.intersection(*found))

    def main_beta(self, cell: str) -> float:
        """The beta that stands for a cell: the first run's, if the cell was trained with it."""
        betas, first = self.betas(cell), getattr(self.runs[0].params.beta, self.cells[cell]["loss"])
        return first if first in betas else betas[len(betas) // 2]

    def compared_beta(self, cell: str, *others: str) -> float:
        """The beta at which cells are compared where it is at one: the first's main one, if all have it."""
        shared, main = self.betas(cell, *others), self.main_beta(cell)
        return main if main in shared else shared[len(shared) // 2]

    def is_main(self, cell: str) -> bool:
        """Whether a cell has the first run's setting of the update, or its method has no other; what is not was added
        to see what the setting does."""
        row = self.cells[cell]
        others = [name for name, other in self.cells.items() if other["method"] == row["method"]]
        own = row["alpha"], row["every"], row["tau"]
        return len(others) == 1 or own == _update(self.runs[0].params, row["method"])

    def base(self, cell: str) -> str | None:
        """The cell of the base method, None for what has none (base methods, SFT) and where it is missing."""
        if self.cells[cell]["update"] == "none":
            return None
        base = METHODS[self.cells[cell]["method"]].base
        return base if base in self.cells else None

    def by_loss(self, loss: str) -> list[float]:
        """All betas of a loss."""
        return sorted({beta for cell, row in self.cells.items() if row["loss"] == loss for beta in self.betas(cell)})


def study(runs: Sequence[Run]) -> Study:
    """Sort runs of one report (see :func:`tr_align.reports.runs.comparable`) into cells.

    Where two runs hold the same training (cell, beta, seed), as after a sweep over alpha that trains no base method
    again, the first counts; `problems` says so if the other had another learning rate.
    """
    result = Study(list(runs))
    settings: dict[str, list[tuple[Any, ...]]] = {}
    for run in runs:
        for method in in_order(run.models):
            values = settings.setdefault(method, [])
            if _update(run.params, method) not in values:
                values.append(_update(run.params, method))
    for method in ["sft", *in_order(name for name in settings if name != "sft")]:
        for update in sorted(settings.get(method, []), key=lambda row: tuple(value or 0 for value in row)):
            cell = cell_columns(method, update, several=len(settings[method]) > 1)
            result.cells[cell["cell"]] = cell
    for run in runs:
        result.problems += run.problems if len(runs) == 1 else [f"{run.name}: {text}" for text in run.problems]
        for method, trained in run.models.items():
            several = len(settings[method]) > 1
            name = cell_columns(method, _update(run.params, method), several)["cell"]
            result.cell_of[run.name, method] = name
            beta = None if method == "sft" else getattr(run.params.beta, METHODS[method].loss)
            result.trained.setdefault((name, beta), {}).setdefault(run.params.seed, trained)
            if beta is not None:
                result.problems += _learned(result, run, method, beta)
    result.problems += [*_mixed(result), *_incomplete(result)]
    return result


def _update(params: Params, method: str) -> tuple[Any, ...]:
    kind = "none" if method == "sft" else METHODS[method].update
    if kind == "soft":
        return params.ref_update.alpha, params.ref_update.every, None
    return (None, None, params.ref_update.tau) if kind == "hard" else (None, None, None)


def cell_columns(method: str, values: tuple[Any, ...], several: bool) -> Row:
    """The columns `results.CELL`. Args: `values`, alpha, every and tau; several: whether the name has to tell them."""
    alpha, every, tau = values
    name, identifier = label(method), method
    if several and alpha is not None:
        name, identifier = f"{name} α={alpha:g}, every {every}", f"{method}-a{alpha:g}-e{every}"
    elif several and tau is not None:
        name, identifier = f"{name} τ={tau}", f"{method}-t{tau}"
    spec = METHODS.get(method)
    kind = {"loss": spec.loss if spec else None, "update": spec.update if spec else "none"}
    return {"cell": identifier, "name": name, "method": method, **kind, "alpha": alpha, "every": every, "tau": tau}


def _learned(study: Study, run: Run, method: str, beta: float) -> list[str]:
    """Note a training's learning rate; a problem if the report already holds this training with another."""
    cell, seed, rate = study.cell_of[run.name, method], run.params.seed, run.params.learning_rate(method)
    counted = study.learning_rates.setdefault(cell, {}).setdefault((beta, seed), rate)
    if counted == rate:
        return []
    return [
        f"{study.cells[cell]['name']} at β = {beta:g} with seed {seed} was trained with learning rates {counted:g} and "
        f"{rate:g}: only the first, {counted:g}, counts; {run.name} has the other"
    ]


def _mixed(study: Study) -> list[str]:
    """Cells whose trainings, by beta or seed, had different learning rates."""
    problems = []
    for cell, rates in study.learning_rates.items():
        by_rate: dict[float, list[str]] = {}
        for (beta, seed), rate in sorted(rates.items()):
            by_rate.setdefault(rate, []).append(f"β = {beta:g}, seed {seed}")
        if len(by_rate) > 1:
            held = "; ".join(f"{rate:g} at {', '.join(places)}" for rate, places in sorted(by_rate.items()))
            problems.append(
                f"{study.cells[cell]['name']} was trained with different learning rates ({held}): its means over them "
                "are of different trainings"
            )
    return problems


def _incomplete(study: Study) -> list[str]:
    """Cells that lack a seed others have, and trust-region cells without their base."""
    problems = []
    for (cell, beta), by_seed in study.trained.items():
        missing = [str(seed) for seed in study.seeds if seed not in by_seed]
        if cell != "sft" and missing:
            problems.append(
                f"{study.cells[cell]['name']} at β = {beta:g} lacks seed{'s' if len(missing) > 1 else ''} "
                f"{', '.join(missing)}: its numbers are over {len(by_seed)} of {len(study.seeds)} seeds"
            )
    for cell, row in study.cells.items():
        if row["update"] != "none" and study.base(cell) is None:
            base = label(METHODS[row["method"]].base)
            problems.append(f"{row['name']} cannot be compared: its base {base} is not in this report")
    return problems


@dataclass(frozen=True)
class Aligned:
    """Cells as curves on the same seeds and prompts."""

    curves: dict[str, list[Curve]]
    """By cell, one a seed."""
    seeds: list[int]
    along: str
    """"beta": the points are the models trained with several betas; "steps": checkpoints at one beta."""
    beta: float | None
    """That one beta."""

    @property
    def n_prompts(self) -> int:
        """Prompts behind the curves, of the seed with the fewest."""
        return min(len(curve.prompts) for curve in next(iter(self.curves.values())))


@dataclass(frozen=True)
class Pairing(Aligned):
    """A trust-region cell and its base."""

    cell: str
    compared_with: str

    @property
    def method(self) -> list[Curve]:
        return self.curves[self.cell]

    @property
    def base(self) -> list[Curve]:
        return self.curves[self.compared_with]


def hc_of(trained: Trained, step: int, prompts: Sequence[str]) -> Mapping[str, float]:
    """HC of the replies."""
    return {prompt: trained.answers[step][prompt]["hc"] for prompt in prompts}


def pairing(study: Study, cell: str, base: str, quality: Quality = hc_of) -> Pairing:
    """The curves to compare a cell with its base by: :func:`aligned`."""
    found = aligned(study, (cell, base), quality)
    return Pairing(found.curves, found.seeds, found.along, found.beta, cell, base)


def aligned(study: Study, cells: Sequence[str], quality: Quality = hc_of) -> Aligned:
    """The curves of `quality` against KL to compare cells by, the first of which says at which beta where it is at one.

    Several betas make a curve of trained models, as in the paper; with one beta the curve follows training. Only
    prompts with a reply and a value at all of these points count, and seeds that all were trained with and that have
    such prompts.
    Raises:
        ValueError: there is no such seed, or no such prompt.
    """
    shared = study.betas(*cells)
    if not shared:
        raise ValueError("they were trained with no beta in common")
    seeds = _with_all(study, cells, shared)
    along = "beta" if len(shared) > 1 and seeds else "steps"
    beta = None
    if along == "steps":
        beta = study.compared_beta(*cells)
        seeds = _with_all(study, cells, [beta])
    if not seeds:
        raise ValueError(f"no seed was trained with {'both' if len(cells) == 2 else 'all'}")
    curves: dict[str, list[Curve]] = {cell: [] for cell in cells}  # one entry where a cell is paired with itself
    measured = []
    for seed in seeds:
        points = {name: [(study.trained["sft", None][seed], 0)] for name in curves}
        for name in curves:
            for value in [beta] if along == "steps" else shared:
                trained = study.trained[name, value][seed]
                steps = sorted(trained.answers) if along == "steps" else [trained.last]
                points[name] += [(trained, step) for step in steps]
        answers = {name: [trained.answers[step] for trained, step in points[name]] for name in curves}
        answered = sorted(set.intersection(*(set(row) for name in curves for row in answers[name])))
        values = {name: [quality(*point, answered) for point in points[name]] for name in curves}
        prompts = [prompt for prompt in answered if all(prompt in row for name in curves for row in values[name])]
        if not prompts:
            continue
        for name in curves:
            kl = np.array([[row[prompt]["kl"] for prompt in prompts] for row in answers[name]])
            height = np.array([[row[prompt] for prompt in prompts] for row in values[name]])
            curves[name].append(Curve(kl, height, prompts))
        measured.append(seed)
    if not measured:
        raise ValueError("no seed has a prompt that was answered and measured at every point")
    return Aligned(curves, measured, along, beta)


def _with_all(study: Study, cells: Sequence[str], betas: Sequence[float]) -> list[int]:
    found = [set(study.trained[cell, beta]) for cell in cells for beta in betas]
    return sorted(set.intersection(*found) & set(study.seeds))
