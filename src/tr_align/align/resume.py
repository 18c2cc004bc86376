"""Snapshots for evaluation, checkpoints by the clock, and the log: what a training leaves behind as it goes."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tr_align import models
from tr_align.align.reference import ReferenceUpdate
from tr_align.scratch import read_rows, write_rows

COMPLETE = "complete"
"""A checkpoint counts only with this file in it, written last."""


def snapshot_name(step: int) -> str:
    """The folder of the policy after `step` optimizer steps."""
    return f"step-{step:05d}"


class Snapshots(TrainerCallback):
    """Keeps the policy as it is after each of the given optimizer steps."""

    def __init__(self, folder: Path, steps: list[int], tokenizer: Any) -> None:
        self.folder = folder
        self.steps = set(steps)
        self.tokenizer = tokenizer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step not in self.steps:
            return
        target = self.folder / snapshot_name(state.global_step)
        unfinished = target.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        models.save(model, self.tokenizer, unfinished)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when `minutes` have passed since the last, and puts the reference into it."""

    def __init__(self, update: ReferenceUpdate, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.update = update
        self.seconds = minutes * 60
        self.clock = clock
        self.last = clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step < state.max_steps and self.clock() - self.last >= self.seconds:
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.update.save(folder)
        (folder / COMPLETE).touch()
        for other in folder.parent.glob("checkpoint-*"):
            if other != folder:
                shutil.rmtree(other)
        self.last = self.clock()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint; one that was cut off while being written does not count."""
    complete = [path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class Log(TrainerCallback):
    """Writes one row an optimizer step to a JSON Lines file, passes it on, and shows a progress bar."""

    def __init__(
        self,
        path: Path,
        names: tuple[str, ...],
        update: ReferenceUpdate,
        title: str,
        publish: Callable[[dict[str, float]], None],
    ) -> None:
        self.path = path
        self.names = names
        self.update = update
        self.title = title
        self.publish = publish
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # After a restart, rows past the checkpoint are about to be made again.
        write_rows(self.path, [row for row in read_rows(self.path) if row["step"] <= state.global_step])
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.title, unit="step", leave=True)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        values = {**(logs or {}), **self.update.distances}
        if "loss" not in values:  # the summary at the end
            return
        row: dict[str, Any] = {"step": state.global_step} | {name: float(values[name]) for name in self.names}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.publish(row)
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix(loss=f"{row['loss']:.3f}", margin=f"{row['margin']:.2f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()
