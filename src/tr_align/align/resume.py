"""Snapshots for evaluation, checkpoints by the clock or before a stop, the log: what a training leaves as it goes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tr_align import models, stopping
from tr_align.align import shards
from tr_align.scratch import append_rows, read_rows, write_rows, writing

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
        size = sum(tensor.numel() for tensor in weights.values()) * SNAPSHOT_BYTES
        with writing(self.folder, f"the policy after step {state.global_step}", size), emptied(unfinished):
            models.save(shards.base_model(model), self.tokenizer, unfinished, weights)
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)
        return control


SNAPSHOT_BYTES = 2
"""Of a parameter in a saved policy: bfloat16."""


def checkpoint_bytes(model: Any, accelerator: Any, soft: bool = False) -> int:
    """About the size of a checkpoint: float32 weights and Adam's two moments, and a `soft` reference's weights.

    Sharded models are written twice, by transformers for others and by accelerate for going on.
    """
    copies = 3 + soft + shards.is_sharded(accelerator)
    trained: int = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return 4 * copies * trained


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Where `transformers.Trainer` puts the checkpoint of the step that was just made."""
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    """Delete what was written of a folder when that fails: on a full disk its room is needed."""
    try:
        yield
    except Exception:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class Checkpoints(TrainerCallback):
    """Asks for a checkpoint when `minutes` have passed since the last, or the process was told to stop; completes it.

    Args: `trainer`: whose checkpoints they are; one process's clock decides for all.
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
        # After the last step there is nothing to go on with: a stage that was told to stop then is finished instead.
        if state.global_step < state.max_steps and shards.any_process(accelerator, late or stopping.asked()):
            control.should_save = True
        return control

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = checkpoint_folder(args, state)
        accelerator = self.trainer.accelerator
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            with writing(folder.parent, f"the checkpoint after step {state.global_step}"):
                (folder / COMPLETE).touch()
            remove_checkpoints(folder.parent, but=folder)
        self.last = self.clock()
        if shards.any_process(accelerator, stopping.asked()):
            raise stopping.Stopped(f"a checkpoint after step {state.global_step} of {state.max_steps} is kept")


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


def discard(folder: Path) -> None:
    """Delete a training's scratch folder when all it made is where it belongs.

    Its checkpoints stop counting first: a kill meanwhile leaves none that is complete in name only.
    """
    remove_checkpoints(folder / "checkpoints")
    shutil.rmtree(folder)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


class Log(TrainerCallback):
    """Writes one row an optimizer step to a JSON Lines file, passes it on, and shows a progress bar.

    Args: `columns`: what a row holds beside the step; None: all that is logged.
    """

    def __init__(
        self,
        path: Path,
        title: str,
        publish: Callable[[dict[str, float]], None] = lambda row: None,
        columns: Collection[str] | None = None,
    ) -> None:
        self.path = path
        self.title = title
        self.publish = publish
        self.columns = columns
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # After a restart, rows past the checkpoint are about to be made again.
        with writing(self.path.parent, "the log"):
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
        columns = [name for name in logs if name != "epoch"] if self.columns is None else self.columns
        row |= {name: float(logs[name]) for name in columns}
        with writing(self.path.parent, "a row of the log"):
            append_rows(self.path, [row])
        self.publish(row)
        self.bar.update(state.global_step - self.bar.n)
        self.bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss", "margin") if name in row})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.bar.close()
