"""A GPU a worker: real processes and made-up GPUs; each takes one, waits, and gives it back however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tr_align import gpus

SOURCE = Path(gpus.__file__).parents[1]
TWO = [("GPU-a", "GPU-a"), ("GPU-b", "GPU-b")]

WORKER = """
import os, sys
from tr_align import gpus
gpus.claim(int(sys.argv[1]), [tuple(gpu.split("=")) for gpu in sys.argv[2:]], seconds=0.05)
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Locks of its own, and a process that no launcher has started."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(gpus.tempfile, "tempdir", None)
    monkeypatch.setattr(gpus, "_held", [])
    for name in (*gpus.LAUNCHED, "CUDA_VISIBLE_DEVICES", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


Worker = subprocess.Popen[str]


@pytest.fixture
def started() -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.kill()
        worker.communicate()


def start(started: list[Worker], stage: str, count: int = 1, found: list[tuple[str, str]] = TWO) -> Worker:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(count), *("=".join(gpu) for gpu in found)],
        env=os.environ | {"PYTHONPATH": str(SOURCE), "DVC_STAGE": stage},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started.append(worker)
    return worker


def line(worker: Worker) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_two_take_one_each_and_a_third_waits_until_one_ends(end: str, started: list[Worker]) -> None:
    one = start(started, "align@dpo")
    assert line(one) == "GPU-a"
    two = start(started, "align@ipo")
    assert line(two) == "GPU-b"
    three = start(started, "align@kto")
    assert three.stderr is not None
    said = three.stderr.readline()
    assert said == (
        f"all GPUs are taken, by align@dpo (process {one.pid}), align@ipo (process {two.pid}): "
        "waiting for 1 to be free\n"
    )
    time.sleep(0.3)
    assert three.poll() is None
    if end == "exit":
        two.communicate("")
    else:
        two.send_signal(signal.SIGKILL)
        two.wait()
    assert line(three) == "GPU-b"


def test_one_gpu_is_waited_for_too(started: list[Worker]) -> None:
    """Two trainings on one GPU would end without memory."""
    one = start(started, "sft", found=TWO[:1])
    assert line(one) == "GPU-a"
    two = start(started, "align@dpo", found=TWO[:1])
    assert two.stderr is not None
    assert "waiting for 1 to be free" in two.stderr.readline()
    one.communicate("")
    assert line(two) == "GPU-a"


def test_who_needs_two_takes_none_while_only_one_is_free(started: list[Worker]) -> None:
    one = start(started, "align@dpo")
    assert line(one) == "GPU-a"
    both = start(started, "generate_sft", count=2)
    assert both.stderr is not None and "waiting for 2 to be free" in both.stderr.readline()
    two = start(started, "align@ipo")
    assert line(two) == "GPU-b"
    for worker in (one, two):
        worker.communicate("")
    assert line(both) == "GPU-a,GPU-b"


def test_a_gpu_of_another_name_is_the_same_gpu(started: list[Worker]) -> None:
    """One process was given `1`, another the UUID of it."""
    assert line(start(started, "align@dpo", found=[("1", "GPU-b")])) == "1"
    assert line(start(started, "align@ipo", found=[("GPU-b", "GPU-b"), ("GPU-c", "GPU-c")])) == "GPU-c"


def test_nothing_is_done_without_a_gpu_or_under_a_launcher(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    gpus.claim(found=[])
    for name in gpus.LAUNCHED:
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            gpus.claim(found=TWO)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not list(machine.iterdir())


def test_who_has_one_claims_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # to be put back after the test
    gpus.claim(found=TWO)
    gpus.claim(found=TWO)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-a"
    assert len(gpus._held) == 1


LISTING = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-22222222-bbbb)
  MIG 3g.40gb     Device  0: (UUID: MIG-33333333-cccc)
  MIG 3g.40gb     Device  1: (UUID: MIG-44444444-dddd)
"""


def test_what_the_drivers_tool_lists() -> None:
    assert gpus.parse(LISTING) == ["GPU-11111111-aaaa", "MIG-33333333-cccc", "MIG-44444444-dddd"]
    assert gpus.parse("No devices found.\n") == []


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, [("GPU-1", "GPU-1"), ("GPU-2", "GPU-2")]),
        ("1,0", [("1", "GPU-2"), ("0", "GPU-1")]),
        ("GPU-2", [("GPU-2", "GPU-2")]),
        ("7", [("7", "7")]),
        ("", []),
        ("0,-1,1", [("0", "GPU-1")]),
    ],
)
def test_what_cuda_visible_devices_leaves(
    variable: str | None,
    expected: list[tuple[str, str]],
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool = machine / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf 'GPU 0: A (UUID: GPU-1)\\nGPU 1: B (UUID: GPU-2)\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{machine}{os.pathsep}{os.environ['PATH']}")
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert gpus.visible() == expected


def test_a_machine_without_the_driver_has_none(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    monkeypatch.setenv("PATH", str(machine))
    assert gpus.visible() == []
