"""The page's tables as rows of text: claims, all results, over-optimisation, the judge's accuracy, the settings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tr_align.reports.common import MISSING, listed
from tr_align.reports.page import words
from tr_align.reports.page.words import in_order
from tr_align.reports.results import Report, Row

WEAK_JUDGE = 0.7
TRUST = {
    "verified": "read in the paper itself",
    "secondary": "quoted by a later paper or a review",
    "weak": "from a machine-made summary, not checked",
}
"""How far the paper's number is trusted, for readers; by `trust` of paper.yaml."""
KINDS = {
    "matched_kl": ("More quality at the same KL", "Its HC minus its base’s, at the largest KL that both reached."),
    "area": ("More quality along the whole curve", "The area between its curve of HC against KL and its base’s."),
    "trained": ("More quality at the end of training", "HC of the trained model minus its base’s, whatever their KL."),
    "duel": (
        "Wins against its base method",
        "Share of prompts won minus share lost, of the trained models.",
    ),
    "reach": ("Moves further from SFT", "KL of the trained model minus that of its base."),
    "length_adjusted": (
        "More quality at the same KL, with length held fixed",
        "Its HC minus its base’s at the largest KL that both reached, both less b · log(1 + words of the reply). b is "
        "what HC rises by with that logarithm between replies to the same prompt, estimated once over all rated "
        "replies. Beside it, how much longer its replies are there.",
    ),
    "diversity": (
        "More diverse replies at the same KL",
        "Self-BLEU of its replies minus that of its base’s, at the largest KL that both reached, over the same "
        "prompts. Below zero is more diverse, which is what the claim says.",
    ),
    "ood": (
        "Less probability outside the data",
        "Log-probability per token of replies to other prompts and of foreign texts, minus its base’s, at the largest "
        "KL that both reached. Below zero is less probability, which is what the claim says.",
    ),
    "recovery": (
        "Chosen replies fall, then recover",
        "Log-probability per token of held-out chosen replies: what it rises by from its lowest point before the end "
        "to the end of training. The claim needs the fall below SFT as well; p is the larger of both.",
    ),
    "alpha": (
        "A maximum inside the range of α",
        "HC with the middle α minus the mean of HC with the smallest and the largest, at the largest KL that all three "
        "reached.",
    ),
    "tau": (
        "Too small a τ costs quality",
        "HC with the main τ minus HC with the smallest, at the largest KL that both reached.",
    ),
    "interval": (
        "An update every step, or a rarer one with the same lag",
        "HC with the smallest interval minus HC with the largest, at the largest KL that both reached; on average the "
        "reference loses the same share of its old self a step.",
    ),
    "toy_ood": (
        "Toy MDP: less probability outside the data",
        "Probability on trajectories in no data, minus its base’s, at the largest KL that both reached. Below zero is "
        "less, which is what the claim says.",
    ),
    "toy_reward": (
        "Toy MDP: more true reward at the same KL",
        "Expected true reward minus its base’s, at the largest KL that both reached.",
    ),
    "toy_recovery": (
        "Toy MDP: chosen trajectories fall, then recover",
        "Mean log-probability of chosen trajectories: what it rises by from its lowest point before the end to the end "
        "of training. The claim needs the fall before it as well; p is the larger of both.",
    ),
    "toy_gradient": (
        "Toy MDP: an update brings the gradient back",
        "What an update of the reference does to the norm of the loss’s gradient, the mean over a training’s updates.",
    ),
    "toy_curvature": (
        "Toy MDP: an update brings the curvature back",
        "What an update of the reference does to the loss’s curvature along the direction in which the margin grows "
        "fastest, the mean over a training’s updates.",
    ),
}
"""By kind of claim, its heading and what its effect is; a kind that is not here is shown by its name."""

Cell = tuple[str, str]
"""A value and its interval."""


def claims(report: Report) -> list[dict[str, Any]]:
    """What was tested, by kind: `title`, `meaning`, `tally`, `rows`, and `paper` where it says the same of all."""
    groups = []
    for kind in dict.fromkeys(claim["kind"] for claim in report.claims):
        rows = [_claim(claim) for claim in report.claims if claim["kind"] == kind]
        papers = [row["paper"] for row in rows]
        shared = papers[0] if len(rows) > 1 and words.same(papers) else None
        title, meaning = KINDS.get(kind, (str(kind), ""))
        found = Counter(row["verdict"] for row in rows)
        tally = ", ".join(f"{found[verdict]} {verdict}" for verdict in sorted(found, key=_rank))
        groups.append({"title": title, "meaning": meaning, "tally": tally, "rows": rows, "paper": shared})
    return groups


