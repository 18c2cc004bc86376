"""The results as a table: Markdown for the README and the report, plain text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tr_align.config import AXES
from tr_align.reports.common import (
    Context,
    Metrics,
    count_text,
    in_order,
    label,
    seeds_text,
    share_with_interval,
    with_interval,
)

TEXT_WIDTH = 110
WINS = {"win_rate_vs_sft": "win vs SFT", "win_rate_vs_base": "win vs base"}


def rows(metrics: Metrics, axes: bool = True) -> tuple[list[str], list[list[str]]]:
    """Headers and cells, by loss and within a loss base, soft, hard.

    Nothing is marked as best: whether a difference is one is a question for the claims, which compare the
    methods prompt by prompt.
    """
    methods = in_order(metrics)
    numeric = ["kl", "hc", *(AXES if axes else ())]
    names = ["method", "KL", "HC", *(AXES if axes else ()), *WINS.values(), *(["n"] if axes else [])]
    places = {column: _decimals([metrics[method][column] for method in methods]) for column in numeric}
    cells = []
    for method in methods:
        row = metrics[method]
        line = [label(method)]
        line += [with_interval(row[column], row[f"{column}_ci"], places[column]) for column in numeric]
        line += [share_with_interval(row[column], row[f"{column}_ci"]) for column in WINS]
        cells.append([*line, str(row["n_prompts"])] if axes else line)
    return names, cells


def markdown(metrics: Metrics, context: Context) -> str:
    """A Markdown table of every metric with its interval, and a line that says how to read it."""
    names, cells = rows(metrics)
    lines = [names, [":--", *["--:"] * (len(names) - 1)], *cells]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{footnote(metrics, context)}\n"


def text(metrics: Metrics, context: Context) -> str:
    """The main columns as plain text, at most 110 characters wide."""
    names, cells = rows(metrics, axes=False)
    widths = [max(len(line[column]) for line in [names, *cells]) for column in range(len(names))]
    lines = [_aligned(line, widths) for line in [names, ["-" * width for width in widths], *cells]]
    return "\n".join([*lines, "", textwrap.fill(footnote(metrics, context), TEXT_WIDTH)]) + "\n"


def footnote(metrics: Metrics, context: Context) -> str:
    """What the numbers are: unit, number of prompts, seeds, the judge's biases, and replies left out."""
    counts = count_text(row["n_prompts"] for row in metrics.values())
    note = (
        f"In brackets 95 % bootstrap intervals over n = {counts} prompts; {seeds_text(context)}. "
        f"KL in nats per reply; HC and its axes in {context['hc_unit']}; at a win rate of 50 % neither is preferred."
    )
    missing = [
        f"{label(method)} {metrics[method]['n_missing']}" for method in in_order(metrics) if _missing(metrics, method)
    ]
    note += f" {_bias(context['judge_bias'])}" if context["judge_bias"]["n"] else ""
    return note + (f" Left out for lack of a readable score: {', '.join(missing)}." if missing else "")


def _bias(bias: Mapping[str, Any]) -> str:
    """What the judge's verdicts in all duels together follow besides quality, as a sentence."""

    def share(name: str) -> str:
        return share_with_interval(bias[name], bias[f"{name}_ci"])

    longer = f", the longer reply {share('longer')}" if bias["n_longer"] else ""
    return (
        f"The judge gave the reply shown first {share('first_shown')} of the points{longer}; its verdicts agreed in "
        f"both orders in {share('consistent')} of {bias['n']} pairs."
    )


def _missing(metrics: Metrics, method: str) -> int:
    return int(metrics[method].get("n_missing") or 0)


def _decimals(values: Sequence[float | None]) -> int:
    """One for a column that reaches ten, two below: the same in all of a column's cells."""
    return 1 if max((abs(value) for value in values if value is not None), default=0) >= 10 else 2


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([first, *rest]).rstrip()
