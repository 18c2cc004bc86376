"""The plan as a whole: what it adds up, what it says cannot fit and what would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tr_align.config import Params, load_params
from tr_align.planning import gpus, plan, table
from tr_align.planning.cells import cells, touched
from tr_align.planning.plan import Plan

ROOT = Path(__file__).parents[2]
SMOKE = load_params(ROOT / "presets" / "smoke.yaml")


def made(params: Params = SMOKE, gpu: str = "h100", to_run: list[str] | None = None) -> Plan:
    stages = cells(params, ROOT / "dvc.yaml")
    return plan.make(params, stages, stages if to_run is None else to_run, gpus.find(gpu))


@pytest.fixture(scope="module")
def swept() -> Plan:
    return made(SMOKE.model_copy(update={"sweep": {"ref_update.alpha": [0.2, 0.6, 0.9], "beta.dpo": [0.1]}}))


def test_the_plan_adds_up(swept: Plan) -> None:
    assert len(swept.cells) == swept.of == 20
    assert set(swept.work) == {
        *("sft", "align@dpo", "align@tr_dpo_soft", "generate_sft", "generate@dpo", "generate@tr_dpo_soft"),
        *("ood_sft", "ood@dpo", "ood@tr_dpo_soft"),
    }
    assert swept.gpu_hours == sum(work.gpu_hours for work in swept.work.values()) > 0
    assert swept.generated == (12 + 18 + 18) * 6  # half of 12 tokens
    assert (swept.ratings, swept.comparisons, swept.usd) == (96, 216, 0)
    assert all(need.fits for need in swept.needs)
    assert {need.sharding for need in swept.needs} == {"none", "ddp", "zero2", "zero3", "fsdp"}
    assert [need.stage for need in swept.needs if need.launched] == ["sft", "align", "align, soft", "generate"]


def test_a_sweep_counts_the_cells_that_each_change_touches(swept: Plan) -> None:
    stages = cells(SMOKE, ROOT / "dvc.yaml")
    alpha, again, beta = swept.sweep  # 0.6 is set already
    assert (alpha.key, alpha.value, again.value, beta.key) == ("ref_update.alpha", 0.2, 0.9, "beta.dpo")
    assert set(alpha.cells) == touched(stages, "ref_update.alpha")
    assert {name for name in alpha.cells if name.startswith("align")} == {"align@tr_dpo_soft"}
    assert {name for name in beta.cells if name.startswith("align")} == {"align@dpo", "align@tr_dpo_soft"}
    assert alpha.gpu_hours == sum(swept.work[name].gpu_hours for name in alpha.cells if name in swept.work)
    assert 0 < alpha.gpu_hours < beta.gpu_hours < swept.gpu_hours
    assert (alpha.disk, beta.disk) == (2 * 2 * swept.parameters, 4 * 2 * swept.parameters)


def test_only_what_is_not_up_to_date_is_counted() -> None:
    some = made(to_run=["judge@dpo", "score@dpo", "report"])
    assert (some.work, some.gpu_hours, some.generated) == ({}, 0, 0)
    assert (some.ratings, some.comparisons) == (18, 24)
    assert some.disk.models == 0
    assert "3 of 20 cells to run: judge × 1, score × 1, report" in table.text(some)
    assert "nothing to run: all 20 cells are up to date" in table.text(made(to_run=[]))


def test_it_is_plain_json(swept: Plan) -> None:
    read = json.loads(json.dumps(swept.to_json()))
    assert read["parameters"] == swept.parameters and read["gpu"]["name"] == "h100"
    assert read["needs"][0]["memory"]["total"] == swept.needs[0].memory.total
    assert read["work"]["align@dpo"]["flops"] > 0 and read["sweep"][0]["value"] == 0.2
    assert read["gpu_hours"] == swept.gpu_hours


def test_the_text_says_what_is_assumed_and_what_it_costs(swept: Plan) -> None:
    text = table.text(swept, gpu_hour_usd=2.0, each=True)
    assert "Assumed, not measured: 35% of the h100's peak" in text
    assert "Mean tokens, assumed: 50% of the limits: prompt 200, reply 400; a sampled reply 6 (assumed)." in text
    assert "Judge: 96 ratings and 216 comparisons by a judge that runs here, free" in text
    rows = [line.split() for line in text.splitlines() if line.startswith("ref_update.alpha")]
    assert [row[1] for row in rows] == ["0.2", "0.9"]
    assert "3 runs" in text
    assert not [line for line in table.text(swept).splitlines() if line.startswith("ref_update.alpha")]
    assert all(len(line) < 200 for line in text.splitlines())


def test_what_cannot_fit_is_said_with_what_would() -> None:
    """Llama 3 8B: 128 GB are held, however short the replies are; an adapter holds 32 and its passes."""
    llama = SMOKE.model_copy(
        update={
            "model": SMOKE.model.model_copy(update={"name": "meta-llama/Meta-Llama-3-8B"}),
            "methods": {"dpo": SMOKE.methods["dpo"]},
        }
    )
    large = made(llama, to_run=[])
    verdicts = {(need.stage, need.sharding): need.fits for need in large.needs}
    assert not verdicts["align", "none"] and not verdicts["sft", "ddp"] and verdicts["align", "fsdp"]
    (remedies,) = (need.remedies for need in large.needs if need.stage == "align" and need.launched)
    assert remedies == (
        "4 GPUs (h100) with presets/accelerate/fsdp2.yaml and align.gradient_checkpointing: true",
        "align.lora: {rank: 16, scale: 32} with align.gradient_checkpointing: true",
    )
    assert "align would fit with: 4 GPUs (h100)" in table.text(large)
    assert "cannot fit <-" in table.text(large)