def _rank(verdict: str) -> int:
    return list(words.CHIPS).index(verdict) if verdict in words.CHIPS else len(words.CHIPS)


def _claim(claim: Row) -> dict[str, Any]:
    low, high = claim["ci"] or (None, None)
    decimals = words.places(claim["effect"], low, high)
    return {
        **{name: claim[name] for name in ("name", "loss", "update", "verdict", "unit")},
        "effect": words.signed(claim["effect"], decimals),
        "interval": words.interval(low, high, decimals, sign=True),
        "rests": ", ".join(part for part in _rests(claim) if part),
        "depends": claim.get("depends", False),
        "elsewhere": [_elsewhere(found, decimals) for found in claim.get("elsewhere", ())],
        "paper": _paper(claim["paper"]),
    }


def _rests(claim: Row) -> list[str]:
    """Where a claim was tested and on how much; why not, where it was not."""
    if claim["effect"] is None:
        return [str(claim["evidence"])]
    at = f"at {words.plain(claim['kl'], 1)} nats" if claim.get("kl") is not None else ""
    beta = f"β = {claim['beta']:g}" if claim.get("beta") is not None else ""
    detail = words.minus(claim.get("detail") or "")
    return [detail, at, beta, words.sample(dict(claim)), words.p_value(claim.get("p_holm"))]


def _elsewhere(found: Mapping[str, Any], decimals: int) -> str:
    """What another judge finds: `a reward model: +0.05 [−0.21, +0.31], inconclusive`."""
    if found["effect"] is None:
        return f"{found['judge']}: not tested"
    low, high = found["ci"]
    ends = words.interval(low, high, decimals, sign=True)
    return f"{found['judge']}: {words.signed(found['effect'], decimals)} {ends}, {found['verdict']}"


def _paper(paper: Mapping[str, Any] | None) -> dict[str, str] | None:
    """What the paper says, and where from; None where nothing is known."""
    if not paper:
        return None
    trusted = TRUST.get(str(paper["trust"]), paper["trust"])
    return {"text": paper["text"], "source": "; ".join(str(part) for part in (paper["source"], trusted) if part)}


def results(report: Report) -> dict[str, Any]:
    """Every trained model's numbers: the heads, and rows of name, beta, cells and sample; `family` starts a loss."""
    finals = in_order([row for row in report.points if row["final"]])
    numbers = {
        "kl": ("KL", "nats"),
        "hc": ("HC", "1 to 10"),
        **{axis: (axis, "1 to 10") for axis in report.context["axes"]},
        "self_bleu": ("Self-BLEU", "0 to 100"),
        "reply_words": ("length", "words"),
    }
    decimals = {name: words.places(*(row[name] for row in finals)) for name in numbers}
    wins = {(row["cell"], row["beta"], row["versus"]): row for row in report.wins}
    rows, loss = [], None
    for row in finals:
        cells: list[Cell] = [_with_interval(row, name, decimals[name]) for name in numbers]
        cells += [_win_rate(wins.get((row["cell"], row["beta"], versus))) for versus in ("sft", "base")]
        rows.append(
            {
                **{key: row[key] for key in ("name", "loss", "update")},
                "beta": "" if row["beta"] is None else f"{row['beta']:g}",
                "cells": cells,
                "n": f"{words.plain(row['n_prompts'], 0)} × {len(row['seeds'] or ())}",
                "family": row["loss"] != loss,
            }
        )
        loss = row["loss"]
    heads = [*numbers.values(), ("win rate", "vs SFT"), ("win rate", "vs base")]
    return {"heads": heads, "rows": rows}


def _with_interval(row: Row, name: str, decimals: int) -> Cell:
    return (
        words.plain(row[name], decimals),
        words.interval(row.get(f"{name}_lo"), row.get(f"{name}_hi"), decimals),
    )


def _win_rate(row: Row | None) -> Cell:
    if row is None or row["rate"] is None:
        return MISSING, ""
    low, high = (None if row[name] is None else 100 * row[name] for name in ("rate_lo", "rate_hi"))
    return words.percent(row["rate"]), words.interval(low, high, 0)


def peaks(report: Report) -> list[dict[str, Any]]:
    """Where quality is highest along the curve, and what is lost beyond."""
    rows, loss = [], None
    for row in in_order(report.peaks):
        decimals = words.places(row["drop"], row["drop_lo"], row["drop_hi"])
        rows.append(
            {
                **{key: row[key] for key in ("name", "loss", "update")},
                "kl": _with_interval(row, "kl", 1),
                "hc": words.plain(row["hc"], 2),
                "drop": None if row["at_end"] else _with_interval(row, "drop", decimals),
                "sample": words.sample(dict(row)),
                "family": row["loss"] != loss,
            }
        )
        loss = row["loss"]
    return rows


