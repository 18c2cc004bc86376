"""The paper's claims put to the test on these runs, each beside the number that the paper itself reports.

A row a claim and trust-region cell: `id`, `kind`, the columns of the cell, `claim` (a sentence), `verdict`
("supported", "contradicted" or "inconclusive"), `effect` in `unit` with its 95 % interval `ci`, its p-value `p` and
`p_holm` (corrected for the claims of its kind), `kl` (nats, where the effect is taken at one), `beta`, `n_prompts`,
`seeds`, `evidence` (the numbers as text), `paper` (what the paper reports: `text`, `value`, `unit`, `source`, `trust`),
for "matched_kl" `probability_of_improvement` with its `_ci` and `detectable` (the effect that such data finds with 80 %
power, see :func:`tr_align.metrics.power.detectable`), and `detail` (text) where the effect is only a part of what was
tested. `swept` is true of a cell whose setting of the update is not the first run's (see
:meth:`tr_align.reports.study.Study.is_main`), and missing from the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, TypeVar

import yaml

from tr_align.metrics.power import detectable
from tr_align.metrics.seeds import Estimate
from tr_align.reports.common import label, listed, number, p_text, signed_with_interval
from tr_align.reports.compare import Comparison
from tr_align.reports.study import Study
from tr_align.stats import holm

Row = dict[str, Any]
AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])
SIGNIFICANT = 0.05

KINDS = {
    "matched_kl": "{method} keeps more quality than {base} at the same KL",
    "area": "{method}'s curve of quality against KL lies above {base}'s",
    "trained": "{method} ends with more quality than {base}, at whatever KL",
    "duel": "{method} beats {base} in duels",
    "reach": "{method} moves further from the SFT model than {base}",
    "length_adjusted": "{method} keeps more quality than {base} at the same KL with the length of replies held fixed",
    "diversity": "{method}'s replies are more diverse than {base}'s at the same KL",
    "ood": "{method} gives less probability to text outside the data than {base} at the same KL",
    "recovery": "with {method} the log-probability of chosen replies first falls and then recovers",
    "alpha": "with {family} quality at equal KL has its maximum inside the range of α",
    "tau": "with {family} too small a τ costs quality at equal KL",
    "interval": "with {family} an update every step keeps more quality at equal KL than a rarer one with the same lag",
}
"""What is claimed, by kind: by the paper, but for "interval", on which it says nothing. The first is its main claim.
`family` is the method whatever its setting; the last three compare its cells with each other."""

UNITS = {
    "matched_kl": "HC points",
    "area": "HC points × nats",
    "trained": "HC points",
    "duel": "percentage points",
    "reach": "nats",
    "length_adjusted": "HC points",
    "diversity": "points of BLEU",
    "ood": "nats per token",
    "recovery": "nats per token",
    "alpha": "HC points",
    "tau": "HC points",
    "interval": "HC points",
}


@dataclass(frozen=True)
class Finding:
    """What a claim about one cell came to, before the correction for the other claims of its kind."""

    kind: str
    cell: str
    base: str | tuple[str, ...]
    """What it is compared with: a cell, or several."""
    evidence: str
    """The numbers in words; why not, where it could not be tested."""
    estimate: Estimate | None = None
    """The effect; None where the claim could not be tested."""
    p: float | None = None
    says: str = "inconclusive"
    """The verdict if the corrected p is small enough."""
    n_prompts: int = 0
    seeds: Sequence[int] = ()
    beta: float | None = None
    kl: float | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of the row."""


def claims(
    study: Study, found: Sequence[Comparison], failed: Mapping[str, str], others: Sequence[Finding] = ()
) -> list[Row]:
    """Test every claim on every trust-region cell.

    A claim is supported, or contradicted, if its interval excludes zero and so does its p-value after Holm's
    correction; else it is inconclusive, also where it could not be tested at all. What is corrected for together is a
    family: a kind of claim over the main cells. The other cells of a sweep (another alpha, another tau) are a second
    family of that kind, so that looking at more settings takes nothing from the main test.

    Args:
        found, failed: the comparisons of :func:`tr_align.reports.compare.comparisons`, and why others failed.
        others: claims that were tested by something else.
    """
    tested = [one for kind in COMPARED for each in found if (one := _compared(kind, each)) is not None]
    tested += [Finding("matched_kl", cell, str(study.base(cell)), why) for cell, why in failed.items()]
    tested += others
    cells = list(study.cells)
    rows = []
    for kind in KINDS:
        own = sorted((one for one in tested if one.kind == kind), key=lambda one: cells.index(one.cell))
        corrected: dict[int, float] = {}
        for main in (True, False):
            family = [one for one in own if one.p is not None and study.is_main(one.cell) is main]
            corrected |= zip(map(id, family), holm([one.p for one in family if one.p is not None]), strict=True)
        rows += [_row(study, one, corrected.get(id(one))) for one in own]
    return rows


def says(ci: Sequence[float], supported_by: int = 1) -> str:
    """The verdict of an interval on a claim that an effect is above zero; below, with `supported_by` -1."""
    low, high = sorted(supported_by * end for end in ci)
    return "supported" if low > 0 else "contradicted" if high < 0 else "inconclusive"


