"""How many calls run at once, in a time of the tests' own: a loop in which waiting takes none."""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from tr_align.judges.gate import FIRST_PAUSE, LONGEST_PAUSE, TRIP, Down, Gate, backoff


class Skipping(selectors.DefaultSelector):
    """Where a loop would wait, its clock jumps; where it would wait for ever, the test fails."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout is None and not ready:
            raise AssertionError("nobody will ever go on: a deadlock")
        if not ready:
            self.now += timeout or 0.0
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.skipping = Skipping()
        super().__init__(self.skipping)

    def time(self) -> float:
        return self.skipping.now


def play(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scene)


def now() -> float:
    return asyncio.get_running_loop().time()


def make(most: int, trips: int = 5) -> Gate:
    return Gate(most, trips, asyncio.get_running_loop().time)


async def settle() -> None:
    """Let everybody go on until all wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def call(gate: Gate, seconds: float = 0.0, then: Callable[[int], None] = lambda call_round: None) -> float:
    """A call that takes so long; returns when it was let in."""
    async with gate.admitted() as call_round:
        start = now()
        await asyncio.sleep(seconds)
        then(call_round)
    return start


def answers(gate: Gate, count: int) -> list[float]:
    """The limit after each of so many answers."""
    limits = []
    for _ in range(count):
        gate.answered()
        limits.append(gate.limit)
    return limits


def trip(gate: Gate) -> None:
    """Open the circuit from a gate that is well."""
    for _ in range(TRIP):
        gate.failed(gate._round)


@pytest.fixture
def no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


def test_the_limit_grows_fast_to_half_of_what_was_too_much_and_slowly_above() -> None:
    """From 16, a cut halves the limit to 8; then it grows by 1 / limit: 8 + 1/8, then 1 / 8.125 more.

    After a circuit that opened it is 1 and grows by 1 to those 8 (seven answers), then again by 1 / 8.
    """

    async def scene() -> None:
        gate = make(16)
        gate.throttled(0, 1.0)
        assert gate.limit == 8
        assert answers(gate, 2) == [8.125, 8.125 + 1 / 8.125]
        trip(gate)
        assert gate.limit == 1
        assert answers(gate, 8) == [2, 3, 4, 5, 6, 7, 8, 8.125]

    play(scene())


def test_above_the_target_the_limit_grows_by_about_one_a_round_up_to_the_most() -> None:
    """Of 4 + k, each of the next 4 + k answers adds 1 / (4 + k) or, as it grows, a little less."""

    async def scene() -> None:
        gate = make(8)
        gate.throttled(0, 1.0)
        for k in range(3):
            before = gate.limit
            assert before + 0.85 < answers(gate, 4 + k)[-1] <= before + 1
        assert answers(gate, 20)[-3:] == [8, 8, 8]

    play(scene())


def test_a_gate_that_was_never_shut_stays_at_its_most() -> None:
    async def scene() -> None:
        gate = make(3)
        assert (gate.limit, answers(gate, 3)) == (3, [3, 3, 3])

    play(scene())


def test_a_round_is_cut_once_however_many_of_its_calls_are_refused() -> None:
    """16 calls under way, all refused: 8. Then 8 under way, all refused: 4, 2, 1, and never less than 1."""

    async def scene() -> None:
        gate = make(16, trips=100)
        limits = []
        for _ in range(6):
            under_way = int(gate.limit)
            await asyncio.gather(*(call(gate, 0.1, lambda n: gate.throttled(n, 0.5)) for _ in range(under_way)))
            limits.append(gate.limit)
        assert limits == [8, 4, 2, 1, 1, 1]

    play(scene())


def test_a_refusal_of_an_earlier_round_does_not_cut_again() -> None:
    async def scene() -> None:
        gate = make(16, trips=1)
        gate.throttled(0, 1.0)
        for _ in range(15):
            gate.throttled(0, 1.0)
            gate.failed(0)
        assert (gate.limit, gate.pauses, gate.failures) == (8, 1, 0)

    play(scene())


def test_what_the_endpoint_asks_for_holds_for_all() -> None:
    """One of three calls is refused at 1 s, for 30 s: those that wait and those that come later start at 31 s.

    There are two slots after the cut from 4; each call takes 1 s, so the next two start at 32 s.
    """

    async def scene() -> None:
        gate = make(4)
        first = [asyncio.create_task(call(gate, 2)) for _ in range(3)]
        await asyncio.sleep(0)
        refused = asyncio.create_task(call(gate, 1, lambda n: gate.throttled(n, 30)))
        waiting = [asyncio.create_task(call(gate, 1)) for _ in range(2)]
        await asyncio.sleep(10)
        late = [asyncio.create_task(call(gate, 1)) for _ in range(2)]
        starts = await asyncio.gather(*first, refused, *waiting, *late)
        assert starts[:4] == [0, 0, 0, 0]
        assert sorted(starts[4:]) == pytest.approx([31, 31, 32, 32])

    play(scene())