def accuracy(report: Report) -> dict[str, Any]:
    """The judge on held-out examples, by axis; and a warning about the axes it is weak on, or None."""
    found: Mapping[str, Any] = report.context.get("judge_accuracy") or {}
    measured = {axis.replace("_", " "): row for axis, row in found.items()}
    weak = [axis for axis, row in measured.items() if row["accuracy"] < WEAK_JUDGE]
    guessing = [axis for axis in weak if measured[axis]["ci"][0] <= 0.5]
    warning = None
    if weak:
        warning = f"Weak on {listed(weak)}: right in fewer than 70 % of cases. "
        warning += f"On {listed(guessing)} it cannot be told from guessing. " if guessing else ""
        place = (
            "on such an axis with care; they are part of HC as well" if report.context["axes"] else "in HC with care"
        )
        warning += f"Read differences {place}."
    return {"axes": measured, "warning": warning}


def bias(report: Report) -> list[dict[str, Any]]:
    """What the judge's verdicts follow besides quality, over all duels of the report."""
    found: Mapping[str, Any] = report.context.get("judge_bias") or {}
    if not found.get("n"):
        return []
    lines = [
        ("says the same whichever reply is shown first", "consistent", found["n"], False),
        ("prefers the reply shown first", "first_shown", found["n"], True),
        ("prefers the longer reply", "longer", found["n_longer"], True),
    ]
    return [
        {"name": name, "share": found[key], "ci": found[f"{key}_ci"], "n": n, "half": half}
        for name, key, n, half in lines
        if n and found[key] is not None
    ]


def settings(report: Report) -> dict[str, Any]:
    """How it was run: the runs, the flat settings of the first, versions, cost, and time a stage."""
    context = report.context
    seconds: Mapping[str, float] = context["seconds"] or {}
    longest = max(seconds.values(), default=0) or 1
    return {
        "runs": [_run(run) for run in context["runs"]],
        "made": _made(context["runs"]),
        "settings": {name: _value(value) for name, value in context["settings"].items()},
        "learning_rates": _learning_rates(report),
        "versions": context["versions"],
        "cost": _cost(context["cost"]),
        "stages": [
            {"name": name, "time": words.duration(spent), "share": round(100 * spent / longest, 1)}
            for name, spent in seconds.items()
        ],
        "total": words.duration(sum(seconds.values())) if seconds else None,
    }


def _learning_rates(report: Report) -> list[tuple[str, str]]:
    """Each rate with the cells it trained; none where all cells had the same."""
    names = {row["cell"]: str(row["name"]) for row in report.points}
    trained: dict[float, list[str]] = {}
    by_cell: Mapping[str, Sequence[float]] = report.context.get("learning_rates", {})
    for cell, name in names.items():
        for rate in by_cell.get(cell, ()):
            trained.setdefault(rate, []).append(name)
    return [(f"{rate:g}", ", ".join(cells)) for rate, cells in sorted(trained.items())] if len(trained) > 1 else []


def _run(run: Row) -> list[str]:
    betas: Mapping[str, float] = run["beta"]
    methods: Sequence[str] = run["methods"]
    return [
        str(run["run"]),
        _value(run["seed"]),
        ", ".join(f"{loss.upper()} {_value(value)}" for loss, value in betas.items()),
        _value(run["alpha"]),
        _value(run["every"]),
        _value(run["tau"]),
        str(len(methods)),
    ]


def _made(runs: Sequence[Row]) -> dict[str, Any] | None:
    """When, for how long, by which code and where runs were made; None where none says so."""
    by_run = {str(run["run"]): run["made"] for run in runs if run.get("made")}
    machines: dict[str, list[str]] = {}
    for name, made in by_run.items():
        machines.setdefault(str(made["machine"]), []).append(name)
    rows = {
        name: [made["finished"][:10], words.duration(made["seconds"]), made["revision"][:7]]
        for name, made in by_run.items()
    }
    total = words.duration(sum(made["seconds"] for made in by_run.values()))
    return {"rows": rows, "total": total, "machines": machines} if by_run else None


def _value(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cost(cost: Mapping[str, Any] | None) -> str:
    if not cost:
        return "The judge runs on this machine; nothing was paid for it."
    parts = [f"{cost['calls']:,} calls", f"{cost['tokens']:,} tokens"]
    dollars = "price unknown" if cost["usd"] is None else f"${cost['usd']:,.2f}"
    return f"The judge: {dollars} for {' and '.join(parts)}."
