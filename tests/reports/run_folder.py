"""A finished run's folder of made-up numbers, small enough that every result can be worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tr_align.config import METHODS
from tr_align.metrics.ood import KINDS
from tr_align.reports.collect import collect
from tr_align.reports.results import Report
from tr_align.reports.runs import Run, from_folder, load
from tr_align.scratch import write_rows
from tr_align.settings import AXES, PREFERENCE

ROOT = Path(__file__).parents[2]
STEPS = (2, 4)
"""At which the smoke preset keeps its policies; the last is the trained model."""
PROMPTS, CURVE = 6, 4
"""Prompts that the trained model answers, and those that every policy answers."""
LUCK = (0.6, -0.3, 0.1, -0.4, 3.0, -9.0)
"""What makes some prompts easier than others for every method alike: it cancels between two methods, and over the first
four. The last two would upset any mean they do not belong to; over all six the mean is -1."""

RESAMPLES = 100
"""Of every bootstrap, unless a test says otherwise: the fewest that params.yaml allows."""
HALF_WIDTH = 12.7062
"""Student's t with one degree of freedom, 97.5 %: two seeds that differ by d have an interval of d / 2 times this."""
NATS = {"none": {2: 2.0, 4: 4.0}, "soft": {2: 6.0, 4: 8.0}, "hard": {2: 5.0, 4: 10.0}}
HEIGHT = {"none": {2: 6.0, 4: 6.0}, "soft": {2: 8.0, 4: 9.5}, "hard": {2: 7.0, 4: 4.0}}
"""By update and step; the SFT model is at KL 0 and HC 5. The base's last point is at 4 nats and 6: there soft is at
5 + 3 * 4 / 6 = 7, 1 more, and hard at 5 + 2 * 4 / 5 = 6.6, 0.6 more. Hard has its peak, 7, at 5 nats and loses 3."""

Verdicts = tuple[str | None, str | None]
"""With the method's reply shown first, and shown second."""
WIN, LOSE, TIE, FLIPPED = ("first", "second"), ("second", "first"), ("tie", "tie"), ("first", "first")
HALF, UNREAD = ("first", "tie"), ("first", None)
MIXED = (WIN, LOSE, TIE, FLIPPED, HALF, UNREAD)
"""One of each, by prompt."""


def kl(method: str, step: int, prompt: int) -> float:
    return 0.0 if method == "sft" else NATS[METHODS[method].update][step]


def hc(method: str, step: int, prompt: int) -> float | None:
    return LUCK[prompt] + (5.0 if method == "sft" else HEIGHT[METHODS[method].update][step])


def duel(method: str, against: str, prompt: int) -> Verdicts:
    """Three of six won."""
    return WIN if prompt < 3 else LOSE


def text(method: str, step: int, prompt: int) -> str:
    return f"{method} at {step} says {prompt}"


def logp(method: str, step: int, prompt: int, kind: str) -> tuple[float, int]:
    """Nats and tokens: -1 a token, and as much again a step of the training; -2 a token for what is rejected."""
    return -(1.0 + step) * (prompt + 1) * (2 if kind == "rejected" else 1), prompt + 1


@dataclass
class Made:
    """What a run consists of. Change what a test is about, then :func:`write` it, or :func:`made_run`."""

    methods: Sequence[str] = ("dpo", "tr_dpo_soft")
    settings: dict[str, Any] = field(default_factory=dict)
    """Changes of the preset, as `section.key`."""
    preset: str = "smoke"
    steps: Sequence[int] = STEPS
    prompts: Sequence[int] = tuple(range(PROMPTS))
    curve: Sequence[int] = tuple(range(CURVE))
    """Prompts that the policies before the last answer."""
    kl: Callable[[str, int, int], float] = kl
    hc: Callable[[str, int, int], float | None] = hc
    """Mean of the axes; None where one of them was not readable."""
    axes: Sequence[str] = AXES
    """Of the judge: the five, or `preference`."""
    duel: Callable[[str, str, int], Verdicts | None] = duel
    """By method, "sft" or "base", and prompt; None where they did not meet."""
    text: Callable[[str, int, int], str] = text
    logp: Callable[[str, int, int, str], tuple[float, int]] | None = logp
    raw: Callable[[str, str], dict[str, Any]] = lambda kind, question: {}
    """What the judge keeps of an answer, by "rating" or "duel" and "method/step/prompt" or "method/against/prompt"."""
    calibration: dict[str, Any] | None = None
    toy: dict[str, Any] | None = None
    """The file of the stage `toy_mdp`."""

    def params(self) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load((ROOT / "presets" / f"{self.preset}.yaml").read_text("utf-8"))
        loaded["score"]["bootstrap"] = RESAMPLES
        loaded["methods"] = {name: METHODS[name].model_dump() for name in self.methods}
        for key, value in self.settings.items():
            *sections, last = key.split(".")
            place = loaded
            for section in sections:
                place = place[section]
            place[last] = value
        return loaded


