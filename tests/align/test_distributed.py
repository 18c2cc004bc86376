"""Two processes train to the same weights as one, updates of the reference included: DDP, FSDP2, ZeRO-3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tr_align.data.schema import Pair, write_pairs

SCRIPT = Path(__file__).with_name("two_processes.py")
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


def run(wrapper: str, method: str, sft: Path, pairs: list[Pair], folder: Path) -> tuple[dict[int, Any], list[Any]]:
    """The weights after steps 3 and 4, and the log."""
    folder.mkdir()
    write_pairs(folder / "pairs.jsonl", pairs)
    arguments = [wrapper, method, str(sft), str(folder / "pairs.jsonl"), str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if wrapper == "zero3":  # kept out of the other tests' way: transformers imports it wherever it finds it
        environment["PYTHONPATH"] = str(DEEPSPEED)
        environment["PATH"] = f"{DEEPSPEED / 'bin'}{os.pathsep}{environment['PATH']}"  # ninja
    command = COMMANDS[wrapper]
    if wrapper == "zero3" and method == "tr_dpo_hard":
        command = keeping_nothing_whole(folder)
    done = subprocess.run(
        [*command, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=400
    )
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
