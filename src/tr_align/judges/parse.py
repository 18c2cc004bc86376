"""Reading an LLM judge's answers, strictly: what is not clearly an answer is missing, never guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tr_align.judges.base import Preference
from tr_align.settings import AXES

VERDICTS: dict[str, Preference] = {"A": "first", "B": "second", "TIE": "tie"}
BRACKETED: dict[str, Preference] = {
    **dict.fromkeys(("A", "A>B", "A>>B"), "first"),
    **dict.fromkeys(("B", "B>A", "B>>A"), "second"),
    **dict.fromkeys(("C", "A=B", "B=A"), "tie"),
}

SCHEMAS: dict[str, dict[str, Any]] = {
    "rate": {
        "type": "object",
        "properties": {axis: {"type": "integer", "enum": list(range(1, 11))} for axis in AXES},
        "required": list(AXES),
        "additionalProperties": False,
    },
    "prefer": {
        "type": "object",
        "properties": {"comparison": {"type": "string"}, "better": {"type": "string", "enum": list(VERDICTS)}},
        "required": ["comparison", "better"],
        "additionalProperties": False,
    },
}
"""JSON schemas of the answers, for endpoints that keep to one."""

Tokens = Sequence[tuple[str, Mapping[str, float] | None]]
"""An answer's tokens, each with the log-probabilities of what could have stood there (None where not kept)."""

AMBIGUOUS = 0.01
"""Probability of a "1" of which nobody can say whether a 0 would have followed, up to which it is left out."""

SEEN = 0.5
"""Least probability that the alternatives which are ratings have to have together."""


def parse_rating(text: str) -> dict[str, float | None]:
    """The number on each axis; None where the answer has none, or none from 1 to 10.

    Prose or a code fence around the object is skipped. An answer with two objects, or with one that is not JSON,
    has no rating at all: which numbers are meant would be a guess.
    """
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1], object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError):
        found = {}
    return {axis: _grade(found.get(axis)) for axis in AXES}


def expected_rating(text: str, tokens: Tokens | None) -> dict[str, float | None]:
    """The mean rating of each axis under the judge's own probabilities of the numbers 1 to 10.

    A judge that wavers between 7 and 8 says so, where its one written number hides it (the weighting of G-Eval,
    Liu et al. 2023, arXiv 2303.16634). None where the endpoint gave no probabilities, where the number is none of
    1 to 10, or where the probabilities cannot be told apart: a tokenizer that writes 10 as 1 and 0 does not say,
    unless it chose that 1, whether its 1 is a 10.
    """
    # Some servers cut a code fence off the text and leave it in the tokens.
    offset = -"".join(token for token, _ in tokens or ()).find(text)
    if not tokens or offset > 0:
        return dict.fromkeys(AXES)
    starts: dict[int, int] = {}
    for index, (token, _) in enumerate(tokens):
        starts |= dict.fromkeys(range(offset, offset + len(token)), index)
        offset += len(token)
    result: dict[str, float | None] = {}
    for axis, written in parse_rating(text).items():
        places = list(re.finditer(rf'"{axis}"\s*:\s*(10|[1-9])(?![\d.eE])', text))
        # What is found has to be the number that was read, not one of another object inside.
        found = len(places) == 1 and float(places[0][1]) == written
        result[axis] = _expected(tokens, starts[places[0].start(1)], places[0][1]) if found else None
    return result


def _expected(tokens: Tokens, index: int, number: str) -> float | None:
    alternatives = tokens[index][1]
    # The token may begin before the number, with a space, a colon or both.
    lead = tokens[index][0].partition(number[0])[0]
    if not alternatives:
        return None
    mass: dict[int, float] = {}
    for token, logprob in alternatives.items():
        rest = token.removeprefix(lead) if token.startswith(lead) else token.lstrip() if not lead.strip() else ""
        if re.fullmatch(r"10|[1-9]", rest.strip()):
            mass[int(rest)] = mass.get(int(rest), 0.0) + math.exp(logprob)
    if 10 not in mass and mass.get(1):
        # What would have followed the 1 is only known where the 1 was chosen, and kept.
        chosen = tokens[index][0] == f"{lead}1" and index + 1 < len(tokens)
        following = tokens[index + 1][1] if chosen else None
        if following:
            ten = sum(math.exp(logprob) for token, logprob in following.items() if token.startswith("0"))
            mass[10] = mass[1] * min(ten, 1.0)
            mass[1] -= mass[10]
        elif mass.pop(1) > AMBIGUOUS:
            return None
    total = sum(mass.values())
    return sum(value * p for value, p in mass.items()) / total if total >= SEEN else None


def parse_preference(text: str) -> Preference | None:
    """The verdict of an answer that is one JSON object, or of its last line; None where there is no one verdict.

    A second, different verdict anywhere makes it None.
    """
    bare = re.sub(r"^```\w*\s*|\s*```$", "", text.strip())
    whole = _verdict(bare)
    if whole is not None:
        return whole
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    verdicts = [_verdict(line) for line in lines]
    # Also those inside a line, or of an object over several lines.
    said = {word.upper() for word in re.findall(r'"better"\s*:\s*"\s*(\w*)', text)}
    if not verdicts or len(set(verdicts) - {None}) != 1 or len(said) != 1:
        return None
    return verdicts[-1]


def parse_brackets(text: str) -> Preference | None:
    """A verdict in double brackets, of Arena-Hard (`[[A>>B]]`) or MT-Bench (`[[A]]`); None where there is no one."""
    found = set(re.findall(r"\[\[([^\[\]]*)\]\]", text))
    return BRACKETED.get(found.pop()) if len(found) == 1 else None


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    return {key: value for key, value in pairs if keys.count(key) == 1}


def _grade(value: Any) -> float | None:
    # bool is a subclass of int; NaN fails the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 10:
        return None
    return float(value)


def _verdict(text: str) -> Preference | None:
    try:
        found = json.loads(text, object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("better"), str):
        return None
    if set(found) - {"comparison", "better"} or not isinstance(found.get("comparison", ""), str):
        return None
    return VERDICTS.get(found["better"].strip().upper())
