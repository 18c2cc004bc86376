"""Runs that differ in the setting of the update, with curves that are straight lines: every height is easy to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tr_align.reports.runs import Run
from tr_align.reports.study import Study, study

from .run_folder import LUCK, Made, made_run


def line(end: float, slope: float, methods: tuple[str, ...] = ("tr_dpo_soft",), **settings: Any) -> Made:
    """A run whose models end at so many nats, half of them at the checkpoint, and gain so much HC a nat from 5 on.

    Args: settings: `alpha`, `every`, `tau`; others by their whole name, `beta__dpo` for `beta.dpo`.
    """

    def kl(method: str, step: int, prompt: int) -> float:
        return 0.0 if method == "sft" else end * step / 4

    knobs = {f"ref_update.{name}": settings.pop(name) for name in ("alpha", "every", "tau") if name in settings}
    if "dpo" not in methods:
        knobs |= {f"methods.{method}.base": "sft" for method in methods}
    return Made(
        methods=methods,
        settings=knobs | {name.replace("__", "."): value for name, value in settings.items()},
        kl=kl,
        hc=lambda method, step, prompt: 5 + LUCK[prompt] + slope * kl(method, step, prompt),
    )


def runs_of(root: Path, *mades: Made) -> list[Run]:
    return [made_run(root, f"run {place}", made) for place, made in enumerate(mades)]


def studied(root: Path, *mades: Made) -> Study:
    return study(runs_of(root, *mades))