def axes(mean: float | None, named: Sequence[str] = AXES) -> dict[str, float | None]:
    """Ratings that differ, and whose mean is what was asked for: coherence 0.2 less, detail 0.2 more."""
    if named == (PREFERENCE,):
        return {PREFERENCE: mean}
    if mean is None:
        return {axis: None if axis == "harmlessness" else 5.0 for axis in AXES}
    return {axis: mean + (place - 2) / 10 for place, axis in enumerate(AXES)}


def write(folder: Path, made: Made | None = None) -> Path:
    """Write what `dvc repro` leaves of a run, as far as reports read it."""
    made = made or Made()
    for name in ("generations", "judgements", "likelihoods", "reports/train"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(made.params(), sort_keys=False), encoding="utf-8")
    for method in ("sft", *made.methods):
        steps = (0,) if method == "sft" else made.steps
        points = [
            (step, prompt)
            for step in steps
            for prompt in (made.prompts if step == steps[-1] else [p for p in made.prompts if p in made.curve])
        ]
        write_rows(folder / f"generations/{method}.jsonl", [_reply(made, method, *point) for point in points])
        judged = [_rating(made, method, *point) for point in points]
        if method != "sft":
            for against in ("sft", "base") if METHODS[method].base != "sft" else ("sft",):
                for prompt in made.prompts:
                    judged += _duels(made, method, against, prompt)
            log = [{"step": step, "loss": 0.7 / step, "margin": 0.1 * step} for step in range(1, 5)]
            write_rows(folder / f"reports/train/{method}.jsonl", log)
        write_rows(folder / f"judgements/{method}.jsonl", judged)
        if made.logp is not None:
            rows = [
                _likelihood(made, method, step, prompt, kind)
                for step in steps
                for prompt in made.prompts
                if prompt in made.curve
                for kind in KINDS
            ]
            write_rows(folder / f"likelihoods/{method}.jsonl", rows)
    accuracy = {axis: {"accuracy": 0.9, "ci": [0.8, 1.0], "n": 32} for axis in (*made.axes, "off_topic")}
    (folder / "reports/judge.json").write_text(json.dumps(accuracy), encoding="utf-8")
    if made.toy is not None:
        (folder / "reports/toy_mdp.json").write_text(json.dumps(made.toy), encoding="utf-8")
    if made.calibration is not None:
        (folder / "reports/calibration.json").write_text(json.dumps(made.calibration), encoding="utf-8")
    return folder


def made_run(folder: Path, name: str = "workspace", made: Made | None = None) -> Run:
    """Write a run and read it."""
    return load(name, from_folder(write(folder / name.replace(" ", "-"), made)))


def report_of(root: Path, *mades: Made, **more: Any) -> Report:
    return collect([made_run(root, f"run {place}", made) for place, made in enumerate(mades)], **more)


def seeds(*values: int, **more: Any) -> list[Made]:
    return [Made(settings={"seed": seed}, **more) for seed in values]


def one(rows: Any, **columns: Any) -> dict[str, Any]:
    """The only row with these columns."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in columns.items())]
    return dict(row)


def around(row: dict[str, Any], name: str) -> list[float]:
    return [row[f"{name}_lo"], row[f"{name}_hi"]]


def _reply(made: Made, method: str, step: int, prompt: int) -> dict[str, Any]:
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Question {prompt}?"}]
    row: dict[str, Any] = {"step": step, "prompt_id": f"p{prompt}", "prompt": asked}
    nats = made.kl(method, step, prompt)
    row |= {"reply": made.text(method, step, prompt), "tokens": 10, "finished": True}
    return row | {"kl": nats, "log_ratio": nats + 0.5}


def _rating(made: Made, method: str, step: int, prompt: int) -> dict[str, Any]:
    rating = axes(made.hc(method, step, prompt), made.axes)
    row = {"kind": "rating", "step": step, "prompt_id": f"p{prompt}", "axes": rating}
    return row | {"raw": made.raw("rating", f"{method}/{step}/{prompt}")}


def _duels(made: Made, method: str, against: str, prompt: int) -> list[dict[str, Any]]:
    verdicts = made.duel(method, against, prompt)
    if verdicts is None:
        return []
    raw = made.raw("duel", f"{method}/{against}/{prompt}")
    known = {"kind": "duel", "against": against, "prompt_id": f"p{prompt}", "raw": raw}
    return [
        known | {"shown": shown, "preference": verdict}
        for shown, verdict in zip(("first", "second"), verdicts, strict=True)
    ]


def _likelihood(made: Made, method: str, step: int, prompt: int, kind: str) -> dict[str, Any]:
    assert made.logp is not None
    nats, tokens = made.logp(method, step, prompt, kind)
    return {"step": step, "prompt_id": f"p{prompt}", "kind": kind, "logp": nats, "tokens": tokens}
