"""A made-up report of nine cells, three betas and two seeds; no number in here was measured."""

from __future__ import annotations

import math
from typing import Any

from tr_align.config import METHODS
from tr_align.reports.common import label
from tr_align.reports.results import Report
from tr_align.settings import AXES

BETAS = {"dpo": [0.02, 0.05, 0.1], "ipo": [0.005, 0.01, 0.02], "kto": [0.02, 0.05, 0.1]}
STEPS = (4, 8, 12)
REACH = {"none": 14.0, "soft": 19.0, "hard": 23.0}
GAIN = {"none": 1.2, "soft": 1.7, "hard": 1.5}
FAMILY = {"dpo": 1.0, "ipo": 0.8, "kto": 1.2}
ALPHA, EVERY, TAU = 0.6, 2, 3


def around(name: str, value: float, half: float) -> dict[str, float]:
    return {name: value, f"{name}_lo": value - half, f"{name}_hi": value + half}


def cell(method: str) -> dict[str, Any]:
    if method == "sft":
        empty = dict.fromkeys(("loss", "alpha", "every", "tau"))
        return {"cell": "sft", "name": "SFT", "method": "sft", "update": "none", **empty}
    spec = METHODS[method]
    soft, hard = spec.update == "soft", spec.update == "hard"
    knobs = {"alpha": ALPHA if soft else None, "every": EVERY if soft else None, "tau": TAU if hard else None}
    return {
        "cell": method,
        "name": label(method),
        "method": method,
        "loss": spec.loss,
        "update": spec.update,
        **knobs,
    }


def _point(method: str, beta: float | None, step: int, betas: list[float]) -> dict[str, Any]:
    row = cell(method) | {"beta": beta, "step": step, "final": step in (0, STEPS[-1]), "seeds": [0, 1]}
    if method == "sft":
        kl, hc = 0.0, 6.0
    else:
        spec, part = METHODS[method], step / STEPS[-1]
        kl = REACH[spec.update] * FAMILY[spec.loss] * part**1.3 * (betas[0] / beta) ** 0.5 if beta else 0.0
        hc = 6.0 + GAIN[spec.update] * FAMILY[spec.loss] * math.sin(min(kl / 16, 2.2))
    half = 0.25 if row["final"] else 0.5
    row |= {"n_prompts": 64 if row["final"] else 20, **around("kl", kl, 0.08 * kl + 0.01), **around("hc", hc, half)}
    for position, axis in enumerate(AXES):
        row |= around(axis, min(9.8, hc + 0.6 * (position - 2)), half * 1.4)
    return row | around("self_bleu", 7.0 + 0.3 * kl, 1.5) | around("reply_words", 38.0 + 0.7 * kl, 2.5)


def points(betas: dict[str, list[float]] = BETAS) -> list[dict[str, Any]]:
    rows = [_point("sft", None, 0, [])]
    for method, spec in METHODS.items():
        rows += [_point(method, beta, step, betas[spec.loss]) for beta in betas[spec.loss] for step in STEPS]
    return rows


def wins() -> list[dict[str, Any]]:
    rows = []
    for method, spec in METHODS.items():
        for versus in ("sft", "base"):
            if versus == "base" and spec.update == "none":
                continue
            win = 0.62 if versus == "sft" else 0.4
            shares = around("win", win, 0.08) | around("tie", 0.14, 0.05) | around("lose", 0.86 - win, 0.08)
            rate = around("rate", win + 0.07, 0.07)
            opponent = "SFT" if versus == "sft" else label(spec.base)
            beta = BETAS[spec.loss][1]
            row = cell(method) | {"beta": beta, "versus": versus, "opponent": opponent, "seeds": [0, 1]}
            rows.append({**row, "n_prompts": 64, **shares, **rate})
    return rows


