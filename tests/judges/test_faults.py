"""The judge against servers that fail: nothing is lost, invented or paid twice, and what cannot work ends soon."""

from __future__ import annotations

import json
import re
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.judges import gate
from tr_align.judges.base import Rating
from tr_align.settings import AXES

from . import stub_replies as say
from .stub import Limit, Stub
from .stub_replies import Answer, Body, Chaos, Fault, Token
from .test_openai import (
    KEY,
    KEY_ENV,
    NOTHING,
    PLAIN,
    make,
    number,
    numbered,
    only,
    question,
    questions,
    replies,
    reply,
    rows,
    serve,
)

DRIP = Answer("x" * 400, sent="drip", pause=0.02)  # 8 s and more
AFTER_A_DATE = say.rate_limited(0.5, "date")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    yield from serve(monkeypatch)


def expected(count: int, start: int = 0) -> list[dict[str, float]]:
    return [dict.fromkeys(AXES, float(n % 10 + 1)) for n in range(start, start + count)]


def axes(ratings: list[Rating]) -> list[Any]:
    return [rating.axes for rating in ratings]


def first(times: int, fault: Fault | Answer) -> Callable[[Body], say.Reply]:
    """The fault for the first so many requests of every question."""
    tries: Counter[str] = Counter()

    def says(body: Body) -> say.Reply:
        tries[question(body)] += number(body) is not None
        return fault if 0 < tries[question(body)] <= times else Answer(numbered(body))

    return says


@pytest.mark.parametrize(
    "fault",
    [
        *(say.server_error(status) for status in (500, 502, 503, 504)),
        *(say.failure(status, "not now") for status in (408, 409, 425)),
        *(say.rate_limited(0.05, form) for form in ("seconds", "ms")),
        *(say.rate_limited(None), say.rate_limited(0)),
        *(say.CUT, say.CUT_HALF, say.HANG, DRIP),
        *(say.MALFORMED, say.PAGE, say.NO_COMPLETION, say.NO_CHOICES),
    ],
)
def test_a_fault_that_passes(stub: Stub, tmp_path: Path, fault: Fault | Answer) -> None:
    """Two of them for each question: in the end everyone has its answer, paid once; the fault left no row."""
    stub.say = first(2, fault)
    endless = fault in (say.HANG, DRIP)
    ratings = make(stub, tmp_path, timeout_seconds=0.4 if endless else 9, concurrency=3).rate(replies(3))
    assert axes(ratings) == expected(3)
    assert len(questions(stub)) == 9
    assert stub.answered == len(rows(tmp_path)) + 1 == 4  # the trial has no row
    # A body that drips ends when its time is over.
    assert stub.statuses["lost"] == (6 if endless or fault in (say.CUT, say.CUT_HALF) else 0)


@pytest.mark.parametrize(
    ("fault", "pause"),
    [
        (say.rate_limited(0.4), 0.4),
        (say.rate_limited(0.4, "ms"), 0.4),
        (replace(say.rate_limited(0.4, "ms"), headers={"Retry-After": "9", "Retry-After-Ms": "400"}), 0.4),
        (None, 1.0),
        (replace(say.rate_limited(), headers={"Retry-After": "soon"}), 0.0),
    ],
)
def test_the_pause_is_as_long_as_the_endpoint_says(
    stub: Stub, tmp_path: Path, fault: Fault | None, pause: float
) -> None:
    """All calls wait; None: a date, whole seconds from 1 to 2 away."""
    refused: list[float] = []

    def once(body: Body) -> say.Reply:
        if number(body) is None or refused:
            return Answer(numbered(body))
        refused.append(time.monotonic())
        return fault or say.rate_limited(1, "date")

    stub.say, stub.latency = once, 0.02
    assert axes(make(stub, tmp_path, concurrency=2).rate(replies(5))) == expected(5)
    later = [chat.at for chat in stub.chats if chat.at > refused[0] + 0.03]
    assert pause <= min(later) - refused[0] < pause + (1.3 if fault is None else 0.3)


