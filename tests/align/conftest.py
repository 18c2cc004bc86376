"""A tiny policy, a few pairs, float32: small enough that every parameter can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tr_align import models
from tr_align.align import train
from tr_align.config import Params, load_params
from tr_align.data.schema import Message, Pair

ROOT = Path(__file__).parents[2]

# Models this small only wait for a second thread, and for ever where another process has the core.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "has_bf16", lambda: False)


@pytest.fixture
def sft(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    models.save(models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM), folder)
    return folder


@pytest.fixture
def pairs() -> list[Pair]:
    words = ["yes", "no", "tea", "rain", "stone", "light", "river", "paper", "green", "quiet", "seven", "north"]
    return [
        Pair(
            prompt=[Message(role="user", content=f"Say {word}")],
            chosen=f"{word}, gladly" + " and more" * (i % 3),
            rejected=f"not {words[i - 1]}" + "!" * (i % 4),
        )
        for i, word in enumerate(words)
    ]


def settings(**changes: Any) -> Params:
    """The default settings with a few changed: align_steps=5 changes align.steps, and so on."""
    params = load_params(ROOT / "params.yaml")
    small = {"align_steps": 5, "align_batch_size": 2, "align_learning_rate": 1e-2, "align_evaluate_at": [1.0]} | changes
    for key, value in small.items():
        section, _, name = key.partition("_")
        if section == "ref":
            section, name = "ref_update", name.removeprefix("update_")
        part = getattr(params, section).model_copy(update={name: value})
        params = params.model_copy(update={section: part})
    return params
