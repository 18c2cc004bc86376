"""Settings: what is shipped loads, and every mistake is told with its file, its key and the way out."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tr_align.config import METHODS, Params, load_params
from tr_align.errors import UserError
from tr_align.settings import PROMPTS

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
EMBEDDED: dict[str, Any] = yaml.safe_load((ROOT / "presets" / "embedded.yaml").read_text(encoding="utf-8"))
GONE = object()
"""In place of a value: the key is deleted."""


def with_(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The embedded preset with dotted keys set or deleted."""
    raw = copy.deepcopy(EMBEDDED)
    for key, value in changes:
        *parents, name = key.split(".")
        section = raw
        for parent in parents:
            section = section[parent]
        if value is GONE:
            del section[name]
        else:
            section[name] = value
    return raw


def load(tmp_path: Path, *changes: tuple[str, Any]) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(with_(*changes), sort_keys=False), encoding="utf-8")
    return load_params(path)


def refusal(tmp_path: Path, *changes: tuple[str, Any]) -> str:
    """The message, without the file's name, which it has to begin with."""
    with pytest.raises(UserError) as caught:
        load(tmp_path, *changes)
    message, file = str(caught.value), f"{tmp_path / 'params.yaml'}: "
    assert message.startswith(file)
    return message.removeprefix(file)


def test_params_yaml_is_the_embedded_preset() -> None:
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("params.yaml", "presets/embedded.yaml")]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_every_preset_loads(path: Path) -> None:
    assert set(load_params(path).methods) <= set(METHODS)


