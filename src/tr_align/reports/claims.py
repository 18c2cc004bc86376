"""The paper's claims put to the test on these runs, each beside the number that the paper itself reports.

A row a claim and trust-region cell: `id`, `kind`, the columns of the cell, `claim` (a sentence), `verdict`
("supported", "contradicted" or "inconclusive"), `effect` in `unit` with its 95 % interval `ci`, its p-value `p` and
`p_holm` (corrected for the claims of its kind), `kl` (nats, where the effect is taken at one), `beta`, `n_prompts`,
`seeds`, `evidence` (the numbers as text), `paper` (what the paper reports: `text`, `value`, `unit`, `source`, `trust`),
and for "matched_kl" `probability_of_improvement` with its `_ci`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from tr_align.metrics.seeds import Estimate
from tr_align.reports.common import listed, number, p_text, signed_with_interval
from tr_align.reports.compare import Comparison
from tr_align.reports.study import Study
from tr_align.stats import holm

Row = dict[str, Any]
SIGNIFICANT = 0.05

KINDS = {
    "matched_kl": "{method} keeps more quality than {base} at the same KL",
    "area": "{method}'s curve of quality against KL lies above {base}'s",
    "trained": "{method} ends with more quality than {base}, at whatever KL",
    "duel": "{method} beats {base} in duels",
    "reach": "{method} moves further from the SFT model than {base}",
}
"""What the paper claims, by kind. The first is its main one."""

UNITS = {
    "matched_kl": "HC points",
    "area": "HC points × nats",
    "trained": "HC points",
    "duel": "percentage points",
    "reach": "nats",
}


def claims(study: Study, found: Sequence[Comparison], failed: Mapping[str, str]) -> list[Row]:
    """Test every claim on every trust-region cell.

    A claim is supported, or contradicted, if its interval excludes zero and so does its p-value after Holm's
    correction over the cells of its kind; else it is inconclusive, also where it could not be tested at all.

    Args: the comparisons of :func:`tr_align.reports.compare.comparisons`, and why others failed.
    """
    rows = [row for kind in KINDS for row in _of_kind(kind, study, found)]
    rows += [_untested(study, cell, why) for cell, why in failed.items()]
    order = {kind: place for place, kind in enumerate(KINDS)}
    cells = list(study.cells)
    return sorted(rows, key=lambda row: (order[row["kind"]], cells.index(row["cell"])))


def _of_kind(kind: str, study: Study, found: Sequence[Comparison]) -> list[Row]:
    tested = [(one, measured) for one in found if (measured := _measured(kind, one)) is not None]
    corrected = holm([estimate.p for _, (estimate, _) in tested])
    return [
        _row(kind, study, one, estimate, extra, p)
        for (one, (estimate, extra)), p in zip(tested, corrected, strict=True)
    ]


def _measured(kind: str, one: Comparison) -> tuple[Estimate, Row] | None:
    """The effect behind a claim, and what is said of it: prompts, seeds, KL, words."""
    curves = {"n_prompts": one.pairing.n_prompts, "seeds": one.pairing.seeds, "beta": one.pairing.beta}
    trained = {"n_prompts": one.duel_prompts, "seeds": one.seeds, "beta": one.beta}
    if kind == "matched_kl":
        extra = curves | {
            "kl": one.difference.range,
            "where": "HC differs by {} at {kl} nats, the largest KL both reached",
        }
        if one.improvement:
            value, ci = one.improvement
            extra |= {"probability_of_improvement": value, "probability_of_improvement_ci": ci}
        return one.difference.at[-1], extra
    if kind == "area":
        where = f"area between the curves from 0 to {one.difference.range:.1f} nats {{}}"
        return one.difference.area, curves | {"kl": None, "where": where}
    if kind == "duel":
        share = one.duel
        if share is None:
            return None
        points = Estimate(100 * share.value, [100 * end for end in share.ci], share.p)
        return points, trained | {"kl": None, "where": "wins minus losses {} percentage points"}
    ends = trained | {"n_prompts": one.reach_prompts, "kl": None}
    if kind == "trained":
        where = "HC of the trained models differs by {} points"
        return None if one.quality is None else (one.quality, ends | {"where": where})
    where = "the trained models' KL differs by {} nats"
    return None if one.reach is None else (one.reach, ends | {"where": where})


def _row(kind: str, study: Study, one: Comparison, estimate: Estimate, extra: Row, p_holm: float) -> Row:
    low, high = estimate.ci
    verdict = "inconclusive"
    if p_holm < SIGNIFICANT and (low > 0 or high < 0):
        verdict = "supported" if low > 0 else "contradicted"
    text = signed_with_interval(estimate.value, estimate.ci)
    where = extra.pop("where").format(text, kl=number(extra["kl"] or 0.0, 1))
    return {
        **_about(kind, study, one.cell, one.base),
        "verdict": verdict,
        "effect": estimate.value,
        "unit": UNITS[kind],
        "ci": estimate.ci,
        "p": estimate.p,
        "p_holm": p_holm,
        **extra,
        "evidence": f"{where} ({count(extra)}); Holm-corrected p {p_text(p_holm)}",
        "paper": _paper(kind, study.cells[one.cell]["method"]),
    }


def _untested(study: Study, cell: str, why: str) -> Row:
    empty = dict.fromkeys(("effect", "ci", "p", "p_holm", "kl", "beta"))
    return {
        **_about("matched_kl", study, cell, str(study.base(cell))),
        "verdict": "inconclusive",
        "unit": UNITS["matched_kl"],
        **empty,
        "n_prompts": 0,
        "seeds": [],
        "evidence": f"could not be tested: {why}",
        "paper": _paper("matched_kl", study.cells[cell]["method"]),
    }


def _about(kind: str, study: Study, cell: str, base: str) -> Row:
    """Who is compared with whom, and what is claimed."""
    columns, other = study.cells[cell], study.cells[base]["name"]
    claim = KINDS[kind].format(method=columns["name"], base=other)
    return {"id": f"{kind}/{cell}", "kind": kind, **columns, "base": other, "claim": claim}


def count(row: Mapping[str, Any]) -> str:
    """`64 prompts, 1 seed`; over several seeds the prompts are each seed's."""
    seeds = len(row["seeds"])
    return f"{row['n_prompts']} prompts{' a seed' if seeds > 1 else ''}, {seeds} seed{'s' if seeds != 1 else ''}"


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The two sentences a report opens with: did it help, and by how much, how surely and at what KL.

    Args: the claims.
    """
    main = [row for row in rows if row["kind"] == "matched_kl"]
    tested = [row for row in main if row["effect"] is not None]
    if not tested:
        return ["No trust-region method of this report could be compared with its base.", _why(main)]
    better, worse = ([row for row in tested if row["verdict"] == kind] for kind in ("supported", "contradicted"))
    open_ones = len(tested) - len(better) - len(worse)
    parts = [f"{_names(better)} kept more quality than the base at the same KL"] if better else []
    parts += [f"{_names(worse)} kept less"] if worse else []
    if not parts:
        each = "the one trust-region method" if len(tested) == 1 else f"any of the {len(tested)} trust-region methods"
        first = f"No: this run does not show that {each} keeps more quality than its base at the same KL."
        if len(tested) > 1:
            first += " Every 95 % interval contains zero." if _all_contain_zero(tested) else " None is significant."
    else:
        answer = "Yes" if better and not worse and not open_ones else ("No" if worse and not better else "In part")
        others = "the other one" if open_ones == 1 else f"the other {open_ones}"
        rest = f"; for {others} the difference cannot be told from zero" if open_ones else ""
        first = f"{answer}: {', '.join(parts)}{rest}."
    return [first, _largest(tested)]


def _largest(tested: Sequence[Mapping[str, Any]]) -> str:
    top = max(tested, key=lambda row: abs(row["effect"]))
    widest = max((row["ci"][1] - row["ci"][0]) / 2 for row in tested)
    unseen = f"; differences of up to about {widest:.1f} points could go unseen here" if widest >= 0.05 else ""
    return (
        f"The largest difference is {signed_with_interval(top['effect'], top['ci'])} HC points "
        f"({top['name']} against {top['base']} at {top['kl']:.1f} nats; {count(top)}){unseen}."
    )


def _why(main: Sequence[Mapping[str, Any]]) -> str:
    return (
        f"{main[0]['evidence'].replace('could', 'Could', 1)}."
        if main
        else "It holds no trust-region method together with its base."
    )


def _names(rows: Sequence[Mapping[str, Any]]) -> str:
    return listed([str(row["name"]) for row in rows])


def _all_contain_zero(rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(row["ci"][0] <= 0 <= row["ci"][1] for row in rows)


def _paper(kind: str, method: str) -> Row:
    known = _published()[kind]
    entry = known.get(method) or known.get(method.rpartition("_")[0]) or known.get("default")
    return {"value": None, "unit": None, **entry}


@cache
def _published() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("paper.yaml").read_text("utf-8"))
    return loaded
