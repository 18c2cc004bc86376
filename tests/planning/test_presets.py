"""The presets of the paper's scale: what is known of the paper is what they have, and they are consistent."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tr_align import launch
from tr_align.config import METHODS, Params, load_params
from tr_align.planning.architectures import table
from tr_align.planning.cost import judge_calls, judge_usd

ROOT = Path(__file__).parents[2]
PYTHIA = [f"{data}-pythia-{size}" for data in ("hh", "tldr") for size in ("2.8b", "6.9b", "12b")]
LLAMA = ["uf-llama3-8b-base", "uf-llama3-8b-instruct"]
PAIRS = {"tldr": 73_396}
"""Of the training set, where a prompt has several pairs (2502.01237 names the number)."""


def load(name: str) -> Params:
    return load_params(ROOT / "presets" / f"{name}.yaml")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", PYTHIA + LLAMA)
def test_batches_steps_and_limits(name: str) -> None:
    params = load(name)
    launched = launch.read(params.launch.train, "launch.train")
    assert (launched.processes, launched.sharding) == (8, "fsdp")
    for section, split in ((params.sft, params.data.splits.sft), (params.align, params.data.splits.preferences)):
        batch = section.batch_size * section.gradient_accumulation * launched.processes
        assert batch == 128
        pairs = PAIRS.get(params.data.source, split) if section is params.align else split
        assert section.steps * batch <= pairs
        assert section.steps * batch > 0.95 * pairs or section.steps == 0
    assert list(params.methods) == list(METHODS)
    assert params.model.name in table()
    assert params.mlflow.experiment == name
    assert params.warnings() == []
    assert params.align.gradient_checkpointing and params.align.lora is None
    assert launch.read(params.launch.generate, "launch.generate").processes == 1
    assert params.generate.engine == "auto"


@pytest.mark.parametrize("name", PYTHIA + LLAMA)
def test_the_judges_limit_is_the_plans_sum_rounded_up(name: str) -> None:
    params = load(name)
    usd = judge_usd(params, *judge_calls(params))
    assert usd is not None and params.judge.max_usd == math.ceil(usd / 10) * 10
    wanted = "prefer_tldr" if params.data.source == "tldr" else "prefer"
    assert Path(params.judge.openai.prompts.prefer).stem == wanted
    # Its own preferences measure the judge, not the embedded data's.
    assert params.calibrate.path == "data/prepared/evaluation.jsonl"


@pytest.mark.parametrize("name", PYTHIA)
def test_what_is_known_of_the_papers_settings_for_pythia(name: str) -> None:
    """Learning rate, warm-up, gradient norm, beta of DPO, alpha and tau are the paper's; 2502.01237 is its sequel."""
    params = load(name)
    align, update = params.align, params.ref_update
    assert (align.learning_rate, align.warmup_steps, align.max_grad_norm) == (1e-6, 100, 2.0)
    assert (update.alpha, update.tau, params.beta.dpo) == (0.6, 512, 0.05)
    assert params.sft.learning_rate == 6e-6
    assert (params.beta.kto, params.kto.desirable_weight, params.kto.undesirable_weight) == (0.1, 1.33, 1.0)
    assert (params.generate.temperature, params.generate.top_p) == (0.9, 1.0)
    assert params.data.splits.evaluation == 500
    assert params.model.chat_template == ("transcript" if name.startswith("hh") else "plain")
    if name.startswith("hh"):
        assert params.data.max_prompt_tokens + params.data.max_reply_tokens == 1024
    else:
        assert params.generate.max_new_tokens == 256 and params.beta.ipo == 0.005
        assert params.data.sft is not None and params.data.sft.source == "tldr"


@pytest.mark.parametrize("name", ["hh-pythia-2.8b", "tldr-pythia-2.8b"])
def test_the_papers_sweeps(name: str) -> None:
    sweep = load(name).sweep
    assert sweep["ref_update.alpha"] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert sweep["ref_update.tau"] == [32, 64, 128, 256, 512]
    assert all(changed.warnings() == [] for _, _, changed in load(name).variants())


@pytest.mark.parametrize("name", [*PYTHIA, *LLAMA, "hh-smollm2-135m-full"])
def test_what_the_paper_leaves_open_is_swept(name: str) -> None:
    params = load(name)
    assert params.sweep["ref_update.every"] == [1, 16, 64] and params.ref_update.every in (1, 16, 64)
    for loss in ("ipo", "kto"):
        assert getattr(params.beta, loss) in params.sweep[f"beta.{loss}"]


@pytest.mark.parametrize("name", LLAMA)
def test_what_is_known_of_the_settings_for_llama(name: str) -> None:
    params = load(name)
    assert (params.align.learning_rate, params.align.max_grad_norm) == (1e-6, 2.0)
    assert (params.ref_update.alpha, params.ref_update.tau) == (0.8, 32)
    assert (params.beta.kto, params.kto.desirable_weight) == (0.01, 1.0)
    assert params.generate.max_new_tokens == 4096
    assert params.data.source == "ultrafeedback"


def test_base_and_instruct() -> None:
    base, instruct = map(load, LLAMA)
    assert base.data.sft is not None and base.data.sft.source == "ultrachat"
    assert (base.sft.learning_rate, base.beta.dpo, base.beta.ipo) == (2e-5, 0.003, 0.001)
    assert (instruct.sft.steps, instruct.data.path) == (0, "princeton-nlp/llama3-ultrafeedback")
    assert instruct.beta.dpo == 0.01 and instruct.model.chat_template is None
