"""What is running, how much is left: one line at the start of each stage, durations remembered for the next run."""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from tr_align import stopping
from tr_align.errors import UserError
from tr_align.scratch import root, write_atomically

PLAN = "TR_ALIGN_PLAN"
"""Environment variable with the stages that `make repro` expects to run, in JSON."""

EXPECTED = {
    "prepare": 9,
    "sft": 50,
    "judge_fit": 85,
    "calibrate": 25,
    "generate_sft": 27,
    "ood_sft": 15,
    "judge_sft": 8,
    "score_sft": 1,
    "align": 52,
    "generate": 42,
    "ood": 18,
    "judge": 13,
    "score": 1,
    "toy_mdp": 75,
    "report": 6,
}
"""Seconds of the embedded preset on two cores, until this machine's own durations are known."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main` under a heading; a :class:`UserError` ends it with its message alone, exit status 1.

    So does SIGTERM or SIGUSR1, with :data:`tr_align.stopping.STATUS`.
    """
    stopping.handle_signals()
    stage = os.environ.get("DVC_STAGE", Path(sys.argv[0]).stem)
    print(heading(stage), file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        main()
    except UserError as error:
        sys.exit(f"\nerror: {error}\n")
    except stopping.Stopped as stop:
        print(f"\n{stop}\n", file=sys.stderr)
        _leave(stopping.STATUS)
    if os.environ.get("RANK", "0") == "0":  # the others of a training on several GPUs would write the same files
        _remember(stage, time.monotonic() - started)
    _leave(0)


def _leave(status: int) -> NoReturn:
    """End the process now: taking torch apart costs a second in each of forty stages, and threads may still wait."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def heading(stage: str) -> str:
    """`[12 of 43] align@dpo, about 9 min left`; without a plan only the stage's name."""
    planned = json.loads(os.environ.get(PLAN, "[]"))
    if stage not in planned:
        return f"── {stage}"
    done = _durations(_session_file())
    left = [other for other in planned if other not in done]
    # This session's pace, against what was expected of the stages it has finished before they ran.
    expected = sum(_durations(_expectations_file()).values())
    pace = sum(done.values()) / expected if expected else 1.0
    minutes = pace * sum(_expected(other) for other in left) / 60
    return f"── [{len(planned) - len(left) + 1} of {len(planned)}] {stage}, about {max(1, round(minutes))} min left"


def durations() -> dict[str, float]:
    """Seconds of each stage when it last ran on this machine."""
    return _durations(_history_file())


def start_session() -> None:
    """Forget which stages an earlier `make repro` finished."""
    for file in (_session_file(), _expectations_file()):
        file.unlink(missing_ok=True)


def _expected(stage: str) -> float:
    return _durations(_history_file()).get(stage) or EXPECTED.get(stage.partition("@")[0], 10)


def _remember(stage: str, seconds: float) -> None:
    # The expectation first: the history is what it comes from.
    expected = _expected(stage)
    for file, value in ((_expectations_file(), expected), (_session_file(), seconds), (_history_file(), seconds)):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(_durations(file) | {stage: round(value, 1)}))


def _durations(file: Path) -> dict[str, float]:
    try:
        durations: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return durations


def _session_file() -> Path:
    return root() / ".scratch" / "session.json"


def _expectations_file() -> Path:
    return root() / ".scratch" / "expected.json"


def _history_file() -> Path:
    return root() / ".scratch" / "durations.json"
