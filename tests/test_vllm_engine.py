"""vLLM samples what transformers would have been asked for, is gone before KL is computed, and is resumed.

vLLM itself is not installed here: tests/fake_vllm stands in for it, with the signatures of vLLM 0.32.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tr_align import models, replies, vllm_engine
from tr_align.data.schema import Pair
from tr_align.errors import UserError
from tr_align.generation import encode_prompt
from tr_align.metrics.kl import reply_kl
from tr_align.replies import generate_replies
from tr_align.scratch import read_rows
from tr_align.settings import Generate
from tr_align.vllm_engine import check_engine, choose, request_seed

ENDS = range(30, 50)
FAKE = Path(__file__).parent / "fake_vllm"
PAIRS = [
    Pair.model_validate({"prompt": [{"role": "user", "content": text}], "chosen": "Yes.", "rejected": "No."})
    for text in ("Tea?", "Why rain?", "Say something about the long winters of the north.", "Go on", "Hello")
]


def settings(**changes: Any) -> Generate:
    plain = {"curve_prompts": 2, "max_new_tokens": 12, "temperature": 1.0, "top_p": 1.0, "batch_size": 2}
    return Generate.model_validate(plain | {"engine": "vllm"} | changes)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The SFT model and a policy at two points; they have stop tokens of their own."""
    root, tokenizer = tmp_path_factory.mktemp("models"), models.load_tokenizer(models.RANDOM)
    model, generator = models.load_model(models.RANDOM), torch.Generator().manual_seed(0)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ENDS]
    model.generation_config.repetition_penalty = 5.0
    paths = [root / "sft", root / "step-2", root / "step-4"]
    for path in paths:
        models.save(model, tokenizer, path)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return paths


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in can be imported here and in the engine's process; what it was asked for."""
    monkeypatch.syspath_prepend(str(FAKE))
    path = [str(FAKE), str(Path(vllm_engine.__file__).parents[1])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("FAKE_VLLM_LOG", str(tmp_path / "log.jsonl"))
    monkeypatch.setattr(replies, "has_bf16", lambda: False)
    monkeypatch.setattr(replies, "device", lambda: torch.device("cpu"))
    yield tmp_path / "log.jsonl"
    sys.modules.pop("vllm", None)


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process for each engine takes seconds; the job still goes through its file."""

    def call(command: list[str]) -> int:
        assert command[:3] == [sys.executable, "-m", "tr_align.vllm_engine"]
        vllm_engine.run(json.loads(Path(command[3]).read_text(encoding="utf-8")))
        return 0

    monkeypatch.setattr(vllm_engine.subprocess, "call", call)


def answer(folders: list[Path], scratch: Path, **changes: Any) -> list[dict[str, Any]]:
    scratch.mkdir(exist_ok=True)
    points = [(2, folders[1]), (4, folders[2])]
    rows = generate_replies(points, folders[0], PAIRS, settings(**changes), 3, scratch, "test")
    assert rows is not None
    return rows


def test_a_seed_for_each_run_and_prompt() -> None:
    """63 bits, as the engine sends signed integers; the same ones on every machine."""
    seeds = [request_seed(seed, pair.prompt_id) for seed in (0, 1) for pair in PAIRS]
    assert len(set(seeds)) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**60
    assert request_seed(0, "ff") == request_seed(0, "00ff") != request_seed(255, "00")


def test_the_engine_has_a_process_of_its_own(
    folders: list[Path], tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has ended, and so freed its memory, before a model is loaded for the KL."""
    load = models.load_model

    def after_the_engine(name: str, *rest: Any) -> Any:
        [engine] = [row for row in read_rows(log) if "engine" in row]
        with pytest.raises(ProcessLookupError):
            os.kill(engine["pid"], 0)
        return load(name, *rest)

    monkeypatch.setattr(models, "load_model", after_the_engine)
    rows = generate_replies([(0, folders[0])], folders[0], PAIRS[:1], settings(), 3, tmp_path, "test")
    assert rows is not None and [(row["kl"], row["log_ratio"]) for row in rows] == [(0.0, 0.0)]


def test_rows_by_hand(folders: list[Path], tmp_path: Path, log: Path, same_process: None) -> None:
    """The engine's settings, then each reply drawn by hand from the policy, with its KL."""
    rows = answer(folders, tmp_path / "scratch")
    tokenizer = models.load_tokenizer(models.RANDOM)
    engines = [row for row in read_rows(log) if "engine" in row]
    longest = max(len(encode_prompt(tokenizer, pair.prompt)) for pair in PAIRS)
    assert engines[1]["engine"] == {
        "model": str(folders[2]),
        "tensor_parallel_size": 1,
        "dtype": "float32",
        "seed": 3,
        "max_model_len": longest + 12,
        "generation_config": "vllm",
    }
    assert [row["asked"] for row in read_rows(log) if "asked" in row] == [2, 5]
    assert [(row["step"], row["prompt_id"]) for row in rows] == [
        *((2, pair.prompt_id) for pair in PAIRS[:2]),
        *((4, pair.prompt_id) for pair in PAIRS),
    ]
    assert {row["finished"] for row in rows} == {True, False}
    stops = {tokenizer.eos_token_id, *ENDS}
    assert {tuple(row["stops"]) for row in read_rows(log) if "asked" in row} == {tuple(sorted(stops))}
    policies = {2: models.load_model(str(folders[1])).eval(), 4: models.load_model(str(folders[2])).eval()}
    sft = models.load_model(str(folders[0])).eval()
    for row in rows:
        pair = next(pair for pair in PAIRS if pair.prompt_id == row["prompt_id"])
        prompt, reply = encode_prompt(tokenizer, pair.prompt), []
        generator = torch.Generator().manual_seed(request_seed(3, pair.prompt_id))
        while len(reply) < 12 and not stops & set(reply):
            with torch.no_grad():
                logits = policies[row["step"]](input_ids=torch.tensor([prompt + reply])).logits[0, -1]
            chances, order = logits.softmax(-1).sort(descending=True)
            reply.append(int(order[torch.multinomial(chances, 1, generator=generator)]))
        assert row["reply"] == tokenizer.decode(reply, skip_special_tokens=True).strip()
        assert row["tokens"] == len(reply)
        assert row["finished"] == (reply[-1] in stops)
        ids, mask = torch.tensor([prompt + reply]), torch.tensor([[0] * len(prompt) + [1] * len(reply)])
        kl, ratio = reply_kl(policies[row["step"]], sft, ids, torch.ones_like(ids), mask)
        assert (row["kl"], row["log_ratio"]) == pytest.approx((kl.item(), ratio.item()), abs=1e-4)


def test_temperature_top_p_and_gpus_reach_the_engine(
    folders: list[Path], tmp_path: Path, log: Path, same_process: None
) -> None:
    plain = answer(folders, tmp_path / "plain", curve_prompts=1)
    greedy = [answer(folders, tmp_path / str(p), curve_prompts=1, top_p=p) for p in (1e-6, 1e-5)]
    cold = answer(folders, tmp_path / "cold", curve_prompts=1, temperature=0.01, tensor_parallel=4)
    assert greedy[0] == greedy[1] == cold != plain
    assert [row["engine"]["tensor_parallel_size"] for row in read_rows(log) if "engine" in row][-1] == 4


def test_a_killed_run_goes_on(
    folders: list[Path], tmp_path: Path, log: Path, same_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the engine samples: whole chunks (of two prompts) stay, a torn one is asked again."""
    monkeypatch.setattr(vllm_engine, "CHUNK", 2)
    whole = answer(folders, tmp_path / "whole")
    assert [row["asked"] for row in read_rows(log) if "asked" in row] == [2, 2, 2, 1]
    scratch = tmp_path / "killed"
    scratch.mkdir()
    for name, kept in (("sampled-2.jsonl", 2), ("sampled-4.jsonl", 3)):
        written = (tmp_path / "whole" / name).read_bytes().splitlines(keepends=True)
        (scratch / name).write_bytes(b"".join(written[:kept]) + b'{"prompt_id": "ab')
    log.unlink()
    assert answer(folders, scratch) == whole
    assert [row["asked"] for row in read_rows(log) if "asked" in row] == [2, 1]
    # Killed while KL is computed: no engine is started again.
    log.unlink()
    done = scratch / "replies-0.jsonl"
    done.write_bytes(b"".join(done.read_bytes().splitlines(keepends=True)[:3]))
    assert answer(folders, scratch) == whole
    assert not log.exists()


def test_an_engine_that_fails_ends_the_stage(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Path
) -> None:
    (tmp_path / "vllm.py").write_text("raise SystemExit(7)", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    with pytest.raises(UserError, match=r"vLLM ended with status 7 .* generate.engine: transformers"):
        answer(folders, tmp_path / "scratch", curve_prompts=1)


def machine(monkeypatch: pytest.MonkeyPatch, vllm: bool, gpus: int) -> None:
    monkeypatch.setattr(vllm_engine.importlib.util, "find_spec", lambda name: object() if vllm else None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("vllm", "gpus", "changes", "launch", "message"),
    [
        (False, 8, {}, "python", r"generate.engine: is vllm, which is not installed; `pip install vllm`"),
        (
            True,
            8,
            {},
            "accelerate launch --num_processes 8",
            r"launch.generate: is 'accelerate .* launch.generate: python",
        ),
        (True, 2, {"tensor_parallel": 4}, "python", r"generate.tensor_parallel: is 4, but this machine has 2 GPUs"),
        (True, 1, {"temperature": 2.5}, "python", r"generate.temperature: is 2.5, but vLLM samples between 0.01 and 2"),
        (True, 1, {"temperature": 0.001}, "python", r"generate.temperature: is 0.001"),
    ],
)
def test_what_cannot_work_is_told_before(
    vllm: bool, gpus: int, changes: dict[str, Any], launch: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, vllm, gpus)
    for check in (check_engine, choose):
        with pytest.raises(UserError, match=message):
            check(settings(**changes), launch)
    check_engine(settings(**changes, engine="transformers"), launch)
    assert choose(settings(**changes, engine="auto"), launch).engine == "transformers"


def test_what_can_work_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, vllm=True, gpus=0)
    check_engine(settings(tensor_parallel=8), "python")  # a head node without GPUs
    machine(monkeypatch, vllm=True, gpus=8)
    check_engine(settings(tensor_parallel=8), "accelerate launch --num_processes 1")


@pytest.mark.parametrize(
    ("vllm", "gpus", "expected"), [(True, 1, "vllm"), (True, 0, "transformers"), (False, 1, "transformers")]
)
def test_auto_says_what_it_takes(
    vllm: bool, gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine(monkeypatch, vllm, gpus)
    chosen = choose(settings(engine="auto"), "python")
    assert chosen == settings(engine=expected)
    assert capsys.readouterr().err == f"generate.engine: auto, which is {expected} here\n"
    assert choose(settings(engine="transformers"), "python").engine == "transformers"
    assert capsys.readouterr().err == ""


def test_looking_for_vllm_does_not_import_it(log: Path) -> None:
    importlib.invalidate_caches()
    assert vllm_engine.installed()
    assert "vllm" not in sys.modules
