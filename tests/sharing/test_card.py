"""What a card says for other bases, data, judges and methods, and what never gets into one."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from reports.run_folder import Made

from tr_align import models
from tr_align.config import Params
from tr_align.settings import AXES, PREFERENCE
from tr_align.sharing import card
from tr_align.sharing.cells import Cell

NUMBERS: dict[str, Any] = {name: 5.0 for name in ("kl", "hc", *AXES)} | {
    f"{name}_ci": [4.0, 6.0] for name in ("kl", "hc", *AXES)
}


def cell(name: str = "tr_dpo_soft", settings: dict[str, Any] | None = None, **known: Any) -> Cell:
    """A cell with made-up numbers; `settings` changes the smoke preset."""
    methods = ("dpo", "kto", "tr_dpo_soft", "tr_dpo_hard", "tr_kto_soft")
    params = Params.model_validate(Made(methods=methods, settings=settings or {}).params())
    scores: dict[str, Any] = {
        each: NUMBERS | {"n_prompts": 64, "win_rate_vs_sft": None, "win_rate_vs_base": None}
        for each in dict.fromkeys(("sft", params.methods[name].base, name))
    }
    empty: dict[str, Any] = {
        "claims": [],
        "calibration": None,
        "data": {},
        "figure": None,
        "commit": None,
        "changed": [],
    }
    return Cell(name=name, params=params, files={}, scores=scores, **(empty | known))


def text(made: Cell) -> str:
    return card.model_card(made, "mit", "alice/model")


def header(made: Cell) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard(text(made)).data.to_dict()
    return found


def test_the_numbers_of_a_judge_of_one_axis() -> None:
    made = cell()
    one = {name: value for name, value in NUMBERS.items() if name.removesuffix("_ci") not in AXES}
    others = {"n_prompts": 64, "win_rate_vs_sft": None, "win_rate_vs_base": None}
    made = replace(made, scores={each: one | others | {PREFERENCE: 5.0} for each in made.scores})
    lines = [line.split(" | ")[0].removeprefix("| ") for line in text(made).splitlines() if line.startswith("| ")]
    assert lines[1:4] == ["KL to the SFT model, nats a reply", "HC", "wins against SFT"]
    assert "HC (human-centric quality, fitted on preferences) in the judge's points" in text(made)
    assert "The judge is a linear probe, fitted on preferences, on the hidden states" in text(made)
    assert "HC, mean of the five axes below" in text(cell()) and "a set of linear probes" in text(cell())
    assert "HC (human-centric quality) and its axes in the judge's points" in text(cell())


def test_the_names_of_our_own_models_are_those_of_the_models() -> None:
    assert set(card.OURS) == {models.PACKAGED, models.RANDOM}


@pytest.mark.parametrize(
    ("name", "base", "license"),
    [
        (models.PACKAGED, "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"),
        ("EleutherAI/pythia-2.8b", "EleutherAI/pythia-2.8b", "apache-2.0"),
        ("someone/EleutherAI-pythia-2.8b", "someone/EleutherAI-pythia-2.8b", None),
        (models.RANDOM, None, None),
        ("./mine", None, None),
        ("/home/me/mine", None, None),
        ("weights/mine.gguf", None, None),
        ("mine", None, None),
    ],
)
def test_a_base_is_named_if_the_hub_has_it(
    name: str, base: str | None, license: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    made = cell(settings={"model.name": name})
    assert header(made).get("base_model") == base
    assert card.known_license(made.params) == license
    assert "/home/me" not in text(made)


def test_nothing_of_this_machine_gets_into_a_card() -> None:
    secret = {
        "launch": {"train": "WANDB_API_KEY=sesame python", "generate": "python"},
        "data.source": "files",
        "data.path": "/home/me/private/rows.jsonl",
        "judge.name": "openai",
        "judge.openai.base_url": "http://me:sesame@judge.internal:8000/v1",
        "judge.openai.api_key_env": "MY_SESAME",
        "calibrate.path": "/home/me/private/pairs.jsonl",
    }
    shown = text(cell(settings=secret))
    for word in ("sesame", "SESAME", "internal", "/home", "private/"):
        assert word not in shown, word
    assert "rows.jsonl" in shown and "The judge is gpt-4o-2024-08-06." in shown
    assert "a local file or folder in the layout of files" in shown


def test_what_is_not_known_is_left_out() -> None:
    shown = text(cell())
    for word in ("None", "null, ", "commit", "kl_vs_hc.png", "pairs (", "claim, tested"):
        assert word not in shown, word
    assert "datasets" not in header(cell())
    assert "The judge is a set of linear probes on the hidden states of a small frozen model." in shown


def test_the_data_are_those_that_were_read() -> None:
    source = {"data.source": "anthropic_hh"}
    assert header(cell(settings=source))["datasets"] == ["Anthropic/hh-rlhf"]  # not pulled: what the settings say
    assert "datasets" not in header(cell(settings=source | {"data.path": "rows.jsonl"}))
    read = {
        "hub": {"name": "alice/hh", "commit": "a" * 40},
        "sft_data": {"hub": {"name": "bob/chat", "commit": "b" * 40}},
    }
    made = cell(settings=source | {"data.path": "alice/hh"}, data=read)
    assert header(made)["datasets"] == ["alice/hh", "bob/chat"]
    assert f"16 prompts of alice/hh at {'a' * 40}\n" in text(made)
    assert "datasets" not in header(
        cell(settings=source | {"data.path": "here.jsonl"}, data={"source": "anthropic_hh"})
    )


@pytest.mark.parametrize(
    ("method", "settings", "lines"),
    [
        (
            "dpo",
            {},
            ["the SFT model, throughout", "4 optimizer steps of 2 pairs, learning rate 0.001"],
        ),
        (
            "tr_dpo_soft",
            {"ref_update.alpha": 0.7},
            ["0.7·policy + 0.3·reference, every 2 optimizer steps"],
        ),
        ("tr_dpo_hard", {}, ["- **reference:** replaced by the policy every 2 optimizer steps"]),
        ("kto", {"align.gradient_accumulation": 3}, ["steps of 12 single replies"]),
        ("tr_kto_soft", {"kto.paired": True}, ["steps of 2 pairs", "- **β:** 0.05"]),
        ("dpo", {"sft.steps": 0}, ["- **SFT before it:** none: the base model is the SFT model"]),
        ("dpo", {"align.lora": {"rank": 16, "scale": 32}}, ["rank 16, scale 32", "merged into the weights"]),
        (
            "dpo",
            {"launch.train": "accelerate launch --num_processes 4 --num_machines 1"},
            ["steps of 8 pairs", "- **processes:** 4 (ddp)"],
        ),
        ("dpo", {"model.name": "alice/base", "model.revision": "abc"}, ["- **base:** alice/base at revision abc"]),
    ],
)
def test_how_it_was_made(method: str, settings: dict[str, Any], lines: list[str]) -> None:
    shown = text(cell(method, settings))
    for line in lines:
        assert line in shown


def test_settings_are_the_models_own() -> None:
    def settings(name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = yaml.safe_load(text(cell(name)).rpartition("```yaml\n")[2].partition("```")[0])
        return loaded

    soft, hard, base = settings("tr_dpo_soft"), settings("tr_dpo_hard"), settings("kto")
    assert soft["ref_update"] == {"alpha": 0.6, "every": 2} and hard["ref_update"] == {"tau": 2}
    assert "ref_update" not in base and base["beta"] == {"kto": 0.05}
    assert soft["method"] == {"tr_dpo_soft": {"loss": "dpo", "update": "soft"}}
    assert "kto" not in soft and "dpo" not in base and base["kto"]["desirable_weight"] == 1.0
    assert {"launch", "mlflow", "calibrate", "methods"}.isdisjoint(soft)


def test_the_code_of_the_card_is_python_whatever_the_system_prompt() -> None:
    prompt = 'Say "yes".\nNever \\no… {x}'
    made = cell(settings={"data.system_prompt": prompt, "generate.temperature": 0.7})
    code = text(made).partition("```python\n")[2].partition("```")[0]
    tree = ast.parse(code)
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    assert ast.literal_eval(values["name"]) == "alice/model"
    assert ast.literal_eval(values["messages"])[0] == {"role": "system", "content": prompt}
    assert "temperature=0.7, top_p=1, top_k=0" in code
    assert '"system"' not in text(cell(settings={"data.system_prompt": ""}))


def test_warnings_come_first() -> None:
    poor = {"value": 0.5, "ci": [0.4, 0.6], "n": 30, "n_missing": 0}
    judge = {"agreement": poor, "agreement_rating": poor, "n_pairs": 30, "label_source": "labels"}
    judge |= {"verdict": "no better than chance", "verdict_rating": "no better than chance"}
    shown = text(cell(calibration=judge, changed=[f"setting {number} modified" for number in range(5)]))
    before = shown.partition("## How to load it")[0]
    assert (
        "> **Note.** This judge agrees with the labels no better than chance (50.0 % [40.0, 60.0], n = 30)." in before
    )
    assert "setting 0 modified, setting 1 modified, setting 2 modified and 2 more." in before
    assert "It writes no language" in before
    assert "> **Note.**" not in text(cell(settings={"model.name": "alice/base"}))


def test_a_claim_is_told_with_its_verdict() -> None:
    claim = {"claim": "TR is better", "verdict": "contradicted", "evidence": "by 3 [2, 4] points"}
    rows = [{"kind": "matched_kl", **claim}, {"kind": "area", **claim, "claim": "another"}]
    shown = text(cell(claims=rows))
    assert "The paper's claim, tested here: TR is better: **contradicted**. by 3 [2, 4] points." in shown
    assert "another:" not in shown
