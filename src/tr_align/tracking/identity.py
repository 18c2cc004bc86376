"""What a run is called, what it is found by, and what it can be sorted by."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from tr_align.config import Params

WORKSPACE = "workspace"
"""Stands for the name of a DVC experiment where there is none."""
TAGGED = ("method", "loss", "update", "alpha", "tau", "beta", "seed")
"""Settings that are tags as well: MLflow's filters and groups take either."""


def settings(name: str, params: Params) -> dict[str, Any]:
    """What made a method's model, flat, as shown in MLflow's table.

    All methods are points of one space, so that charts over `alpha` and `tau` have a place for each: every `tau`
    optimizer steps the reference becomes alpha*policy + (1-alpha)*reference. A hard update has alpha 1, a soft one its
    `ref_update.every` as `tau`; a base method has alpha 0 and one reference for all the steps of its training.
    """
    method = params.methods[name]
    update = params.ref_update
    alpha, tau = {
        "none": (0, params.align.steps),
        "soft": (update.alpha, update.every),
        "hard": (1, update.tau),
    }[method.update]
    return {
        "method": name,
        "loss": method.loss,
        "update": method.update,
        "alpha": alpha,
        "tau": tau,
        "beta": getattr(params.beta, method.loss),
        "seed": params.seed,
        "lr": params.learning_rate(name),
        "steps": params.align.steps,
        "batch_size": params.align.batch_size * params.align.gradient_accumulation,
        "model": params.model.name,
        "data": params.data.source,
    }


def run_key(name: str, params: Params) -> str:
    """A name for a method with these settings, the same on every machine and for every stage."""
    method = params.methods[name]
    made_of = {
        "settings": settings(name, params),
        "align": params.align.model_dump(mode="json", exclude={"checkpoint_minutes"}),
        "loss": getattr(params, method.loss).model_dump(mode="json"),
        "sft": params.sft.model_dump(mode="json"),
        "data": params.data.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def run_name(name: str, params: Params) -> str:
    """A run's name in the UI, e.g. `tr_dpo_soft α=0.6 τ=2 β=0.05 s0`."""
    values = settings(name, params)
    parts = [name]
    if values["update"] == "soft":
        parts.append(f"α={values['alpha']:g}")
    if values["update"] != "none":
        parts.append(f"τ={values['tau']}")
    return " ".join([*parts, f"β={values['beta']:g}", f"s{values['seed']}"])


def run_tags(name: str, params: Params) -> dict[str, str]:
    """The tags of a method's run, without DVC's; `order` sorts TR methods after their base method."""
    values = settings(name, params)
    rank = ("none", "soft", "hard").index(values["update"])
    order = f"{values['loss']} {rank} {values['alpha']:07.4f} {values['tau']:07d} {values['beta']:g} {values['seed']}"
    return {key: str(values[key]) for key in TAGGED} | {"order": order}


def dvc_tags() -> dict[str, str]:
    """What DVC says of the run: its stage, and the experiment's name and baseline under `dvc exp run`."""
    names = {"dvc.stage": "DVC_STAGE", "dvc.exp_name": "DVC_EXP_NAME", "dvc.baseline_rev": "DVC_EXP_BASELINE_REV"}
    found = {tag: os.environ[variable] for tag, variable in names.items() if os.environ.get(variable)}
    return {"dvc.exp_name": WORKSPACE} | found
