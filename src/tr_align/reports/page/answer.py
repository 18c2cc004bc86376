"""The top of the page: for each trust-region method, did it help, by how much, how sure are we, and at what KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tr_align.config import METHODS
from tr_align.reports.claims import main_of
from tr_align.reports.page import words
from tr_align.reports.results import Report, Row


def answers(report: Report) -> list[dict[str, Any]]:
    """A row a trust-region method, by loss: from its claim at matched KL, or from the curves where none was tested.

    With its main setting: what else was tried of a method is among the claims.
    """
    matched = [claim for claim in report.claims if claim["kind"] == "matched_kl"]
    tested = {claim["cell"] for claim in matched}
    largest = {row["cell"]: row for row in report.frontier if row["largest"]}
    rows = [_tested(claim) for claim in main_of(matched)]
    rows += [_untested(row) for cell, row in largest.items() if cell not in tested]
    return _with_bars(words.in_order(rows))


def swept(report: Report) -> int:
    """How many other settings of the updates were compared with their base as well."""
    matched = [claim for claim in report.claims if claim["kind"] == "matched_kl"]
    return len(matched) - len(main_of(matched))


def other_judges(report: Report) -> dict[str, Any] | None:
    """`pages` of the other judges of the same replies (`judge`, `page`), and `depending`: a sentence on how much of the
    answer, and of all claims, is this judge's own. None where there is no other judge."""
    judges = report.context.get("judges")
    if not judges:
        return None
    shared = [claim for claim in report.claims if "depends" in claim]
    above = main_of([claim for claim in shared if claim["kind"] == "matched_kl"])
    parts = [(above, "comparisons below"), (shared, "claims about quality")]
    counts = [(sum(claim["depends"] for claim in rows), len(rows), what) for rows, what in parts if rows]
    told = ", and ".join(f"{count or 'none'} of the {n} {what}" for count, n, what in counts)
    return {"pages": judges, "depending": f"{told[0].upper()}{told[1:]}, depend on the judge." if told else ""}


def problems_of_trust(report: Report) -> list[str]:
    """What a reader has to know before believing any number: a judge that fails, and a single training run."""
    found = [str(report.context["judge_warning"])] if report.context.get("judge_warning") else []
    if len(report.context["seeds"]) == 1:
        found.append(
            "Each method was trained once (one seed): the intervals cover the choice of prompts, not another training."
        )
    return found


def _tested(claim: Row) -> dict[str, Any]:
    low, high = claim["ci"] or (None, None)
    row = _common(claim, claim["effect"], low, high)
    told = {"verdict": claim["verdict"], "depends": claim.get("depends", False)}
    return {**row, **told, "p": words.p_value(claim.get("p_holm"))}


def _untested(row: Row) -> dict[str, Any]:
    found = _common(row, row["difference"], row["difference_lo"], row["difference_hi"])
    return {**found, "verdict": None, "depends": False, "p": ""}


def _common(row: Row, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    return {
        **{name: row[name] for name in ("cell", "name", "loss", "update")},
        "base": row.get("base") or METHODS[row["method"]].base.upper(),
        "value": value,
        "low": low,
        "high": high,
        "kl": row["kl"],
        "sample": words.sample(dict(row)),
    }


def _with_bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each with its interval in per cent of one scale around zero, and the decimals: the same for all rows."""
    ends = [row[name] for row in rows for name in ("value", "low", "high")]
    reach = max((abs(end) for end in ends if end is not None), default=0) * 1.06 or 1.0
    decimals = words.places(*ends)
    return [{**row, "bar": _bar(row, reach), "decimals": decimals} for row in rows]


def _bar(row: Mapping[str, Any], reach: float) -> dict[str, float] | None:
    if row["value"] is None:
        return None
    at, low, high = (
        50 + 50 * (row["value"] if row[name] is None else row[name]) / reach for name in ("value", "low", "high")
    )
    return {"at": round(at, 2), "low": round(low, 2), "width": round(high - low, 2)}
