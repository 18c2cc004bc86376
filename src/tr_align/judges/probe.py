"""A judge that needs no key, no network and no GPU: linear probes on the hidden states of a frozen language model.

Pairs whose rejected reply fails on a known axis give one probe an HC axis (the embedded judge), preferences give one
probe. It gives the same answer every time, and is only as good as its held-out accuracy, which `fit` measures and every
report prints.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from tr_align import models
from tr_align.data.schema import Message, Pair, prompt_id
from tr_align.errors import UserError
from tr_align.generation import encode_prompt, pad
from tr_align.judges.base import Duel, Rating, Reply, Verdict
from tr_align.runtime import device, has_bf16
from tr_align.settings import AXES, PREFERENCE, Probe, RewardModel
from tr_align.stats import share_ci

Array = NDArray[np.float32]

PREFERENCE_AXIS = "helpfulness"
"""Which of two replies answers the request better, of a judge with all five axes: on real data this axis tells a reply
from one to another prompt in nine cases of ten, the mean of the five in seven (docs/judge.md)."""

OFF_TOPIC = 3
"""Replies to other prompts set against each good one, as further failures of helpfulness."""

MAX_REPLY_TOKENS = 256


class Features:
    """Mean over a reply's tokens of a frozen model's normalised hidden states after its first `layer` blocks."""

    def __init__(self, model: Any, tokenizer: Any, layer: int, batch_size: int) -> None:
        blocks = model.base_model.layers
        if layer > len(blocks):
            raise UserError(f"judge.probe.layer: is {layer}, but the judge's model has only {len(blocks)} layers")
        model.base_model.layers = blocks[:layer]  # the blocks above are never needed
        model.config.num_hidden_layers = layer
        self.model = model.to(device()).eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(self, replies: Sequence[tuple[list[Message], str]], title: str = "reading replies") -> Array:
        """Features of (prompt, reply) pairs, shape (len(replies), hidden size)."""
        prompts = [encode_prompt(self.tokenizer, prompt) for prompt, _ in replies]
        # An empty reply still has the end-of-sequence token to read.
        texts = [self._ids(text) or [self.tokenizer.eos_token_id] for _, text in replies]
        order = sorted(range(len(replies)), key=lambda i: -len(prompts[i]) - len(texts[i]))
        features: list[Array | None] = [None] * len(replies)
        for start in tqdm(range(0, len(order), self.batch_size), desc=title, unit="batch", leave=False):
            rows = order[start : start + self.batch_size]
            ids, attention, reply = pad(
                [prompts[i] for i in rows], [texts[i] for i in rows], self.tokenizer.pad_token_id
            )
            where = self.model.device
            states = self.model.base_model(
                input_ids=ids.to(where), attention_mask=attention.to(where), use_cache=False
            ).last_hidden_state.float()
            mask = reply.to(where)[..., None].float()
            means = ((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
            for i, mean in zip(rows, means, strict=True):
                features[i] = mean
        return np.stack([feature for feature in features if feature is not None])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids[:MAX_REPLY_TOKENS]


@dataclass(frozen=True)
class Axis:
    """One probe. A reply's score is `(features @ weight - middle) / half_gap`: +1 for an average good reply of the
    split it was fitted on, -1 for an average one that fails on this axis. Of preferences see :func:`spread`."""

    weight: Array
    middle: float
    half_gap: float

    def score(self, features: Array) -> Array:
        scores: Array = (features @ self.weight - self.middle) / self.half_gap
        return scores


def spread(chosen: NDArray[Any], rejected: NDArray[Any]) -> tuple[float, float]:
    """Middle and half gap of a judge fitted on preferences: 0 is an average reply, +1 two standard deviations above it.

    What people prefer differs from what they do not by much less than replies differ among each other: with the
    distance between the two means as the unit, most replies would get nearly 1 or nearly 10 points.

    Args: the judge's raw scores of the replies that it was fitted on, shape (n,) each.
    """
    both = np.concatenate([chosen, rejected])
    return float(both.mean()), 2 * float(both.std())


def fit_axis(good: Array, flawed: Array, regularisation: float, preferences: bool = False) -> Axis:
    """Fit a probe: L2-regularised logistic regression on standardised differences of features.

    Args: features of good and flawed replies to the same prompts, row by row, shape (n, hidden size) each;
        `regularisation` is the C of the regression; `preferences`: whether the flawed ones are just preferred less.
    """
    from sklearn.linear_model import LogisticRegression

    differences = good - flawed
    scale = differences.std(0) + 1e-6
    inputs = differences / scale
    # Both signs, so that no intercept can stand in for the difference.
    regression = LogisticRegression(C=regularisation, fit_intercept=False, max_iter=1000)
    regression.fit(np.concatenate([inputs, -inputs]), [1] * len(inputs) + [0] * len(inputs))
    weight = (regression.coef_[0] / scale).astype(np.float32)
    if preferences:
        return Axis(weight, *spread(good @ weight, flawed @ weight))
    high, low = float((good @ weight).mean()), float((flawed @ weight).mean())
    return Axis(weight, (high + low) / 2, (high - low) / 2)


def points(score: NDArray[Any]) -> NDArray[Any]:
    """A probe's score on the scale of the rubrics: 1 + 9 sigmoid(2 score), between 1 and 10.

    Bounded, so that a text unlike anything the probe was fitted on cannot outweigh the other replies.
    """
    return np.asarray(1 + 9 / (1 + np.exp(-2 * score)))


def held_out_prompts(pairs: Sequence[Pair], settings: Probe | RewardModel) -> set[str]:
    """Ids of the prompts that a judge is not fitted on: the first `held_out` of the split."""
    prompts = list(dict.fromkeys(pair.prompt_id for pair in pairs))
    return set(prompts[: round(len(prompts) * settings.held_out)])


def fit(pairs: Sequence[Pair], features: Features, settings: Probe) -> tuple[dict[str, Axis], dict[str, Any]]:
    """Fit all axes and measure them on held-out prompts.

    Args: `pairs` is the judge split: every rejected reply fails on one axis, or all are preferences that name none.
    Returns:
        the probes, of the five axes or of `preference`, and for each axis `accuracy` (share of held-out pairs in which
        the good reply scores higher) and `n`; `off_topic` is the same for replies that belong to another prompt.
    Raises:
        UserError: an axis has too few pairs to fit or to measure, or only some pairs name one.
    """
    axes = _axes_named(pairs)
    held_out = held_out_prompts(pairs, settings)
    triples = [(pair.axis or PREFERENCE, pair, pair.rejected) for pair in pairs]
    triples += [("off_topic", pair, other) for pair, other in _off_topic(pairs, held_out)]
    # Each distinct text is read once.
    texts = {(pair.prompt_id, text): (pair.prompt, text) for _, pair, bad in triples for text in (pair.chosen, bad)}
    table = dict(zip(texts, features(list(texts.values()), "fitting the judge"), strict=True))

    def differences(kinds: Sequence[str], held: bool) -> tuple[Array, Array]:
        rows = [
            (table[pair.prompt_id, pair.chosen], table[pair.prompt_id, bad])
            for kind, pair, bad in triples
            if kind in kinds and (pair.prompt_id in held_out) == held
        ]
        if len(rows) < 2:
            raise UserError(f"the judge split has {len(rows)} pairs for {kinds[0]}; raise data.splits.judge")
        good, bad = zip(*rows, strict=True)
        return np.stack(good), np.stack(bad)

    probes, accuracy = {}, {}
    for axis in axes:
        kinds = [axis, "off_topic"] if axis == PREFERENCE_AXIS else [axis]
        parts = differences(kinds, held=False)
        probes[axis] = fit_axis(*parts, settings.regularisation, preferences=axis == PREFERENCE)
        accuracy[axis] = _accuracy(probes[axis], *differences([axis], held=True))
    accuracy["off_topic"] = _accuracy(probes[_deciding(axes)], *differences(["off_topic"], held=True))
    return probes, accuracy


def _axes_named(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The axes that these pairs give a judge."""
    if not pairs:
        raise UserError("the judge split has no pairs; raise data.splits.judge")
    named = sum(pair.axis is not None for pair in pairs)
    if 0 < named < len(pairs):
        raise UserError(
            f"the judge split: {named} of its {len(pairs)} pairs name the axis on which the rejected reply fails, the "
            "others none; a judge is fitted on one kind, as `prepare` writes it for each data.judge"
        )
    return AXES if named else (PREFERENCE,)


