"""A figure as data: one Vega-Lite definition that serves the page, the files and DVC."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tr_align.reports.results import Row

Spec = dict[str, Any]
About = Literal["models", "toy"]
"""The language models of a report, or the toy MDP, which has no judge and a section of the page of its own."""


@dataclass(frozen=True)
class Figure:
    """A picture of a report, without a place to stand in yet.

    The three specs come from one definition and differ in sizes and in how panels are arranged; all hold `rows`.
    """

    name: str
    """Of its files, and its anchor on the page."""
    title: str
    caption: str
    """How to read it, what was run (n, seeds) and what the intervals are; one or more sentences."""
    alternative: str
    """What a reader who cannot see it should know: what is drawn, and what it shows."""
    rows: Sequence[Row]
    """The numbers behind it, also its CSV file: one row a mark."""
    wide: Spec
    narrow: Spec
    """For a phone."""
    print: Spec
    """For a column of a paper, 3.25 inches wide, or 6.75 where it has three panels side by side; 8 point type."""
    about: About = "models"
