"""What the setting of the update does, tested: α inside its range, τ that is too small, updates that are rarer.

Each compares cells of one method with each other, at the largest KL that all of them reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tr_align.config import METHODS
from tr_align.metrics.frontier import WEIGHTS, common_kl, contrast
from tr_align.reports.claims import Finding
from tr_align.reports.common import in_order, label, listed, with_interval
from tr_align.reports.compare import spread
from tr_align.reports.equal_kl import at_equal_kl
from tr_align.reports.study import Study, aligned

Row = dict[str, Any]
LETTERS = {"alpha": "α", "tau": "τ"}
ENOUGH = 3
"""So many alphas have one inside their range; so many points are a curve."""
SAME_LAG = 0.01
"""By how much of itself the share of the old reference that is left a step may differ between two equal lags."""


def contrast_claims(study: Study, resamples: int, seed: int) -> list[Finding]:
    """The claims that a report's cells can test; none of a report with one setting a method."""
    found = []
    for method in _methods(study):
        groups = _knobs(study, method)
        for knob, group in groups:
            test = _alpha if knob == "alpha" else _tau
            found += test(study, group, resamples, seed)
        soft = [cell for knob, group in groups if knob == "alpha" for cell in group]
        for alike in same_lag(study, soft):
            found += _interval(study, alike, resamples, seed)
    return found


def setting_rows(study: Study, resamples: int, seed: int) -> tuple[list[Row], list[str]]:
    """`Report.by_setting`: HC along α, or τ, where a method has three or more; and why some could not be had."""
    rows, problems = [], []
    for method in _methods(study):
        for knob, group in _knobs(study, method):
            along = _along(study, group, knob)
            if len(along) < ENOUGH:
                continue
            base = study.base(along[0])
            own = {} if base is None else {"base": study.cells[base]["name"]}
            try:
                curves = aligned(study, [*along, *([base] if base else [])])
                kl = common_kl([curve for each in curves.curves.values() for curve in each])
            except ValueError as error:
                problems.append(f"{label(method)} is not drawn along {LETTERS[knob]}: {error}")
                continue
            shared = {"panel": panel(study.cells[along[0]]), "kl": kl, "beta": curves.beta, **own}
            shared |= {"seeds": curves.seeds, "n_prompts": curves.n_prompts}
            for cell, each in curves.curves.items():
                (alone,) = contrast([each], [1.0], [kl], resamples, seed)
                apart = None
                if base is not None and cell != base:
                    (apart,) = contrast([each, curves.curves[base]], WEIGHTS, [kl], resamples, seed)
                rows.append({**study.cells[cell], **shared, **spread("hc", alone), **spread("difference", apart)})
    return rows, problems


def panel(cell: Row) -> str:
    """What cells have in common that differ in α or τ alone: `DPO soft, every 4 steps`, or `DPO hard`."""
    often = f", every {steps_text(cell['every'])}" if cell["update"] == "soft" else ""
    return f"{cell['loss'].upper()} {cell['update']}{often}"


def _methods(study: Study) -> list[str]:
    return in_order({row["method"] for row in study.cells.values() if row["update"] != "none"})


def _knobs(study: Study, method: str) -> list[tuple[str, list[str]]]:
    """The cells of a method in groups that differ in one setting alone, and which."""
    cells = [name for name, row in study.cells.items() if row["method"] == method]
    if METHODS[method].update == "hard":
        return [("tau", cells)]
    often = sorted({study.cells[cell]["every"] for cell in cells})
    return [("alpha", [cell for cell in cells if study.cells[cell]["every"] == every]) for every in often]


def _alpha(study: Study, cells: Sequence[str], resamples: int, seed: int) -> list[Finding]:
    """The middle alpha minus the mean of the smallest and the largest."""
    along = _along(study, cells, "alpha")
    if len(along) < ENOUGH:
        return []
    middle = _chosen(study, along[1:-1])
    return [_finding(study, "alpha", along, (middle, along[0], along[-1]), (1.0, -0.5, -0.5), resamples, seed)]


