"""What a launch command of `params.yaml` starts: how many processes, on how many machines, with the model split how."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from tr_align.errors import UserError

Sharding = Literal["none", "ddp", "fsdp", "zero2", "zero3"]


@dataclass(frozen=True)
class Launched:
    """Processes over all machines, one GPU each; `sharding` is "none" for a single process."""

    processes: int
    machines: int
    sharding: Sharding


MODULES = {"torch.distributed.run": "torchrun", "accelerate.commands.launch": "accelerate launch"}
"""The launchers under the names that `python -m` takes."""


def read(command: str, key: str) -> Launched:
    """What `command`, the value of the setting `key`, starts: python, torchrun or accelerate launch.

    Options on the command line count before those in accelerate's file.

    Raises:
        UserError: the command is not one of these, its configuration file is missing or unreadable, it leaves the
            number of processes to the machine, a number in it is none, or it would not start that many.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{key}: {command!r} is no command line: {error}") from error
    while words and ("=" in words[0] or words[0] in ("env", "exec")):  # NCCL_DEBUG=INFO accelerate launch ...
        words = words[1:]
    if words[:1] == ["srun"]:  # one launcher a machine
        names = ("accelerate", "torchrun", "python", "python3")
        words = words[next((i for i, word in enumerate(words) if Path(word).name in names), len(words)) :]
    program, words = _program(words)
    options = _options(words)
    if program == "python":
        return Launched(1, 1, "none")
    if program == "torchrun":
        machines = _whole(options.get("nnodes", 1), key, "--nnodes")
        processes = machines * _whole(options.get("nproc_per_node", 1), key, "--nproc_per_node")
        return Launched(processes, machines, "ddp" if processes > 1 else "none")
    if program == "accelerate launch":
        settings = _file(options["config_file"], key) if "config_file" in options else {}
        settings |= {name: options[name] for name in ("num_processes", "num_machines") if name in options}
        if "num_processes" not in settings:
            raise UserError(f"{key}: {command!r} does not say how many processes; add --config_file or --num_processes")
        processes = _whole(settings["num_processes"], key, "num_processes")
        machines = _whole(settings.get("num_machines", 1), key, "num_machines")
        if "cpu" in options and processes > 1:
            raise UserError(f"{key}: accelerate starts one process only with --cpu; use --multi_gpu, without GPUs too")
        return Launched(processes, machines, _sharding(settings, options, processes, key))
    raise UserError(
        f"{key}: is {command!r}; it has to start with python, torchrun or accelerate launch, "
        "e.g. accelerate launch --config_file presets/accelerate/fsdp2.yaml"
    )


def _program(words: list[str]) -> tuple[str, list[str]]:
    """Which launcher a command line names, and the words after it."""
    program = Path(words[0]).name if words else ""
    if program.startswith("python"):
        if words[1:2] == ["-m"]:
            return MODULES.get("".join(words[2:3]), ""), words[3:]
        return "python", words[1:]
    if program == "accelerate":
        return " ".join([program, *words[1:2]]), words[2:]
    return program, words[1:]


def _options(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value`, with underscores in the names."""
    found = {}
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value or following
    return found


def _file(path: str, key: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{key}: the configuration {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{key}: {path} is no configuration of a launcher; presets/accelerate has some")
    return settings


def _sharding(settings: dict[str, Any], options: dict[str, str], processes: int, key: str) -> Sharding:
    kind = settings.get("distributed_type")
    if "use_fsdp" in options or kind == "FSDP":
        return "fsdp"
    if "use_deepspeed" in options or kind == "DEEPSPEED":
        deepspeed = dict(settings.get("deepspeed_config") or {}) | options
        stage = deepspeed.get("zero_stage")
        if "deepspeed_config_file" in deepspeed:  # DeepSpeed's own file, JSON, which YAML reads too
            own = _file(deepspeed["deepspeed_config_file"], key)
            stage = (own.get("zero_optimization") or {}).get("stage")
        return "zero3" if str(stage) == "3" else "zero2"
    return "ddp" if processes > 1 else "none"


def _whole(value: Any, key: str, name: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise UserError(f"{key}: {name} is {value!r}; it has to be a whole number, 1 or more")
    return number
