"""Train one method from the SFT model to its snapshots; a killed run goes on from its last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProgressCallback

from tr_align import models
from tr_align.align.reference import ReferenceUpdate
from tr_align.align.resume import Checkpoints, Log, Snapshots, last_checkpoint
from tr_align.align.trainers import LOGGED, make_trainer
from tr_align.config import Params
from tr_align.data.schema import Pair

TRAIN_LOG = "train.jsonl"


@dataclass(frozen=True)
class Result:
    """What a training left: folders of the evaluated policies, the log's path, the steps the reference moved at."""

    snapshots: Path
    log: Path
    updated_at: list[int]


def reference_rule(params: Params, name: str) -> tuple[int, float | None]:
    """A method's update as (interval in optimizer steps, alpha); alpha is None for the base methods.

    The hard update is the soft one with alpha = 1; the two are never combined.
    """
    update = params.methods[name].update
    if update == "soft":
        return params.ref_update.every, params.ref_update.alpha
    if update == "hard":
        return params.ref_update.tau, 1.0
    return 1, None


def train_method(
    name: str,
    params: Params,
    sft: str | Path,
    pairs: list[Pair],
    folder: Path,
    publish: Callable[[dict[str, float]], None] = lambda row: None,
) -> Result:
    """Align the SFT model with one method; all that is written lies under `folder`.

    Args:
        name: one of the nine methods. sft: folder of the SFT model. pairs: the preferences split.
        folder: scratch folder of these settings and inputs; what an earlier, killed run left there is used.
        publish: called with each step's row of the log.
    Raises:
        UserError: there are fewer pairs than one batch (see `make_trainer`).
    """
    method = params.methods[name]
    interval, alpha = reference_rule(params, name)
    tokenizer = models.load_tokenizer(str(sft))
    policy, reference = models.load_model(str(sft)), models.load_model(str(sft))
    update = ReferenceUpdate(reference.requires_grad_(False), interval, alpha)
    log = folder / TRAIN_LOG
    snapshots = folder / "snapshots"
    trainer: Any = make_trainer(
        loss=method.loss,
        policy=policy,
        tokenizer=tokenizer,
        pairs=pairs,
        align=params.align,
        beta=getattr(params.beta, method.loss),
        dpo=params.dpo,
        ipo=params.ipo,
        kto=params.kto,
        update=update,
        seed=params.seed,
        folder=str(folder / "checkpoints"),
        max_length=params.data.max_prompt_tokens + params.data.max_reply_tokens + 8,
        callbacks=[
            Snapshots(snapshots, params.align.evaluation_steps, tokenizer),
            Checkpoints(update, params.align.checkpoint_minutes),
            Log(log, LOGGED, update, name, publish),
        ],
    )
    for noise in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noise)
    checkpoint = last_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        update.load(checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return Result(snapshots, log, update.updated_at)
