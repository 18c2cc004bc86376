"""Supervised fine-tuning on demonstrations, with TRL's SFTTrainer; a killed run goes on from its last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, ProgressCallback, Trainer
from trl import SFTConfig, SFTTrainer

from tr_align import models, stopping
from tr_align.align import shards
from tr_align.align.batches import Example, collate
from tr_align.align.logps import plain_head, reply_logps, share_prompts
from tr_align.align.resume import (
    SNAPSHOT_BYTES,
    Checkpoints,
    Log,
    checkpoint_bytes,
    checkpoint_folder,
    emptied,
    last_checkpoint,
    remove_checkpoints,
)
from tr_align.config import Params
from tr_align.data.schema import Demonstration
from tr_align.errors import UserError
from tr_align.runtime import has_bf16
from tr_align.scratch import check_space, write_rows, writing

TRAIN_LOG = "train.jsonl"
COLUMNS = ("loss", "grad_norm", "learning_rate")


class _Trainer(SFTTrainer):
    """TRL's trainer; on a CPU the loss, the same, is computed without padding and from reply positions alone."""

    def __init__(self, *, model: Any, **kwargs: Any) -> None:
        super().__init__(model=model, **kwargs)
        here = self.args.device.type == "cpu" and self.accelerator.num_processes == 1
        self.packed = here and plain_head(model) and share_prompts(model)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if not self.packed:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        reply = inputs["labels"] != -100
        rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), reply, strict=True)
        examples = [Example(tuple(ids[seen & ~own].tolist()), (tuple(ids[own].tolist()),)) for ids, seen, own in rows]
        with self.accelerator.autocast():
            logps = reply_logps(self.accelerator.unwrap_model(model), collate(examples, shared=True))
        # Every reply token weighs the same, also across the micro-batches of an optimizer step.
        return -logps.sum() / (reply.sum() if num_items_in_batch is None else num_items_in_batch)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = checkpoint_folder(self.args, self.state)
        size = checkpoint_bytes(self.model, self.accelerator)
        with writing(folder.parent, f"the checkpoint after step {self.state.global_step}", size), emptied(folder):
            Trainer._save_checkpoint(self, model, trial)  # without TRL's model card


def fine_tune(params: Params, rows: Sequence[Demonstration], folder: Path, log: Path, scratch: Path) -> None:
    """Fine-tune the base model on prompt and completion, loss on the completion alone; save it to `folder`.

    With `sft.steps` 0 the base model itself is saved. Several processes share each optimizer step; one of them writes.

    Args:
        log: gets one row a step (step, loss, grad_norm, learning_rate).
        scratch: folder of these settings and inputs; what an earlier, killed run left there is used.
    Raises:
        UserError: fewer rows than an optimizer step takes, no room on the disk.
        Stopped: the process was told to stop; a checkpoint of the step it was in is kept.
    """
    main_process = PartialState(cpu=not torch.cuda.is_available()).is_main_process
    if params.sft.steps:
        _refuse_too_few(params, len(rows))
    tokenizer = models.load_tokenizer(
        params.model.name, revision=params.model.revision, chat_template=params.model.chat_template
    )
    # Before DeepSpeed is configured: from then on models load in parts.
    model = models.load_model(params.model.name, revision=params.model.revision)
    weights = None
    with stopping.deferred():
        if params.sft.steps:
            model, weights = _train(params, rows, model, tokenizer, scratch)
        if main_process:
            with writing(folder, "the SFT model", SNAPSHOT_BYTES * model.num_parameters()):
                models.save(model, tokenizer, folder, weights)
            with writing(log.parent, "the log of the training"):
                if params.sft.steps:
                    shutil.copyfile(scratch / TRAIN_LOG, log)
                else:
                    write_rows(log, [])


def _train(
    params: Params, rows: Sequence[Demonstration], model: Any, tokenizer: Any, scratch: Path
) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """The trained model and, on the main process, its whole state dict."""
    trainer = _Trainer(
        model=model,
        args=_arguments(params, scratch / "checkpoints"),
        train_dataset=Dataset.from_list([row.model_dump() for row in rows]),
        processing_class=tokenizer,
    )
    for noise in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noise)
    trainer.add_callback(Checkpoints(trainer, params.sft.checkpoint_minutes))
    if trainer.is_world_process_zero():
        trainer.add_callback(Log(scratch / TRAIN_LOG, "sft", columns=COLUMNS))
    checkpoint = last_checkpoint(scratch / "checkpoints")
    size = checkpoint_bytes(model, trainer.accelerator) + SNAPSHOT_BYTES * model.num_parameters()
    check_space(scratch, size, "a checkpoint and the SFT model")
    if trainer.is_world_process_zero():
        remove_checkpoints(scratch / "checkpoints", but=checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer.model, shards.full_weights(trainer.accelerator, trainer.model_wrapped)


def _arguments(params: Params, folder: Path) -> SFTConfig:
    settings, cpu = params.sft, not torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        completion_only_loss=True,
        max_length=params.data.max_prompt_tokens + params.data.max_reply_tokens + 8,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        seed=params.seed,
        bf16=has_bf16(),
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        logging_steps=1,
        save_strategy="no",  # checkpoints are taken by the clock, see align/resume.py
        report_to="none",
        disable_tqdm=True,
    )


def _refuse_too_few(params: Params, count: int) -> None:
    settings, processes = params.sft, PartialState().num_processes
    needed = settings.batch_size * settings.gradient_accumulation * processes
    if count >= needed:
        return
    factors = [f"sft.batch_size: is {settings.batch_size}"]
    if settings.gradient_accumulation > 1:
        factors.append(f"sft.gradient_accumulation {settings.gradient_accumulation}")
    if processes > 1:
        factors.append(f"{processes} processes train")
    raise UserError(
        f"{', '.join(factors)}, so an optimizer step takes {needed} rows, but the sft split has only {count}; "
        "lower it or raise data.splits.sft"
    )