def test_the_embedded_preset_has_the_nine_methods_and_the_papers_reference_updates() -> None:
    params = load_params(ROOT / "presets" / "embedded.yaml")
    assert set(params.methods) == {
        *("dpo", "ipo", "kto", "tr_dpo_soft", "tr_ipo_soft", "tr_kto_soft", "tr_dpo_hard", "tr_ipo_hard", "tr_kto_hard")
    }
    assert params.ref_update.alpha == 0.6
    assert (params.beta.dpo, params.beta.ipo, params.beta.kto) == (0.05, 0.01, 0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("ref_update.alhpa", 0.5)], "ref_update.alhpa: unknown key; did you mean 'alpha'?"),
        ([("judge.probe.modle", "x")], "judge.probe.modle: unknown key; did you mean 'model'?"),
        ([("methods.dpo.lss", "dpo")], "methods.dpo.lss: unknown key; did you mean 'loss'?"),
        ([("data.splits.xyz", 1)], "data.splits.xyz: unknown key; known are sft, preferences, judge, evaluation"),
        ([("algin", {})], "algin: unknown key; did you mean 'align'?"),
        ([("xyz", 1)], "xyz: unknown key; known are seed, launch, data, model, sft, methods, align"),
        ([("align", GONE)], "align: is missing; presets/embedded.yaml shows it"),
        ([("align.steps", GONE)], "align.steps: is missing; presets/embedded.yaml shows it"),
        ([("align", "fast")], "align: has to be a mapping of settings (it is 'fast'); see presets/embedded.yaml"),
        ([("methods", None)], "methods: has to be a mapping of settings (it is None)"),
        ([("ref_update.alpha", 0)], "ref_update.alpha: input should be greater than 0 (it is 0)"),
        ([("ref_update.alpha", 1.2)], "ref_update.alpha: input should be less than or equal to 1 (it is 1.2)"),
        ([("ref_update.alpha", -0.5)], "ref_update.alpha: input should be greater than 0 (it is -0.5)"),
        ([("ref_update.alpha", True)], "ref_update.alpha: has to be a number (it is True)"),
        ([("ref_update.alpha", "high")], "ref_update.alpha: input should be a valid number"),
        ([("ref_update.alpha", None)], "ref_update.alpha: input should be a valid number (it is None)"),
        ([("ref_update.tau", 0)], "ref_update.tau: input should be greater than or equal to 1 (it is 0)"),
        ([("ref_update.tau", True)], "ref_update.tau: has to be a number (it is True)"),
        ([("ref_update.tau", 2.5)], "ref_update.tau: input should be a valid integer"),
        ([("ref_update.every", 0)], "ref_update.every: input should be greater than or equal to 1 (it is 0)"),
        ([("align.learning_rate", float("inf"))], "align.learning_rate: input should be a finite number"),
        ([("beta.dpo", float("nan"))], "beta.dpo: input should be a finite number"),
        ([("dpo.label_smoothing", 0.5)], "dpo.label_smoothing: input should be less than 0.5"),
        ([("align.max_tokens", 0)], "align.max_tokens: input should be greater than or equal to 1 (it is 0)"),
        ([("align.max_tokens", GONE)], "align.max_tokens: is missing; presets/embedded.yaml shows it"),
        ([("align.log_every", 0)], "align.log_every: input should be greater than or equal to 1 (it is 0)"),
        ([("align.held_out", -1)], "align.held_out: input should be greater than or equal to 0 (it is -1)"),
        ([("align.sft_rewards", "no way")], "align.sft_rewards: input should be a valid boolean"),
        ([("align.lora", {"rank": 0, "scale": 8})], "align.lora.rank: input should be greater than or equal to 1"),
        ([("align.lora", {"rank": 4})], "align.lora.scale: is missing"),
        (
            [("align.lora", {"rank": 4, "scale": 8, "rnak": 4})],
            "align.lora.rnak: unknown key; did you mean 'rank'?",
        ),
        ([("kto.paired", None)], "kto.paired: input should be a valid boolean (it is None)"),
        ([("seed", -1)], "seed: input should be greater than or equal to 0"),
        ([("score.bootstrap", 99)], "score.bootstrap: input should be greater than or equal to 100"),
        ([("data.source", "embeded")], "data.source: input should be 'embedded', 'anthropic_hh', 'tldr', 'ultraf"),
        ([("judge.name", "gpt")], "judge.name: input should be 'probe', 'reward' or 'openai' (it is 'gpt')"),
        ([("judge.reward", {"modle": "x"})], "judge.reward.modle: unknown key; did you mean 'model'?"),
        ([("judge.reward", {"learning_rate": 0})], "judge.reward.learning_rate: input should be greater than 0"),
        ([("judge.reward", {"epochs": 0})], "judge.reward.epochs: input should be greater than or equal to 1"),
        ([("judge.reward", {"batch_size": True})], "judge.reward.batch_size: has to be a number (it is True)"),
        ([("judge.reward", {"warmup_steps": -1})], "judge.reward.warmup_steps: input should be greater than or equal"),
        ([("judge.reward", {"held_out": 1.0})], "judge.reward.held_out: input should be less than 1"),
        ([("judge.reward", {"seed": -1})], "judge.reward.seed: input should be greater than or equal to 0"),
        ([("judge.max_usd", 0)], "judge.max_usd: input should be greater than 0 (it is 0)"),
        ([("judge.max_usd", -1)], "judge.max_usd: input should be greater than 0 (it is -1)"),
        ([("judge.max_usd", True)], "judge.max_usd: has to be a number (it is True)"),
        ([("judge.max_usd", float("inf"))], "judge.max_usd: input should be a finite number"),
        ([("judge.max_usd", "$5")], "judge.max_usd: input should be a valid number"),
        ([("judge.maxusd", 5)], "judge.maxusd: unknown key; did you mean 'max_usd'?"),
        ([("judge.openai.model", GONE)], "judge.openai.model: is missing"),
        ([("judge.openai.prompts", "rate.txt")], "judge.openai.prompts: has to be a mapping of settings (it is 'rate"),
        ([("judge.openai.prompts", None)], "judge.openai.prompts: has to be a mapping of settings (it is None)"),
        ([("judge.openai.prompts.rate", 7)], "judge.openai.prompts.rate: input should be a valid string (it is 7)"),
        ([("judge.openai.prompts.prefer", None)], "judge.openai.prompts.prefer: input should be a valid string"),
        ([("judge.openai.prompts.compare", "x")], "judge.openai.prompts.compare: unknown key; known are rate, prefer"),
        ([("judge.openai.max_tokens", 0)], "judge.openai.max_tokens: input should be greater than or equal to 1"),
        ([("judge.openai.max_tokens", 1.5)], "judge.openai.max_tokens: input should be a valid integer"),
        ([("judge.openai.max_tokens", True)], "judge.openai.max_tokens: has to be a number (it is True)"),
        ([("judge.openai.concurrency", 0)], "judge.openai.concurrency: input should be greater than or equal to 1"),
        (
            [("judge.openai.concurrency", None)],
            "judge.openai.concurrency: input should be a valid integer (it is None)",
        ),
        ([("judge.openai.concurency", 4)], "judge.openai.concurency: unknown key; did you mean 'concurrency'?"),
        ([("judge.openai.timeout_seconds", 0)], "judge.openai.timeout_seconds: input should be greater than 0"),
        ([("judge.openai.max_retries", -1)], "judge.openai.max_retries: input should be greater than or equal to 0"),
        ([("judge.openai.batch", "maybe")], "judge.openai.batch: input should be a valid boolean"),
        ([("judge.openai.batch", None)], "judge.openai.batch: input should be a valid boolean (it is None)"),
        ([("judge.openai.prices", None)], "judge.openai.prices: input should be a valid string (it is None)"),
        ([("judge.openai.prices", {"m": 1})], "judge.openai.prices: input should be a valid string"),
        ([("calibrate", GONE)], "calibrate: is missing; presets/embedded.yaml shows it"),
        ([("calibrate", None)], "calibrate: has to be a mapping of settings (it is None)"),
        ([("calibrate.path", 7)], "calibrate.path: input should be a valid string (it is 7)"),
        ([("calibrate.pairs", 1)], "calibrate.pairs: input should be greater than or equal to 2 (it is 1)"),
        ([("calibrate.pairs", False)], "calibrate.pairs: has to be a number (it is False)"),
        ([("calibrate.n", 5)], "calibrate.n: unknown key; known are path, pairs"),
        ([("sweep", {"ref_update.alhpa": [0.5]})], "sweep.ref_update.alhpa: there is no such setting; write it as in"),
        ([("sweep", {"ref_update": [0.5]})], "sweep.ref_update: ref_update: has to be a mapping of settings"),
        ([("sweep", {"seed.x": [1]})], "sweep.seed.x: there is no such setting"),
        ([("sweep", {"ref_update.alpha": []})], "sweep.ref_update.alpha: is empty; name the values to try"),
        ([("sweep", {"ref_update.alpha": [0.5, 1.5]})], "sweep.ref_update.alpha: ref_update.alpha: input should be le"),
        ([("launch.train", "")], "launch.train: string should have at least 1 character"),
        ([("data.subsets", [])], "data.subsets: list should have at least 1 item"),
        ([("data.sft", {"source": "hh"})], "data.sft.source: input should be 'ultrachat', 'tldr' or 'files'"),
        ([("generate.engine", "tgi")], "generate.engine: input should be 'transformers', 'vllm' or 'auto'"),
        ([("methods", {})], "methods: is empty; name at least one of dpo, ipo, kto, tr_dpo_soft"),
        ([("methods.tr_dop_soft", EMBEDDED["methods"]["dpo"])], "methods.tr_dop_soft: unknown method; did you mean"),
        ([("methods.orpo", EMBEDDED["methods"]["dpo"])], "methods.orpo: unknown method"),
        ([("methods.kto.loss", "orpo")], "methods.kto.loss: input should be 'dpo', 'ipo' or 'kto' (it is 'orpo')"),
        (
            [("methods.tr_ipo_hard.interval", "ref_update.every")],
            "methods.tr_ipo_hard: has to read {'loss': 'ipo', 'update': 'hard', 'base': 'ipo', "
            "'moves': 'ref_update.tau', 'interval': 'ref_update.tau'}",
        ),
        (
            [("methods.ipo", GONE)],
            "methods.tr_ipo_soft: is compared with ipo, which is missing; add it, or write base: sft",
        ),
        ([("methods.tr_ipo_soft.base", "dpo")], "methods.tr_ipo_soft: has to read {'loss': 'ipo', 'update': 'soft', "),
        ([("ood.prompts", 1)], "ood.prompts: input should be greater than or equal to 2 (it is 1)"),
        ([("ood.prompts", True)], "ood.prompts: has to be a number (it is True)"),
        ([("data.judge", "hh")], "data.judge: input should be 'embedded', 'source' or 'leftover' (it is 'hh')"),
        ([("align.evaluate_at", [0.5])], "align.evaluate_at: has to increase and to end with 1.0"),
        ([("align.evaluate_at", [0.7, 0.3, 1.0])], "align.evaluate_at: has to increase and to end with 1.0"),
        ([("align.evaluate_at", [0.5, 0.5, 1.0])], "align.evaluate_at: has to increase and to end with 1.0"),
        ([("align.evaluate_at", [])], "align.evaluate_at: "),
        ([("align.evaluate_at", [0, 1.0])], "align.evaluate_at.0: input should be greater than 0"),
    ],
    ids=lambda value: "-".join(key for key, _ in value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_with_file_key_and_way_out(
    tmp_path: Path, changes: list[tuple[str, Any]], message: str
) -> None:
    assert refusal(tmp_path, *changes).startswith(message)


def test_the_closest_method_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path, ("methods.tr_dop_soft", EMBEDDED["methods"]["dpo"])).endswith("'tr_dpo_soft'?")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, ("ref_update.tau", 0), ("sft", GONE), ("score.bootsrap", 1))
    lines = message.splitlines()
    assert len(lines) == 3
    assert all("params.yaml: " in line for line in lines[1:])


