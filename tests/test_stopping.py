"""A stage that is told to stop: exit status 143 and one sentence, not a traceback; what is deferred goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tr_align import stopping

SOURCE = Path(stopping.__file__).parents[1]

STAGE = """
import asyncio, concurrent.futures, os, signal, sys, threading, time
from tr_align import progress, stopping

def told(number=signal.SIGTERM):
    os.kill(os.getpid(), number)

def main():
{body}

progress.run_stage(main)
"""


def run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    script = STAGE.format(body="\n".join(f"    {line}" for line in body.splitlines()))
    environment = {"PYTHONPATH": str(SOURCE), "DVC_ROOT": str(tmp_path), "DVC_STAGE": "judge@dpo"}
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # Of a shell's background job, as the tests may be, SIGINT is ignored, and so it would be here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_one_sentence_and_status_143(number: signal.Signals, tmp_path: Path) -> None:
    done = run(tmp_path, f"told(signal.{number.name})\ntime.sleep(30)")
    assert done.returncode == stopping.STATUS == 143
    assert done.stderr == (
        f"── judge@dpo\n\nstopped by {number.name}: what was finished is kept. The same command goes on from there\n\n"
    )
    assert not (tmp_path / ".scratch").exists()  # an unfinished stage's duration says nothing


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    told()\n    time.sleep(30)\nexcept Exception:\n    print('swallowed')",
        "async def work():\n"
        "    asyncio.get_running_loop().call_soon(told)\n"
        "    await asyncio.sleep(30)\n"
        "asyncio.run(work())",
        # A thread that is in the middle of a request is not waited for.
        "threading.Thread(target=time.sleep, args=(30,)).start()\ntold()",
    ],
    ids=["except Exception", "asyncio", "threads"],
)
def test_nothing_holds_it_up(body: str, tmp_path: Path) -> None:
    done = run(tmp_path, body)
    assert done.returncode == 143 and "stopped by SIGTERM" in done.stderr and "Traceback" not in done.stderr
    assert "swallowed" not in done.stdout


def test_what_is_deferred_is_finished(tmp_path: Path) -> None:
    """A signal, and another while the first is on its way, while a step is made; then one after it."""
    body = """\
with stopping.deferred():
    told(signal.SIGUSR1)
    told()
    print('finished, asked:', stopping.asked())
print('still here')
raise stopping.Stopped('a checkpoint after step 3 of 9 is kept')"""
    done = run(tmp_path, body)
    assert done.returncode == 143
    assert done.stdout == "finished, asked: True\nstill here\n"
    assert done.stderr.count("SIGUSR1: this step is finished and a checkpoint written") == 1
    assert done.stderr.endswith(
        "stopped by SIGUSR1: a checkpoint after step 3 of 9 is kept. The same command goes on from there\n\n"
    )


def test_a_stage_that_was_finished_all_the_same_has_succeeded(tmp_path: Path) -> None:
    done = run(tmp_path, "with stopping.deferred():\n    told()")
    assert done.returncode == 0


def test_an_interrupt_stays_what_it_was(tmp_path: Path) -> None:
    done = run(tmp_path, "told(signal.SIGINT)\ntime.sleep(30)")
    assert done.returncode == -signal.SIGINT and "KeyboardInterrupt" in done.stderr
