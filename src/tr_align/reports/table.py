"""The results as tables: Markdown for README and report, LaTeX for a paper, plain text for a terminal; and for DVC."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tr_align.reports.agreement import DEPENDS
from tr_align.reports.common import (
    MISSING,
    count_text,
    listed,
    p_text,
    place,
    share_with_interval,
    signed,
    signed_with_interval,
    with_interval,
)
from tr_align.reports.figures import words
from tr_align.reports.results import Report, Row

TEXT_WIDTH = 110
IN_PAPER = ("matched_kl", "duel")
"""Kinds of claims that a paper has room for."""
WINS = {"sft": "win vs SFT", "base": "win vs base"}
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
LATEX |= {"α": r"$\alpha$", "β": r"$\beta$", "τ": r"$\tau$", "–": "--", "≥": r"$\ge$", "−": "$-$", "×": r"$\times$"}
LATEX |= {"‖": r"$\Vert$", "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", "“": "``", "”": "''"}


def rows(report: Report, axes: bool = True) -> tuple[list[str], list[list[str]]]:
    """Headers and cells, a line a trained model: by loss, within a loss base, soft, hard, and then by β.

    Nothing is marked as best: whether a difference is one is a question for the claims, which compare the
    methods prompt by prompt.
    """
    finals = trained(report)
    own = report.context["axes"] if axes else ()
    numeric = ["kl", "hc", *own]
    names = ["method", "KL", "HC", *own, *WINS.values(), *(["n"] if axes else [])]
    places = {column: _decimals(finals, column) for column in numeric}
    several = _several_betas(finals)
    cells = []
    for row in finals:
        line = [_named(row, several)]
        line += [with_interval(row[column], _ends(row, column), places[column]) for column in numeric]
        for versus in WINS:
            duel = _duel(report, row, versus)
            line.append(share_with_interval(duel["rate"], _ends(duel, "rate")) if duel else MISSING)
        cells.append([*line, str(row["n_prompts"])] if axes else line)
    return names, cells


def trained(report: Report) -> list[Row]:
    """The trained models in the order of every table."""
    return sorted(
        (row for row in report.points if row["final"] and row["method"] != "sft"),
        key=lambda row: (*place(row), -(row["beta"] or 0.0)),
    )


def markdown(report: Report) -> str:
    """A Markdown table of every metric with its interval, and a line that says how to read it."""
    return f"{_pipes(*rows(report))}\n\n{footnote(report)}\n"


def claims_markdown(report: Report) -> str:
    """The claims with their effects and verdicts; empty without any."""
    names, cells = claim_rows(report)
    if not cells:
        return ""
    return f"{_pipes(names, cells, left=(0, len(names) - 1))}\n\n{claims_note(report)}{_toy_note(report)}\n"


def text(report: Report) -> str:
    """The main columns as plain text, at most 110 characters wide: too long names cost the intervals of KL."""
    names, cells = rows(report, axes=False)
    if sum(_widths(names, cells)) + 2 * len(names) > TEXT_WIDTH:
        cells = [[name, _parted(kl)[0], *rest] for name, kl, *rest in cells]
    widths = _widths(names, cells)
    lines = [_aligned(line, widths) for line in [names, ["-" * width for width in widths], *cells]]
    return "\n".join([*lines, "", textwrap.fill(footnote(report), TEXT_WIDTH)]) + "\n"


def latex(report: Report) -> str:
    """The table of :func:`markdown` for a paper, with booktabs; intervals in small type under their numbers."""
    names, cells = rows(report)
    lines = []
    for line in cells:
        values, ends = zip(*(_parted(cell) for cell in line), strict=True)
        lines.append(" & ".join(map(escape, values)) + r" \\")
        lines.append(" & ".join(f"{{\\tiny {escape(end)}}}" if end else "" for end in ends) + r" \\[2pt]")
    heads = " & ".join(map(escape, names)) + r" \\"
    caption = escape(f"{words.setup(report)} {footnote(report)}")
    return _table("tab:results", caption, "l" + "r" * (len(names) - 1), heads, lines)


def claims_latex(report: Report) -> str:
    """The two main kinds of the table of :func:`claims_markdown` for a paper; empty without any."""
    names, cells = claim_rows(report, IN_PAPER)
    if not cells:
        return ""
    # an effect has a minus, not a hyphen
    lines = [" & ".join(map(escape, [line[0], line[1].replace("-", "−"), *line[2:]])) + r" \\" for line in cells]
    heads = " & ".join(map(escape, names)) + r" \\"
    return _table("tab:claims", escape(claims_note(report)), r"p{0.36\linewidth}rrlp{0.2\linewidth}", heads, lines)


def footnote(report: Report) -> str:
    """What the numbers are: unit, number of prompts, seeds, and the judge's biases."""
    context = report.context
    counts = [row["n_prompts"] for row in trained(report)]
    note = (
        f"In brackets {words.intervals(report, trained(report))}; n = {count_text(counts) if counts else 0} prompts;"
        f" {words.seeds(report, trained(report))}. KL in nats per reply; {words.hc(report)}. Win rates count a tie"
        " as half; at 50 % neither is preferred."
    )
    bias = context.get("judge_bias")
    return f"{note} {_bias(bias)}" if bias and bias["n"] else note


