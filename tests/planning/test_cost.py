"""Calls, dollars and disk by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tr_align.config import METHODS, Params, load_params
from tr_align.judges.openai import OpenAIJudge
from tr_align.planning.cost import Disk, disk, judge_calls, judge_usd

ROOT = Path(__file__).parents[2]
SMOKE = load_params(ROOT / "presets" / "smoke.yaml")


def openai(**values: Any) -> Params:
    settings = SMOKE.judge.openai.model_copy(update=values)
    return SMOKE.model_copy(update={"judge": SMOKE.judge.model_copy(update={"name": "openai", "openai": settings})})


def test_the_calls_of_some_stages() -> None:
    """12 prompts; 18 replies a method; both orders against SFT, and for the soft method against DPO."""
    assert judge_calls(SMOKE, ["judge_sft"]) == (12, 0)
    assert judge_calls(SMOKE, ["judge@dpo"]) == (18, 24)
    assert judge_calls(SMOKE, ["judge@tr_dpo_soft", "align@dpo"]) == (18, 48)
    assert judge_calls(SMOKE, []) == (0, 0)
    parts = [judge_calls(SMOKE, [stage]) for stage in ("judge_sft", "judge@dpo", "judge@tr_dpo_soft", "calibrate")]
    assert tuple(map(sum, zip(*parts, strict=True))) == judge_calls(SMOKE)


def test_dollars_are_those_of_the_judges_forecast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert judge_usd(SMOKE, 10, 10) == 0
    assert judge_usd(openai(model="unheard-of"), 10, 10) is None
    usd = judge_usd(openai(), 100, 200)
    longest = SMOKE.data.max_prompt_tokens, SMOKE.generate.max_new_tokens
    forecast = OpenAIJudge(openai().judge.openai, tmp_path / "answers").forecast(100, 200, *longest)
    assert usd is not None and f"about ${usd:.2f}," in forecast
    halved = judge_usd(openai(batch=True), 100, 200)
    assert halved == pytest.approx(usd / 2)


def test_disk_by_hand() -> None:
    """bfloat16 models: SFT and two snapshots of each method. A checkpoint: float32 weights, moments, soft reference."""
    stages = ["sft", "align@dpo", "align@tr_dpo_soft", "judge@dpo"]
    assert disk(SMOKE, 100, 100, stages) == Disk(2 * 100 * 5, 2 * 1600)
    assert disk(SMOKE, 100, 100, ["align@dpo"]) == Disk(2 * 100 * 2, 2 * 1200)
    # With an adapter of ten parameters, of a hard method.
    hard = SMOKE.model_copy(update={"methods": {name: METHODS[name] for name in ("dpo", "tr_dpo_hard")}})
    assert disk(hard, 100, 10, ["align@tr_dpo_hard"]) == Disk(400, 2 * 120)
    assert disk(SMOKE, 100, 100, []) == Disk(0, 0)
    as_it_is = SMOKE.model_copy(update={"sft": SMOKE.sft.model_copy(update={"steps": 0})})
    assert disk(as_it_is, 100, 100, ["sft"]) == Disk(200, 0)
