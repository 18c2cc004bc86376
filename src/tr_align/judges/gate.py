"""How many calls may run at once: as many as the endpoint bears, found out the way TCP finds its rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds of a first and of the longest pause that the client chooses itself."""

TRIP = 8
"""Failures in a row, over all calls, after which the circuit opens."""


class Down(Exception):
    """The endpoint does not come back: one pause too many without an answer."""


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt `attempt` + 1: exponential, with full jitter, so that callers spread out."""
    return random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))


class Gate:
    """Admits at most `limit` calls at a time, and none before `opens`.

    - An answer raises the limit: by one up to half of what was once too much, by one a round above it, to `most`.
    - "Too many requests" halves it, once for all calls that were under way, and closes the gate for as long as the
      endpoint says (Retry-After), else for an exponential pause with jitter.
    - `TRIP` failures in a row open the circuit: a pause, then one call at a time until one is answered.

    After `trips` pauses of either kind without an answer in between, :class:`Down` is raised.

    Args: `most` calls at once; `trips` pauses before giving up; `clock` in seconds.
    """

    def __init__(self, most: int, trips: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.trips, self.clock = most, trips, clock
        self.limit = float(most)
        self.target = float(most)  # up to here the limit grows fast
        self.opens = 0.0
        self.active = 0
        self.failures = 0  # in a row
        self.open = False  # the circuit
        self.pauses = 0  # since the last answer
        self._round = 0
        self._left = asyncio.Event()  # set when a call leaves

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[int]:
        """A slot for one call, when there is one; yields the round the call belongs to."""
        # No lock: nothing is awaited between finding a slot and taking it, and each await costs a turn of the loop.
        while (wait := self.opens - self.clock()) > 0 or self.active >= int(self.limit):
            if wait > 0:
                await asyncio.sleep(wait)
            else:
                self._left.clear()
                await self._left.wait()
        self.active += 1
        try:
            yield self._round
        finally:
            self.active -= 1
            self._left.set()

    def answered(self) -> None:
        """A call came back with an answer, or with a refusal that only concerns its question."""
        self.failures = self.pauses = 0
        self.open = False
        self.limit = min(self.most, self.limit + (1 if self.limit < self.target else 1 / self.limit))

    def throttled(self, call_round: int, retry_after: float | None) -> None:
        """A call was refused as one too many; `retry_after` is the pause the endpoint asks for, in seconds.

        Raises:
            Down: it has been so too often.
        """
        if call_round != self._round:  # sent before the last cut, which has answered all of it but a longer pause
            self.opens = max(self.opens, self.clock() + (retry_after or 0.0))
            return
        limit = self.limit / 2
        self._pause(limit, retry_after)
        self.target = max(1.0, limit)

    def failed(self, call_round: int) -> None:
        """A call failed for no reason of its own: cut off, timed out, server error.

        Raises:
            Down: the circuit has opened too often.
        """
        if call_round != self._round:
            return
        self.failures += 1
        self.open = self.open or self.failures >= TRIP
        if self.open:
            self._pause(1, None)

    def _pause(self, limit: float, seconds: float | None) -> None:
        if self.pauses >= self.trips:
            raise Down
        if not seconds or self.pauses:  # the endpoint does not say, or what it said did not suffice
            own = min(LONGEST_PAUSE, 2 * FIRST_PAUSE * 2**self.pauses) * random.uniform(0.75, 1.25)
            seconds = max(seconds or 0.0, own)
        self.opens = max(self.opens, self.clock() + seconds)
        self.pauses += 1
        self.failures = 0
        self._round += 1
        self.limit = max(1.0, limit)
