"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from tr_align.judges.prices import dollars
from tr_align.planning.compute import DECODING, FILL
from tr_align.planning.gpus import USABLE
from tr_align.planning.memory import Memory
from tr_align.planning.plan import Plan

PARTS = tuple(field.name for field in fields(Memory))


def text(plan: Plan, gpu_hour_usd: float | None = None, each: bool = False) -> str:
    """The plan for people: cells, memory, time and money, the sweep's sum (or `each` of its runs)."""
    blocks = [_head(plan), _memory(plan), _work(plan, gpu_hour_usd), _totals(plan, gpu_hour_usd)]
    if plan.sweep:
        blocks.append(_sweep(plan, gpu_hour_usd, each))
    return "\n\n".join(blocks)


def _head(plan: Plan) -> str:
    count = len(plan.cells)
    if not count:
        cells = f"nothing to run: all {plan.of} cells are up to date"
    else:
        groups: dict[str, list[str]] = {}
        for name in plan.cells:
            kind, _, method = name.partition("@")
            groups.setdefault(kind, []).append(method)
        named = [kind if methods == [""] else f"{kind} × {len(methods)}" for kind, methods in groups.items()]
        cells = f"{count} of {plan.of} cells to run: " + ", ".join(named)
    launched = plan.launched
    gpus = "one process" if launched.processes == 1 else f"{launched.processes} processes ({launched.sharding})"
    return f"{plan.model}: {plan.parameters:,} parameters; training with {gpus}\n{cells}"


def _memory(plan: Plan) -> str:
    usable = plan.gpu.usable / 1e9
    rows = [["GB a GPU, at most", "split over", *PARTS, "total", ""]]
    for need in plan.needs:
        over = need.sharding if need.processes == 1 else f"{need.sharding}, {need.processes}"
        parts = [_gb(getattr(need.memory, part)) for part in PARTS]
        verdict = ("fits" if need.fits else "cannot fit") + (" <-" if need.launched else "")
        rows.append([need.stage, over, *parts, _gb(need.memory.total) or "0.0", verdict])
    lines = [
        f"Memory on a {plan.gpu.name} ({usable:.0f} GB usable, {USABLE:.0%} assumed; <- as launched)",
        _table(rows),
    ]
    lines += [f"{need.stage} would fit with: {'; or '.join(need.remedies)}" for need in plan.needs if need.remedies]
    return "\n".join(lines)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f}" if size >= 5e7 else ("<0.1" if size else "")


def _work(plan: Plan, usd: float | None) -> str:
    kinds: dict[str, list[str]] = {}
    for name in plan.work:
        kinds.setdefault(name.partition("@")[0], []).append(name)
    rows = [["work", "cells", "tokens read", "tokens drawn", "PFLOP", "GPU-hours", *(["$"] if usd else [])]]
    for kind, names in kinds.items():
        works = [plan.work[name] for name in names]
        hours = sum(work.gpu_hours for work in works)
        rows.append(
            [
                kind,
                str(len(names)),
                _count(sum(work.tokens for work in works)),
                _count(sum(work.generated for work in works)),
                _count(sum(work.flops for work in works) / 1e15),
                _hours(hours),
                *([dollars(hours * usd)] if usd else []),
            ]
        )
    means = plan.lengths
    source = "measured on the prepared data" if means.measured else f"assumed: {FILL:.0%} of the limits"
    note = (
        f"Assumed, not measured: {plan.mfu:.0%} of the {plan.gpu.name}'s peak (--mfu), {DECODING:.0%} of its bandwidth "
        f"while drawing.\nMean tokens, {source}: prompt {means.prompt:.0f}, reply {means.reply:.0f}; a sampled reply "
        f"{means.sampled:.0f} (assumed)."
    )
    return f"{_table(rows)}\n{note}" if plan.work else note


def _totals(plan: Plan, usd: float | None) -> str:
    spent = "" if usd is None else f", {dollars(plan.gpu_hours * usd)} at {dollars(usd)} an hour"
    lines = [f"GPU-hours: about {_hours(plan.gpu_hours)}{spent}; tokens drawn: {_count(plan.generated)}"]
    calls = f"{plan.ratings:,} ratings and {plan.comparisons:,} comparisons"
    if plan.usd == 0:
        lines.append(f"Judge: {calls} by a judge that runs here, free")
    else:
        price = (
            "no price is known" if plan.usd is None else f"{dollars(plan.usd)} at most, less what is answered already"
        )
        lines.append(f"Judge: {calls}; {price}")
    lines.append(
        f"Disk: {plan.disk.models / 1e9:.1f} GB of models, once where links to the cache can be made, "
        f"{plan.disk.checkpoints / 1e9:.1f} GB of checkpoints while training"
    )
    return "\n".join(lines)


def _sweep(plan: Plan, usd: float | None, each: bool) -> str:
    rows = [["sweep", "value", "cells", "GPU-hours", *(["$"] if usd else []), "judge $", "disk, GB"]]
    for variant in plan.sweep if each else ():
        rows.append(
            [
                variant.key,
                str(variant.value),
                str(len(variant.cells)),
                _hours(variant.gpu_hours),
                *([dollars(variant.gpu_hours * usd)] if usd else []),
                "?" if variant.usd is None else dollars(variant.usd),
                f"{variant.disk / 1e9:.1f}",
            ]
        )
    hours = sum(variant.gpu_hours for variant in plan.sweep)
    known = [variant.usd for variant in plan.sweep if variant.usd is not None]
    rows.append(
        [
            "all",
            f"{len(plan.sweep)} runs",
            str(sum(len(variant.cells) for variant in plan.sweep)),
            _hours(hours),
            *([dollars(hours * usd)] if usd else []),
            dollars(sum(known)) if len(known) == len(plan.sweep) else "?",
            f"{sum(variant.disk for variant in plan.sweep) / 1e9:.1f}",
        ]
    )
    return "Sweep, beside the run above: a variant runs the cells that its change touches\n" + _table(rows)


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 or cell.startswith(("fits", "cannot")) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _count(number: float) -> str:
    """`1.2M`, `430k`, `12`."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