def test_what_is_at_the_edge_of_its_range_loads(tmp_path: Path) -> None:
    params = load(tmp_path, ("ref_update.alpha", 1), ("ref_update.every", 1), ("ref_update.tau", 8), ("align.steps", 9))
    assert (params.ref_update.alpha, params.ref_update.every, params.ref_update.tau) == (1.0, 1, 8)
    assert params.warnings() == []


@pytest.mark.parametrize(("key", "update"), [("tau", "hard"), ("every", "soft")])
def test_an_interval_as_long_as_the_run_is_warned_of(tmp_path: Path, key: str, update: str) -> None:
    """Not an error: a series of experiments over the interval ends with the base method."""
    params = load(
        tmp_path, ("align.steps", 9), ("ref_update.tau", 2), ("ref_update.every", 2), (f"ref_update.{key}", 9)
    )
    assert params.warnings() == [
        f"ref_update.{key}: is 9, but align.steps is 9: the reference of tr_{loss}_{update} never moves while it is "
        f"used, so this is {loss} under another name; lower the one or raise the other"
        for loss in ("dpo", "ipo", "kto")
    ]


def test_the_judges_settings_may_be_left_to_their_defaults(tmp_path: Path) -> None:
    """The presets spell them out with the same values, but for those that a preset is about."""
    bare = load(tmp_path, ("judge.openai", {"model": "m"}), ("judge.max_usd", GONE), ("calibrate", {})).judge
    assert bare.max_usd is None
    assert bare.openai.model_dump() == load_params(ROOT / "params.yaml").judge.openai.model_dump() | {"model": "m"}
    assert load(tmp_path, ("calibrate", {})).calibrate == load_params(ROOT / "params.yaml").calibrate
    # One of two prompt files may be changed alone.
    prompts = load(tmp_path, ("judge.openai.prompts", {"rate": "mine.txt"})).judge.openai.prompts
    assert (prompts.rate, prompts.prefer) == ("mine.txt", f"{PROMPTS}/prefer.txt")


