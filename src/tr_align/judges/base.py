"""The interface every judge has: it rates one reply on its axes, and prefers between two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from tr_align.data.schema import Message
from tr_align.errors import UserError

Preference = Literal["first", "second", "tie"]


@dataclass(frozen=True)
class Reply:
    """A reply to a prompt; `id` comes back with the answer."""

    id: str
    prompt: list[Message]
    text: str


@dataclass(frozen=True)
class Duel:
    """Two replies to one prompt, shown to the judge in this order."""

    id: str
    prompt: list[Message]
    first: str
    second: str


@dataclass(frozen=True)
class Rating:
    """A judge's rating: one number an axis (None where its answer could not be read) and its raw answer."""

    id: str
    axes: dict[str, float | None]
    raw: dict[str, Any] = field(default_factory=dict)


def hc(axes: Mapping[str, float | None]) -> float:
    """The HC score: the mean of the axes of a rating (of an LLM judge five), NaN if one of them could not be read."""
    return float(np.mean([as_number(value) for value in axes.values()]))


def parts_of_hc(axes: Sequence[str]) -> tuple[str, ...]:
    """The axes that HC is the mean of, which reports show beside it; none where a judge has one, for HC is that one."""
    return tuple(axes) if len(axes) > 1 else ()


def axes_of(judgements: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The axes of the judge that gave these rows of `judge_replies`: those of the first rating.

    Raises:
        UserError: no row is a rating.
    """
    for row in judgements:
        if row["kind"] == "rating":
            return tuple(row["axes"])
    raise UserError("judgements: no reply was rated; run `dvc repro` again")


def as_number(value: float | None) -> float:
    """A rating for computing with: NaN where it is missing."""
    return math.nan if value is None else value


@dataclass(frozen=True)
class Verdict:
    """Which reply the judge prefers (None where its answer could not be read) and its raw answer."""

    id: str
    preference: Preference | None
    raw: dict[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """What `judge` stages need. Answers come back in the order of the questions."""

    @property
    def unit(self) -> str:
        """What one point of a rating means; printed on every axis that shows it."""
        ...

    @property
    def axes(self) -> tuple[str, ...]:
        """What each of its ratings has, in this order: the five HC axes, or the one of preferences it was fitted on."""
        ...

    def rate(self, replies: Sequence[Reply]) -> list[Rating]: ...

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]: ...
