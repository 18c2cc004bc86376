"""Signals to stop, for commands that run others: they end those first, and then themselves."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOP = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals(at_each: Callable[[], None] = lambda: None) -> Iterator[list[int]]:
    """The signals to stop that have come; they interrupt nothing by themselves, for DVC must not be torn apart.

    Args: `at_each`: called at each of them.
    """
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        at_each()

    old = {number: signal.signal(number, note) for number in _STOP}
    try:
        yield came
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def leave_if(stopped: list[int]) -> None:
    """End the command as a shell expects it of one that was stopped.

    Raises:
        SystemExit: a signal came.
    """
    if stopped:
        print("\nstopped; the same command goes on where this was", file=sys.stderr)
        raise SystemExit(128 + stopped[0])