def frontier() -> list[dict[str, Any]]:
    rows = []
    for method, spec in METHODS.items():
        if spec.update == "none":
            continue
        top = REACH["none"] * FAMILY[spec.loss]
        for part in range(1, 11):
            kl = top * part / 10
            row = cell(method) | {"base": label(spec.base), "kl": kl, "n_prompts": 64, "seeds": [0, 1]}
            rows.append({**row, **around("difference", 0.03 * kl, 0.2 + 0.02 * kl), "largest": part == 10})
    return rows


def peaks() -> list[dict[str, Any]]:
    rows = []
    for method, spec in METHODS.items():
        kl = 0.7 * REACH[spec.update] * FAMILY[spec.loss]
        row = cell(method) | around("kl", kl, 2.0) | {"hc": 7.4} | around("drop", 0.3, 0.25)
        rows.append({**row, "at_end": False, "seeds": [0, 1], "n_prompts": 64})
    return rows


def claims() -> list[dict[str, Any]]:
    """One of each verdict; the fields are those of tr_align.reports.claims."""
    common = {"kind": "matched_kl", "unit": "HC points", "p": 0.2, "p_holm": 0.4, "n_prompts": 64, "seeds": [0, 1]}
    paper = {"text": "win minus lose +19.0 points on Anthropic-HH, Pythia 2.8B", "value": 19.0, "unit": "points"}
    paper |= {"source": "figure of v1", "trust": "verified"}
    return [
        {
            "id": "matched_kl/tr_dpo_soft",
            "claim": "TR-DPO soft keeps more quality than DPO at the same KL",
            "verdict": "supported",
            "effect": 0.42,
            "ci": [0.11, 0.73],
            "kl": 14.0,
            "paper": paper,
            **cell("tr_dpo_soft"),
            **common,
            "evidence": "HC differs by +0.42 [+0.11, +0.73] at 14.0 nats; Holm-corrected p = 0.03",
        },
        {
            "id": "matched_kl/tr_ipo_hard",
            "claim": "TR-IPO hard keeps more quality than IPO at the same KL",
            "verdict": "inconclusive",
            "effect": 0.1,
            "ci": [-0.2, 0.4],
            "kl": 11.2,
            "paper": None,
            **cell("tr_ipo_hard"),
            **common,
            "evidence": "HC differs by +0.10 [-0.20, +0.40] at 11.2 nats; Holm-corrected p = 0.9",
        },
        {
            "id": "duel/tr_kto_soft",
            "claim": "TR-KTO soft wins against KTO",
            "verdict": "contradicted",
            "effect": -12.0,
            "ci": [-22.0, -2.0],
            "kl": None,
            "paper": paper | {"value": 15.0, "text": "+15.0 points on Reddit TL;DR, Pythia 6.9B"},
            **cell("tr_kto_soft"),
            **(common | {"kind": "duel", "unit": "points (win minus lose, per cent)"}),
            "evidence": "win minus lose -12.0 [-22.0, -2.0] points; Holm-corrected p = 0.02",
        },
    ]


