"""The stage scripts as DVC starts them: told to stop and started again; by two processes, of which one writes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tr_align.data.schema import Demonstration, Pair, write_demonstrations, write_pairs

from .conftest import ROOT

STEPS = 30
TWO = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
       "--main_process_port", "0"]  # fmt: skip
OUTPUTS = {
    "sft": ["models/sft/model.safetensors", "logs/sft.jsonl"],
    "align": [
        "models/tr_dpo_soft/step-00015/model.safetensors",
        "models/tr_dpo_soft/step-00030/model.safetensors",
        "logs/tr_dpo_soft.jsonl",
    ],
}


def prepared(folder: Path, pairs: list[Pair]) -> Path:
    """A project on the smoke preset but for the number of steps, as `prepare` leaves it."""
    folder.mkdir()
    for name in ("pipeline", "src"):
        (folder / name).symlink_to(ROOT / name)
    params = (ROOT / "presets" / "smoke.yaml").read_text()
    for section in ("sft", "align"):  # long enough to be stopped in the middle
        params = re.sub(rf"(?<=\n{section}:\n  steps: )\d+", str(STEPS), params)
    (folder / "params.yaml").write_text(params)
    (folder / "data" / "prepared").mkdir(parents=True)
    rows = [
        Demonstration.model_validate(
            {
                "prompt": [message.model_dump() for message in pair.prompt],
                "completion": [{"role": "assistant", "content": pair.chosen}],
            }
        )
        for pair in pairs
    ]
    write_demonstrations(folder / "data" / "prepared" / "sft.jsonl", rows)
    write_pairs(folder / "data" / "prepared" / "preferences.jsonl", pairs)
    return folder


def start(folder: Path, stage: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    arguments = ["pipeline/sft.py"] if stage == "sft" else ["pipeline/align.py", "tr_dpo_soft"]
    environment = {name: value for name, value in os.environ.items() if name not in ("DVC_STAGE", "TR_ALIGN_PLAN")}
    environment |= {"PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DVC_ROOT": str(folder)}
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


def wait_for_steps(folder: Path, stage: str, process: subprocess.Popen[str]) -> None:
    """Until the log has a row: a signal before training ends the stage at once, with nothing to keep."""
    logs = lambda: (folder / ".scratch").glob(f"{stage}*/*/train.jsonl")  # noqa: E731
    while process.poll() is None and not any(log.stat().st_size for log in logs()):
        time.sleep(0.01)


def finish(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-4000:]
    return errors


def contents(folder: Path, stage: str) -> list[bytes]:
    return [(folder / name).read_bytes() for name in OUTPUTS[stage]]


def test_stopped_and_started_again_it_ends_with_the_same_files(pairs: list[Pair], tmp_path: Path) -> None:
    """SIGTERM to `sft` and SIGUSR1 to `align`, each while a step is made."""
    whole, stopped = prepared(tmp_path / "whole", pairs), prepared(tmp_path / "stopped", pairs)
    for stage, number in (("sft", signal.SIGTERM), ("align", signal.SIGUSR1)):
        finish(start(whole, stage))
        process = start(stopped, stage)
        wait_for_steps(stopped, stage, process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=400)
        assert process.returncode == 143, errors[-4000:]
        assert f"stopped by {number.name}: " in errors and "The same command goes on from there" in errors
        assert "Traceback" not in errors
        assert not any((stopped / name).exists() for name in OUTPUTS[stage])
        assert list((stopped / ".scratch").glob(f"{stage}*/*/checkpoints/*"))
        finish(start(stopped, stage))
        assert contents(stopped, stage) == contents(whole, stage)
        assert not list((stopped / ".scratch").glob(f"{stage}*/*"))


def test_two_processes_write_each_file_once_also_when_stopped(pairs: list[Pair], tmp_path: Path) -> None:
    """`launch.train: accelerate launch ...`; the main process alone has a log, an MLflow run and outputs."""
    folder = prepared(tmp_path / "two", pairs)
    for stage in ("sft", "align"):
        if stage == "align":  # with the reference of a soft method in its checkpoint
            process = start(folder, stage, TWO)
            wait_for_steps(folder, stage, process)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=400)
            assert process.returncode != 0 and "a checkpoint after step" in errors, errors[-4000:]
            assert list((folder / ".scratch").glob("align*/*/checkpoints/*/reference-1.safetensors"))
            assert not (folder / OUTPUTS[stage][-1]).exists()
        finish(start(folder, stage, TWO))
        contents(folder, stage)
        log = [json.loads(line)["step"] for line in (folder / OUTPUTS[stage][-1]).read_text().splitlines()]
        assert log == list(range(1, STEPS + 1))
        assert not list((folder / ".scratch").glob(f"{stage}*/*"))
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("smoke")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_more_rows_than_there_are_for_two_processes(pairs: list[Pair], tmp_path: Path) -> None:
    folder = prepared(tmp_path / "few", pairs[:7])
    process = start(folder, "sft", TWO)
    _, errors = process.communicate(timeout=400)
    assert process.returncode != 0
    assert "2 processes train, so an optimizer step takes 8 rows, but the sft split has only 7" in errors