@pytest.mark.parametrize("busy", [say.rate_limited(0), say.rate_limited(0.001, "ms")])
def test_a_pause_that_is_too_short_is_made_longer(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: Fault
) -> None:
    """The server says "at once" for 0.6 s; five pauses as it says would be over in a hundredth of that."""
    monkeypatch.setattr(gate, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(gate, "LONGEST_PAUSE", 60.0)
    judge = make(stub, tmp_path)
    judge.check()
    end = time.monotonic() + 0.6
    stub.say = lambda body: busy if time.monotonic() < end else numbered(body)
    assert axes(judge.rate(replies(20))) == expected(20)


def test_too_many_requests_are_no_failures_of_a_question(stub: Stub, tmp_path: Path) -> None:
    """Number 3 is refused more often than `max_retries` while others are answered, and is answered in the end."""
    busy = say.rate_limited(0.005, "ms")
    stub.say = lambda body: busy if number(body) == 3 and stub.answered < 30 else numbered(body)
    assert axes(make(stub, tmp_path, max_retries=2, concurrency=4).rate(replies(40))) == expected(40)
    assert sum("text 3." in asked for asked in questions(stub)) > 3


@pytest.mark.parametrize("more", [{"choices": ["x"]}, {"choices": "x"}, {"choices": {"a": 1}}, {"choices": [None]}])
def test_a_completion_without_a_message_is_none(stub: Stub, tmp_path: Path, more: Any) -> None:
    stub.say = only(Fault(200, say.completion({}, Answer("7")) | more))
    with pytest.raises(UserError, match=r"'id of text' among them.*not a chat completion; correct judge\.openai\.base"):
        make(stub, tmp_path, max_retries=1).rate([reply("text")])
    assert len(questions(stub)) == 2 and rows(tmp_path) == []


@pytest.mark.parametrize(
    "more",
    [
        {"finish_reason": {"a": 1}},
        *({"logprobs": odd} for odd in ({"content": [None]}, {"content": "x"}, [1], {"tokens": ["a"]})),
        {"logprobs": {"content": [{"token": "7", "logprob": -1, "top_logprobs": None}]}},
        {"logprobs": {"content": [{"token": "7", "logprob": -1, "top_logprobs": [{"token": "7", "logprob": "x"}]}]}},
        *({"usage": odd} for odd in ("x", {}, [], {"prompt_tokens": "7", "completion_tokens": None})),
    ],
)
def test_an_answer_with_odd_trimmings_is_an_answer(stub: Stub, tmp_path: Path, more: Any) -> None:
    """The client checks no types, so every server's own ideas come through."""
    made = say.completion({}, Answer(numbered({"messages": [{"content": "text 6."}]}))) | {"model": "stub-1"}
    made |= more if "usage" in more else {"choices": [made["choices"][0] | more]}
    stub.say = lambda body: Fault(200, made) if number(body) else numbered(body)
    assert axes(make(stub, tmp_path).rate(replies(1, 6))) == expected(1, 6)
    (row,) = rows(tmp_path)
    assert row["tokens"] is None
    assert ("usage" in more) == (row["prompt_tokens"] is None)


def mixed(body: Body) -> say.Reply:
    """Of 300: 6 are refused by a filter, 43 cannot be read at first, 9 of those not then either, the rest is fine."""
    found = number(body)
    if found is not None and found % 50 == 1:
        return say.CONTENT_FILTER
    if found is not None and (found % 35 == 0 or (found % 7 == 0 and "Reminder" not in question(body))):
        return say.half(numbered(body))
    return Answer(numbered(body))


SOAK = 300
ODDS: Any = [
    (0.06, say.server_error(500)),
    (0.04, say.server_error(502)),
    (0.05, say.rate_limited(0.01, "ms")),
    (0.03, say.rate_limited()),
    (0.04, say.CUT),
    (0.04, lambda answer: replace(answer, sent="half")),
    (0.01, lambda answer: replace(answer, sent="drip")),
    (0.02, say.HANG),
    (0.04, say.MALFORMED),
    (0.04, say.PAGE),
    (0.02, say.NO_CHOICES),
    (0.02, say.NO_COMPLETION),
]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_soak_in_all_faults_gives_what_a_quiet_run_gives(stub: Stub, tmp_path: Path, seed: int) -> None:
    """41 % of the requests fail in one of twelve ways; `max_retries` suffices, as no question fails thrice in a row."""
    stub.say = mixed
    quiet = make(stub, tmp_path / "quiet").rate(replies(SOAK))
    assert Counter(len(rating.raw["answers"]) for rating in quiet) == {1: 257, 2: 43}
    assert sum(rating.axes == NOTHING for rating in quiet) == 6 + 9
    asked, chaos = len(questions(stub)), Chaos(mixed, ODDS, seed)
    assert asked == 343
    with Stub(chaos, supports=PLAIN, latency=0.005) as wild:
        ratings = make(wild, tmp_path / "wild", timeout_seconds=1.0).rate(replies(SOAK))
        assert wild.in_flight == 0 and 2 <= wild.most_in_flight <= 16  # on a busy machine not many
        same = ("key", "kind", "id", "asked", "model", "prompt_tokens", "completion_tokens", "finish", "text", "error")

        def told(ratings: list[Rating]) -> list[Any]:
            return [(r.id, r.axes, [[row[name] for name in same] for row in r.raw["answers"]]) for r in ratings]

        assert told(ratings) == told(quiet)
        # Every answer the server gave is a row, and no row is without one, but for the trial and the 6 refusals; on a
        # busy machine an answer may come after the time allowed, and is asked for again.
        assert len(rows(tmp_path / "wild")) == asked and 0 <= wild.answered - (asked - 6 + 1) <= 9
        assert len(questions(wild)) - asked >= sum(chaos.drawn.values()) - 12 > 100
        assert all(chaos.drawn[kind] for kind in range(len(ODDS)))
        # And again: nothing at all.
        before = len(wild.requests)
        assert told(make(wild, tmp_path / "wild").rate(replies(SOAK))) == told(quiet)
        assert len(wild.requests) == before


def test_one_question_that_always_fails_loses_no_other(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda body: say.server_error() if number(body) == 4 else numbered(body)
    with pytest.raises(UserError) as caught:
        make(stub, tmp_path, max_retries=2).rate(replies(30))
    for part in ("1 questions found no answer, 'id of text 4.'", "The server had an error", "running again continues"):
        assert part in str(caught.value)
    assert len(rows(tmp_path)) == 29 and sum("text 4." in asked for asked in questions(stub)) == 3
    stub.say, before = numbered, len(stub.chats)
    assert axes(make(stub, tmp_path).rate(replies(30))) == expected(30)
    assert len(stub.chats) == before + 1 and "text 4." in questions(stub)[-1]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (say.unauthorized(), f"refused the key in {KEY_ENV}"),
        (say.failure(403, "Country not supported"), f"refused the key in {KEY_ENV}"),
        (say.model_not_found("stub-1"), "does not have the model"),
        (say.NO_QUOTA, "has no more credit for this key.*top it up"),
        (say.failure(402, "Insufficient Balance"), "has no more credit for this key.*top it up"),
        (say.failure(405, "Method not allowed"), "refused the request"),
        (say.rate_limited(3600), "asks for a pause of 60 minutes"),
    ],
)
def test_what_no_waiting_mends_stops_the_run(stub: Stub, tmp_path: Path, fault: Fault, message: str) -> None:
    """From the 20th question on; the calls under way are answered later than that, and kept all the same."""
    late = [number for number in range(20) if number % 2]

    def says(body: Body) -> say.Reply:
        found = number(body)
        if found is not None and found >= 20:
            return fault
        return Answer(numbered(body), latency=0.15 if found in late else 0.0)

    stub.say = says
    with pytest.raises(UserError, match=f"(?s){message}.*running again continues"):
        make(stub, tmp_path, concurrency=8).rate(replies(60))
    assert stub.answered - 1 == len(rows(tmp_path)) >= 8
    assert all(row["error"] is None for row in rows(tmp_path))
    assert sum(stub.statuses.values()) - stub.answered <= 8
    answered, stub.say, before = stub.answered, numbered, len(questions(stub))
    assert axes(make(stub, tmp_path).rate(replies(60))) == expected(60)
    assert len(questions(stub)) - before == 60 - (answered - 1)


