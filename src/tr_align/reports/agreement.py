"""The claims of one set of replies under several judges: which conclusions are the judge's own."""

from __future__ import annotations

import json
import os.path
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tr_align.errors import UserError
from tr_align.reports.common import MISSING, signed_with_interval
from tr_align.reports.results import Report

Row = dict[str, Any]
NO_JUDGE = ("reach", "ood", "recovery", "diversity")
"""Kinds of claims that rest on no rating and no duel; those about the toy MDP are others."""
DEPENDS = "depends on the judge"
SAME = ("kl", "beta", "n_prompts", "seeds")
"""What two judges of the same replies have in common in a claim."""


def read_claims(path: Path) -> list[Row]:
    """The rows of a report's claims.json that a judge has a part in.

    Raises:
        UserError: the file is missing, torn, or holds no claims.
    """
    try:
        rows = json.loads(path.read_text("utf-8"))
        return judged(rows)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file; name the claims.json of a report") from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: holds no claims ({error}); name the claims.json of a report") from error


def judged(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The claims that a judge has a part in."""
    return [row for row in rows if row["kind"] not in NO_JUDGE and not row["kind"].startswith("toy_")]


def side_by_side(rows: Sequence[Row], reports: Mapping[str, Report], folders: Mapping[str, Path]) -> dict[str, Report]:
    """The reports of a study, each with what the other judges find.

    A claim that all judges tested on the same replies gets `depends`, as :func:`agreement` has it, and `elsewhere`, a
    row another judge: `judge` (in words), `effect`, `ci`, `verdict`. The context gets `judges`, a row another judge:
    `judge` and `page`, seen from this page.

    Args: `rows`: of :func:`agreement`, on the claims of the reports. By the judge's name, two or more: its report, and
        the folder that it goes to.
    """
    shared = {row["id"]: row for row in rows if row["same_replies"] and None not in row["judges"].values()}
    told = {name: str(report.context["judge"]) for name, report in reports.items()}
    found = {}
    for name, report in reports.items():
        others = [judge for judge in reports if judge != name]
        claims = []
        for claim in report.claims:
            if row := shared.get(claim["id"]):
                elsewhere = [
                    {"judge": told[judge]} | {key: row["judges"][judge][key] for key in ("effect", "ci", "verdict")}
                    for judge in others
                ]
                claim = {**claim, "depends": row["depends"], "elsewhere": elsewhere}
            claims.append(claim)
        judges = [
            {"judge": told[judge], "page": os.path.relpath(folders[judge] / "index.html", folders[name])}
            for judge in others
        ]
        found[name] = replace(report, claims=claims, context={**report.context, "judges": judges})
    return found


def agreement(by_judge: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """A row a claim, in the order of the first judge that has it.

    Args: `by_judge`: the claims of :func:`read_claims` by the judge's name, two or more.
    Returns: `id`, `claim`, `unit`, `judges` (by name `effect`, `ci`, `p_holm`, `verdict`; None where a judge's report
        has no such claim), `depends` (verdicts differ between two judges that have it, or the signs of their effects
        do while one of the intervals excludes zero), and `same_replies` (KL, beta, prompts and seeds agree).
    """
    held = {judge: {str(row["id"]): row for row in rows} for judge, rows in by_judge.items()}
    rows = []
    for name in dict.fromkeys(name for own in held.values() for name in own):
        found = {judge: own.get(name) for judge, own in held.items()}
        known = [row for row in found.values() if row is not None]
        rows.append(
            {
                **{key: known[0][key] for key in ("id", "claim", "unit")},
                "judges": {
                    judge: None if row is None else {key: row[key] for key in ("effect", "ci", "p_holm", "verdict")}
                    for judge, row in found.items()
                },
                "depends": any(_disagree(a, b) for a, b in combinations(known, 2)),
                "same_replies": all(_same(a[key], b[key]) for a, b in combinations(known, 2) for key in SAME),
            }
        )
    return rows


def _disagree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one["verdict"] != other["verdict"]:
        return True
    if one["effect"] is None or other["effect"] is None or one["effect"] * other["effect"] >= 0:
        return False
    return any(row["ci"][0] > 0 or row["ci"][1] < 0 for row in (one, other))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6 * max(abs(one), abs(other))
    return bool(one == other)


def markdown(rows: Sequence[Row]) -> str:
    """The rows of :func:`agreement` as a table, with a line that counts what depends on the judge."""
    judges = list(rows[0]["judges"]) if rows else []
    heads = ["claim", *(head for judge in judges for head in (judge, "verdict")), ""]
    lines = [heads, [":--", *["--:", ":--"] * len(judges), ":--"]]
    for row in rows:
        cells = [f"{row['claim']} ({row['id']})"]
        for found in row["judges"].values():
            cells += _cells(found, row["unit"])
        lines.append([*cells, DEPENDS if row["depends"] else ""])
    table = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
    return f"{table}\n\n{_summary(rows, judges)}\n"


def _cells(found: Row | None, unit: str) -> list[str]:
    if found is None:
        return [MISSING, "not in its report"]
    if found["effect"] is None:
        return [MISSING, str(found["verdict"])]
    return [f"{signed_with_interval(found['effect'], found['ci'])} {unit}", str(found["verdict"])]


def _summary(rows: Sequence[Row], judges: Sequence[str]) -> str:
    shared = [row for row in rows if None not in row["judges"].values()]
    depending = sum(row["depends"] for row in shared)
    text = (
        f"{depending} of {len(shared)} claims depend on the judge ({', '.join(judges)}): verdicts differ, or "
        "effects have different signs and one of the intervals excludes zero. Effects with 95 % intervals; verdicts "
        "after Holm's correction within each judge's report."
    )
    others = [row["id"] for row in rows if not row["same_replies"]]
    if others:
        text += (
            f" In {len(others)} of them KL, β, prompts or seeds differ, so that these judges did not rate the same "
            f"replies: {', '.join(others)}."
        )
    return text
