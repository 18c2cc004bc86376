"""The plan of a run: which cells, how much memory, how many hours, calls, dollars and bytes, before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tr_align import launch
from tr_align.config import Params
from tr_align.launch import Launched, Sharding
from tr_align.planning import architectures, cost
from tr_align.planning.cells import Cell, touched
from tr_align.planning.compute import MFU, Counter, Lengths, Work, lengths
from tr_align.planning.cost import Disk
from tr_align.planning.gpus import Gpu
from tr_align.planning.memory import Estimator, Memory
from tr_align.settings import Lora

SHARDINGS: tuple[Sharding, ...] = ("none", "ddp", "zero2", "zero3", "fsdp")
MORE = (2, 4, 8, 16, 32, 64)
"""Numbers of GPUs that are tried where one is too small."""


@dataclass(frozen=True)
class Need:
    """The memory of a stage on one GPU. `launched`: as params.yaml starts it; `remedies`: what would make it fit."""

    stage: str
    sharding: Sharding
    processes: int
    memory: Memory
    fits: bool
    launched: bool
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A run of the sweep: its change, the cells it touches, and what they take."""

    key: str
    value: Any
    cells: tuple[str, ...]
    gpu_hours: float
    usd: float | None
    disk: float


@dataclass(frozen=True)
class Plan:
    """All of it. `work` by cell; `usd` is None where the judge's price is not known."""

    model: str
    parameters: int
    gpu: Gpu
    mfu: float
    launched: Launched
    cells: tuple[str, ...]
    of: int
    lengths: Lengths
    needs: tuple[Need, ...]
    work: dict[str, Work]
    ratings: int
    comparisons: int
    usd: float | None
    disk: Disk
    sweep: tuple[Variant, ...]

    @property
    def gpu_hours(self) -> float:
        """Of the cells, without the sweep."""
        return sum(work.gpu_hours for work in self.work.values())

    @property
    def generated(self) -> float:
        """Tokens that are drawn, without the sweep."""
        return sum(work.generated for work in self.work.values())

    def to_json(self) -> dict[str, Any]:
        """Plain types: bytes, hours, dollars."""
        plain = asdict(self)
        plain["gpu_hours"], plain["generated"] = self.gpu_hours, self.generated
        for need, row in zip(self.needs, plain["needs"], strict=True):
            row["memory"]["total"] = need.memory.total
        return plain


def make(
    params: Params,
    stages: dict[str, Cell],
    to_run: Collection[str],
    gpu: Gpu,
    mfu: float = MFU,
    prepared: Path | None = None,
    with_sweep: bool = True,
) -> Plan:
    """Plan these settings.

    Args:
        stages: all cells (:func:`tr_align.planning.cells.cells`). to_run: those that are not up to date.
        prepared: the account of prepared data, for its mean lengths.
    Raises:
        UserError: the model's configuration cannot be had, or a launch command or the judge's files cannot be read.
    """
    launched = launch.read(params.launch.train, "launch.train")
    estimator = Estimator(architectures.config_of(params.model.name, params.model.revision), params)
    means = lengths(params, prepared)
    counter = Counter(params, estimator.sizes, means, gpu, launched.processes, mfu)
    cells = tuple(name for name in stages if name in to_run)
    ratings, comparisons = cost.judge_calls(params, cells)
    total, trained = estimator.sizes.total, sum(estimator.trained)
    return Plan(
        model=params.model.name,
        parameters=total,
        gpu=gpu,
        mfu=mfu,
        launched=launched,
        cells=cells,
        of=len(stages),
        lengths=means,
        needs=tuple(needs(estimator, launched, gpu.usable, gpu.name)),
        work={name: work for name in cells if (work := counter.of(name))},
        ratings=ratings,
        comparisons=comparisons,
        usd=cost.judge_usd(params, ratings, comparisons),
        disk=cost.disk(params, total, trained, cells),
        sweep=tuple(_variants(params, stages, estimator, gpu, mfu, launched, means)) if with_sweep else (),
    )