def claim_rows(report: Report, kinds: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
    """Headers and cells, a line a claim of these kinds; of all without."""
    names = ["claim", "effect", "p (Holm)", "verdict", "the paper"]
    return names, [
        [
            str(claim["claim"]),
            _effect(claim, len(report.context["seeds"])),
            MISSING if claim.get("p_holm") is None else p_text(claim["p_holm"]).removeprefix("= "),
            f"{claim['verdict']}, {DEPENDS}" if claim.get("depends") else str(claim["verdict"]),
            str(claim["paper"]["text"]) if claim.get("paper") else MISSING,
        ]
        for claim in report.claims
        if kinds is None or claim["kind"] in kinds
    ]


def claims_note(report: Report) -> str:
    """How to read the table of claims."""
    counted = [claim for claim in report.claims if claim.get("n_prompts")]
    apart = ", apart for settings of the update other than the main one" if any(map(_swept, report.claims)) else ""
    return (
        f"Effects with 95 % intervals; p-values corrected for the claims of the same kind (Holm){apart}."
        f" {words.sample(report, counted)}{_judges(report)}"
    )


def _judges(report: Report) -> str:
    """When a claim depends on the judge, as a sentence; empty in a report that knows of no other judge."""
    others = [row["judge"] for row in report.context.get("judges", [])]
    if not others:
        return ""
    return (
        f" A claim depends on the judge if {listed(others)} has another verdict on the same replies, or an effect of"
        " the other sign and one of the intervals excludes zero."
    )


def _swept(claim: Row) -> bool:
    return bool(claim.get("swept"))


def _toy_note(report: Report) -> str:
    """What the claims about the toy MDP rest on, as a sentence after another; empty without any."""
    worlds = [len(claim["seeds"]) for claim in report.claims if claim["kind"].startswith("toy_")]
    return f" Those of the toy MDP rest on {count_text(worlds)} worlds of their own." if worlds else ""


def metrics(report: Report) -> dict[str, dict[str, float]]:
    """The few numbers that `dvc metrics diff` and `dvc exp show` compare, at a length that can be read.

    By cell (with several betas `<cell>@<beta>`): `kl`, `hc`, and of a TR method `win_vs_base`, each rounded to what an
    experiment can tell. The full numbers are in reports/score/.
    """
    finals = trained(report)
    several = _several_betas(finals)
    found: dict[str, dict[str, float | None]] = {}
    for row in report.points:
        if row["method"] == "sft":
            found["sft"] = {"hc": row["hc"]}
    for row in finals:
        name = row["cell"] + (f"@{row['beta']:g}" if several else "")
        duel = _duel(report, row, "base")
        found[name] = {"kl": row["kl"], "hc": row["hc"], "win_vs_base": duel["rate"] if duel else None}
    places = {"kl": 1, "hc": 2, "win_vs_base": 2}
    return {
        name: {column: round(value, places[column]) for column, value in row.items() if value is not None}
        for name, row in found.items()
    }


def escape(text: str) -> str:
    """Text as LaTeX source."""
    return "".join(LATEX.get(character, character) for character in text)


def _table(label: str, caption: str, columns: str, heads: str, lines: Sequence[str]) -> str:
    return "\n".join(
        [
            r"\begin{table*}[t]",
            r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            heads,
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table*}",
            "",
        ]
    )


def _pipes(names: Sequence[str], cells: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    rule = [":--" if column in left else "--:" for column in range(len(names))]
    lines = [names, rule, *([cell.replace("|", "\\|") for cell in line] for line in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _parted(cell: str) -> tuple[str, str]:
    """The number, and its interval in brackets."""
    value, bracket, rest = cell.partition(" [")
    return value, f"[{rest}" if bracket else ""


def _named(row: Row, several: bool) -> str:
    return str(row["name"]) + (f", β {row['beta']:g}" if several and row["beta"] is not None else "")


def _several_betas(finals: Sequence[Row]) -> bool:
    return len({(row["cell"], row["beta"]) for row in finals}) > len({row["cell"] for row in finals})


def _duel(report: Report, row: Row, versus: str) -> Row | None:
    key = row["cell"], row["beta"], versus
    return next((duel for duel in report.wins if (duel["cell"], duel["beta"], duel["versus"]) == key), None)


def _ends(row: Row, column: str) -> list[float] | None:
    low, high = row.get(f"{column}_lo"), row.get(f"{column}_hi")
    return None if low is None or high is None else [low, high]


def _decimals(finals: Sequence[Row], column: str) -> int:
    """The same in all of a column's cells: none that its intervals make meaningless."""
    ends = [_ends(row, column) for row in finals]
    halves = [(high - low) / 2 for low, high in (pair for pair in ends if pair)]
    half = statistics.median(halves) if halves else 1.0
    return 0 if half >= 5 else 1 if half >= 0.5 else 2


def _effect(claim: Row, seeds: int) -> str:
    """With its interval and unit, and of how many seeds it is where that is not all of the report's."""
    if claim.get("effect") is None:
        return MISSING
    text = signed_with_interval(claim["effect"], claim["ci"]) if claim.get("ci") else signed(claim["effect"], 2)
    lacking = 0 < len(claim["seeds"]) < seeds
    return f"{text} {claim['unit']}" + (f" ({len(claim['seeds'])} of {seeds} seeds)" if lacking else "")


def _bias(bias: Mapping[str, Any]) -> str:
    """What the judge's verdicts in all duels together follow besides quality, as a sentence."""

    def share(name: str) -> str:
        return share_with_interval(bias[name], bias[f"{name}_ci"])

    longer = f", the longer reply {share('longer')}" if bias["n_longer"] else ""
    return (
        f"The judge gave the reply shown first {share('first_shown')} of the points{longer}; its verdicts agreed in "
        f"both orders in {share('consistent')} of {bias['n']} pairs."
    )


def _widths(names: Sequence[str], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line[column]) for line in [names, *cells]) for column in range(len(names))]


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([first, *rest]).rstrip()