def test_after_a_stop_nothing_is_tried_again(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what fails only then, at once or after its pause, and not what was waiting for a slot."""
    monkeypatch.setattr(gate, "FIRST_PAUSE", 30.0)
    monkeypatch.setattr(gate, "LONGEST_PAUSE", 30.0)
    faults = {0: replace(say.unauthorized(), latency=0.1), 1: say.server_error()}
    late = replace(say.server_error(), latency=0.2)
    stub.say = lambda body: numbered(body) if number(body) is None else faults.get(number(body) or 0, late)
    began = time.monotonic()
    with pytest.raises(UserError, match="refused the key"):
        make(stub, tmp_path, concurrency=6).rate(replies(90))
    assert time.monotonic() - began < 10 and len(questions(stub)) == 6
    assert not re.search(r"\d\d/90", capsys.readouterr().err)  # nor is it shown as done


@pytest.mark.parametrize(
    "fault", [say.CONTENT_FILTER, say.TOO_LONG, say.failure(413, "too large"), say.failure(422, "x")]
)
def test_one_question_that_is_refused_is_missing(stub: Stub, tmp_path: Path, fault: Fault) -> None:
    stub.say = lambda body: fault if number(body) == 2 else numbered(body)
    ratings = make(stub, tmp_path, concurrency=1).rate(replies(5))
    assert axes(ratings) == [*expected(2), NOTHING, *expected(2, 3)]
    (row,) = ratings[2].raw["answers"]
    assert fault.body["error"]["message"] in row["error"] and (row["text"], row["usd"]) == ("", None)
    assert len(questions(stub)) == 5 and [r["id"] for r in rows(tmp_path) if r["error"]] == ["id of text 2."]


@pytest.mark.parametrize("count", [3, 40])
def test_nothing_but_refusals_is_the_endpoints_fault(stub: Stub, tmp_path: Path, count: int) -> None:
    stub.say = lambda body: numbered(body) if number(body) is None else say.CONTENT_FILTER
    for _ in range(2):
        with pytest.raises(UserError, match=r"refused the request.*The response was filtered"):
            make(stub, tmp_path, concurrency=2).rate(replies(count))
    assert rows(tmp_path) == [] and len(questions(stub)) <= 2 * min(count, 5 + 1)


def test_refusals_that_are_faster_than_the_first_answer_stop_nothing(stub: Stub, tmp_path: Path) -> None:
    """Six of them while the first question, as every seventh, waits for its answer."""
    stub.say = lambda body: say.CONTENT_FILTER if (number(body) or 0) % 7 else Answer(numbered(body), latency=0.1)
    ratings = make(stub, tmp_path, concurrency=4).rate(replies(28))
    assert [rating.axes == NOTHING for rating in ratings] == [False, *[True] * 6] * 4
    assert len(rows(tmp_path)) == len(questions(stub)) == 28


@pytest.mark.parametrize("fault", [say.server_error(503), say.CUT, say.HANG, say.rate_limited()])
@pytest.mark.parametrize("answered", [0, 40])
def test_a_server_that_is_down_gets_few_requests(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault, answered: int
) -> None:
    """16 calls are under way, 7 are tried anew before the 8th failure opens the circuit, 5 pauses end with one each.
    A 429 closes the gate at once, and halves the calls under way at each pause. The time allowed is long enough for a
    busy machine: an answer that came after it would be lost.
    """
    stub.say = lambda body: numbered(body) if number(body) is None or stub.answered <= answered else fault
    began = time.monotonic()
    with pytest.raises(UserError, match="running again continues") as caught:
        make(stub, tmp_path, timeout_seconds=0.6).rate(replies(300))
    what = {503: "still refused after 5 retries", 429: "still refused after 5 retries"}.get(
        fault.status, "did not answer"
    )
    assert ("cannot be reached" if fault is say.CUT else what) in str(caught.value)
    assert time.monotonic() - began < 20
    lost = len(questions(stub)) - len(rows(tmp_path))
    assert lost <= (16 + 8 + 4 + 2 + 1 + 1 if fault.status == 429 else 16 + 7 + 5)
    assert answered <= len(rows(tmp_path)) == stub.answered - 1


def test_a_server_that_went_away(stub: Stub, tmp_path: Path) -> None:
    with Stub(numbered, supports=PLAIN) as stub:
        make(stub, tmp_path).rate(replies(2))
    began = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached.*start the server.*\n.*answers\.sqlite; running again"):
        make(stub, tmp_path).rate(replies(50))
    assert time.monotonic() - began < 20
    assert len(rows(tmp_path)) == 2


def test_a_server_that_comes_back_in_time(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is away for 0.6 s; the pauses add up to 2.3 s at least. Then as many calls run at once as before."""
    monkeypatch.setattr(gate, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(gate, "LONGEST_PAUSE", 60.0)
    ratings: list[Rating] = []
    with Stub(numbered, supports=PLAIN, latency=0.01) as old:
        run = threading.Thread(target=lambda: ratings.extend(make(old, tmp_path).rate(replies(300))))
        run.start()
        while old.answered <= 40 and run.is_alive():
            time.sleep(0.001)
    time.sleep(0.6)
    # Answers slow enough that 16 calls are under way even on a busy machine, where a call takes milliseconds to begin.
    with Stub(numbered, supports=PLAIN, latency=0.2, port=old.port) as new:
        run.join()
    assert axes(ratings) == expected(300) and len(rows(tmp_path)) == 300
    assert 40 < old.answered < 100 and new.most_in_flight == 16
    # What the old one said while it died may not have been heard.
    assert 300 <= old.answered - 1 + new.answered <= 300 + 16


@pytest.mark.parametrize(
    ("limit", "count", "share"),
    [(Limit(rate=150), 300, 0.25), (Limit(rate=150, after=0), 200, 0.4), (Limit(concurrency=4, after=0.02), 300, 0.25)],
)
def test_the_client_settles_at_what_the_endpoint_bears(
    stub: Stub, tmp_path: Path, limit: Limit, count: int, share: float
) -> None:
    stub.limit, stub.latency = limit, 0.02
    assert axes(make(stub, tmp_path).rate(replies(count))) == expected(count)
    assert stub.answered == count + 1 == len(rows(tmp_path)) + 1
    assert 0 < stub.statuses[429] <= share * stub.statuses.total()


def test_two_runs_that_share_a_limit_both_end(stub: Stub, tmp_path: Path) -> None:
    stub.limit, stub.latency = Limit(rate=200), 0.02
    ends: dict[int, Any] = {}

    def run(start: int) -> None:
        ends[start] = axes(make(stub, tmp_path / str(start)).rate(replies(120, start)))

    threads = [threading.Thread(target=run, args=[start]) for start in (0, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == {start: expected(120, start) for start in (0, 500)}


def test_as_many_calls_at_once_as_are_allowed_and_no_more(stub: Stub, tmp_path: Path) -> None:
    stub.latency = 0.2
    make(stub, tmp_path, concurrency=7).rate(replies(40))
    assert stub.most_in_flight == 7


def test_the_key_is_sent_and_never_shown(
    stub: Stub, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """By a server that says it back in answers, names, log-probabilities and every kind of error."""
    caplog.set_level("DEBUG")
    shown: list[str | bytes] = []

    def fails(act: Callable[[], object]) -> None:
        with pytest.raises(UserError) as caught:
            act()
        shown.append("".join(traceback.format_exception(caught.value)))

    stub.supports = PLAIN | {"logprobs"}
    leak = Answer(f"Key 7: {KEY}", tokens=[Token("Key "), Token("7", top=((KEY, -1.0),)), Token(": "), Token(KEY)])
    stub.say = only(replace(leak, model=KEY))
    judge = make(stub, tmp_path, max_retries=0)
    (rating,) = judge.rate([reply("one")])
    for status in (400, 401, 402, 403, 404, 422, 429, 500):
        stub.say = lambda body, status=status: say.failure(status, f"Wrong: {KEY}", code=KEY, param=KEY)
        act = lambda status=status: judge.rate([reply(f"two {status}")])  # noqa: E731
        act() if status in (400, 422) else fails(act)
        stub.models = stub.say({})  # type: ignore[assignment]
        fails(make(stub, tmp_path / f"{status}").check)
    fails(make(stub, tmp_path, base_url="http://127.0.0.1:1/v1").check)
    out = capfd.readouterr()
    shown += [repr(judge), str(rating), repr(vars(judge._endpoint.settings)), out.out, out.err, caplog.text]
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"Key 7: [key]" in data for data in files) and any(b"Wrong: [key]" in data for data in files)
    assert stub.chats[0].headers["authorization"] == f"Bearer {KEY}"
    assert len(rows(tmp_path)) == 4 and len(files) >= 4
    assert not [text for text in [*shown, *files] if (KEY in text if isinstance(text, str) else KEY.encode() in text)]
    assert json.dumps(KEY) not in str(rows(tmp_path))