def test_the_judges_settings_at_the_edge_of_their_range(tmp_path: Path) -> None:
    edge = [("max_tokens", 1), ("concurrency", 1), ("max_retries", 0), ("batch", True), ("prices", "mine.yaml")]
    params = load(
        tmp_path,
        *((f"judge.openai.{key}", value) for key, value in edge),
        ("judge.max_usd", 0.01),
        ("calibrate.pairs", 2),
    )
    assert all(getattr(params.judge.openai, key) == value for key, value in edge)
    assert (params.judge.max_usd, params.calibrate.pairs) == (0.01, 2)


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda path: path.stem)
def test_the_files_that_a_preset_names_for_its_judge_are_there(path: Path) -> None:
    judge = load_params(path).judge.openai
    for name in (judge.prompts.rate, judge.prompts.prefer, judge.prices):
        assert (ROOT / name).is_file()
    # No endpoint is chosen by default, and nobody's money is spent without a limit, or held back from a free judge.
    assert (judge.batch, judge.base_url) == (False, None)
    assert (load_params(path).judge.max_usd is None) == (load_params(path).judge.name == "probe")


def test_without_soft_or_hard_methods_no_reference_has_to_move(tmp_path: Path) -> None:
    alone = {name: EMBEDDED["methods"][name] for name in ("dpo", "kto")}
    params = load(tmp_path, ("methods", alone), ("ref_update.tau", 100))
    assert list(params.methods) == ["dpo", "kto"]
    assert params.warnings() == []


