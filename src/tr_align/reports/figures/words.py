"""The sentences under figures: what was run, and what the intervals are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from tr_align.reports.common import count_text, listed, seeds_text
from tr_align.reports.results import Report, Row


def setup(report: Report) -> str:
    """Model, data and judge, as a sentence."""
    context = report.context
    return f"{context['model']} on {context['data']}, judged by {context['judge']}."


def hc(report: Report) -> str:
    """What HC and its axes are in, to stand in a sentence."""
    unit = report.context["hc_unit"]
    return f"HC and its axes in {unit}" if report.context["axes"] else f"HC, fitted on preferences, in {unit}"


def sample(report: Report, rows: Sequence[Row], checkpoints: bool = False) -> str:
    """Prompts, seeds and the kind of interval, as a sentence.

    Args:
        rows: the drawn ones. checkpoints: points of before the end of training are drawn too.
    """
    last = [row["n_prompts"] for row in rows if row.get("final", True) and row.get("n_prompts") is not None]
    before = [row["n_prompts"] for row in rows if not row.get("final", True) and row.get("n_prompts") is not None]
    text = f"{count_text(last)} prompts" if last else "Prompts not counted"
    if checkpoints and before and set(before) != set(last):
        text += f" ({count_text(before)} at points before the end of training)"
    return f"{text}; {seeds(report, rows)}; {intervals(report, rows)}."


def seeds(report: Report, rows: Sequence[Row]) -> str:
    """`seeds 0, 1, 2`; models that lack some of them are named with those that they have."""
    every, by_name = _all_seeds(report, rows), defaultdict(set)
    for row in _of_models(rows):
        by_name[row["name"]].update(row["seeds"])
    fewer: dict[tuple[int, ...], list[str]] = {}
    for name, own in by_name.items():
        if own != set(every):
            fewer.setdefault(tuple(sorted(own)), []).append(name)
    text = seeds_text({"seeds": every})
    named = [f"{listed(names)}: {seeds_text({'seeds': own})} alone" for own, names in fewer.items()]
    return f"{text} ({'; '.join(named)})" if named else text


def _of_models(rows: Iterable[Row]) -> list[Row]:
    """Those of trained models; SFT's seeds are all there are."""
    return [row for row in rows if row.get("seeds") and row.get("loss")]


def _all_seeds(report: Report, rows: Iterable[Row]) -> list[int]:
    return sorted({seed for row in _of_models(rows) for seed in row["seeds"]}) or list(report.context["seeds"])


def intervals(report: Report, rows: Iterable[Row]) -> str:
    """What was drawn anew for the intervals. `rows`: the drawn ones, which may lack seeds of the report."""
    if len(_all_seeds(report, rows)) == 1:
        return "95 % bootstrap intervals over prompts, which say nothing about another training run"
    return "95 % intervals over seeds and prompts"


def betas(values: Iterable[float | None]) -> str:
    """`0.05`, or `0.02, 0.05, 0.1`."""
    return ", ".join(f"{value:g}" for value in sorted({value for value in values if value is not None}))


def betas_by_loss(rows: Iterable[Row]) -> str:
    """`β: DPO 0.05, IPO 0.01`; empty where no row has one."""
    found: dict[str, set[float]] = {}
    for row in rows:
        if row.get("loss") and row.get("beta") is not None:
            found.setdefault(row["loss"], set()).add(row["beta"])
    return f"β: {'; '.join(f'{loss.upper()} {betas(values)}' for loss, values in found.items())}" if found else ""
