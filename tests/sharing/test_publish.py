"""`tr-align publish` from its options to folders and repositories: what goes out, and all that must not."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from sharing.conftest import change
from sharing.fake_hub import TOKEN, FakeHub
from tr_align import cli

FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "kl_vs_hc.png",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def publish(*options: str) -> int:
    return cli.main(["publish", "--license", "mit", *options])


def refused(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The message of an error, after which nothing may be there."""
    assert publish("--folder", "out", *options) == 1
    assert not Path("out").exists()
    return capsys.readouterr().err


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_a_folder_loads_as_the_model_that_was_evaluated(workspace: Path, no_network: None) -> None:
    assert publish("tr_dpo_soft", "--folder", "out") == 0
    assert [path.name for path in Path("out").iterdir()] == ["tr_dpo_soft"]
    folder = Path("out/tr_dpo_soft")
    assert {path.name for path in folder.iterdir()} == FILES
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ours, last, earlier = (
        AutoModelForCausalLM.from_pretrained(path)(**inputs).logits
        for path in (folder, "models/tr_dpo_soft/step-00004", "models/tr_dpo_soft/step-00002")
    )
    assert torch.equal(ours, last) and not torch.equal(ours, earlier)


def test_the_card_says_what_the_run_found(workspace: Path) -> None:
    assert publish("--folder", "out") == 0
    card = ModelCard.load("out/tr_dpo_soft/README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["tr-align", "dpo", "tr-dpo", "tr-dpo-soft"],
    }
    # Made up in tests/reports/run_folder.py: 8 nats and HC 9.5 - 1 at the last step, the base 4 and 6 - 1.
    assert "| KL to the SFT model, nats a reply | 0.0 | 4.0 [4.0, 4.0] | 8.0 [8.0, 8.0] |" in card.text
    assert "| HC, mean of the five axes below | 4.00 " in card.text and " 8.50 [" in card.text
    assert "held-out prompts" in card.text and "Over 6 " in card.text
    assert "| wins against DPO | – | – | 50.0 % [" in card.text
    assert "TR-DPO soft keeps more quality than DPO at the same KL: **" in card.text
    assert "0.6·policy + 0.4·reference, every 2 optimizer steps" in card.text
    assert "in 87.0 % [78.0, 95.0] of 100 pairs (labels of a test)" in card.text
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert f"- **code:** tr-align, commit {commit}\n" in card.text
    assert "](kl_vs_hc.png)" in card.text
    assert 'name = "tr_dpo_soft"' in card.text and str(workspace) not in card.text
    other = ModelCard.load("out/dpo/README.md")
    assert other.data.tags == ["tr-align", "dpo"]
    assert "the SFT model, throughout" in other.text and "ref_update" not in other.text


