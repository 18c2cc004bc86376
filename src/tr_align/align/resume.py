"""Snapshots for evaluation, checkpoints by the clock, and the log: what a training leaves behind as it goes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tr_align import models
from tr_align.align import shards
from tr_align.scratch import append_rows, read_rows, write_rows

COMPLETE = "complete"
"""A checkpoint counts only with this file in it, written last."""


def snapshot_name(step: int) -> str:
    """The folder of the policy after `step` optimizer steps."""
    return f"step-{step:05d}"


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors so that a restart sees all of them or the file as it was before."""
    unfinished = path.with_suffix(".tmp")
    save_file(tensors, unfinished, metadata)
    os.replace(unfinished, path)


class Snapshots(TrainerCallback):
    """Keeps the policy as it is after each of the given optimizer steps, which are always logged.

    Args: `weights`: the policy's whole state dict, asked of all processes at once; None where nothing is to be written.
    """

    def __init__(self, folder: Path, steps: list[int], tokenizer: Any, weights: Callable[[], Any]) -> None:
        self.folder = folder
        self.steps = set(steps)
        self.tokenizer = tokenizer
        self.weights = weights

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> TrainerControl:
        if state.global_step not in self.steps:
            return control
        control.should_log = True
        weights = self.weights()
        if weights is None:
            return control
        target = self.folder / snapshot_name(state.global_step)
        unfinished = target.with_suffix(".tmp")
        shutil.rmtree(unfinished, ignore_errors=True)
        models.save(shards.base_model(model), self.tokenizer, unfinished, weights)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
        return control


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when `minutes` have passed since the last, and completes it with the reference.

    Without it a resumed run would silently start again from the SFT model as reference, as TRL 1.16 does.

    Args: `trainer`: gives accelerator and reference; one process's clock decides for all.
    """

    def __init__(self, trainer: Any, minutes: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.trainer = trainer
        self.seconds = minutes * 60
        self.clock = clock
        self.last = clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        accelerator = self.trainer.accelerator
        late = accelerator.is_main_process and self.clock() - self.last >= self.seconds
        # Only where a row of the log ends: a resumed run could not average over steps it did not make.
        if control.should_log and state.global_step < state.max_steps and shards.any_process(accelerator, late):
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.trainer.save_reference(folder)
        self.trainer.accelerator.wait_for_everyone()
        if self.trainer.accelerator.is_main_process:
            (folder / COMPLETE).touch()
            remove_checkpoints(folder.parent, but=folder)
        self.last = self.clock()


def remove_checkpoints(folder: Path, but: Path | None = None) -> None:
    """Delete all checkpoints but one; one that a kill leaves half deleted does not count as complete."""
    for checkpoint in folder.glob("checkpoint-*"):
        if checkpoint != but:
            (checkpoint / COMPLETE).unlink(missing_ok=True)
            shutil.rmtree(checkpoint)


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
        title: str,
        publish: Callable[[dict[str, float]], None],
    ) -> None:
        self.path = path
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
        if not logs or "loss" not in logs:  # the summary at the end
            return
        row: dict[str, Any] = {"step": state.global_step}
        row |= {name: float(value) for name, value in logs.items() if name != "epoch"}
        append_rows(self.path, [row])
        self.publish(row)
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix(loss=f"{row['loss']:.3f}", margin=f"{row['margin']:.2f}")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()
