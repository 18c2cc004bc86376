"""Supervised fine-tuning: TRL's loss on the replies alone, and the policy it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import SFTTrainer

from tr_align import models, sft
from tr_align.config import Params, load_params
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError

ROOT = Path(__file__).parents[1]
PAIRS = [
    Pair(prompt=[Message(role="user", content=f"Say {word}")], chosen=f"{word}" + " and so on" * i, rejected="no")
    for i, word in enumerate(["tea", "rain", "stone", "light", "river", "paper"])
]


def settings(**changes: Any) -> Params:
    params = load_params(ROOT / "presets" / "smoke.yaml")
    values = {"steps": 3, "batch_size": 3, "learning_rate": 1e-2, "warmup_steps": 0} | changes
    return params.model_copy(update={"sft": params.sft.model_copy(update=values)})


def run(folder: Path, params: Params) -> list[dict[str, float]]:
    sft.fine_tune(params, PAIRS, folder / "model", folder / "log.jsonl", folder / "scratch")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_same_losses_and_weights_as_stock_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sft, "has_bf16", lambda: False)
    ours = run(tmp_path / "ours", settings())
    monkeypatch.setattr(sft._Trainer, "compute_loss", SFTTrainer.compute_loss)
    theirs = run(tmp_path / "theirs", settings())
    assert [row["step"] for row in ours] == [1, 2, 3]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    weights = [models.load_model(str(tmp_path / who / "model")).state_dict() for who in ("ours", "theirs")]
    start = models.load_model(models.RANDOM).state_dict()
    for name in start:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-2, atol=1e-3)
        assert not torch.equal(weights[0][name], start[name])


def test_prompts_have_no_part_in_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first loss is the mean over reply tokens, computed here from full logits."""
    monkeypatch.setattr(sft, "has_bf16", lambda: False)
    first = run(tmp_path, settings(steps=1, batch_size=6))[0]["loss"]
    model, tokenizer = models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM)
    total, count = 0.0, 0
    for pair in PAIRS:
        prompt = [m.model_dump() for m in pair.prompt]
        start = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
        whole = [*prompt, {"role": "assistant", "content": pair.chosen}]
        ids = torch.tensor([tokenizer.apply_chat_template(whole)["input_ids"]])
        table = model(ids).logits[0].log_softmax(-1)
        for position in range(start, ids.shape[1]):
            total -= table[position - 1, ids[0, position]].item()
            count += 1
    assert first == pytest.approx(total / count, rel=1e-5)


def test_fewer_rows_than_a_batch(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sft\.batch_size: is 7, but the sft split has only 6"):
        run(tmp_path, settings(batch_size=7))