def training() -> list[dict[str, Any]]:
    rows = []
    for method, spec in METHODS.items():
        start = {"dpo": 0.69, "ipo": 2500.0, "kto": 0.5}[spec.loss]
        moves, speed = spec.update != "none", {"none": 1.0, "soft": 0.8, "hard": 0.6}[spec.update]
        interval = {"none": 99, "soft": EVERY, "hard": TAU}[spec.update]
        for seed in (0, 1):
            for step in range(1, STEPS[-1] + 1):
                log = {"loss_value": start * (1 - 0.04 * speed * step) + 0.01 * seed, "margin": 0.05 * speed * step}
                log |= {"logps_chosen": -80.0 - step, "logps_rejected": -90.0 - 3 * step, "grad_norm": 4.0}
                log |= {"ref_from_sft": 0.12 * speed * ((step - 1) // interval) if moves else 0.0}
                log |= {"policy_from_ref": speed * 0.1 * ((step - 1) % interval + 1), "accuracy": 0.7}
                rows.append(cell(method) | {"beta": BETAS[spec.loss][1], "seed": seed, "step": step} | log)
    return rows


def ood() -> list[dict[str, Any]]:
    rows = []
    slope = {"chosen": -0.01, "rejected": -0.04, "sft": -0.02, "mismatched": -0.05, "foreign": -0.03}
    for method in METHODS:
        for step in (0, *STEPS):
            for kind, fall in slope.items():
                token = around("per_token", -1.4 + fall * step, 0.1) | around("change", fall * step, 0.02)
                row = cell(method) | {"beta": 0.05, "seeds": [0, 1], "step": step, "kind": kind, "n": 48}
                reply = around("per_reply", 50 * (-1.4 + fall * step), 5.0)
                rows.append(row | token | reply | around("change_per_reply", 50 * fall * step, 1.0))
    return rows


def prompts() -> list[dict[str, Any]]:
    verdicts = ("win", "lose", "tie", "flipped", "unread")
    rows = []
    for number in range(12):
        replies = {}
        for place, method in enumerate(["sft", *METHODS]):
            replies[method] = {
                "name": label(method),
                "update": "none" if method == "sft" else METHODS[method].update,
                "text": "Put it on a bright sill, water it when the top of the soil is dry.\n\nTurn it once a week.",
                "words": 19,
                "kl": 0.0 if method == "sft" else 7.0,
                "hc": 7.2,
                "axes": dict.fromkeys(AXES, 7.2),
                "vs_sft": None if method == "sft" else verdicts[(number + place) % 5],
                "vs_base": verdicts[(number + 2 * place) % 5] if method.startswith("tr_") else None,
            }
        prompt = f"How do I keep basil alive in winter? <b>{number}</b>"
        rows.append({"id": f"p{number}", "prompt": prompt, "replies": replies})
    return rows


def context() -> dict[str, Any]:
    accuracy = {axis: {"accuracy": 0.86, "ci": [0.79, 0.92], "n": 100} for axis in AXES}
    accuracy["harmlessness"] = {"accuracy": 0.63, "ci": [0.53, 0.72], "n": 100}
    bias = {"n": 1950, "n_missing": 0, "n_longer": 1900}
    bias |= {"consistent": 0.931, "first_shown": 0.512, "longer": 0.58}
    bias |= {"consistent_ci": [0.92, 0.942], "first_shown_ci": [0.498, 0.526], "longer_ci": [0.55, 0.61]}
    runs = [
        {
            "run": f"seed {seed}",
            "seed": seed,
            "alpha": ALPHA,
            "every": EVERY,
            "tau": TAU,
            "beta": {loss: values[1] for loss, values in BETAS.items()},
            "methods": list(METHODS),
            "made": None,
        }
        for seed in (0, 1)
    ]
    return {
        "model": "smollm2-135m-instruct",
        "data": "the embedded preferences",
        "judge": "the embedded probe",
        "axes": list(AXES),
        "hc_unit": "points, 1 to 10",
        "seeds": [0, 1],
        "betas": BETAS,
        "steps": STEPS[-1],
        "main": [],
        "points_along": "beta",
        "runs": runs,
        "judge_accuracy": accuracy,
        "judge_bias": bias,
        "calibration": None,
        "judge_warning": None,
        "settings": {"seed": 0, "align.steps": 12, "ref_update.alpha": ALPHA, "ref_update.tau": TAU},
        "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
        "seconds": {"sft": 41.0, "align@dpo": 22.5, "generate@dpo": 30.1},
        "cost": None,
        "n_curve_prompts": "20",
        "n_prompts": "64",
        "date": "2026-03-01",
        "verdict": [
            "At equal KL one of the trust-region methods scored higher than its base.",
            "The largest gap is +0.42 HC points [+0.11, +0.73], TR-DPO soft at 14 nats (64 prompts, 2 seeds).",
        ],
    }


def one_axis() -> Report:
    """The same by a judge that was fitted on preferences: HC has no parts."""
    rows = [{name: row[name] for name in row if name.partition("_")[0] not in AXES} for row in points()]
    accuracy = {name: {"accuracy": 0.62, "ci": [0.54, 0.7], "n": 150} for name in ("preference", "off_topic")}
    told = [
        row | {"replies": {c: r | {"axes": {"preference": r["hc"]}} for c, r in row["replies"].items()}}
        for row in prompts()
    ]
    known = {"axes": [], "judge": "a probe fitted on preferences", "judge_accuracy": accuracy}
    return report(points=rows, prompts=told, context=context() | known)


def report(**changes: Any) -> Report:
    """The whole, with some of its parts replaced."""
    parts: dict[str, Any] = {
        "context": context(),
        "points": points(),
        "wins": wins(),
        "frontier": frontier(),
        "peaks": peaks(),
        "claims": claims(),
        "training": training(),
        "updates": {m: [] for m in METHODS} | {m: list(range(TAU, 12, TAU)) for m in METHODS if m.endswith("hard")},
        "ood": ood(),
        "toy": None,
        "prompts": prompts(),
        "problems": [],
    }
    parts["updates"] |= {m: list(range(EVERY, 12, EVERY)) for m in METHODS if m.endswith("soft")}
    return Report(**(parts | changes))


TOY_STEPS, TOY_EVERY, TOY_TAU = 12, 4, 4


def toy() -> dict[str, Any]:
    """What the stage `toy_mdp` writes, of five seeds, twelve steps and a small grid."""
    start = {"chosen_mass": 0.26, "rejected_mass": 0.24, "other_mass": 0.49, "ood_mass": 0.01, "reward": 0.6}
    world = {"depth": 5, "actions": 3, "trajectories": 243, "demonstrations": 81, "pairs": 20, "seeds": 5}
    world |= {"steps": TOY_STEPS, "hidden": 16, "learning_rate": 0.001, "beta": dict.fromkeys(BETAS, 0.1)}
    world |= {"main": {"alpha": ALPHA, "every": TOY_EVERY, "tau": TOY_TAU}, "alpha": [0.2, ALPHA, 0.9]}
    world |= {"every": [1, TOY_EVERY], "tau": [2, TOY_TAU, 8], "start": start | {"entropy": 4.4}}
    return {
        "world": world,
        "curves": [_toy_step(method, step) for method in METHODS for step in range(0, TOY_STEPS + 1, 2)],
        "along_kl": [_toy_at(method, place / 2) for method in METHODS for place in range(5)],
        "grid": [row for method in METHODS for row in _toy_settings(method)],
        "curvature": [row for method in METHODS for row in _toy_flatness(method)],
        "claims": [_toy_claim(method) for method in METHODS if method.startswith("tr_")],
    }


def _toy_cell(method: str, **knobs: Any) -> dict[str, Any]:
    row = cell(method)
    own = {"every": TOY_EVERY} if row["update"] == "soft" else {"tau": TOY_TAU} if row["update"] == "hard" else {}
    return row | own | knobs | {"n": 5}


def _toy_speed(method: str) -> float:
    return FAMILY[METHODS[method].loss] * GAIN[METHODS[method].update]


def _toy_step(method: str, step: int) -> dict[str, Any]:
    moved = _toy_speed(method) * step
    rejected, ood_mass = 0.24 * math.exp(-moved / 4), 0.01 + 0.006 * moved
    chosen = 0.26 + 0.02 * moved
    row = _toy_cell(method) | {"step": step} | around("rejected_mass", rejected, 0.02) | around("kl", moved / 6, 0.1)
    row |= around("chosen_mass", chosen, 0.05) | around("ood_mass", ood_mass, ood_mass / 3)
    row |= around("other_mass", 1 - chosen - rejected - ood_mass, 0.04) | around("reward", 0.6 + 0.04 * moved, 0.1)
    for kind, fall in {"chosen": 0.3, "rejected": 1.4, "other": 0.4, "ood": 0.6}.items():
        row |= around(f"{kind}_logp", -4.4 - fall * moved, 0.5)
    row |= around("entropy", 4.4 - 0.1 * moved, 0.1) | around("margin", 1.1 * moved, 0.4)
    return row | around("loss_value", 0.69 * math.exp(-moved / 9), 0.03)


def _toy_at(method: str, kl: float) -> dict[str, Any]:
    cost = 1 / GAIN[METHODS[method].update]
    row = _toy_cell(method) | {"kl": kl} | around("ood_mass", 0.01 + 0.05 * cost * kl, 0.015)
    reward = 0.6 + FAMILY[METHODS[method].loss] * (0.5 * kl - 0.15 * cost * kl * kl)
    return row | around("reward", reward, 0.08) | around("chosen_logp", -4.4 - kl, 0.4)


def _toy_settings(method: str) -> list[dict[str, Any]]:
    """A row a setting of the grid; one of a base."""
    knobs: list[dict[str, Any]] = [{}]
    if METHODS[method].update == "soft":
        knobs = [{"alpha": alpha, "every": every} for every in (1, TOY_EVERY) for alpha in (0.2, ALPHA, 0.9)]
    elif METHODS[method].update == "hard":
        knobs = [{"tau": tau} for tau in (2, TOY_TAU, 8)]
    rows = []
    for own in knobs:
        much = own.get("alpha", 0.0) / own.get("every", 1) + 2 / own.get("tau", 99)
        row = _toy_cell(method, **own) | around("ood_mass", 0.1 + 0.03 * much, 0.02) | around("kl", 2 + much, 0.2)
        row["cell"] = "-".join([method, *map(str, own.values())])
        row |= around("reward", 1.2 - 0.1 * much, 0.1) | around("chosen_logp", -9 - much, 0.5) | {"matched_kl": None}
        differences = {"ood_difference": -0.4 + much, "reward_difference": 0.02 - 0.05 * much}
        for name, value in differences.items():
            row |= around(name, value, 0.3) if knobs != [{}] else {name: None, f"{name}_lo": None, f"{name}_hi": None}
        rows.append(row | ({"matched_kl": 1.9} if knobs != [{}] else {}))
    return rows


def _toy_flatness(method: str) -> list[dict[str, Any]]:
    """Every second step, and the two moments of an update."""
    rows, moves = [], METHODS[method].update != "none"
    for step in range(0, TOY_STEPS + 1, 2):
        update = moves and step % TOY_EVERY == 0 and 0 < step < TOY_STEPS
        for moment in ("before", "after")[: 2 if update else 1]:
            since = step if not moves else 0 if moment == "after" or step == 0 else (step - 1) % TOY_EVERY + 1
            left = math.exp(-since / (3 if moves else 9))
            row = _toy_cell(method) | {"step": step, "moment": moment} | around("loss_value", 0.69 * left, 0.02)
            row |= around("gradient", 0.5 * left, 0.03) | around("gauss_newton", 0.2 * left, 0.01)
            rows.append(row | around("curvature", 0.25 * left, 0.02))
    return rows


def _toy_claim(method: str) -> dict[str, Any]:
    base = label(METHODS[method].base)
    row = {"id": f"toy_ood/{method}", "kind": "toy_ood", **_toy_cell(method), "base": base, "n_prompts": 0}
    row |= {"claim": f"{label(method)} puts less on OOD trajectories than {base} at the same KL", "paper": None}
    row |= {"verdict": "supported", "effect": 1.25, "ci": [0.5, 2.0], "unit": "percentage points", "kl": 1.9}
    row |= {"p": 0.01, "p_holm": 0.04, "beta": 0.1, "seeds": list(range(5))}
    return row | {"evidence": "OOD mass lower by +1.25 [+0.50, +2.00] points at 1.9 nats (5 seeds)"}
