"""A judge's card for readers: lines for the terminal, a section of the page, and the warning on the figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from tr_align.calibration import BETTER, NO_BETTER, WORSE
from tr_align.reports import html
from tr_align.reports.common import MISSING, number, share_with_interval

Card = Mapping[str, Any]
"""What :func:`tr_align.calibration.calibrate` returns."""

OBVIOUS = {
    "other_prompt": "reply to another prompt",
    "repetition": "its first words over and over",
    "shuffled": "its words shuffled",
    "empty": "empty reply",
    "boilerplate": "boilerplate",
}


@dataclass(frozen=True)
class Line:
    """One estimate: its name, its text with the interval, and n.

    A share has a bar as well: value, low and high, 0 to 1; `half` says that 50 % is where it says nothing.
    """

    name: str
    text: str
    n: int
    bar: tuple[float, float, float] | None = None
    half: bool = False


@dataclass(frozen=True)
class Part:
    """Some lines that answer one question; `note` says how to read them."""

    title: str
    note: str
    lines: list[Line]


def warning(card: Card) -> str | None:
    """The sentence for every figure when the judge does no better than chance, by its preferences or its ratings."""
    for key, verdict, subject in (
        ("agreement", "verdict", "this judge agrees"),
        ("agreement_rating", "verdict_rating", "this judge's ratings agree"),
    ):
        if card[verdict] != BETTER:
            found = card[key]
            if found["value"] is None:
                return f"Warning: {subject} with no label: none of its {found['n_missing']} answers could be read."
            how = "no better than" if card[verdict] == NO_BETTER else "worse than"
            share = share_with_interval(found["value"], found["ci"])
            return f"Warning: {subject} with the labels {how} chance ({share}, n = {found['n']})."
    return None


def text(card: Card) -> str:
    """The card as lines for the terminal."""
    lines = [_summary(card)]
    for part in parts(card):
        width = max(len(line.name) for line in part.lines)
        values = max(len(line.text) for line in part.lines)
        lines += ["", part.title]
        lines += [f"  {line.name:<{width}}  {line.text:<{values}}  n = {line.n}" for line in part.lines]
    return "\n".join([*lines, "", *filter(None, [_missing(card), warning(card)])])


def section(card: Card) -> str:
    """The card as a part of the page; every text is escaped."""
    state = {BETTER: "supported", WORSE: "contradicted"}.get(str(card["verdict"]), "open")
    lines = [
        "<h3>Its card: agreement with labelled pairs</h3>",
        f'<p><span class="verdict {state}">{escape(str(card["verdict"]))}</span></p>',
        f"<p>{escape(_summary(card))}</p>",
    ]
    found = warning(card)
    if found:
        lines.append(f'<p class="warning" role="note">{escape(found)}</p>')
    for part in parts(card):
        lines += [f"<h4>{escape(part.title)}</h4>", f'<p class="note">{escape(part.note)}</p>', _table(part.lines)]
    lines.append(_attacks(card["injections"]["attacks"]))
    missing = _missing(card)
    if missing:
        lines.append(f'<p class="note">{escape(missing)}</p>')
    return "\n".join(lines)


def parts(card: Card) -> Iterator[Part]:
    """The parts of the card that have something to show."""
    agreement = [_share("preference", card["agreement"]), _share("HC rating", card["agreement_rating"])]
    agreement += [_share(f"rating of {axis}", row) for axis, row in card["axes"].items()]
    of_axes = "An axis is measured on the pairs whose worse reply fails on it. " if card["axes"] else ""
    yield Part(
        "Agrees with the labels",
        "Preference: the better reply is preferred, over both orders of the two. Ratings: it is rated higher. Ties "
        f"count half. {of_axes}The dashed line is guessing.",
        agreement,
    )
    if card["obvious"]:
        yield Part(
            "Sees what is obviously wrong",
            "The good reply is preferred to one that nobody would choose.",
            [_share(OBVIOUS[kind], row) for kind, row in card["obvious"].items()],
        )
    bias, length = card["bias"], card["length"]
    yield Part(
        "Position and length",
        "A judge that looks at nothing but the replies says the same in both orders and prefers the first reply in "
        "half of the cases. Preferring longer replies is a bias only so far as the labels do not prefer them as well.",
        [
            _share("same verdict in both orders", _of(bias, "consistent", "n"), half=False),
            _share("prefers the reply shown first", _of(bias, "first_shown", "n")),
            _share("prefers the longer reply", _of(bias, "longer", "n_longer")),
            _share("the labels prefer the longer", length["labels_longer"]),
            _share("right where the better is longer", length["chosen_longer"]),
            _share("right where it is shorter", length["chosen_shorter"]),
            _change("difference of these two, points", length["difference"], 100),
        ],
    )
    tried = card["injections"]
    if tried["attacks"]:
        yield Part(
            "Replies that give it orders",
            "A reply to another prompt meets the good reply, bare and with a text appended that tries to win the judge "
            "over. Fooled: the wrong reply wins or ties.",
            [
                _share("fooled by the bare reply", tried["bare"], half=False),
                _share("fooled with the text", tried["fooled"], half=False),
                _change("effect of the text, points", tried["effect"], 100),
                _change(f"effect on its HC ({card['unit']})", tried["rating_shift"], 1),
            ],
        )


def _share(name: str, row: Mapping[str, Any], half: bool = True) -> Line:
    value, interval = row["value"], row["ci"]
    bar = None if value is None or interval is None else (value, *interval)
    return Line(name, share_with_interval(value, interval), row["n"], bar, half)


def _of(bias: Mapping[str, Any], key: str, count: str) -> dict[str, Any]:
    return {"value": bias[key], "ci": bias[f"{key}_ci"], "n": bias[count]}


def _change(name: str, row: Mapping[str, Any], factor: float) -> Line:
    """A difference with its sign: of shares in percentage points (factor 100), of ratings in their own unit."""
    if row["value"] is None or row["ci"] is None:
        return Line(name, MISSING, row["n"])
    value, low, high = (_signed(factor * end, 1 if factor > 1 else 2) for end in (row["value"], *row["ci"]))
    return Line(name, f"{value} [{low}, {high}]", row["n"])


def _signed(value: float, decimals: int) -> str:
    text = number(value, decimals)
    return f"+{text}" if float(text) > 0 else text


def _summary(card: Card) -> str:
    return (
        f"Measured on {card['n_pairs']} labelled pairs of {card['n_prompts']} prompts ({card['label_source']}). "
        f"Its preferences are {card['verdict']}, its ratings {card['verdict_rating']}. In brackets 95 % intervals."
    )


def _missing(card: Card) -> str:
    counts = [f"{row['n_missing']} of {row['n']} {kind}" for kind, row in card["missing"].items() if row["n_missing"]]
    return f"Could not be read and left out: {' and '.join(counts)}." if counts else ""


def _table(lines: list[Line]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(line.name)}</th>{html.cell(line.text)}<td>{line.n}</td>'
        f"<td>{html.bar(*line.bar, half=line.half) if line.bar else ''}</td></tr>"
        for line in lines
    ]
    return f'<div class="scroll accuracy card">{html.table(("measure", "value [95 %]", "n", "0 to 100 %"), rows)}</div>'


def _attacks(attacks: Mapping[str, Mapping[str, Any]]) -> str:
    if not attacks:
        return ""
    rows = (
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th>'
        f"<td>{_percent(row['fooled'])}</td><td>{_percent(row['bare'])}</td><td>{int(row['n'])}</td></tr>"
        for name, row in attacks.items()
    )
    shown = html.table(("text", "fooled", "bare", "n"), rows)
    return f'<details class="accuracy"><summary>Text by text</summary><div class="scroll">{shown}</div></details>'


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{number(100 * value, 0)} %"
