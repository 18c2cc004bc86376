"""What many experiments cost beside their training, and how that grows with their number.

A copy of this repository with the smoke preset and all nine methods, in which a sweep runs 1, 3 and 9 experiments: 9,
27 and 81 cells, each trained, sampled, judged and scored. Every stage only writes its outputs, so that what is left is
DVC: the queue, the copies of the repository, hashing, checking out, committing. With --real the stages are the real
ones on a model of two layers: the interpreter and its imports come on top, and a training of a second or two. Before
it: the seconds that imports take, of which every stage has some.

    python benchmarks/overhead.py [--real] [--experiments 1 3 9] [--jobs 1]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tr_align.config import METHODS

PR_SET_CHILD_SUBREAPER = 36
ROOT = Path(__file__).parents[1]
IMPORTS = {
    "the interpreter": "pass",
    "torch": "import torch",
    "torch, transformers": "import torch, transformers; transformers.AutoModelForCausalLM; transformers.Trainer",
    "trl's SFT trainer": "from trl import SFTTrainer",
    "mlflow": "import mlflow",
    "dvc": "import dvc.repo",
}


def environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": "src", "DVC_NO_ANALYTICS": "1"}


def repository(folder: Path, empty: bool) -> None:
    """What git holds of this repository, with the smoke preset and nine methods."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True).stdout
    for name in names.decode().split("\0"):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "dvc.lock", "tests/", "docs/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    params: dict[str, Any] = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text(encoding="utf-8"))
    params["methods"] = {name: method.model_dump() for name, method in METHODS.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    if empty:
        pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
        for stage in pipeline["stages"].values():
            body = stage.get("do", stage)
            body["cmd"] = " && ".join(f"mkdir -p $(dirname {out}) && cp params.yaml {out}" for out in files(body))
        (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")
    for command in (["init", "-q"], ["config", "user.name", "x"], ["config", "user.email", "x@example.org"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-qm", "start"], cwd=folder, check=True)


def files(stage: dict[str, Any]) -> list[str]:
    """The files that stand for a stage's outputs."""
    outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    names = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    inside = {"data/prepared": ("preferences.jsonl", "sft.jsonl", "judge.jsonl", "evaluation.jsonl")}
    return [f"{name}/{file}" for name in names for file in inside.get(name, ())] + [n for n in names if n not in inside]


def timed(*command: str, cwd: Path | None = None) -> float:
    started = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return time.perf_counter() - started


def processor_seconds() -> float:
    """Of all processes started here so far and ended, DVC's workers too: what a busy machine hardly changes."""
    with contextlib.suppress(ChildProcessError):
        while True:  # workers end when nothing has come for ten seconds
            os.waitpid(-1, 0)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def betas(first: int, count: int) -> str:
    """A value of -S with which `count` experiments train all nine methods anew."""
    values = [round(0.05 + 0.001 * number, 3) for number in range(first, first + count)]
    return "beta=" + ",".join(f"{{dpo: {value},ipo: {value},kto: {value}}}" for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--experiments", type=int, nargs="+", default=[1, 3, 9])
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # workers leave their parent; now they are children of this
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", flush=True)
    for name, code in IMPORTS.items():
        timed(sys.executable, "-c", code)  # files into memory
        before = processor_seconds()
        seconds = timed(sys.executable, "-c", code)
        print(f"  {name:<24} {seconds:6.2f} s, {processor_seconds() - before:6.2f} s of processor", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "repository"
        folder.mkdir()
        repository(folder, empty=not options.real)
        before = processor_seconds()
        seconds = timed("dvc", "repro", cwd=folder)
        print(f"the workspace: {seconds:.1f} s, {processor_seconds() - before:.1f} s of processor", flush=True)
        ran = 0
        for count in options.experiments:
            sweep = ("sweep", "--jobs", str(options.jobs), "-S", betas(ran + 1, count))
            before = processor_seconds()
            seconds = timed(sys.executable, "-m", "tr_align.cli", *sweep, cwd=folder)
            used = processor_seconds() - before
            ran += count
            row = {
                "cells": 9 * count,
                "seconds": round(seconds, 1),
                "seconds_a_cell": round(seconds / (9 * count), 2),
                "processor_seconds": round(used, 1),
                "processor_seconds_a_cell": round(used / (9 * count), 2),
                "load": round(os.getloadavg()[0], 1),
            }
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
