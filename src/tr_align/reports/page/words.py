"""Numbers and verdicts in words, for the page's templates."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from tr_align.reports import common
from tr_align.reports.common import MISSING, number

AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])

CHIPS = {
    "supported": ("supported", "✓", "Yes"),
    "contradicted": ("contradicted", "✕", "No"),
    "inconclusive": ("open", "○", "Not clear"),
}
"""By verdict: its class, its mark, and the answer to "did it help?"."""
UNTESTED = ("open", "–", "Not tested")


def chip(verdict: str | None) -> tuple[str, str, str]:
    """Class, mark and answer of a verdict."""
    return CHIPS.get(verdict or "", UNTESTED)


def places(*values: float | None) -> int:
    """Decimals that suit the largest of the values: one from ten on, two below, three below a tenth."""
    largest = max((abs(value) for value in values if value is not None), default=0)
    return 1 if largest >= 10 else 3 if 0 < largest < 0.1 else 2


def minus(text: str) -> str:
    """A sentence with real minus signs before its numbers: `-0.05 [-0.31, +0.22]`, and not in `SmolLM2-135M`."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def plain(value: float | None, decimals: int) -> str:
    """A number with a real minus, or a dash where there is none."""
    return MISSING if value is None else number(value, decimals).replace("-", "−")


def signed(value: float | None, decimals: int) -> str:
    """A difference, with its sign."""
    return MISSING if value is None else common.signed(value, decimals).replace("-", "−")


def interval(low: float | None, high: float | None, decimals: int, sign: bool = False) -> str:
    """`[0.11, 0.73]`, or nothing where it is not known."""
    if low is None or high is None:
        return ""
    write = signed if sign else plain
    return f"[{write(low, decimals)}, {write(high, decimals)}]"


def percent(value: float | None, decimals: int = 0) -> str:
    """A share in per cent."""
    return MISSING if value is None else f"{number(100 * value, decimals)} %"


def p_value(value: float | None) -> str:
    """`p = 0.032`, never `p = 0`."""
    return "" if value is None else f"p {common.p_text(value)}"


def counted(count: int | str | None, one: str, many: str | None = None) -> str:
    """`1 seed`, `2 seeds`; nothing where there are none or it is not known."""
    if not count:
        return ""
    return f"{count} {one if str(count) == '1' else many or one + 's'}"


def sample(row: dict[str, Any]) -> str:
    """How much a row rests on: `64 prompts, 2 seeds`."""
    seeds: Sequence[int] | None = row.get("seeds")
    parts = [counted(row.get("n_prompts"), "prompt"), counted(len(seeds), "seed") if seeds else ""]
    return ", ".join(part for part in parts if part)


def duration(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `2 h 5 min`: two units at most, the smaller one rounded."""
    whole = round(seconds)
    if whole < 1:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def same(values: Iterable[Any]) -> bool:
    """Whether all are equal, so that one line can say it for all."""
    return len({str(value) for value in values}) <= 1


def in_order(rows: Sequence[AnyRow]) -> list[AnyRow]:
    """By :func:`tr_align.reports.common.rank`, so that a method stands beside its base."""
    return sorted(rows, key=lambda row: common.rank(row["loss"], row["update"]))