def _deciding(axes: Collection[str]) -> str:
    """The axis by which a judge with these axes prefers one of two replies."""
    return PREFERENCE if PREFERENCE in axes else PREFERENCE_AXIS


def _accuracy(probe: Axis, good: Array, flawed: Array) -> dict[str, Any]:
    right = probe.score(good) > probe.score(flawed)
    return {"accuracy": float(right.mean()), "n": len(right), "right": right.astype(float).tolist()}


def summary(accuracy: dict[str, Any], resamples: int, seed: int) -> dict[str, Any]:
    """Held-out accuracies with 95 % bootstrap intervals, as written to reports/judge.json."""
    rows = {}
    for axis, row in accuracy.items():
        mean, interval = share_ci(np.array(row["right"]), resamples, seed)
        rows[axis] = {"accuracy": mean, "ci": interval, "n": row["n"]}
    return rows


def _off_topic(pairs: Sequence[Pair], held_out: set[str]) -> list[tuple[Pair, str]]:
    """Each prompt with good replies of other prompts from its own side of the held-out border."""
    firsts = list({pair.prompt_id: pair for pair in pairs}.values())
    result = []
    for held in (False, True):
        side = [pair for pair in firsts if (pair.prompt_id in held_out) == held]
        for shift in range(1, min(OFF_TOPIC, len(side) - 1) + 1):
            result += [(pair, side[(i + shift) % len(side)].chosen) for i, pair in enumerate(side)]
    return result


