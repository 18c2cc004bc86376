"""TRL's DPO and KTO trainers with our losses, our log-probabilities and our reference update.

TRL tokenises, collates and runs the loop; what is replaced is said at each place. Metrics are logged every
optimizer step under one set of names for all methods (see `LOGGED`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tr_align.align import losses
from tr_align.align.logps import completion_logps, plain_head
from tr_align.align.reference import ReferenceUpdate
from tr_align.config import Align, Dpo, Ipo, Kto
from tr_align.data.schema import Pair
from tr_align.errors import UserError
from tr_align.runtime import has_bf16

LOGGED = (
    "loss",
    "logps_chosen",
    "logps_rejected",
    "margin",
    "accuracy",
    "grad_norm",
    "ref_from_sft",
    "policy_from_ref",
    "learning_rate",
)
"""What is logged every optimizer step: the loss; mean summed log-probabilities of chosen and rejected replies,
in nats; `margin` and `accuracy` of the implicit rewards `beta * log(policy / current reference)`; the gradient's
norm before clipping; distances (see :class:`ReferenceUpdate`); the learning rate."""


class _Core:
    """What both trainers share. `self` is a TRL trainer."""

    _metrics: dict[str, Any]
    accelerator: Any
    update: ReferenceUpdate

    def _logps(self, model: Any, inputs: dict[str, Tensor], prefix: str = "") -> Tensor:
        """Summed log-probabilities of the completions, shape (B,)."""
        ids, attention, completion = (
            inputs[prefix + key] for key in ("input_ids", "attention_mask", "completion_mask")
        )
        plain = self.accelerator.unwrap_model(model)
        if ids.device.type == "cpu" and self.accelerator.num_processes == 1 and plain_head(plain):
            with self.accelerator.autocast():
                return completion_logps(plain, ids, attention, completion)
        # On a GPU TRL's fused head does the same, and wrapped models have to be called as a whole.
        labels = ids.masked_fill(completion == 0, -100)
        outputs = model(input_ids=ids, attention_mask=attention, use_cache=False, labels=labels, fused_lm_head=True)
        logps: Tensor = outputs.log_probs.sum(1)
        return logps

    def _record(
        self,
        model: Any,
        chosen: Tensor,
        rejected: Tensor,
        chosen_rewards: Tensor,
        rejected_rewards: Tensor,
        accuracy: Tensor,
    ) -> None:
        metrics = self._metrics["train" if model.training else "eval"]
        for name, value in (
            ("logps_chosen", chosen.mean()),
            ("logps_rejected", rejected.mean()),
            ("margin", chosen_rewards.mean() - rejected_rewards.mean()),
            ("accuracy", accuracy.float().mean()),
        ):
            metrics[name].append(self.accelerator.gather(value.detach()).mean().item())


class PairedTrainer(_Core, DPOTrainer):
    """DPO and IPO. Replaces TRL's loss: its IPO averages over tokens, the authors' sums (`length_average`)."""

    def __init__(self, *, loss: str, dpo: Dpo, ipo: Ipo, **kwargs: Any) -> None:
        self.pair_loss: Callable[..., Tensor] = losses.ipo_loss
        if loss == "dpo":
            self.pair_loss = partial(losses.dpo_loss, label_smoothing=dpo.label_smoothing)
        self.length_average = loss == "ipo" and ipo.length_average
        super().__init__(**kwargs)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Tensor:
        logps = self._logps(model, inputs)
        with torch.no_grad():
            ref_logps = self._logps(self.ref_model, inputs)
        sum_chosen, sum_rejected = logps.detach().chunk(2)
        if self.length_average:
            lengths = inputs["completion_mask"].sum(1)
            logps, ref_logps = logps / lengths, ref_logps / lengths
        # TRL's collator puts the chosen replies of the batch first, then the rejected ones.
        (chosen, rejected), (ref_chosen, ref_rejected) = logps.chunk(2), ref_logps.chunk(2)
        good, bad = self.beta * (chosen - ref_chosen).detach(), self.beta * (rejected - ref_rejected).detach()
        self._record(model, sum_chosen, sum_rejected, good, bad, accuracy=good > bad)
        return self.pair_loss(chosen, rejected, ref_chosen, ref_rejected, self.beta).mean()


class UnpairedTrainer(_Core, KTOTrainer):
    """KTO on single replies. TRL's batches pair each prompt with its neighbour's reply for the KL term."""

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor], return_outputs: bool) -> Tensor:
        with torch.no_grad():
            kl_logps = self._logps(model, inputs, "KL_")
            ref_kl_logps = self._logps(self.ref_model, inputs, "KL_")
            ref_logps = self._logps(self.ref_model, inputs)
        logps = self._logps(model, inputs)
        # The point of reference is one number for the whole batch, on every process.
        kl = losses.kto_kl(self.accelerator.gather(kl_logps), self.accelerator.gather(ref_kl_logps))
        desirable = torch.as_tensor(inputs["label"], dtype=torch.bool, device=logps.device)
        rewards = self.beta * (logps - ref_logps).detach()
        good, bad = rewards[desirable], rewards[~desirable]
        # Unpaired: accuracy is the share of replies on the right side of the reference point.
        accuracy = torch.cat([good > self.beta * kl, bad < self.beta * kl])
        self._record(model, logps[desirable], logps[~desirable], good, bad, accuracy)
        return losses.kto_loss(
            logps, ref_logps, desirable, kl, self.beta, self.desirable_weight, self.undesirable_weight
        ).mean()


def paired_rows(pairs: list[Pair]) -> Dataset:
    """Pairs in TRL's conversational columns."""
    return Dataset.from_list(
        [
            {"prompt": _messages(pair), "chosen": _reply(pair.chosen), "rejected": _reply(pair.rejected)}
            for pair in pairs
        ]
    )


