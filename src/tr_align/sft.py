"""Supervised fine-tuning on the chosen replies, with TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tr_align import models
from tr_align.align.batches import Example, collate
from tr_align.align.logps import plain_head, reply_logps, share_prompts
from tr_align.config import Params
from tr_align.data.schema import Pair
from tr_align.errors import UserError
from tr_align.runtime import has_bf16
from tr_align.scratch import write_rows


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


class _Progress(TrainerCallback):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc="sft", unit="step")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.rows.append(
                {"step": state.global_step, **{key: float(logs[key]) for key in ("loss", "grad_norm", "learning_rate")}}
            )
            self.bar.update(state.global_step - self.bar.n)
            self.bar.set_postfix(loss=f"{self.rows[-1]['loss']:.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def fine_tune(params: Params, pairs: list[Pair], folder: Path, log: Path, scratch: Path) -> None:
    """Fine-tune the base model on prompt and chosen reply, loss on the reply alone; save it to `folder`.

    Args: `log` gets one row a step (step, loss, grad_norm, learning_rate); `scratch` is the trainer's own folder.
    Raises:
        UserError: fewer pairs than one batch.
    """
    settings = params.sft
    if len(pairs) < settings.batch_size:
        raise UserError(
            f"sft.batch_size: is {settings.batch_size}, but the sft split has only {len(pairs)} rows; "
            "lower it or raise data.splits.sft"
        )
    rows = Dataset.from_list(
        [
            {
                "prompt": [message.model_dump() for message in pair.prompt],
                "completion": [{"role": "assistant", "content": pair.chosen}],
            }
            for pair in pairs
        ]
    )
    tokenizer = models.load_tokenizer(params.model.name)
    model = models.load_model(params.model.name)
    cpu = not torch.cuda.is_available()
    progress = _Progress()
    trainer = _Trainer(
        model=model,
        args=SFTConfig(
            output_dir=str(scratch),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            completion_only_loss=True,
            max_length=params.data.max_prompt_tokens + params.data.max_reply_tokens + 8,
            gradient_checkpointing=False,
            seed=params.seed,
            bf16=has_bf16(),
            use_cpu=cpu,
            dataloader_pin_memory=not cpu,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        callbacks=[progress],
    )
    for noise in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noise)
    trainer.train()
    models.save(trainer.model, tokenizer, folder)
    write_rows(log, progress.rows)
