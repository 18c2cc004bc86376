"""The trainer: batches in a fixed plan, the reference scored a window ahead, one optimizer step at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm
from transformers import Trainer, TrainingArguments

from tr_align import stopping
from tr_align.align import shards
from tr_align.align.batches import Example, collate, split_passes
from tr_align.align.logps import score_replies_with
from tr_align.align.lora import merged_weights
from tr_align.align.objectives import Objective, Sums, pair_metrics
from tr_align.align.plan import Plan
from tr_align.align.reference import Reference
from tr_align.align.resume import checkpoint_bytes, checkpoint_folder, emptied, save_atomically
from tr_align.errors import UserError
from tr_align.scratch import writing

SCORING_FACTOR = 4
"""A pass without gradients keeps no activations, so it may be this much larger."""

UNLOGGED = "unlogged."
"""Begins the names, in a checkpoint, of what is not part of the reference."""


@dataclass(frozen=True)
class Task:
    """What a method trains on and how.

    Args:
        examples: those of the plan, then the held-out ones. names: where each comes from, for messages.
        plan: which examples each step sees. group: examples of a pass whose loss mixes them (see `Objective.grouped`).
        interval, alpha: the reference's rule (see :class:`Reference`). max_tokens: positions a pass may have.
        sft_rewards: whether rewards against the SFT model are logged too; one more forward pass over the data.
        beta: scales the rewards of held-out pairs.
        identity: of settings and data; a checkpoint with another is refused.
        held_out: indices of pairs, chosen and rejected, whose rewards are logged at the steps `evaluate_at`.
    """

    examples: Sequence[Example]
    names: Sequence[str]
    plan: Plan
    objective: Objective
    group: int
    interval: int
    alpha: float | None
    max_tokens: int
    sft_rewards: bool
    beta: float
    identity: str
    held_out: Sequence[int] = ()
    evaluate_at: frozenset[int] = field(default_factory=frozenset)


class AlignTrainer(Trainer):
    """`transformers.Trainer` with its own step; checkpoints, accelerate, FSDP2, DeepSpeed and callbacks come with it.

    The reference moves when the first step of its next window begins: whatever is logged, evaluated or saved after
    step s still sees the reference that step s was computed with, never a policy compared with itself.
    """

    def __init__(self, *, model: Any, args: TrainingArguments, task: Task, **kwargs: Any) -> None:
        self.task = task
        self.reference: Reference | None = None
        self.resume_from: Path | None = None
        self._own_step = 0
        self._sums: Sums = {}
        for module in model.modules():
            # A window is scored by the policy itself, and log-ratios have to compare like with like.
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        self.shared = score_replies_with(shards.base_model(model))
        rows = task.plan.batch * task.plan.processes * task.plan.steps
        super().__init__(model=model, args=args, train_dataset=range(rows), data_collator=list, **kwargs)  # type: ignore[arg-type]

    # One step

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward over this process's part of an optimizer step; returns its mean loss."""
        step = self.state.global_step + 1
        process, plan = self.accelerator.process_index, self.task.plan
        first = ((step - 1) * plan.processes + process) * plan.batch
        assert list(inputs) == list(range(first, first + plan.batch)), "the loader is not where the plan is"
        rows = plan.rows(step, process)
        model.train()
        self._open_window(model, step)
        passes = self._training_passes(step)[process]
        losses: list[Tensor] = []
        for number, part in enumerate(passes):
            last = number == len(passes) - 1
            # Gradients meet the other processes' once a step; DeepSpeed steps inside the last backward.
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(model):
                loss = self._losses(model, [rows[i] for i in part])
                losses.append(loss.detach())
                if last:
                    self._refuse_non_finite(torch.cat(losses), [rows[i] for part in passes for i in part])
                self.accelerator.backward(loss.sum() / len(rows))
        return torch.cat(losses).mean()

    def _losses(self, model: Any, rows: list[int]) -> Tensor:
        """The loss of each example, shape (B,), and its metrics added to the step's."""
        reference = self._reference
        index = torch.tensor(rows, device=self.args.device)
        policy = self._logps(model, rows)
        if self._own_step == self.state.global_step + 1:
            # Right after a hard update, and at the very start, the policy is the reference: it scores itself.
            reference.logps[index] = policy.detach()
        before = reference.logps[index]
        self._add(self.task.objective.metrics(policy.detach(), before, index))
        if self.task.sft_rewards:
            against = self.task.objective.metrics(policy.detach(), reference.sft_logps[index], index)
            self._add({f"{name}_sft": value for name, value in against.items() if name.startswith("reward")})
        return self.task.objective(policy, before, index)

    def _logps(self, model: Any, rows: Sequence[int]) -> Tensor:
        batch = collate([self.task.examples[row] for row in rows], self.shared)
        logps: Tensor = model(batch=batch.to(self.args.device))
        return logps

    def _training_passes(self, step: int) -> list[list[list[int]]]:
        """For each process the positions, in its batch, of the examples of each pass; all have equally many passes."""
        plan, task = self.task.plan, self.task
        if task.objective.grouped:
            parts = [list(range(i, i + task.group)) for i in range(0, plan.batch, task.group)]
            return [parts] * plan.processes
        return self._even_passes([plan.rows(step, p) for p in range(plan.processes)], task.max_tokens)

    def _even_passes(self, rows: list[list[int]], max_tokens: int) -> list[list[list[int]]]:
        """Each process's rows in passes, as positions; equally many, for sharded models meet in every pass."""
        costs = [[self.task.examples[row].cost for row in part] for part in rows]
        count = max(len(split_passes(part, max_tokens)) for part in costs)
        return [split_passes(part, max_tokens, count) for part in costs]

    def _refuse_non_finite(self, losses: Tensor, rows: list[int]) -> None:
        """Stop before such a loss reaches the weights; the last checkpoint stays as it is."""
        bad = (~torch.isfinite(losses)).nonzero().flatten().tolist()
        if not shards.any_process(self.accelerator, bool(bad)):
            return
        names = sorted({self.task.names[rows[i]] for i in bad}) or ["of another process"]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise UserError(
            f"the loss is not finite at step {self.state.global_step + 1}, for the prompts {', '.join(names[:5])}{more}"
            "; no weight was changed by it and the last checkpoint is kept. Look at these rows (prompt_id in "
            "data/prepared/preferences.jsonl), or lower align.learning_rate"
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Called between backward and optimizer; a finite loss can still have a gradient that is not."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if norm is not None and not math.isfinite(norm):
            raise UserError(
                f"the gradient is not finite at step {self.state.global_step + 1}; the last checkpoint is kept. "
                "Lower align.learning_rate, or look at the step's rows for extreme ones"
            )
        return norm

    # The reference

    @property
    def _reference(self) -> Reference:
        assert self.reference is not None, "made by the first step"
        return self.reference

    @property
    def _anchored(self) -> bool:
        """Whether the SFT model scores all examples before the first step."""
        return self.task.sft_rewards or self.task.alpha is None

    def _open_window(self, model: Any, step: int) -> None:
        """Before a step: move the reference if it is due, and score what the coming window needs of it."""
        task, plan = self.task, self.task.plan
        if self.reference is None:
            self._start(model)
        reference = self._reference
        if step == 1 and self._anchored:
            self._score(model, 1, plan.steps, reference.sft_logps, keep=True)
            reference.logps.copy_(reference.sft_logps)
        elif step == 1 or reference.due(step - 1):
            if step > 1:
                reference.update(step - 1)
            self._own_step = step if step == 1 or reference.follows_policy else 0
            shards.forget_gathered(model)
            with reference.weights():
                self._score(model, step, step + task.interval - 1, reference.logps)
                shards.forget_gathered(model)

    def _start(self, model: Any) -> None:
        shape = (len(self.task.examples), len(self.task.examples[0].replies))
        sharded = shards.is_sharded(self.accelerator)
        shards.forget_gathered(model)
        self.reference = Reference(
            self.task.interval,
            self.task.alpha,
            shards.local_shards(model),
            shape,
            self.args.device,
            self.accelerator.reduce if sharded else lambda total: total,
            shards.read_shards(model) if hasattr(model, "empty_partition_cache") else None,
        )
        if self.resume_from is not None:
            kept = load_file(self._reference_file(self.resume_from))  # "cpu:0", with several processes, is refused
            here = self.args.device
            self._load_unlogged({name: kept.pop(name).to(here) for name in list(kept) if name.startswith(UNLOGGED)})
            self.reference.load(kept)

    def _score(self, model: Any, first: int, last: int, target: Tensor, keep: bool = False) -> None:
        """Fill `target` with the log-probabilities, by the weights in the model now, that the steps need.

        Args: `keep`: what is done goes to a file once in a while, and what an earlier, killed run did is used.
        """
        plan, processes = self.task.plan, range(self.task.plan.processes)
        own = [set(plan.rows(first, p)) if self._own_step == first else set() for p in processes]
        needed = [sorted({*plan.window(first, last, p), *self._held_out(p)} - own[p]) for p in processes]
        file = Path(str(self.args.output_dir)) / f"sft-logps-{self.accelerator.process_index}.safetensors"
        done = self._kept(file, target) if keep else 0
        # Sharded models meet in every pass, and each process was killed at a moment of its own.
        done = shards.lowest(self.accelerator, done)
        saved = time.monotonic()
        for number, rows, logps in self._passes_without_gradient(model, needed, done):
            target[torch.tensor(rows, device=target.device)] = logps
            if keep and (stopping.asked() or time.monotonic() - saved > 60):
                with writing(file.parent, "the SFT model's log-probabilities"):
                    save_atomically({"logps": target, "done": torch.tensor(number)}, file, self._metadata)
                if stopping.asked():
                    raise stopping.Stopped("the SFT model's log-probabilities computed so far are kept")
                saved = time.monotonic()

    def _passes_without_gradient(
        self, model: Any, needed: list[list[int]], done: int = 0
    ) -> Iterator[tuple[int, list[int], Tensor]]:
        """(passes done, rows, log-probabilities) of this process's rows, length-sorted; `done` passes are skipped."""
        most = max(map(len, needed))
        # A process with fewer rows than another scores some twice, so that all have equally many passes.
        needed = [((rows or [0]) * most)[:most] for rows in needed]
        process = self.accelerator.process_index
        passes = self._even_passes(needed, SCORING_FACTOR * self.task.max_tokens)[process] if most else []
        model.eval()
        with torch.no_grad():
            for number in tqdm(range(done, len(passes)), desc="scoring", disable=len(passes) < 10, leave=False):
                rows = [needed[process][i] for i in passes[number]]
                yield number + 1, rows, self._logps(model, rows)
        model.train()

    def _kept(self, file: Path, target: Tensor) -> int:
        """Passes of the SFT model's scoring that an earlier run finished, their numbers put into `target`."""
        if not file.exists() or not self._belongs(file):
            return 0
        kept = load_file(file)
        target.copy_(kept["logps"])
        return int(kept["done"])

    # Checkpoints and log

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = checkpoint_folder(self.args, self.state)
        size = checkpoint_bytes(self.model, self.accelerator, bool(self._reference.master))
        with writing(folder.parent, f"the checkpoint after step {self.state.global_step}", size), emptied(folder):
            super()._save_checkpoint(model, trial)
            self.save_reference(folder)

    def _unlogged(self) -> dict[str, Tensor]:
        """What the next row of the log averages so far, so that a checkpoint may fall between two rows."""
        state = {"loss": self._tr_loss, "logged": torch.tensor(self._globalstep_last_logged)}
        state |= {f"sums.{name}": torch.stack(pair) for name, pair in self._sums.items()}
        return {UNLOGGED + name: tensor.clone() for name, tensor in state.items()}

    def _load_unlogged(self, kept: dict[str, Tensor]) -> None:
        self._tr_loss.copy_(kept.pop(f"{UNLOGGED}loss"))
        self._globalstep_last_logged = int(kept.pop(f"{UNLOGGED}logged"))
        self._sums = {name.removeprefix(f"{UNLOGGED}sums."): (pair[0], pair[1]) for name, pair in kept.items()}

    def _reference_file(self, folder: Path) -> Path:
        return folder / f"reference-{self.accelerator.process_index}.safetensors"

    @property
    def _metadata(self) -> dict[str, str]:
        return {"identity": self.task.identity}

    def _belongs(self, file: Path) -> bool:
        """Whether a file was written with these settings and data."""
        with safe_open(file, framework="pt") as opened:
            return bool(opened.metadata() == self._metadata)

    def save_reference(self, folder: Path) -> None:
        """Write this process's part of the reference beside a checkpoint's weights.

        Without it a resumed run would silently start again from the SFT model as reference, as TRL 1.16 does.
        """
        state = self._reference.state() | self._unlogged()
        save_atomically(state, self._reference_file(folder), self._metadata)

    def resume(self, folder: Path) -> Any:
        """Go on from a checkpoint: policy, optimizer, schedule, place in the data, and reference.

        Raises:
            UserError: the checkpoint has no reference (TRL writes none), or is of other settings, data or processes.
        """
        file = self._reference_file(folder)
        if not file.exists():
            raise UserError(
                f"{folder}: holds no {file.name}; it was written by another trainer or with another number of "
                "processes, and going on without the reference would silently start again from the SFT model"
            )
        if not self._belongs(file):
            raise UserError(f"{folder}: is a checkpoint of other settings or other data; delete it to start afresh")
        self.resume_from = folder
        return self.train(resume_from_checkpoint=str(folder))

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; at the end the reference moves once more if the rule says so, for nothing but its own record."""
        result = super().train(*args, **kwargs)
        if self._reference.due(self.state.global_step):
            self._reference.update(self.state.global_step)
        return result

    def full_weights(self) -> dict[str, Tensor] | None:
        """The policy as a plain model's state dict, on the main process only; all processes have to ask at once."""
        weights = shards.full_weights(self.accelerator, self.model_wrapped)
        if weights is None or not hasattr(self.model, "peft_config"):
            return weights
        return merged_weights(self.model, weights)

    def _add(self, sums: Sums) -> None:
        for name, (total, count) in sums.items():
            before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before[0] + total, before[1] + count)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step's means, taken over the steps since the last log and over all processes."""
        if "loss" in logs:
            logs |= self._means()
        super().log(logs, start_time)

    def _means(self) -> dict[str, float]:
        reference, step = self._reference, self.state.global_step
        if step in self.task.evaluate_at:
            self._add(self._held_out_rewards())
        names = sorted(self._sums)
        pairs = torch.stack([torch.stack(self._sums[name]) for name in names])
        totals, counts = self.accelerator.reduce(pairs).unbind(1)
        distances = reference.distances()
        values = torch.cat([totals / counts, torch.stack([*distances.values()])]).tolist()
        means = dict(zip([*names, *distances], values, strict=True))
        self._sums = {}
        for name in [name for name in means if "reward_chosen" in name]:
            means[name.replace("reward_chosen", "margin")] = means[name] - means[name.replace("chosen", "rejected")]
        return means | {"since_update": reference.since_update(step)}

    def _held_out(self, process: int) -> Sequence[int]:
        return self.task.held_out[process :: self.task.plan.processes]

    def _held_out_rewards(self) -> Sums:
        """Rewards of this process's held-out pairs against the reference of the step that was just made."""
        needed = [list(self._held_out(p)) for p in range(self.task.plan.processes)]
        policy = torch.zeros_like(self._reference.logps)
        for _, rows, logps in self._passes_without_gradient(self.model_wrapped, needed):
            policy[torch.tensor(rows, device=policy.device)] = logps
        own = torch.tensor(needed[self.accelerator.process_index], dtype=torch.long, device=policy.device)
        rewards = pair_metrics(policy[own], self._reference.logps[own], self.task.beta)
        return {f"held_out_{name}": value for name, value in rewards.items() if not name.startswith("logps")}