def _variants(
    params: Params,
    stages: dict[str, Cell],
    estimator: Estimator,
    gpu: Gpu,
    mfu: float,
    launched: Launched,
    means: Lengths,
) -> Sequence[Variant]:
    found = []
    for key, value, changed in params.variants():
        again = touched(stages, key)
        cells = tuple(name for name in stages if name in again)
        counter = Counter(changed, estimator.sizes, means, gpu, launched.processes, mfu)
        calls = cost.judge_calls(changed, cells)
        room = cost.disk(changed, estimator.sizes.total, sum(estimator.trained), cells)
        hours = sum(work.gpu_hours for name in cells if (work := counter.of(name)))
        found.append(Variant(key, value, cells, hours, cost.judge_usd(changed, *calls), room.models))
    return found


def needs(estimator: Estimator, launched: Launched, usable: float, gpu: str) -> list[Need]:
    """The memory of every stage as it is launched, and of the training under the other ways to split a model."""
    processes = launched.processes if launched.processes > 1 else MORE[2]
    ways: list[tuple[Sharding, int]] = [(launched.sharding, launched.processes)]
    ways += [(way, 1 if way == "none" else processes) for way in SHARDINGS if way != launched.sharding]
    found = []
    for sharding, count in ways:
        asked = (sharding, count) == ways[0]
        for stage, memory in training(estimator, sharding, count).items():
            fits = memory.total <= usable
            remedies = remedies_for(estimator, stage, launched, usable, gpu) if asked and not fits else ()
            found.append(Need(stage, sharding, count, memory, fits, asked, remedies))
    memory = estimator.generate()
    remedies = () if memory.total <= usable else ("a smaller generate.batch_size or generate.max_new_tokens",)
    found.append(Need("generate", "none", 1, memory, not remedies, True, remedies))
    return found


def training(estimator: Estimator, sharding: Sharding, processes: int) -> dict[str, Memory]:
    """The memory of SFT, and of the methods that need most without and with a copy of the reference."""
    params = estimator.params
    found = {"sft": estimator.sft(sharding, processes)} if params.sft.steps else {}
    for soft in (False, True):
        methods = [method for method in params.methods.values() if (method.update == "soft") == soft]
        # The update makes no other difference, so of the methods of a loss one is enough.
        alike = {method.loss: method for method in methods}.values()
        estimates = [estimator.align(method, sharding, processes) for method in alike]
        if estimates:
            found["align, soft" if soft else "align"] = max(estimates, key=lambda memory: memory.total)
    return found


def remedies_for(
    estimator: Estimator, stage: str, launched: Launched, usable: float, gpu: str, most: int = 3
) -> tuple[str, ...]:
    """Changes with which a training fits, the smallest first; the first `most` of them."""
    params = estimator.params

    def fits(changed: Params, sharding: Sharding, processes: int) -> bool:
        memory = training(Estimator(estimator.config, changed, estimator.gpu, estimator.bf16), sharding, processes)
        return memory[stage].total <= usable

    section = "sft" if stage == "sft" else "align"

    def update(**values: Any) -> Params:
        return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})

    tried: list[tuple[str, Params]] = []
    if not getattr(params, section).gradient_checkpointing:
        tried.append((f"{section}.gradient_checkpointing: true", update(gradient_checkpointing=True)))
    small: dict[str, Any] = {"gradient_checkpointing": True, "batch_size": 1}
    if section == "align":
        small["max_tokens"] = 1
    setting = "align.batch_size: 1 and a small align.max_tokens" if section == "align" else "sft.batch_size: 1"
    tried.append((f"{setting}, with {section}.gradient_checkpointing", update(**small)))
    found = [name for name, changed in tried if fits(changed, launched.sharding, launched.processes)]
    checked = update(gradient_checkpointing=True)
    for count in MORE:
        if count > launched.processes and fits(checked, "fsdp", count):
            found.append(
                f"{count} GPUs ({gpu}) with presets/accelerate/fsdp2.yaml and {section}.gradient_checkpointing: true"
            )
            break
    if section == "align" and params.align.lora is None and len(found) < most:
        adapter = update(lora=Lora(rank=16, scale=32), gradient_checkpointing=True)
        if fits(adapter, launched.sharding, launched.processes):
            found.append("align.lora: {rank: 16, scale: 32} with align.gradient_checkpointing: true")
    return tuple(found[:most]) or ("nothing that was tried: a smaller model, or shorter data.max_..._tokens",)