def _tau(study: Study, cells: Sequence[str], resamples: int, seed: int) -> list[Finding]:
    """The main tau minus the smallest."""
    along = _along(study, cells, "tau")
    if len(along) < 2:
        return []
    return [_finding(study, "tau", along, (_chosen(study, along[1:]), along[0]), (1.0, -1.0), resamples, seed)]


def _interval(study: Study, cells: Sequence[str], resamples: int, seed: int) -> list[Finding]:
    """The smallest `every` minus the largest."""
    along = _along(study, cells, "every")
    if len(along) < 2:
        return []
    return [_finding(study, "interval", along, (along[0], along[-1]), (1.0, -1.0), resamples, seed)]


def same_lag(study: Study, cells: Sequence[str]) -> list[list[str]]:
    """Soft cells in groups whose reference trails the policy by as much, main cells first; each cell is in one.

    After a step on average (1 - alpha)^(1 / every) of the old reference is left; cells are alike if this is, to 1 %. A
    reference that is replaced at once (alpha 1) leaves nothing, and is alike to none.
    """
    left = {cell: (1 - study.cells[cell]["alpha"]) ** (1 / study.cells[cell]["every"]) for cell in cells}
    waiting = sorted((cell for cell in cells if left[cell] > 0), key=lambda cell: not study.is_main(cell))
    groups = []
    while waiting:
        first = left[waiting[0]]
        groups.append([cell for cell in waiting if abs(left[cell] - first) <= SAME_LAG * first])
        waiting = [cell for cell in waiting if cell not in groups[-1]]
    return groups


def _along(study: Study, cells: Sequence[str], knob: str) -> list[str]:
    """One cell a value of the knob, increasing: those that were trained with the beta of the main one among them."""
    if not cells:
        return []
    first = next((cell for cell in cells if study.is_main(cell)), cells[0])
    beta = study.main_beta(first)
    by_value: dict[float, str] = {}
    for cell in (first, *cells):
        if beta in study.betas(cell):
            by_value.setdefault(study.cells[cell][knob], cell)
    return [by_value[value] for value in sorted(by_value)]


def _chosen(study: Study, cells: Sequence[str]) -> str:
    """The main cell, or else the middle one."""
    return next((cell for cell in cells if study.is_main(cell)), cells[len(cells) // 2])


def _finding(
    study: Study,
    kind: str,
    group: Sequence[str],
    cells: tuple[str, ...],
    weights: tuple[float, ...],
    resamples: int,
    seed: int,
) -> Finding:
    """A claim that the weighted sum of the cells' quality is above zero; its row is about the group's main cell."""
    about = next((cell for cell in group if study.is_main(cell)), cells[0])
    try:
        found = at_equal_kl(study, cells, resamples, seed, weights=weights)
    except ValueError as error:
        return Finding(kind, about, cells[1:], str(error))
    parts = []
    for cell in sorted(cells, key=group.index):
        (alone,) = contrast([found.curves.curves[cell]], [1.0], [found.kl], resamples, seed)
        parts.append(f"{setting(study.cells[cell])}: HC {with_interval(alone.value, alone.ci, 2)}")
    detail = "; ".join(parts)
    others = listed([setting(study.cells[cell]) for cell in cells[1:]])
    mean = "the mean of " if len(cells) > 2 else ""
    evidence = (
        f"HC with {setting(study.cells[cells[0]])} differs from {mean}that with {others} by {found.text} points "
        f"{found.where} ({detail})"
    )
    return found.finding(kind, about, cells[1:], evidence, detail)


def setting(cell: Row) -> str:
    """`α = 0.6 every 4 steps`, or `τ = 8`."""
    if cell["alpha"] is None:
        return f"τ = {cell['tau']}"
    return f"α = {cell['alpha']:g} every {steps_text(cell['every'])}"


def steps_text(count: int) -> str:
    """`step`, or `4 steps`: what follows "every"."""
    return "step" if count == 1 else f"{count} steps"
