"""SIGTERM and SIGUSR1: a stage ends with one sentence, a training first keeps where it is.

Schedulers send SIGTERM before SIGKILL when they take a machine back; Slurm's `--signal=USR1@120` sends SIGUSR1 earlier.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

STATUS = 128 + signal.SIGTERM
"""Exit status of a stage that was told to stop, 143, whichever of the signals it was: it has failed, for DVC too."""

_asked: list[str] = []
_deferred = 0


class Stopped(SystemExit):
    """This process was told to stop; `kept` says what the next start goes on from.

    A SystemExit, for `except Exception` and asyncio's callbacks let that pass.
    """

    def __init__(self, kept: str = "what was finished is kept") -> None:
        super().__init__(STATUS)
        self.kept = kept

    def __str__(self) -> str:
        return f"stopped by {_asked[0] if _asked else 'a signal'}: {self.kept}. The same command goes on from there"


def handle_signals() -> None:
    """From now on SIGTERM and SIGUSR1 raise :class:`Stopped` in the main thread, which has to call this."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _on_signal)


def _on_signal(number: int, frame: Any) -> None:
    first = not _asked
    _asked.append(signal.Signals(number).name)
    if not _deferred:
        raise Stopped
    if first:  # not print: it may be what was interrupted
        os.write(2, f"\n{_asked[0]}: this step is finished and a checkpoint written\n".encode())


def asked() -> bool:
    """Whether a signal came."""
    return bool(_asked)


@contextmanager
def deferred() -> Iterator[None]:
    """For as long as it lasts a signal only makes :func:`asked` true."""
    global _deferred
    _deferred += 1
    try:
        yield
    finally:
        _deferred -= 1
