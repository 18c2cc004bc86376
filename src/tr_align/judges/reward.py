"""A judge trained on preferences: a reward model, fitted with TRL's RewardTrainer on the judge split.

The whole model learns, where the probes of :mod:`tr_align.judges.probe` read a frozen one. It knows one axis,
`preference`, whatever its pairs say of others.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    PrinterCallback,
    ProgressCallback,
)
from trl import RewardConfig, RewardTrainer

from tr_align import models
from tr_align.align.resume import SNAPSHOT_BYTES, Log
from tr_align.data.schema import Message, Pair, prompt_id
from tr_align.errors import UserError
from tr_align.generation import encode_prompt, pad
from tr_align.judges.base import Duel, Rating, Reply, Verdict
from tr_align.judges.probe import MAX_REPLY_TOKENS, OFF_TOPIC, held_out_prompts, points, spread
from tr_align.planning import architectures
from tr_align.runtime import device, has_bf16
from tr_align.scratch import write_atomically, writing
from tr_align.settings import PREFERENCE, RewardModel

SCALE = "reward.json"
"""The file of a stored judge that says what an average chosen and rejected reply get."""

COLUMNS = ("loss", "accuracy", "margin", "grad_norm", "learning_rate")
"""Of the training's log, log.jsonl in the judge's folder, one row an optimizer step."""


def check(settings: RewardModel) -> None:
    """Find the model without its weights.

    Raises:
        UserError: there is no such model, or transformers has no classifier of its architecture.
    """
    try:
        models.check(settings.model, settings.revision)
        config = architectures.config_of(settings.model, settings.revision)
    except UserError as error:
        raise _renamed(error) from error
    _check_architecture(config, settings)


def untrained(settings: RewardModel) -> tuple[Any, Any]:
    """The language model with a random linear head instead of its output layer, in float32, and its tokenizer.

    `judge.reward.seed` decides the head.

    Raises:
        UserError: as :func:`check`.
    """
    try:
        tokenizer = models.load_tokenizer(settings.model, settings.revision)
        causal = models.load_model(settings.model, revision=settings.revision)
    except UserError as error:
        raise _renamed(error) from error
    _check_architecture(causal.config, settings)
    config = copy.deepcopy(causal.config)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    model.base_model.load_state_dict(causal.base_model.state_dict())
    return model, tokenizer


def encode(tokenizer: Any, prompt: list[Message], text: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of a reply; a reply ends with the end-of-sequence token, where its reward is read."""
    reply: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return encode_prompt(tokenizer, prompt), [*reply[:MAX_REPLY_TOKENS], tokenizer.eos_token_id]