COMPARED = ("matched_kl", "area", "trained", "duel", "reach")
"""The kinds that a comparison with the base holds the effect of."""


def _compared(kind: str, one: Comparison) -> Finding | None:
    """The effect behind a claim, and what is said of it: prompts, seeds, KL, words; None where it was not measured."""
    curves = one.pairing.n_prompts, one.pairing.seeds, one.pairing.beta
    if kind == "matched_kl":
        estimate = one.difference.at[-1]
        more: Row = {"detectable": detectable((estimate.ci[1] - estimate.ci[0]) / 2, estimate.freedom)}
        if one.improvement:
            value, ci = one.improvement
            more |= {"probability_of_improvement": value, "probability_of_improvement_ci": ci}
        kl = one.difference.range
        where = f"HC differs by {{}} at {number(kl, 1)} nats, the largest KL both reached"
        return _signed(kind, one, where, estimate, *curves, kl, more)
    if kind == "area":
        where = f"area between the curves from 0 to {one.difference.range:.1f} nats {{}}"
        return _signed(kind, one, where, one.difference.area, *curves)
    if kind == "duel":
        share = one.duel
        if share is None:
            return None
        points = Estimate(100 * share.value, [100 * end for end in share.ci], share.p)
        where = "wins minus losses {} percentage points"
        return _signed(kind, one, where, points, one.duel_prompts, one.seeds, one.beta)
    ends = one.reach_prompts, one.seeds, one.beta
    if kind == "trained":
        where = "HC of the trained models differs by {} points"
        return None if one.quality is None else _signed(kind, one, where, one.quality, *ends)
    where = "the trained models' KL differs by {} nats"
    return None if one.reach is None else _signed(kind, one, where, one.reach, *ends)


def _signed(
    kind: str,
    one: Comparison,
    where: str,
    estimate: Estimate,
    n_prompts: int,
    seeds: Sequence[int],
    beta: float | None,
    kl: float | None = None,
    more: Mapping[str, Any] | None = None,
) -> Finding:
    """A claim that an effect is above zero."""
    evidence = where.format(signed_with_interval(estimate.value, estimate.ci))
    said = says(estimate.ci)
    return Finding(
        kind, one.cell, one.base, evidence, estimate, estimate.p, said, n_prompts, seeds, beta, kl, more or {}
    )


def _row(study: Study, one: Finding, p_holm: float | None) -> Row:
    effect, sample = one.estimate, {"n_prompts": one.n_prompts, "seeds": list(one.seeds)}
    if effect is None or p_holm is None:
        verdict_, evidence = "inconclusive", f"could not be tested: {one.evidence}"
    else:
        verdict_ = one.says if p_holm < SIGNIFICANT else "inconclusive"
        evidence = f"{one.evidence} ({count(sample)}); Holm-corrected p {p_text(p_holm)}"
    return {
        **_about(one.kind, study, one.cell, one.base),
        "verdict": verdict_,
        "effect": effect.value if effect else None,
        "unit": UNITS[one.kind],
        "ci": effect.ci if effect else None,
        "p": one.p,
        "p_holm": p_holm,
        **sample,
        "beta": one.beta,
        "kl": one.kl,
        **one.more,
        **({} if study.is_main(one.cell) else {"swept": True}),
        "evidence": evidence,
        "paper": _paper(one.kind, study.cells[one.cell]["method"]),
    }


def _about(kind: str, study: Study, cell: str, base: str | tuple[str, ...]) -> Row:
    """Who is compared with whom, and what is claimed."""
    columns, bases = study.cells[cell], (base,) if isinstance(base, str) else base
    other = listed([str(study.cells[name]["name"]) for name in bases])
    claim = KINDS[kind].format(method=columns["name"], base=other, family=label(columns["method"]))
    return {"id": f"{kind}/{cell}", "kind": kind, **columns, "base": other, "claim": claim}


def count(row: Mapping[str, Any]) -> str:
    """`64 prompts, 1 seed`; over several seeds the prompts are each seed's."""
    seeds = len(row["seeds"])
    return f"{row['n_prompts']} prompts{' a seed' if seeds > 1 else ''}, {seeds} seed{'s' if seeds != 1 else ''}"


def verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The two sentences a report opens with: did it help, and by how much, how surely and at what KL.

    Args: the claims. Those about swept cells do not count, unless there are no others.
    """
    main = main_of([row for row in rows if row["kind"] == "matched_kl"])
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


def main_of(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """Those of claims that are not about swept cells; all, where there are no others."""
    return [row for row in rows if not row.get("swept")] or list(rows)


def _largest(tested: Sequence[Mapping[str, Any]]) -> str:
    top = max(tested, key=lambda row: abs(row["effect"]))
    hidden = max((row["detectable"] or 0.0 for row in tested), default=0.0)
    unseen = f"; differences of less than about {hidden:.1f} points could go unseen here (80 % power)"
    unseen = unseen if hidden >= 0.05 else ""
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
