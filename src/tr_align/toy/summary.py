"""The toy world's trainings as the rows of `reports/toy_mdp.json`, which figures, page and claims are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tr_align.config import METHODS
from tr_align.reports import compare
from tr_align.reports.study import cell_columns
from tr_align.settings import TOY_ACTIONS, ToyMdp
from tr_align.toy.claims import claims
from tr_align.toy.measures import MASSES
from tr_align.toy.statistics import at_kl, matched, rounded, spread
from tr_align.toy.train import MAIN, QUANTITIES, Record

Row = dict[str, Any]
CURVE_POINTS = 40
LEVELS = 24
ALONG = ("ood_mass", "reward", "chosen_logp")
AT_END = ("ood_mass", "reward", "kl", "chosen_logp")


def summary(settings: ToyMdp, records: Mapping[str, Record]) -> dict[str, Any]:
    """All that is shown of the toy world; plain JSON values, None where there is none.

    Args: the records of :func:`tr_align.toy.train.train` by loss.
    """
    return {
        "world": _world(settings, records),
        "curves": [row for record in records.values() for row in _curves(record)],
        "along_kl": [row for record in records.values() for row in _along_kl(record)],
        "grid": [row for record in records.values() for row in _grid(record)],
        "curvature": [row for record in records.values() for row in _curvature(record)],
        "claims": claims(settings, records),
    }


def to_text(found: Mapping[str, Any]) -> str:
    """A :func:`summary` as JSON with a line a row, which makes a short file and short differences."""
    parts = []
    for key, value in found.items():
        rows = (
            [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in value] if isinstance(value, list) else []
        )
        body = "[\n" + ",\n".join(rows) + "\n]" if rows else json.dumps(value, ensure_ascii=False, allow_nan=False)
        parts.append(f"{json.dumps(key)}: {body}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _world(settings: ToyMdp, records: Mapping[str, Record]) -> Row:
    quantities = next(iter(records.values())).quantities
    start = {name: rounded(float(quantities[name][0, 0].mean())) for name in (*MASSES, "reward", "entropy")}
    values = settings.model_dump(mode="json")
    grid, main = values.pop("grid"), values.pop("ref_update")
    return values | {
        "actions": TOY_ACTIONS,
        "trajectories": settings.trajectories,
        "main": main,
        **grid,
        "start": start,
    }


def _columns(record: Record, place: int) -> Row:
    """The columns `results.CELL` and the number of worlds; cells of the grid have their setting in their name."""
    cell = record.cells[place]
    columns = cell_columns(cell.method, (cell.alpha, cell.every, cell.tau), several=place >= MAIN)
    return columns | {"n": record.moved.shape[2]}


def _curves(record: Record) -> list[Row]:
    steps = len(record.moved) - 1
    shown = sorted({round(share * steps) for share in np.linspace(0, 1, CURVE_POINTS + 1)})
    rows = []
    for place in range(MAIN):
        for step in shown:
            row = _columns(record, place) | {"step": step}
            for name in QUANTITIES:
                row |= spread(name, record.along(name, place)[step])
            rows.append(row)
    return rows


def _along_kl(record: Record) -> list[Row]:
    """At KLs that a cell reached in every world; the grid of KLs is the same for the cells of a loss."""
    reached = [float(record.along("kl", place).max(0).min()) for place in range(MAIN)]
    rows = []
    for level in np.linspace(0, max(reached), LEVELS + 1):
        for place in range(MAIN):
            if level > reached[place]:
                continue
            kl = record.along("kl", place)
            row = _columns(record, place) | {"kl": rounded(float(level))}
            for name in ALONG:
                values = record.along(name, place)
                row |= spread(name, np.array([at_kl(values[:, s], kl[:, s], level) for s in range(kl.shape[1])]))
            rows.append(row)
    return sorted(rows, key=lambda row: (list(METHODS).index(row["method"]), row["kl"]))


def _grid(record: Record) -> list[Row]:
    base_kl = record.along("kl", 0)
    rows = []
    for place in range(len(record.cells)):
        row = _columns(record, place)
        for name in AT_END:
            row |= spread(name, record.along(name, place)[-1])
        kl = record.along("kl", place)
        row["matched_kl"] = None
        for name, quantity, scale in (("ood_difference", "ood_mass", 100.0), ("reward_difference", "reward", 1.0)):
            if place == 0:
                row |= compare.spread(name, None)
                continue
            one = matched(record.along(quantity, place), kl, record.along(quantity, 0), base_kl)
            row |= {"matched_kl": rounded(float(one.kl.mean()))} | spread(name, scale * one.difference)
        rows.append(row)
    return rows


def _curvature(record: Record) -> list[Row]:
    rows = []
    for place in range(MAIN):
        for index, (step, moment) in enumerate(record.points):
            if moment == "after" and not record.moved[step, place].max() > 0:
                continue  # another cell's reference moved there
            row = _columns(record, place) | {"step": step, "moment": moment}
            for name, values in record.curvature.items():
                row |= spread(name, values[index, place].numpy())
            rows.append(row)
    return rows