@pytest.mark.parametrize("path", PRESETS, ids=[path.stem for path in PRESETS])
def test_no_preset_is_warned_of(path: Path) -> None:
    assert load_params(path).warnings() == []


def test_a_method_may_be_trained_without_its_base(tmp_path: Path) -> None:
    """It meets the SFT model alone then; everything else of it stays as it is."""
    alone = {"tr_dpo_soft": EMBEDDED["methods"]["tr_dpo_soft"] | {"base": "sft"}}
    (method,) = load(tmp_path, ("methods", alone)).methods.values()
    assert method == METHODS["tr_dpo_soft"].model_copy(update={"base": "sft"}) != METHODS["tr_dpo_soft"]


@pytest.mark.parametrize(("asked", "curve", "expected"), [(None, 20, 20), (None, 1, 2), (40, 20, 40), (2, 20, 2)])
def test_prompts_whose_fixed_texts_are_measured(asked: int | None, curve: int, expected: int, tmp_path: Path) -> None:
    """Those that are asked for, else those of the curves; one has no interval."""
    assert load(tmp_path, ("ood.prompts", asked), ("generate.curve_prompts", curve)).ood_prompts == expected


def test_an_adapter_is_asked_for_with_its_rank(tmp_path: Path) -> None:
    assert load(tmp_path).align.lora is None
    lora = load(tmp_path, ("align.lora", {"rank": 4, "scale": 8})).align.lora
    assert lora is not None and (lora.rank, lora.scale) == (4, 8)


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-4") == "1e-4"  # YAML 1.1 wants a dot
    assert load(tmp_path, ("align.learning_rate", "1e-4")).align.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has to be a mapping of settings; see presets/embedded.yaml"),
        (b"- seed: 0\n", "has to be a mapping of settings; see presets/embedded.yaml"),
        (b"seed: [0\n", "is not valid YAML"),
        (b"\tseed: 0\n", "is not valid YAML"),
        (b"seed: \xff\n", "cannot be read as a UTF-8 text file"),
    ],
    ids=["empty", "list", "open-bracket", "tab", "not-utf-8"],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with pytest.raises(UserError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: there is no such file. Start from one in presets/")
    with pytest.raises(UserError, match="cannot be read"):
        load_params(tmp_path)


@pytest.mark.parametrize(
    ("steps", "points", "expected"),
    [
        # 2.97, 6.03, 9
        (9, [0.33, 0.67, 1.0], [3, 6, 9]),
        # 0.1 -> 0, but no point lies before the first step; 2.6 -> 3; 10
        (10, [0.01, 0.26, 1.0], [1, 3, 10]),
        # 0.66 -> 1, 1.34 -> 1, 2: points that fall on the same step are one
        (2, [0.33, 0.67, 1.0], [1, 2]),
        (1, [0.5, 1.0], [1]),
    ],
)
def test_evaluation_steps_by_hand(steps: int, points: list[float], expected: list[int]) -> None:
    align = load_params(ROOT / "presets" / "embedded.yaml").align
    assert align.model_copy(update={"steps": steps, "evaluate_at": points}).evaluation_steps == expected


def test_a_sweep_is_one_change_at_a_time_and_leaves_out_what_is_set_already(tmp_path: Path) -> None:
    params = load(tmp_path, ("sweep", {"ref_update.alpha": [0.2, 0.6], "beta.ipo": [0.5]}))

    variants = params.variants()

    assert [(key, value) for key, value, _ in variants] == [("ref_update.alpha", 0.2), ("beta.ipo", 0.5)]
    assert variants[0][2].ref_update.alpha == 0.2 and variants[0][2].beta == params.beta
    assert variants[1][2].beta.ipo == 0.5 and variants[1][2].ref_update == params.ref_update
    assert all(not changed.sweep for _, _, changed in variants)
