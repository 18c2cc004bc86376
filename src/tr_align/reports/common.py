"""What every report shares: the names and order of methods, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tr_align.config import METHODS
from tr_align.settings import PREFERENCE, Judge

LOSSES = ("dpo", "ipo", "kto")
UPDATES = ("none", "soft", "hard")
MISSING = "–"


def label(method: str) -> str:
    """A method's name for readers: `tr_dpo_soft` is "TR-DPO soft"."""
    if method == "sft":
        return "SFT"
    spec = METHODS[method]
    name = spec.loss.upper()
    return name if spec.update == "none" else f"TR-{name} {spec.update}"


def judge_text(judge: Judge, axes: Sequence[str]) -> str:
    """What readers are told of who judged. `axes`: of its ratings."""
    if judge.name == "openai":
        return judge.openai.model
    if judge.name == "probe":
        return "a probe fitted on preferences" if PREFERENCE in axes else "embedded probes"
    return "a reward model"


def rank(loss: str | None, update: str) -> tuple[int, int]:
    """Where a method stands in every table and legend: by loss, and within a loss base, soft, hard; SFT, which has no
    loss, is first."""
    return LOSSES.index(loss) if loss else -1, UPDATES.index(update)


def place(cell: Mapping[str, Any]) -> tuple[float, ...]:
    """Where a cell stands in every table and legend: by method, and within it by α, interval and τ."""
    return *rank(cell["loss"], cell["update"]), *(cell[name] or 0 for name in ("alpha", "every", "tau"))


def in_order(methods: Iterable[str]) -> list[str]:
    """Methods sorted by :func:`rank`; "sft" is the SFT model."""
    return sorted(methods, key=lambda method: rank(*_loss_and_update(method)))


def _loss_and_update(method: str) -> tuple[str | None, str]:
    return (None, "none") if method == "sft" else (METHODS[method].loss, METHODS[method].update)


def update_steps(cell: Mapping[str, Any], steps: int) -> list[int]:
    """The steps after which a cell's reference moves; the last step's update would come after the training."""
    interval = {"none": None, "soft": cell["every"], "hard": cell["tau"]}[cell["update"]]
    return list(range(interval, steps, interval)) if interval else []


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def seeds_text(context: Mapping[str, Any]) -> str:
    """`seed 0`, or `seeds 0, 1, 2`."""
    seeds = [str(seed) for seed in context["seeds"]]
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"


def count_text(numbers: Iterable[int]) -> str:
    """`130`, or `24 to 130` where the numbers differ."""
    values = list(numbers)
    low, high = min(values), max(values)
    return f"{low}" if low == high else f"{low} to {high}"


def number(value: float, decimals: int) -> str:
    """A fixed number of decimals, and never `-0.0`."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_interval(value: float | None, interval: Sequence[float] | None, decimals: int) -> str:
    """`5.2 [4.1, 6.3]`; a dash where there is no value."""
    if value is None:
        return MISSING
    text = number(value, decimals)
    if interval is None:
        return text
    return f"{text} [{', '.join(number(end, decimals) for end in interval)}]"


def share_with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """A share in per cent: `57.7 % [49.6, 65.8]`; a dash where there is no value.

    One decimal, because without it an interval's end at 49.6 reads as 50, the very line it is held against.
    """
    if value is None:
        return MISSING
    text = f"{number(100 * value, 1)} %"
    if interval is None:
        return text
    return f"{text} [{', '.join(number(100 * end, 1) for end in interval)}]"


def signed_with_interval(value: float, interval: Sequence[float]) -> str:
    """A difference with its interval: `+0.42 [+0.11, +0.73]`.

    With as many decimals as give half of the interval's width two digits, and no more: what is further right is noise.
    """
    half = (interval[1] - interval[0]) / 2
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 4) if half > 1e-6 else 2
    low, high = (signed(end, decimals) for end in interval)
    return f"{signed(value, decimals)} [{low}, {high}]"


def p_text(p: float) -> str:
    """`= 0.03`, or `< 0.001`: bootstraps and small samples say no more."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"


def signed(value: float, decimals: int) -> str:
    """A number with its sign; zero has none."""
    text = number(value, decimals)
    return text if text.startswith("-") or float(text) == 0 else f"+{text}"