def unpaired_rows(pairs: list[Pair], seed: int) -> Dataset:
    """Single labelled replies for KTO, desirable and undesirable alternating, each side in its own random order.

    TRL's own unpairing yields a thousand desirable rows and then a thousand undesirable ones, and its trainer
    must not shuffle them: every batch would hold one label.
    """
    orders = [list(pairs), list(pairs)]
    for offset, order in enumerate(orders):
        random.Random(f"{seed}/{offset}").shuffle(order)
    rows = []
    for good, bad in zip(*orders, strict=True):
        rows.append({"prompt": _messages(good), "completion": _reply(good.chosen), "label": True})
        rows.append({"prompt": _messages(bad), "completion": _reply(bad.rejected), "label": False})
    return Dataset.from_list(rows)


def make_trainer(
    *,
    loss: str,
    policy: Any,
    tokenizer: Any,
    pairs: list[Pair],
    align: Align,
    beta: float,
    dpo: Dpo,
    ipo: Ipo,
    kto: Kto,
    update: ReferenceUpdate,
    seed: int,
    folder: str,
    max_length: int,
    callbacks: list[TrainerCallback],
) -> PairedTrainer | UnpairedTrainer:
    """The trainer of one method; `update.reference` is the reference model, already moved by nothing.

    Raises:
        UserError: fewer pairs than one batch, or a KTO batch of a single reply.
    """
    size = align.batch_size * (2 if loss == "kto" else 1)
    rows = unpaired_rows(pairs, seed) if loss == "kto" else paired_rows(pairs)
    if len(rows) < size:
        raise UserError(
            f"align.batch_size: {size} rows a batch, but the preferences split has only {len(rows)}; "
            "lower it or raise data.splits.preferences"
        )
    cpu = not torch.cuda.is_available()
    options: dict[str, Any] = {
        "output_dir": folder,
        "max_steps": align.steps,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": align.gradient_accumulation,
        "learning_rate": align.learning_rate,
        "warmup_steps": align.warmup_steps,
        "max_grad_norm": align.max_grad_norm,
        "gradient_checkpointing": align.gradient_checkpointing,
        "beta": beta,
        "max_length": max_length,
        "seed": seed,
        "bf16": has_bf16(),
        "use_cpu": cpu,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": not cpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # checkpoints are taken by the clock, see resume.py
        "report_to": "none",
        "disable_tqdm": True,
    }
    # Always explicit: without it TRL would load a reference from disk by the policy's name.
    common: dict[str, Any] = {
        "model": policy,
        "ref_model": update.reference,
        "train_dataset": rows,
        "processing_class": tokenizer,
        "callbacks": [update, *callbacks],
    }
    trainer: PairedTrainer | UnpairedTrainer
    if loss == "kto":
        options |= {"desirable_weight": kto.desirable_weight, "undesirable_weight": kto.undesirable_weight}
        trainer = UnpairedTrainer(args=KTOConfig(train_sampling_strategy="sequential", **options), **common)
    else:
        trainer = PairedTrainer(loss=loss, dpo=dpo, ipo=ipo, args=DPOConfig(**options), **common)
    trainer.update = update
    return trainer


def _messages(pair: Pair) -> list[dict[str, str]]:
    return [message.model_dump() for message in pair.prompt]


def _reply(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