def test_a_dry_run_tells_all_and_does_nothing(
    workspace: Path,
    no_network: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert publish("--to", "alice/hh-{method}-s{seed}", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "/" in line] == [
        "alice/hh-dpo-s0",
        "alice/hh-tr_dpo_soft-s0",
    ]
    size = Path("models/dpo/step-00004/model.safetensors").stat().st_size
    assert re.findall(r"model\.safetensors +(.*)", shown) == 2 * [f"{size / 1000:.1f} kB"]
    assert shown.count("README.md") == 2 and shown.endswith("nothing was written and nothing sent.\n")
    assert publish("--folder", "out", "--dry-run") == 0
    assert not Path("out").exists()


def test_the_hub_gets_what_a_folder_would(workspace: Path, tmp_path: Path) -> None:
    """As a user types it, in a process of its own."""
    environment = os.environ | {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
    command = ["publish", "dpo", "--license", "mit", "--private", "--to", "alice/hh-{method}"]
    with FakeHub() as hub:
        done = subprocess.run(
            [sys.executable, "-m", "tr_align.cli", *command],
            env=environment | {"HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert f"{hub.url}/alice/hh-dpo/commit/" in done.stdout
    assert hub.private == {"alice/hh-dpo": True}
    sent = hub.files["alice/hh-dpo"]
    assert set(sent) == FILES
    assert publish("dpo", "--folder", "out") == 0
    for name, content in sent.items():
        if name != "README.md":  # it names the repository
            assert content == Path("out/dpo", name).read_bytes(), name
    assert b'name = "alice/hh-dpo"' in sent["README.md"]


def test_no_token_no_call(
    workspace: Path,
    no_network: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert publish("dpo", "--to", "alice/model") == 1
    assert "set HF_TOKEN" in capsys.readouterr().err


def test_what_is_not_there_is_told_with_the_way_out(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "kto: is no method of params.yaml; it has dpo, tr_dpo_soft" in refused(capsys, "kto")
    scores = Path("reports/score/dpo.json")
    text = scores.read_text()
    scores.unlink()
    assert "reports/score/dpo.json: is missing; run `dvc repro score@dpo`" in refused(capsys, "tr_dpo_soft")
    scores.write_text(text.replace('"step": 4', '"step": 2'))
    assert "dpo.json is of step 2 and the model of step 4" in refused(capsys, "dpo")
    scores.write_text(text[:-9])
    assert "is no JSON file" in refused(capsys, "dpo")
    scores.write_text(text)
    shutil.rmtree("models/dpo")
    said = refused(capsys)
    assert "dpo: there is no trained model in models/dpo/step-00004" in said and "dvc pull align@dpo" in said
    assert publish("tr_dpo_soft", "--folder", "out") == 0  # which is complete


def test_files_that_were_not_pulled_are_no_change(workspace: Path) -> None:
    for name in ("data/prepared", "models/sft", "models/judge", "models/dpo", "generations", "judgements"):
        shutil.rmtree(name)
    assert publish("tr_dpo_soft", "--folder", "out") == 0
    assert "Published although" not in Path("out/tr_dpo_soft/README.md").read_text()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("ref_update.alpha", 0.7, "ref_update.alpha modified"), ("sft.steps", 3, "sft modified")],
)
def test_a_model_of_other_settings_is_refused_or_marked(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    key: str,
    value: float,
    said: str,
) -> None:
    change(workspace, key, value)
    message = refused(capsys, "tr_dpo_soft")
    assert "tr_dpo_soft: has changed since it was trained and scored" in message
    assert said in message or key in message
    assert publish("tr_dpo_soft", "--folder", "out", "--force") == 0
    card = Path("out/tr_dpo_soft/README.md").read_text()
    assert "Published although these have changed" in card and ", with local changes\n" in card


def test_other_weights_and_other_code_are_a_change(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Path("src/tr_align/align/losses.py").open("a") as file:
        file.write("# changed\n")
    assert "src/tr_align/align modified" in refused(capsys, "dpo")
    subprocess.run(["git", "checkout", "-q", "src"], check=True)
    weights = Path("models/dpo/step-00004/model.safetensors")
    other = Path("models/tr_dpo_soft/step-00004/model.safetensors").read_bytes()
    weights.unlink()  # DVC's cache may hold the same file
    weights.write_bytes(other)
    assert "models/dpo modified" in refused(capsys, "dpo")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pytorch_model.bin", pickle.dumps({"a": 1}), "pytorch_model.bin: is not published"),
        ("modeling.py", b"print('run')", "modeling.py: is not published"),
        ("model.safetensors", pickle.dumps({"a": 1}), "is no whole safetensors file"),
    ],
    ids=["pickle", "code", "pickle under another name"],
)
def test_nothing_that_could_run_goes_out(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    said: str,
) -> None:
    path = Path("models/dpo/step-00004", name)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    assert said in refused(capsys, "dpo", "--force")


def test_a_model_that_is_cut_off_or_incomplete(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path("models/dpo/step-00004")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    assert "lacks model.safetensors" in refused(capsys, "dpo", "--force")
    weights.write_bytes(whole[:-100])
    assert "is no whole safetensors file" in refused(capsys, "dpo", "--force")
    weights.write_bytes(whole)
    (folder / "config.json").unlink()
    assert "lacks config.json" in refused(capsys, "dpo", "--force")


def test_a_licence_is_never_guessed(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["publish", "--folder", "out"]) == 1
    assert "the licence of random:two-layer is not known here; name it with --license" in capsys.readouterr().err
    assert cli.main(["publish", "--folder", "out", "--license", "My own"]) == 1
    assert "'My own' is no name of a licence" in capsys.readouterr().err


def test_targets_that_cannot_be_meant(
    workspace: Path,
    no_network: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert publish("--to", "alice/model") == 1
    assert "is one repository for 2 models; put {method} into it" in capsys.readouterr().err
    Path("out/dpo").mkdir(parents=True)
    assert publish("--folder", "out") == 1
    assert "out/dpo: exists; delete it, or choose another --folder" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["dpo"]  # nor was the other one written
    Path("file").write_text("")
    assert publish("dpo", "--folder", "file") == 1
    assert "file/dpo: cannot be written" in capsys.readouterr().err


def test_outside_a_repository(
    workspace: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.rmtree(".dvc")
    assert "DVC cannot tell whether the models belong to params.yaml" in refused(capsys, "dpo")
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: there is no such file" in refused(capsys, "dpo")