class ProbeJudge:
    """Fitted probes as `judge` stages use them."""

    unit = "points, 1 to 10"

    def __init__(self, features: Features, probes: dict[str, Axis]) -> None:
        self.features = features
        self.probes = probes
        self.known: dict[tuple[str, str], Array] = {}

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.probes)

    def _read(self, replies: Sequence[tuple[list[Message], str]]) -> Array:
        """Features of replies; one that comes again, in the other order of a duel, is not read twice."""
        keys = [(prompt_id(prompt), text) for prompt, text in replies]
        new = {key: reply for key, reply in zip(keys, replies, strict=True) if key not in self.known}
        if new:
            self.known |= dict(zip(new, self.features(list(new.values())), strict=True))
        return np.stack([self.known[key] for key in keys])

    def rate(self, replies: Sequence[Reply]) -> list[Rating]:
        features = self._read([(reply.prompt, reply.text) for reply in replies])
        scores = {axis: probe.score(features) for axis, probe in self.probes.items()}
        return [
            Rating(
                reply.id,
                {axis: float(points(score[i])) for axis, score in scores.items()},
                {axis: float(score[i]) for axis, score in scores.items()},
            )
            for i, reply in enumerate(replies)
        ]

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]:
        replies = [(duel.prompt, text) for duel in duels for text in (duel.first, duel.second)]
        scores = self.probes[_deciding(self.probes)].score(self._read(replies)).reshape(-1, 2)
        verdicts = []
        for duel, (first, second) in zip(duels, scores.tolist(), strict=True):
            preference = "tie" if first == second else "first" if first > second else "second"
            verdicts.append(Verdict(duel.id, preference, {"first": first, "second": second}))  # type: ignore[arg-type]
        return verdicts


def save(folder: Path, features: Features, probes: dict[str, Axis]) -> None:
    """Store the judge: the blocks of the frozen model that it reads, and its probes."""
    folder.mkdir(parents=True, exist_ok=True)
    models.save(features.model, features.tokenizer, folder)
    save_file({axis: probe.weight for axis, probe in probes.items()}, folder / "probes.safetensors")
    scales = {axis: {"middle": probe.middle, "half_gap": probe.half_gap} for axis, probe in probes.items()}
    (folder / "probes.json").write_text(json.dumps(scales, indent=2), encoding="utf-8")


def load(folder: Path, settings: Probe) -> ProbeJudge:
    """Load a stored judge."""
    weights = load_file(folder / "probes.safetensors")
    scales = json.loads((folder / "probes.json").read_text(encoding="utf-8"))
    probes = {axis: Axis(weights[axis], **scale) for axis, scale in scales.items()}
    return ProbeJudge(base_features(str(folder), settings), probes)


def base_features(name: str, settings: Probe) -> Features:
    """Features of a model by name or folder, in bfloat16 where the hardware has it."""
    dtype = torch.bfloat16 if has_bf16() else torch.float32
    return Features(models.load_model(name, dtype), models.load_tokenizer(name), settings.layer, settings.batch_size)
