"""Train one method from the SFT model to its snapshots; a killed run goes on from its last checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import accelerate
import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments

from tr_align import models, stopping
from tr_align.align import losses
from tr_align.align.batches import Example
from tr_align.align.lora import add_adapter
from tr_align.align.objectives import KtoObjective, Objective, PairObjective
from tr_align.align.plan import plan_blocks, unpaired_groups
from tr_align.align.resume import (
    SNAPSHOT_BYTES,
    Checkpoints,
    Log,
    Snapshots,
    checkpoint_bytes,
    last_checkpoint,
    remove_checkpoints,
    snapshot_name,
)
from tr_align.align.tokens import encode_pairs
from tr_align.align.trainer import AlignTrainer, Task
from tr_align.config import Params
from tr_align.data.schema import Pair
from tr_align.runtime import has_bf16
from tr_align.scratch import check_space

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
    pairs: Sequence[Pair],
    folder: Path,
    publish: Callable[[dict[str, float]], None] = lambda row: None,
) -> Result:
    """Align the SFT model with one method; all that is written lies under `folder`.

    When its results are where they belong, `resume.discard` deletes the folder.

    Args:
        name: one of the nine methods. sft: folder of the SFT model. pairs: the preferences split.
        folder: scratch folder of these settings and inputs; what an earlier, killed run left there is used.
        publish: called with each step's row of the log.
    Raises:
        UserError: too few pairs for one batch, pairs cut to nothing, a loss that is not finite, a foreign checkpoint, a
            full disk.
        Stopped: the process was told to stop; a checkpoint of the step it was in is kept.
    """
    log, snapshots = folder / TRAIN_LOG, folder / "snapshots"
    tokenizer = models.load_tokenizer(str(sft))
    # Before DeepSpeed is configured: from then on models load in parts, and the parts cannot be tried (logps.py).
    policy = load_policy(params, sft)
    args = training_arguments(params, name, folder / "checkpoints")
    task = make_task(name, params, tokenizer, pairs, args.world_size, accelerate.utils.gather)
    trainer: Any = AlignTrainer(model=policy, args=args, task=task)
    for noise in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(noise)
    trainer.add_callback(Snapshots(snapshots, params.align.evaluation_steps, tokenizer, trainer.full_weights))
    trainer.add_callback(Checkpoints(trainer, params.align.checkpoint_minutes))
    if trainer.is_world_process_zero():
        trainer.add_callback(Log(log, name, publish))
    checkpoint = _checkpoint(folder / "checkpoints", snapshots, params.align.evaluation_steps)
    missing = [step for step in params.align.evaluation_steps if not (snapshots / snapshot_name(step)).exists()]
    soft = task.alpha is not None and task.alpha < 1
    size = len(missing) * SNAPSHOT_BYTES * policy.num_parameters()
    size += checkpoint_bytes(policy, trainer.accelerator, soft)
    check_space(folder, size, f"a checkpoint and the policies that {name} keeps")
    if trainer.is_world_process_zero():
        remove_checkpoints(folder / "checkpoints", but=checkpoint)
    with stopping.deferred():
        if checkpoint is None:
            trainer.train()
        else:
            trainer.resume(checkpoint)
        trainer.accelerator.wait_for_everyone()
    return Result(snapshots, log, trainer.reference.updated_at)


def _checkpoint(folder: Path, snapshots: Path, evaluated: Sequence[int]) -> Path | None:
    """The last checkpoint, unless the snapshots before it are gone: a stage was killed while it moved them."""
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return None
    step = int(checkpoint.name.rpartition("-")[2])
    whole = all((snapshots / snapshot_name(other)).exists() for other in evaluated if other <= step)
    return checkpoint if whole else None


def load_policy(params: Params, sft: str | Path) -> Any:
    """The SFT model, float32, with an adapter if `align.lora` asks for one."""
    policy = models.load_model(str(sft))
    if params.align.gradient_checkpointing:
        policy.activation_checkpointing_enable({"use_reentrant": False})
    return policy if params.align.lora is None else add_adapter(policy, params.align.lora, params.seed)


def training_arguments(params: Params, name: str, folder: Path) -> TrainingArguments:
    """What `transformers.Trainer` is told; a batch of its loader is all that a process computes in a step."""
    align, cpu = params.align, not torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=align.steps,
        per_device_train_batch_size=_group(params, params.methods[name].loss) * align.gradient_accumulation,
        learning_rate=params.learning_rate(name),
        warmup_steps=align.warmup_steps,
        max_grad_norm=align.max_grad_norm,
        seed=params.seed,
        bf16=has_bf16(),
        use_cpu=cpu,
        train_sampling_strategy="sequential",  # the plan has the order
        dataloader_pin_memory=False,
        logging_steps=align.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",  # checkpoints are taken by the clock, see resume.py
        report_to="none",
        disable_tqdm=True,
    )


def make_task(
    name: str, params: Params, tokenizer: Any, pairs: Sequence[Pair], processes: int, gather: Callable[[Any], Any]
) -> Task:
    """What a method trains on: its examples and their order, its loss, its rule for the reference.

    Args: `gather`: all processes' values of a tensor.
    Raises:
        UserError: too few pairs for one batch or nothing left of them within the length limit.
    """
    align, loss = params.align, params.methods[name].loss
    held = pairs[: align.held_out]
    held_prompts = {pair.prompt_id for pair in held}
    pairs = [pair for pair in pairs if pair.prompt_id not in held_prompts]
    encode = partial(
        encode_pairs,
        tokenizer,
        max_length=params.data.max_prompt_tokens + params.data.max_reply_tokens + 8,
        max_dropped=params.data.max_dropped,
    )
    beta = getattr(params.beta, loss)
    group = _group(params, loss)
    objective: Objective
    if loss == "kto" and not params.kto.paired:
        sides = [encode(pairs=pairs, sides=(side,)) for side in ("chosen", "rejected")]
        examples, labels, sources = unpaired_groups(sides[0][0], sides[1][0], group, params.seed)
        names = [sides[0 if good else 1][1][i] for good, i in zip(labels, sources, strict=True)]
        desirable = torch.tensor(labels)
        objective = KtoObjective(desirable, beta, params.kto.desirable_weight, params.kto.undesirable_weight, gather)
    else:
        examples, names = encode(pairs=pairs)
        objective = _pair_objective(params, loss, beta, examples)
    # Examples of a group stay together, for all epochs: so the fixed reference scores each once.
    block = group if loss == "kto" and not params.kto.paired else 1
    plan = plan_blocks(len(examples), block, group * align.gradient_accumulation, align.steps, processes, params.seed)
    others, their_names = encode(pairs=held) if held else ([], [])
    interval, alpha = reference_rule(params, name)
    return Task(
        examples=[*examples, *others],
        names=[*names, *their_names],
        plan=plan,
        objective=objective,
        group=group,
        interval=interval,
        alpha=alpha,
        max_tokens=align.max_tokens,
        sft_rewards=align.sft_rewards,
        beta=beta,
        identity=_identity(name, params, processes, [*examples, *others]),
        held_out=range(len(examples), len(examples) + len(others)),
        evaluate_at=frozenset(align.evaluation_steps),
    )


def _pair_objective(params: Params, loss: str, beta: float, examples: Sequence[Example]) -> PairObjective:
    if loss == "dpo":
        return PairObjective(partial(losses.dpo_loss, beta=beta, label_smoothing=params.dpo.label_smoothing), beta)
    if loss == "kto":
        return PairObjective(partial(losses.paired_kto_loss, beta=beta), beta, grouped=True)
    lengths = torch.tensor([[len(reply) for reply in example.replies] for example in examples])
    return PairObjective(partial(losses.ipo_loss, beta=beta), beta, lengths if params.ipo.length_average else None)


def _group(params: Params, loss: str) -> int:
    """Examples of a batch: pairs, or for unpaired KTO twice as many single replies."""
    return params.align.batch_size * (2 if loss == "kto" and not params.kto.paired else 1)


def _identity(name: str, params: Params, processes: int, examples: Sequence[Example]) -> str:
    """What a checkpoint belongs to: the method, every setting that changes its numbers, and the examples."""
    settings = {
        "method": params.methods[name].model_dump(),
        "processes": processes,
        "seed": params.seed,
        "align": params.align.model_dump(exclude={"checkpoint_minutes", "log_every"}),
        **{key: getattr(params, key).model_dump() for key in ("ref_update", "beta", "dpo", "ipo", "kto")},
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for example in examples:
        digest.update(json.dumps([example.prompt, example.replies]).encode())
    return digest.hexdigest()