def test_the_longest_pause_of_a_round_holds() -> None:
    """Three calls of a round are refused at once, for 1, 20 and 5 s: the gate opens after 20."""

    async def scene() -> None:
        gate = make(4)
        for after in (1.0, 20.0, 5.0, None):
            gate.throttled(0, after)
        assert (gate.limit, gate.pauses) == (2, 1)
        assert await call(gate) == pytest.approx(20)

    play(scene())


@pytest.mark.usefixtures("no_jitter")
@pytest.mark.parametrize("after", [None, 0.0])
def test_where_the_endpoint_does_not_say_the_pauses_double(after: float | None) -> None:
    """1 s, then 2, 4, 8, 16, 32 and, since 64 is more than the longest, 60 and 60: the sums of these."""

    async def scene() -> None:
        gate = make(4, trips=8)
        opens = []
        for _ in range(8):
            opens.append(await call(gate, 0, lambda n: gate.throttled(n, after)))
        opens.append(await call(gate))
        assert opens == pytest.approx([0, *itertools.accumulate([1, 2, 4, 8, 16, 32, 60, 60])])

    play(scene())


def test_a_pause_that_did_not_suffice_is_made_longer(no_jitter: None) -> None:
    """The endpoint always says 0.1 s: 0.1 at first, then the client's own 2, 4 s. What is longer than that holds."""

    async def scene() -> None:
        gate = make(4)
        opens = []
        for after in (0.1, 0.1, 0.1, 100.0):
            opens.append(await call(gate, 0, lambda n, after=after: gate.throttled(n, after)))  # type: ignore[misc]
        assert opens == pytest.approx([0, 0.1, 2.1, 6.1])
        assert await call(gate) == pytest.approx(106.1)

    play(scene())


def test_the_clients_own_pauses_differ_by_a_quarter() -> None:
    """So that clients that were refused together do not come back together: of 1 s, between 0.75 and 1.25."""

    async def scene() -> None:
        starts = []
        for _ in range(500):
            gate = make(1)
            gate.throttled(0, None)
            starts.append(gate.opens - now())
        assert 0.75 <= min(starts) < 0.8 and 1.2 < max(starts) <= 1.25

    play(scene())


@pytest.mark.usefixtures("no_jitter")
def test_failures_in_a_row_open_the_circuit_until_a_call_is_answered() -> None:
    """TRIP failures at 1 s shut the gate for 1 s; then one call at a time (each takes 1 s), the first of which fails.

    That shuts it for 2 s more: 2, 3 + 2 = 5. The call at 5 s is answered at 6: two at a time from there.
    """

    async def scene() -> None:
        gate = make(16)
        await asyncio.gather(*(call(gate, 1, gate.failed) for _ in range(TRIP)))
        assert (gate.limit, gate.pauses, gate.opens) == (1, 1, 2)
        outcomes = iter([gate.failed, *[lambda n: gate.answered()] * 6])
        starts = await asyncio.gather(*(call(gate, 1, lambda n: next(outcomes)(n)) for _ in range(6)))
        assert sorted(starts)[:4] == pytest.approx([2, 5, 6, 6])
        assert (gate.pauses, gate.failures) == (0, 0)

    play(scene())


def test_one_failure_less_does_not_open_it() -> None:
    async def scene() -> None:
        gate = make(16)
        for _ in range(TRIP - 1):
            gate.failed(0)
        assert (gate.limit, gate.pauses, gate.opens) == (16, 0, 0)
        gate.failed(0)
        assert (gate.limit, gate.pauses) == (1, 1)

    play(scene())


def test_an_answer_forgets_failures_and_pauses() -> None:
    async def scene() -> None:
        gate = make(16, trips=1)
        for _ in range(3):
            for _ in range(TRIP - 1):
                gate.failed(gate._round)
            gate.answered()
        assert (gate.limit, gate.pauses) == (16, 0)
        for _ in range(3):  # with one pause allowed, an answer between them makes it three
            gate.throttled(gate._round, 1.0)
            gate.answered()
        trip(gate)
        gate.answered()
        trip(gate)

    play(scene())


def test_after_a_pause_that_was_asked_for_one_failure_is_still_one() -> None:
    """Only an open circuit goes on for each failure: too many requests say that somebody is there.

    For the same reason failures before them do not count any more.
    """

    async def scene() -> None:
        gate = make(16)
        for _ in range(TRIP - 1):
            gate.failed(0)
        gate.throttled(0, 1.0)
        for _ in range(TRIP - 1):
            gate.failed(1)
        assert (gate.limit, gate.pauses) == (8, 1)
        gate.failed(1)
        assert (gate.limit, gate.pauses) == (1, 2)
        gate.failed(2)
        assert (gate.limit, gate.pauses) == (1, 3)
        gate.answered()
        gate.failed(3)
        assert (gate.limit, gate.pauses) == (2, 0)

    play(scene())


