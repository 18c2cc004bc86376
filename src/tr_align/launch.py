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


def read(command: str, key: str) -> Launched:
    """What `command`, the value of the setting `key`, starts: python, torchrun or accelerate launch.

    Options on the command line count before those in accelerate's file.

    Raises:
        UserError: the command is not one of these, its configuration file is missing or unreadable, or a number in it
            is none.
    """
    words = shlex.split(command)
    while words and ("=" in words[0] or words[0] in ("env", "exec")):  # NCCL_DEBUG=INFO accelerate launch ...
        words = words[1:]
    program = Path(words[0]).name if words else ""
    if program.startswith("python") and words[1:2] != ["-m"]:
        return Launched(1, 1, "none")
    if program == "srun":  # one launcher a machine
        words = words[next((i for i, word in enumerate(words) if word in ("accelerate", "torchrun")), len(words)) :]
        program = words[0] if words else ""
    options = _options(words)
    if program == "torchrun":
        machines = _whole(options.get("nnodes", 1), key, "--nnodes")
        processes = machines * _whole(options.get("nproc_per_node", 1), key, "--nproc_per_node")
        return Launched(processes, machines, "ddp" if processes > 1 else "none")
    if program == "accelerate" and words[1:2] == ["launch"]:
        settings = _file(options["config_file"], key) if "config_file" in options else {}
        settings |= {name: options[name] for name in ("num_processes", "num_machines") if name in options}
        processes = _whole(settings.get("num_processes", 1), key, "num_processes")
        return Launched(processes, _whole(settings.get("num_machines", 1), key, "num_machines"), _sharding(settings))
    raise UserError(
        f"{key}: is {command!r}; it has to start with python, torchrun or accelerate launch, "
        "e.g. accelerate launch --config_file presets/accelerate/fsdp2.yaml"
    )


def _options(words: list[str]) -> dict[str, str]:
    """`--name value` and `--name=value`, with underscores in the names."""
    found = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            found[name.replace("-", "_")] = value or following
    return found


def _file(path: str, key: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{key}: accelerate's configuration {path} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{key}: {path} is no configuration of accelerate; presets/accelerate has some")
    return settings


def _sharding(settings: dict[str, Any]) -> Sharding:
    kind = settings.get("distributed_type")
    if kind == "FSDP":
        return "fsdp"
    if kind == "DEEPSPEED":
        return "zero3" if (settings.get("deepspeed_config") or {}).get("zero_stage") == 3 else "zero2"
    return "ddp" if int(settings.get("num_processes", 1)) > 1 else "none"


def _whole(value: Any, key: str, name: str) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise UserError(f"{key}: {name} is {value!r}; it has to be a whole number, 1 or more")
    return number
