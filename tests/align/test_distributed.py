"""Two processes train to the same weights as one, updates of the reference included: DDP, FSDP2, ZeRO-3; SFT too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tr_align import models
from tr_align.align.resume import last_checkpoint
from tr_align.data.schema import Demonstration, Pair, write_demonstrations, write_pairs

SCRIPT = Path(__file__).with_name("two_processes.py")
SFT_SCRIPT = Path(__file__).with_name("two_processes_sft.py")
CONFIGS = Path(__file__).parents[2] / "presets" / "accelerate"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--mixed_precision", "no"]
DEEPSPEED = Path(sys.prefix) / "deepspeed"
COMMANDS = {
    "alone": [sys.executable],
    "ddp": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "fsdp2": [*LAUNCH, "--config_file", str(CONFIGS / "fsdp2.yaml")],
    "zero3": [*LAUNCH, "--config_file", str(CONFIGS / "zero3.yaml")],
}


ZERO3 = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}


def keeping_nothing_whole(folder: Path) -> list[str]:
    """ZeRO-3 that gathers every parameter for each use, as it does the large ones of real models."""
    auto = {name: "auto" for name in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_clipping")}
    zero = {"zero_optimization": ZERO3 | {"stage3_param_persistence_threshold": 0}, "gradient_accumulation_steps": 1}
    (folder / "zero3.json").write_text(json.dumps(auto | zero))
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "num_machines": 1,
        "machine_rank": 0,
        "num_processes": 2,
        "deepspeed_config": {"deepspeed_config_file": str(folder / "zero3.json"), "zero3_init_flag": False},
    }
    (folder / "zero3.yaml").write_text(json.dumps(config))
    return [*LAUNCH[:-2], "--config_file", str(folder / "zero3.yaml")]


def launched(wrapper: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if wrapper == "zero3":  # kept out of the other tests' way: transformers imports it wherever it finds it
        environment["PYTHONPATH"] = str(DEEPSPEED)
        environment["PATH"] = f"{DEEPSPEED / 'bin'}{os.pathsep}{environment['PATH']}"  # ninja
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)


def run(wrapper: str, method: str, sft: Path, pairs: list[Pair], folder: Path) -> tuple[dict[int, Any], list[Any]]:
    """The weights after steps 3 and 4, and the log."""
    folder.mkdir()
    write_pairs(folder / "pairs.jsonl", pairs)
    arguments = [wrapper, method, str(sft), str(folder / "pairs.jsonl"), str(folder)]
    command = COMMANDS[wrapper]
    if wrapper == "zero3" and method == "tr_dpo_hard":
        command = keeping_nothing_whole(folder)
    done = launched(wrapper, [*command, str(SCRIPT), *arguments])
    assert done.returncode == 0, done.stderr[-4000:]
    weights = {step: load_file(folder / "snapshots" / f"step-{step:05d}" / "weights.safetensors") for step in (3, 4)}
    return weights, [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", ["tr_dpo_soft", "tr_dpo_hard"])
def test_two_processes_end_where_one_does(method: str, sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Updates after steps 2 and 4; the same global batches; float32.

    The shards of the soft reference move where they are, the hard one's log-probabilities come from the sharded policy:
    no process ever holds a second whole model.
    """
    start = load_file(sft / "model.safetensors")
    one, log = run("alone", method, sft, pairs, tmp_path / "alone")
    for wrapper in ("ddp", "fsdp2", "zero3"):
        if wrapper == "zero3" and not DEEPSPEED.exists():
            pytest.skip("ZeRO-3 needs deepspeed, which `make test` installs; DDP and FSDP2 were compared")
        two, their_log = run(wrapper, method, sft, pairs, tmp_path / wrapper)
        for step in (3, 4):
            assert set(start) <= set(two[step])
            apart = sum((one[step][name] - two[step][name]).double().square().sum().item() for name in start) ** 0.5
            moved = sum((one[step][name] - start[name].float()).double().square().sum().item() for name in start) ** 0.5
            assert moved > 0.1 and apart < 1e-5 * moved, (wrapper, step, apart, moved)
        for mine, theirs in zip(log, their_log, strict=True):
            assert set(mine) == set(theirs)
            for name in mine:
                assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), (wrapper, mine["step"], name)
        assert [row["since_update"] for row in their_log] == [1, 2, 1, 2]
        assert their_log[1]["ref_from_sft"] == 0 and their_log[2]["ref_from_sft"] > 0.1


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Weights and log of SFT by one process."""
    return fine_tune("alone", tmp_path_factory.mktemp("sft") / "alone")


def demonstrations() -> list[Demonstration]:
    """Sixteen: two steps an epoch."""
    return [
        Demonstration.model_validate(
            {
                "prompt": [{"role": "user", "content": f"Say {i}"}],
                "completion": [{"role": "assistant", "content": f"{i}" + ", gladly" * (i % 4)}],
            }
        )
        for i in range(16)
    ]


def fine_tune(wrapper: str, folder: Path, kill_at: int | None = None) -> tuple[dict[str, Any], str]:
    folder.mkdir()
    write_demonstrations(folder / "rows.jsonl", demonstrations())
    command = [*COMMANDS[wrapper], str(SFT_SCRIPT), wrapper, str(folder)]
    if kill_at is not None:
        killed = launched(wrapper, [*command, str(kill_at)])
        assert killed.returncode != 0 and not (folder / "model").exists()
        checkpoint = last_checkpoint(folder / "scratch" / "checkpoints")
        assert checkpoint is not None and checkpoint.name == f"checkpoint-{kill_at - 1}", killed.stderr[-4000:]
    done = launched(wrapper, command)
    assert done.returncode == 0, done.stderr[-4000:]
    return load_file(folder / "model" / "weights.safetensors"), (folder / "log.jsonl").read_text()


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2", "zero3"])
def test_two_processes_fine_tune_to_where_one_does(
    wrapper: str, alone: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    """2 x 2 x 2 rows a step against 4 x 2, the same rows; float32. One is killed in the fourth step and goes on."""
    if wrapper == "zero3" and not DEEPSPEED.exists():
        pytest.skip("ZeRO-3 needs deepspeed, which `make test` installs")
    one, log = alone
    two, their_log = fine_tune(wrapper, tmp_path / wrapper, kill_at=4)
    start = models.load_model(models.RANDOM).state_dict()
    assert set(start) - {"lm_head.weight"} <= set(two)
    names = [name for name in start if name in two and name in one]
    apart = sum((one[name] - two[name]).double().square().sum().item() for name in names) ** 0.5
    moved = sum((one[name] - start[name]).double().square().sum().item() for name in names) ** 0.5
    assert moved > 0.1 and apart < 1e-4 * moved, (wrapper, apart, moved)
    rows, theirs = ([json.loads(line) for line in text.splitlines()] for text in (log, their_log))
    assert [row["step"] for row in theirs] == [1, 2, 3, 4, 5]
    for mine, other in zip(rows, theirs, strict=True):
        assert set(mine) == set(other)
        for name in mine:
            assert other[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-6), (wrapper, mine["step"], name)