@pytest.mark.parametrize("trips", [0, 1, 3])
@pytest.mark.parametrize("how", ["throttled", "failed", "both"])
def test_after_so_many_pauses_without_an_answer_it_is_down(trips: int, how: str) -> None:
    async def scene() -> None:
        gate = make(4, trips)

        def throttle() -> None:
            gate.throttled(gate._round, 0.0)

        def fail() -> None:
            if gate.open:
                gate.failed(gate._round)
            else:
                trip(gate)

        for turn in range(trips):
            (fail if how == "failed" or (how == "both" and turn % 2) else throttle)()
        assert gate.pauses == trips
        for once_more in (throttle, fail):
            with pytest.raises(Down):
                once_more()

    play(scene())


def test_never_more_than_the_limit_and_none_before_it_opens() -> None:
    """60 workers, 20 of them cancelled at some time, with answers, refusals and failures at random; 20 such runs."""

    async def scene(seed: int) -> None:
        draw = random.Random(seed)
        gate = make(12, trips=10**9)
        inside, most, count = 0, 0, 0

        async def work() -> None:
            nonlocal inside, most, count
            for _ in range(10):
                async with gate.admitted() as call_round:
                    inside += 1
                    try:
                        assert inside <= int(gate.limit) and inside == gate.active and now() >= gate.opens
                        most, count = max(most, inside), count + 1
                        await asyncio.sleep(draw.expovariate(1))
                        match draw.random():
                            case p if p < 0.85:
                                gate.answered()
                            case p if p < 0.95:
                                gate.throttled(call_round, draw.choice([None, 0.0, 1.0, 7.0]))
                            case _:
                                gate.failed(call_round)
                    finally:
                        inside -= 1

        tasks = [asyncio.create_task(work()) for _ in range(60)]
        for task in tasks[::3]:
            await asyncio.sleep(draw.expovariate(1))
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in done} <= {type(None), asyncio.CancelledError}
        assert all(task.cancelled() or result is None for task, result in zip(tasks, done, strict=True))
        assert count >= 400 and most > 3
        assert (inside, gate.active) == (0, 0)

    for seed in range(20):
        play(scene(seed))


@pytest.mark.parametrize("closed", [False, True], ids=["for a slot", "for the gate to open"])
def test_who_is_cancelled_while_waiting_leaves_no_slot_behind(closed: bool) -> None:
    async def scene() -> None:
        gate = make(1)
        inside = asyncio.Event()

        async def hold() -> None:
            async with gate.admitted():
                await inside.wait()

        holder = None if closed else asyncio.create_task(hold())
        if closed:
            gate.throttled(0, 100.0)
        waiters = [asyncio.create_task(call(gate)) for _ in range(5)]
        await settle()
        for waiter in waiters[:4]:
            waiter.cancel()
        await settle()
        assert [waiter.cancelled() for waiter in waiters] == [True] * 4 + [False]
        assert gate.active == (0 if closed else 1)
        inside.set()
        assert await waiters[4] == pytest.approx(100 if closed else 0)
        if holder:
            await holder
        assert gate.active == 0
        await call(gate)

    play(scene())


@pytest.mark.parametrize("how", ["cancelled", "fails"])
def test_who_leaves_by_an_error_gives_the_slot_back(how: str) -> None:
    async def scene() -> None:
        gate = make(1)

        async def fails() -> None:
            async with gate.admitted():
                await asyncio.sleep(5)
                raise LookupError

        caller = asyncio.create_task(fails())
        waiter = asyncio.create_task(call(gate))
        await asyncio.sleep(1)
        if how == "cancelled":
            caller.cancel()
        with pytest.raises((LookupError, asyncio.CancelledError)):
            await caller
        assert await waiter == pytest.approx(1 if how == "cancelled" else 5)
        assert gate.active == 0

    play(scene())


def test_a_slot_that_opens_by_growth_is_taken_at_once() -> None:
    """With one slot after a cut from 2, an answer at 3 s makes it two: the two that wait both start then."""

    async def scene() -> None:
        gate = make(2)
        gate.throttled(0, 2.0)
        starts = await asyncio.gather(*(call(gate, 1, lambda n: gate.answered()) for _ in range(3)))
        assert sorted(starts) == pytest.approx([2, 3, 3])

    play(scene())


def test_a_backoff_lies_anywhere_up_to_a_bound_that_doubles() -> None:
    """0.5, 1, 2 ... at most 60 s; by full jitter their mean is half of it (2000 draws: within 5 %)."""
    for attempt in (0, 1, 3, 6, 7, 20, 100):
        bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
        draws = [backoff(attempt) for _ in range(2000)]
        assert 0 <= min(draws) < 0.05 * bound and 0.95 * bound < max(draws) <= bound
        assert sum(draws) / len(draws) == pytest.approx(bound / 2, rel=0.05)
        assert len(set(draws)) > 1900
    assert [min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) for attempt in (0, 1, 6, 7)] == [0.5, 1, 32, 60]


def test_the_tests_notice_a_deadlock() -> None:
    async def scene(wait: Callable[[], Awaitable[object]]) -> None:
        await wait()

    with pytest.raises(AssertionError, match="deadlock"):
        play(scene(lambda: asyncio.Event().wait()))
