"""What a launch command starts, and that accelerate takes the shipped configurations for the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import _filter_args, prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from tr_align.errors import UserError
from tr_align.launch import Launched, read

CONFIGS = Path(__file__).parents[1] / "presets" / "accelerate"
SHIPPED = {
    "ddp": Launched(8, 1, "ddp"),
    "fsdp2": Launched(8, 1, "fsdp"),
    "fsdp2_nodes": Launched(16, 2, "fsdp"),
    "zero3": Launched(8, 1, "zero3"),
    "zero3_nodes": Launched(16, 2, "zero3"),
}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python", Launched(1, 1, "none")),
        ("/opt/venv/bin/python3.11 -u", Launched(1, 1, "none")),
        ("NCCL_DEBUG=INFO env A=1 python", Launched(1, 1, "none")),
        ("torchrun", Launched(1, 1, "none")),
        ("torchrun --standalone --nproc_per_node 4", Launched(4, 1, "ddp")),
        ("torchrun --nnodes=2 --nproc-per-node=8", Launched(16, 2, "ddp")),
        ("python -m torch.distributed.run --nproc_per_node 2", Launched(2, 1, "ddp")),
        ("accelerate launch --num_processes 1", Launched(1, 1, "none")),
        ("accelerate launch --multi_gpu --num_processes 8", Launched(8, 1, "ddp")),
        ("accelerate launch --num_processes 8 --use_fsdp --fsdp_version 2", Launched(8, 1, "fsdp")),
        ("accelerate launch --num_processes 8 --use_deepspeed --zero_stage 3", Launched(8, 1, "zero3")),
        ("accelerate launch --num_processes 8 --use_deepspeed --zero_stage 2", Launched(8, 1, "zero2")),
        ("python -m accelerate.commands.launch --num_processes 2", Launched(2, 1, "ddp")),
        ("srun --nodes 2 --ntasks-per-node 1 torchrun --nnodes 2 --nproc_per_node 4", Launched(8, 2, "ddp")),
        ("srun --gpus 1 python", Launched(1, 1, "none")),
    ],
)
def test_what_a_command_starts(command: str, expected: Launched) -> None:
    assert read(command, "launch.train") == expected


def test_the_command_line_counts_before_the_file() -> None:
    command = f"accelerate launch --config_file {CONFIGS}/fsdp2_nodes.yaml --num_machines 4 --num_processes 32"
    assert read(command, "launch.train") == Launched(32, 4, "fsdp")


@pytest.mark.parametrize("stage", [2, 3])
def test_the_stage_of_deepspeeds_own_file(stage: int, tmp_path: Path) -> None:
    (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}))
    config = {
        "distributed_type": "DEEPSPEED",
        "num_processes": 2,
        "deepspeed_config": {"deepspeed_config_file": str(tmp_path / "zero.json")},
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    launched = read(f"accelerate launch --config_file {tmp_path / 'config.yaml'}", "launch.train")
    assert launched == Launched(2, 1, "zero3" if stage == 3 else "zero2")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("bash train.sh", "has to start with python, torchrun or accelerate launch"),
        ("accelerate test", "has to start with"),
        ("python -m http.server", "has to start with"),
        ("NCCL_DEBUG=INFO", "has to start with"),
        ("srun --nodes 2 ./train.sh", "has to start with"),
        ("python 'pipeline", "is no command line"),
        ("accelerate launch", "does not say how many processes"),
        ("accelerate launch --cpu --num_processes 2", "accelerate starts one process only with --cpu"),
        ("accelerate launch --num_processes eight", "num_processes is 'eight'; it has to be a whole number"),
        ("torchrun --nproc_per_node gpu", "--nproc_per_node is 'gpu'; it has to be a whole number"),
        ("torchrun --nnodes 0", "--nnodes is '0'"),
        ("accelerate launch --config_file nowhere.yaml", "the configuration nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_started_is_told(command: str, message: str) -> None:
    with pytest.raises(UserError, match=r"^launch\.train: ") as raised:
        read(command, "launch.train")
    assert message in str(raised.value)


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    for text, message in (("- 1\n", "is no configuration"), ("a: [", "cannot be read")):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=message):
            read(f"accelerate launch --config_file {tmp_path / 'config.yaml'}", "launch.generate")


def test_every_shipped_configuration_is_here() -> None:
    assert {path.stem for path in CONFIGS.glob("*")} == set(SHIPPED)


def parsed(name: str, *options: str) -> Any:
    """The arguments that accelerate's own parser makes of a shipped file and these options."""
    arguments = ["--config_file", str(CONFIGS / f"{name}.yaml"), *options, "pipeline/align.py", "dpo"]
    return _validate_launch_command(launch_command_parser().parse_args(arguments))[0]


HEAD = ("--rdzv_backend", "c10d", "--main_process_ip", "10.0.0.1", "--main_process_port", "29500")


@pytest.mark.parametrize("name", SHIPPED)
def test_accelerate_takes_a_shipped_configuration_for_the_same(name: str) -> None:
    """Its loader knows every key (it refuses others), and its launcher gets the processes and the sharding we say."""
    path, expected = CONFIGS / f"{name}.yaml", SHIPPED[name]
    assert read(f"accelerate launch --config_file {path}", "launch.train") == expected
    config = load_config_from_file(str(path))
    assert (config.num_processes, config.num_machines) == (expected.processes, expected.machines)

    args = parsed(name, *(HEAD if expected.machines > 1 else ()))
    assert (args.num_processes, args.num_machines) == (expected.processes, expected.machines)
    assert (args.multi_gpu, args.use_fsdp, args.use_deepspeed) == (
        expected.sharding == "ddp",
        expected.sharding == "fsdp",
        expected.sharding == "zero3",
    )
    if args.use_deepspeed:
        assert args.zero_stage == 3
        assert args.zero3_save_16bit_model  # transformers saves nothing without it
        assert args.gradient_accumulation_steps == "auto"  # sft.gradient_accumulation, and 1 for align
    if args.use_fsdp:
        assert args.fsdp_version == 2
        assert args.fsdp_state_dict_type == "FULL_STATE_DICT"
        assert args.fsdp_activation_checkpointing is False  # transformers refuses it beside its own


@pytest.mark.parametrize("name", ["fsdp2_nodes", "zero3_nodes"])
def test_several_machines_start_the_same_command(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun's own rendezvous on the head gives out the ranks: no machine has to be told which one it is."""
    args = parsed(name, *HEAD)
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""
        command, environment = prepare_deepspeed_cmd_env(args)
        assert not command  # no pdsh, which would start what is started already
    else:
        environment = prepare_multi_gpu_env(args)
        assert environment["FSDP_VERSION"] == "2"
    assert (args.nnodes, args.nproc_per_node) == ("2", "8")
    assert (args.rdzv_backend, args.rdzv_endpoint) == ("c10d", "10.0.0.1:29500")
    from torch.distributed.run import get_args_parser

    options = _filter_args(args, get_args_parser(), ["--training_script", "x"])
    assert (options.nnodes, options.rdzv_backend) == ("2", "c10d")
