"""The page's tables of fixed texts: how probable each kind is under every trained model, per token and per reply."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tr_align.reports.common import MISSING
from tr_align.reports.figures.ood import KINDS
from tr_align.reports.page import words
from tr_align.reports.page.words import in_order
from tr_align.reports.results import Report, Row

MEASURES = {
    "per_token": ("Per token", "change"),
    "per_reply": ("Per reply, the sum over its tokens", "change_per_reply"),
}
"""By measure of `Report.ood`, its heading, and the measure of what it changed by since SFT."""


def likelihoods(report: Report) -> dict[str, Any] | None:
    """`kinds`, the heads, and `tables`, one a measure: `title`, and `rows` of name, beta, sample and cells (value and
    change since SFT, each with its interval); None where nothing was measured."""
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in report.ood)]
    if not kinds:
        return None
    last: dict[tuple[str, float | None], int] = {}
    for row in report.ood:
        last[row["cell"], row["beta"]] = max(last.get((row["cell"], row["beta"]), 0), row["step"])
    rows = [*_start(report.ood), *(row for row in report.ood if row["step"] == last[row["cell"], row["beta"]] > 0)]
    tables = [
        {"title": title, "rows": _lines(rows, kinds, measure, change)} for measure, (title, change) in MEASURES.items()
    ]
    return {"kinds": [KINDS[kind] for kind in kinds], "tables": tables}


def _start(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The SFT model's rows: those of the start of one training, one with the most seeds."""
    starts = [row for row in rows if row["step"] == 0]
    if not starts:
        return []
    top = max(starts, key=lambda row: len(row["seeds"]))
    own = [row for row in starts if (row["cell"], row["beta"]) == (top["cell"], top["beta"])]
    unchanged = dict.fromkeys(change for _, change in MEASURES.values())
    return [
        {**row, **unchanged, "cell": "sft", "name": "SFT", "loss": None, "update": "none", "beta": None} for row in own
    ]


def _lines(rows: Sequence[Row], kinds: list[str], measure: str, change: str) -> list[dict[str, Any]]:
    groups: dict[tuple[str, float | None], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["cell"], row["beta"]), []).append(row)
    lines: list[dict[str, Any]] = []
    for first in in_order([own[0] for own in groups.values()]):
        line = _line(groups[first["cell"], first["beta"]], kinds, measure, change)
        line["family"] = not lines or lines[-1]["loss"] != line["loss"]
        lines.append(line)
    return lines


def _line(own: list[Row], kinds: list[str], measure: str, change: str) -> dict[str, Any]:
    by_kind = {row["kind"]: row for row in own}
    first = own[0]
    return {
        **{key: first[key] for key in ("name", "loss", "update")},
        "beta": "" if first["beta"] is None else f"{first['beta']:g}",
        "cells": [_cell(by_kind.get(kind), measure, change) for kind in kinds],
        "n": f"{min(row['n'] for row in own)} × {len(first['seeds'])}",
        "family": False,
    }


def _cell(row: Row | None, measure: str, change: str) -> dict[str, str]:
    if row is None:
        return {"value": MISSING, "ends": "", "change": "", "change_ends": ""}
    decimals = 2 if measure == "per_token" else 1
    cell = {"value": words.plain(row[measure], decimals), "ends": _ends(row, measure, decimals, sign=False)}
    if row[change] is None:
        return {**cell, "change": "", "change_ends": ""}
    return {
        **cell,
        "change": words.signed(row[change], decimals),
        "change_ends": _ends(row, change, decimals, sign=True),
    }


def _ends(row: Row, measure: str, decimals: int, sign: bool) -> str:
    return words.interval(row[f"{measure}_lo"], row[f"{measure}_hi"], decimals, sign)