def train(pairs: Sequence[Pair], settings: RewardModel, log: Path) -> tuple[Any, Any]:
    """Train on chosen against rejected, loss -log sigmoid(r(chosen) - r(rejected)); the same seed, the same model.

    No checkpoint is written: a fit that was killed starts anew.

    Args: `log` gets one row an optimizer step.
    Returns:
        the model and its tokenizer.
    Raises:
        UserError: as :func:`check`.
    """
    model, tokenizer = untrained(settings)
    rows = []
    for pair in pairs:
        prompt, chosen = encode(tokenizer, pair.prompt, pair.chosen)
        _, rejected = encode(tokenizer, pair.prompt, pair.rejected)
        longer = len(prompt) + max(len(chosen), len(rejected))
        rows.append({"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected, "length": longer})
    # transformers reads the reward at the last token that is not the padding token, and padding is often the token that
    # ends a reply. With any other token for padding, that place is the end of the reply whatever stands in the text.
    # Everything is tokenized by now: the copy only tells TRL what to pad with.
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = tokenizer.convert_ids_to_tokens(0 if tokenizer.eos_token_id else 1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=model,
            args=_arguments(settings, folder),
            train_dataset=Dataset.from_list(rows),
            processing_class=padded,
        )
        for noise in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(noise)
        trainer.add_callback(Log(log, "fitting the judge", columns=COLUMNS))
        trainer.train()
    return model.eval(), tokenizer


def _arguments(settings: RewardModel, folder: str) -> RewardConfig:
    cpu = not torch.cuda.is_available()
    return RewardConfig(
        output_dir=folder,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        train_sampling_strategy="group_by_length",  # on short dialogues 15 % of a batch is padding, not 42 %
        remove_unused_columns=False,  # the lengths are such a column
        max_length=None,
        gradient_checkpointing=False,
        seed=settings.seed,
        bf16=has_bf16(),
        use_cpu=cpu,
        dataloader_pin_memory=not cpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class Rewards:
    """Rewards of (prompt, reply) pairs by a trained model, read at each reply's last token, its end of sequence."""

    def __init__(self, model: Any, tokenizer: Any, batch_size: int) -> None:
        self.model = model.to(device()).eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, replies: Sequence[tuple[list[Message], str]], title: str = "reading replies") -> NDArray[Any]:
        """Shape (len(replies),), float32."""
        encoded = [encode(self.tokenizer, *reply) for reply in replies]
        order = sorted(range(len(encoded)), key=lambda i: -sum(map(len, encoded[i])))
        rewards = np.empty(len(encoded), np.float32)
        where = self.model.device
        for start in tqdm(range(0, len(order), self.batch_size), desc=title, unit="batch", leave=False):
            rows = order[start : start + self.batch_size]
            prompts, texts = zip(*(encoded[i] for i in rows), strict=True)
            ids, attention, _ = pad(prompts, texts, self.tokenizer.pad_token_id)
            states = self.model.base_model(
                input_ids=ids.to(where), attention_mask=attention.to(where), use_cache=False
            ).last_hidden_state
            ends = states[torch.arange(len(rows)), attention.sum(1) - 1]
            # In bfloat16 the head would round one reward in a hundred to that of another reply.
            rewards[rows] = (ends.float() @ self.model.score.weight.float().T)[:, 0].cpu().numpy()
        return rewards


@dataclass(frozen=True)
class Scale:
    """A reply's score is (reward - middle) / half_gap, see :func:`tr_align.judges.probe.spread`."""

    middle: float
    half_gap: float

    def score(self, rewards: NDArray[Any]) -> NDArray[Any]:
        return (rewards - self.middle) / self.half_gap


def scale_of(chosen: NDArray[Any], rejected: NDArray[Any]) -> Scale:
    """The scale by the rewards of chosen and rejected replies.

    Raises:
        UserError: on average the chosen ones do not get more.
    """
    high, low = float(chosen.mean()), float(rejected.mean())
    if not high > low:
        raise UserError(
            f"judge.reward: the trained model gives the replies chosen in its own fit {high:.3g} on average and the "
            f"rejected ones {low:.3g}: it has learned nothing; try another learning_rate or more epochs"
        )
    return Scale(*spread(chosen, rejected))


def fit(pairs: Sequence[Pair], settings: RewardModel, folder: Path) -> dict[str, Any]:
    """Train a reward model, store it in `folder` as a judge, and measure what is stored on held-out prompts.

    Args: `pairs` is the judge split; their axes are passed over.
    Returns:
        for `preference` the `accuracy` (share of held-out pairs in which the chosen reply gets the higher reward), `n`
        and `right`, 1 or 0 for each pair; `off_topic` is the same against replies that belong to another prompt.
    Raises:
        UserError: there are too few pairs, the model cannot be had, it has learned nothing, or the disk is full.
    """
    held_out = held_out_prompts(pairs, settings)
    fitted = [pair for pair in pairs if pair.prompt_id not in held_out]
    measured = [pair for pair in pairs if pair.prompt_id in held_out]
    if min(len(fitted), len(held_out)) < 2:
        raise UserError(
            f"the judge split has {len(fitted)} pairs to fit a reward model and {len(held_out)} prompts to measure it; "
            "raise data.splits.judge"
        )
    model, tokenizer = train(fitted, settings, folder / "log.jsonl")
    with writing(folder, "the reward model", SNAPSHOT_BYTES * model.num_parameters()):
        models.save(model, tokenizer, folder)
    del model
    # From here on with the weights as they are stored: those are the judge.
    read = stored(folder, settings.batch_size)
    triples = [(pair, pair.rejected) for pair in pairs] + _off_topic(measured)
    texts = {(pair.prompt_id, text): (pair.prompt, text) for pair, bad in triples for text in (pair.chosen, bad)}
    table = dict(zip(texts, read(list(texts.values()), "measuring the judge"), strict=True))

    def rewards(triples: Sequence[tuple[Pair, str]]) -> tuple[NDArray[Any], NDArray[Any]]:
        rows = [(table[pair.prompt_id, pair.chosen], table[pair.prompt_id, bad]) for pair, bad in triples]
        good, bad = np.array(rows, np.float32).T
        return good, bad

    scale = scale_of(*rewards([(pair, pair.rejected) for pair in fitted]))
    with writing(folder, "the judge's scale"):
        write_atomically(folder / SCALE, json.dumps(asdict(scale), indent=2) + "\n")
    accuracy = {}
    for name, rows in ((PREFERENCE, [(pair, pair.rejected) for pair in measured]), ("off_topic", _off_topic(measured))):
        good, bad = rewards(rows)
        right = good > bad
        accuracy[name] = {"accuracy": float(right.mean()), "n": len(right), "right": right.astype(float).tolist()}
    return accuracy


def _off_topic(pairs: Sequence[Pair]) -> list[tuple[Pair, str]]:
    """Each prompt with chosen replies to others of these prompts."""
    firsts = list({pair.prompt_id: pair for pair in pairs}.values())
    shifts = range(1, min(OFF_TOPIC, len(firsts) - 1) + 1)
    return [(pair, firsts[(i + shift) % len(firsts)].chosen) for shift in shifts for i, pair in enumerate(firsts)]


class RewardJudge:
    """A stored reward model as `judge` stages use it."""

    unit = "points, 1 to 10"
    axes = (PREFERENCE,)

    def __init__(self, read: Rewards, scale: Scale) -> None:
        self.read = read
        self.scale = scale
        self.known: dict[tuple[str, str], float] = {}

    def _rewards(self, replies: Sequence[tuple[list[Message], str]]) -> NDArray[Any]:
        """A reply that comes again, in the other order of a duel, is not read twice."""
        keys = [(prompt_id(prompt), text) for prompt, text in replies]
        new = {key: reply for key, reply in zip(keys, replies, strict=True) if key not in self.known}
        if new:
            self.known |= dict(zip(new, self.read(list(new.values())).tolist(), strict=True))
        return np.array([self.known[key] for key in keys])

    def rate(self, replies: Sequence[Reply]) -> list[Rating]:
        rewards = self._rewards([(reply.prompt, reply.text) for reply in replies])
        ratings = points(self.scale.score(rewards)).tolist()
        return [
            Rating(reply.id, {PREFERENCE: rating}, {"reward": reward})
            for reply, rating, reward in zip(replies, ratings, rewards.tolist(), strict=True)
        ]

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]:
        replies = [(duel.prompt, text) for duel in duels for text in (duel.first, duel.second)]
        verdicts = []
        for duel, (first, second) in zip(duels, self._rewards(replies).reshape(-1, 2).tolist(), strict=True):
            preference = "tie" if first == second else "first" if first > second else "second"
            verdicts.append(Verdict(duel.id, preference, {"first": first, "second": second}))  # type: ignore[arg-type]
        return verdicts


def load(folder: Path, batch_size: int) -> RewardJudge:
    """Load a stored judge, which reads `batch_size` replies at a time."""
    scale = Scale(**json.loads((folder / SCALE).read_text(encoding="utf-8")))
    return RewardJudge(stored(folder, batch_size), scale)


def stored(folder: Path, batch_size: int) -> Rewards:
    """The reward model in a folder, in bfloat16 where the hardware has it."""
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.bfloat16 if has_bf16() else torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return Rewards(model, models.load_tokenizer(str(folder)), batch_size)


def _check_architecture(config: Any, settings: RewardModel) -> None:
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"judge.reward.model: transformers makes no classifier of {settings.model!r} (architecture "
            f"{config.model_type}); name another model"
        )


def _renamed(error: UserError) -> UserError:
    return UserError(str(error).replace("model.name", "judge.reward.model"))
