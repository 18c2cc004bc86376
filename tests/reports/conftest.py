"""Made-up results of all nine methods; no number in here was measured."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tr_align.config import AXES, METHODS

REACH = {"none": 6.0, "soft": 9.0, "hard": 12.0}
GAIN = {"none": 0.20, "soft": 0.31, "hard": 0.27}
FAMILY = {"dpo": 1.0, "ipo": 0.7, "kto": 1.25}


def around(value: float, half: float) -> list[float]:
    return [value - half, value + half]


@pytest.fixture
def metrics() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        kl, hc = REACH[method.update] * FAMILY[method.loss], GAIN[method.update] * FAMILY[method.loss]
        row: dict[str, Any] = {
            "kl": kl,
            "kl_ci": around(kl, 0.1 * kl),
            "log_ratio": kl,
            "log_ratio_ci": around(kl, 1.0),
        }
        row |= {"hc": hc, "hc_ci": around(hc, 0.09)}
        for position, axis in enumerate(AXES):
            row |= {axis: hc + 0.05 * (position - 2), f"{axis}_ci": around(hc + 0.05 * (position - 2), 0.12)}
        row |= {"win_rate_vs_sft": 0.5 + 0.4 * hc, "win_rate_vs_sft_ci": around(0.5 + 0.4 * hc, 0.08)}
        base = method.update != "none"
        row |= {"win_rate_vs_base": 0.54 if base else None, "win_rate_vs_base_ci": [0.46, 0.62] if base else None}
        for name_of_share, share in (("win", 0.5), ("tie", 0.2), ("lose", 0.3)):
            row |= {f"{name_of_share}_vs_sft": share, f"{name_of_share}_vs_sft_ci": around(share, 0.08)}
            row |= {f"{name_of_share}_vs_base": share if base else None}
            row |= {f"{name_of_share}_vs_base_ci": around(share, 0.08) if base else None}
        row |= {"self_bleu": 31.0, "distinct_1": 0.2, "distinct_2": 0.6, "distinct_3": 0.8, "reply_words": 40.5}
        row |= {"judge_bias": {"sft": None, "base": None}}
        row |= {"n_prompts": 130, "n_missing": 0, "reply_tokens": 51.5, "step": 12, "seed": 0}
        table[name] = row
    return table


@pytest.fixture
def curve(metrics: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "method": "sft",
            "loss": None,
            "update": None,
            "step": 0,
            "kl": 0.0,
            "kl_lo": 0.0,
            "kl_hi": 0.0,
            "hc": 0.0,
            "hc_lo": -0.07,
            "hc_hi": 0.07,
            "n_prompts": 130,
            "seed": 0,
            "final": True,
        }
    ]
    for name, row in metrics.items():
        for step in (4, 8, 12):
            part, final = step / 12, step == 12
            kl, hc, half = row["kl"] * part**1.4, row["hc"] * math.sqrt(part), 0.09 if final else 0.2
            point = {"method": name, "loss": METHODS[name].loss, "update": METHODS[name].update, "step": step}
            point |= {"kl": kl, "kl_lo": 0.9 * kl, "kl_hi": 1.1 * kl, "hc": hc, "hc_lo": hc - half, "hc_hi": hc + half}
            rows.append({**point, "n_prompts": 130 if final else 24, "seed": 0, "final": final})
    return rows


@pytest.fixture
def context() -> dict[str, Any]:
    accuracy = {axis: {"accuracy": 0.86, "ci": [0.79, 0.92], "n": 100} for axis in AXES}
    accuracy["harmlessness"] = {"accuracy": 0.63, "ci": [0.53, 0.72], "n": 100}
    return {
        "model": "smollm2-135m-instruct",
        "data": "the embedded preferences",
        "judge": "the embedded probe",
        "hc_unit": "SD of good replies",
        "seeds": [0],
        "alpha": 0.6,
        "every": 3,
        "tau": 4,
        "steps": 12,
        "beta": {"dpo": 0.05, "ipo": 0.01, "kto": 0.05},
        "judge_accuracy": accuracy,
        "date": "2025-03-01",
        "judge_bias": {
            "n": 1950,
            "n_missing": 0,
            "n_longer": 1900,
            "consistent": 0.931,
            "consistent_ci": [0.92, 0.942],
            "first_shown": 0.512,
            "first_shown_ci": [0.498, 0.526],
            "longer": 0.58,
            "longer_ci": [0.55, 0.61],
        },
        "claims": [
            {
                "claim": "TR-DPO soft beats DPO in duels",
                "verdict": "supported",
                "evidence": "win rate 61 % [53, 69] over 130 prompts",
            },
            {
                "claim": "At equal KL, trust-region methods have a higher HC",
                "verdict": "not supported",
                "evidence": "the difference at KL 6 is 0.04 [-0.05, 0.13] and includes zero",
            },
            {
                "claim": "The hard update moves least from SFT",
                "verdict": "contradicted",
                "evidence": "KL 12.0 [10.8, 13.2] against 6.0 [5.4, 6.6]",
            },
        ],
    }


@pytest.fixture
def training() -> dict[str, list[dict[str, Any]]]:
    log: dict[str, list[dict[str, Any]]] = {}
    for name, method in METHODS.items():
        start = {"dpo": 0.69, "ipo": 2500.0, "kto": 0.5}[method.loss]
        moves, speed = method.update != "none", {"none": 1.0, "soft": 0.8, "hard": 0.6}[method.update]
        log[name] = [
            {
                "step": step,
                "loss": start * (1 - 0.04 * speed * step),
                "logps_chosen": -80.0,
                "logps_rejected": -90.0,
                "margin": 0.05 * speed * step,
                "accuracy": 0.7,
                "grad_norm": 4.0,
                "ref_from_sft": 0.12 * speed * step if moves else 0.0,
                "policy_from_ref": speed * 0.1 * (step % 4 if moves else step),
            }
            for step in range(1, 13)
        ]
    return log


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    reply = "Put it on a bright sill, water it when the top of the soil is dry.\n\nTurn it once a week."
    return [
        {
            "prompt": f"How do I keep basil alive in winter? ({number})",
            "replies": dict.fromkeys(["sft", *METHODS], reply),
        }
        for number in range(3)
    ]
