"""The judge through the Batch API: nothing is sent twice, whatever becomes of a batch or of who waits for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.judges import batch
from tr_align.judges.base import Duel
from tr_align.judges.book import Book
from tr_align.judges.cache import Answers
from tr_align.judges.openai import OpenAIJudge

from . import stub_replies as say
from .stub import Request, Stub
from .stub_batch import Plan
from .stub_replies import Answer, Body, Fault
from .test_budget import priced
from .test_faults import axes, expected, mixed
from .test_kill import CHILD
from .test_openai import KEY, NOTHING, make, number, numbered, replies, rows, serve, user


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setattr(batch, "POLL_SECONDS", 0.01)
    yield from serve(monkeypatch)


def batched(stub: Stub, folder: Path, **changes: Any) -> OpenAIJudge:
    return make(stub, folder, batch=True, **changes)


def sizes(stub: Stub) -> list[int]:
    """Of the batches that were created."""
    return [len(made.lines) for made in stub.batches.batches.values()]


def fails(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "running again continues from there" in str(caught.value)
    return str(caught.value)


def test_a_batch_from_end_to_end(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines come back in another order. All is as with single calls, at half the price."""
    live = priced(stub, tmp_path, 10, 100).rate(replies(40))
    stub.batches.plans = [Plan(polls=4, shuffle=3)]
    (tmp_path / "batch").mkdir()
    judge = priced(stub, tmp_path / "batch", 10, 100, batch=True)
    judge.check()
    before = len(stub.chats)
    ratings = judge.rate(replies(40))
    assert "price: $5 in, $50 out per million" in judge.check()
    assert len(stub.chats) == before and sizes(stub) == [40]
    assert axes(ratings) == axes(live) == expected(40)
    for single, line in zip(live, ratings, strict=True):
        one, two = single.raw["answers"][0], line.raw["answers"][0]
        assert two["usd"] == pytest.approx(one["usd"] / 2) and two["usd"] > 0
        assert {**one, "usd": 0, "date": 0} == {**two, "usd": 0, "date": 0}
    spent = sum(row["usd"] for row in rows(tmp_path / "batch"))
    assert f"judge: 40 answers, 0 of them known before; ${spent:.2f} spent in all" in capsys.readouterr().err
    asked = [chat.body for chat in stub.chats if chat.body and number(chat.body) is not None]
    assert sorted(map(str, asked)) == sorted(str(line["body"]) for line in stub.batches.lines)


def test_single_calls_and_batches_share_their_answers(stub: Stub, tmp_path: Path) -> None:
    make(stub, tmp_path).rate(replies(3))
    assert axes(batched(stub, tmp_path).rate(replies(8))) == expected(8)
    assert sizes(stub) == [5]
    before = len(stub.requests)
    assert axes(make(stub, tmp_path).rate(replies(8))) == axes(batched(stub, tmp_path).rate(replies(8))) == expected(8)
    assert len(stub.requests) == before


def test_a_second_batch_repeats_what_cannot_be_read(stub: Stub, tmp_path: Path) -> None:
    """With faults and refusals as in the soak: of the first 40, 6 are asked once more and 1 is refused."""
    stub.say = mixed
    ratings = batched(stub, tmp_path).rate(replies(40))
    assert sizes(stub) == [40, 6] and len(rows(tmp_path)) == 46
    quiet = make(stub, tmp_path / "live").rate(replies(40))
    assert axes(ratings) == axes(quiet)
    assert sum(rating.axes == NOTHING for rating in ratings) == 3
    stub.say = lambda body: '{"comparison": "x", "better": "B"}'
    assert [v.preference for v in batched(stub, tmp_path).prefer([Duel("d", user("Hi"), "a", "b")])] == ["second"]


def test_big_runs_are_sent_in_parts(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "MOST_REQUESTS", 4)
    assert axes(batched(stub, tmp_path).rate(replies(10))) == expected(10)
    assert sizes(stub) == [4, 4, 2]
    monkeypatch.setattr(batch, "MOST_BYTES", max(map(len, stub.batches.files.values())) * 3 // 4 + 50)
    assert axes(batched(stub, tmp_path).rate(replies(17))) == expected(17)
    assert sizes(stub)[3:] == [3, 3, 1]
    assert len(rows(tmp_path)) == 17


@pytest.mark.parametrize(
    ("plan", "kept", "message"),
    [
        (Plan(error_lines={1, 2, 3}), 7, "3 questions of the batch found no answer.*The server had an error"),
        (Plan(lost_lines={0, 9}), 8, "2 questions of the batch found no answer.*batch_1 is completed: it has no line"),
        (Plan(end="expired", done=4), 4, "6 questions of the batch found no answer.*could not be executed in time"),
        (Plan(end="failed"), 0, "10 questions.*batch_1 is failed: Enqueued token limit reached"),
        (Plan(error_lines=range(10)), 0, "10 questions of the batch found no answer.*The server had an error"),
        (Plan(lost_lines=range(10)), 0, "10 questions of the batch found no answer.*it has no line for them"),
    ],
)
def test_what_a_batch_did_not_answer_is_sent_once_more_by_the_next_run(
    stub: Stub, tmp_path: Path, plan: Plan, kept: int, message: str
) -> None:
    """Twice the same fate, with the very same questions the second time where nothing was kept; then all is well."""
    stub.batches.plans = [plan, plan, Plan()]
    with pytest.raises(UserError, match=rf"(?s){message}.*run again to send them once more"):
        batched(stub, tmp_path).rate(replies(10))
    assert len(rows(tmp_path)) == kept
    fails(lambda: batched(stub, tmp_path).rate(replies(10)))
    left = 10 - len(rows(tmp_path))
    assert axes(batched(stub, tmp_path).rate(replies(10))) == expected(10)
    assert sizes(stub) == [10, 10 - kept, left] and len(rows(tmp_path)) == 10


def test_a_batch_that_was_cancelled(stub: Stub, tmp_path: Path) -> None:
    def cancels(request: Request) -> None:
        if request.method == "GET" and request.path == "/v1/batches/batch_1" and stub.batches.batches["batch_1"].polls:
            stub.batches.handle("POST", "/batches/batch_1/cancel", {}, b"")

    stub.gate, stub.batches.plans = cancels, [Plan(polls=5, done=6), Plan()]
    assert "4 questions of the batch" in fails(lambda: batched(stub, tmp_path).rate(replies(10)))
    assert stub.batches.batches["batch_1"].object["status"] == "cancelled" and len(rows(tmp_path)) == 6
    assert axes(batched(stub, tmp_path).rate(replies(10))) == expected(10)
    assert sizes(stub) == [10, 4]


def test_nothing_but_refusals_is_the_endpoints_fault_and_can_be_put_right(stub: Stub, tmp_path: Path) -> None:
    for count in (3, 20):
        stub.say = lambda body: numbered(body) if number(body) is None else say.CONTENT_FILTER
        for _ in range(2):
            said = fails(lambda count=count: batched(stub, tmp_path).rate(replies(count, 100 * count)))  # type: ignore[misc]
            assert "The response was filtered" in said and rows(tmp_path) == []
    stub.say = numbered
    assert axes(batched(stub, tmp_path).rate(replies(20, 2000))) == expected(20)
    assert sizes(stub) == [3, 3, 20, 20, 20]


@pytest.mark.parametrize("fault", [say.server_error(503), say.CUT, say.rate_limited(0.01, "ms")])
@pytest.mark.parametrize("path", ["/v1/batches", "/v1/files", "/v1/batches/batch_1", "/v1/files/file-1/content"])
def test_a_fault_that_passes(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, path: str
) -> None:
    """Two on each way: when it is sent, while it is waited for, when its answers are read."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    seen: list[str] = []

    def gate(request: Request) -> Fault | None:
        at = request.path if not request.path.endswith("/content") else "/v1/files/file-1/content"
        seen.append(f"{request.method} {at}")
        return fault if at == path and seen.count(seen[-1]) <= 2 else None

    stub.gate = gate
    assert axes(batched(stub, tmp_path).rate(replies(5))) == expected(5)
    assert sizes(stub) == [5] and len(rows(tmp_path)) == 5


@pytest.mark.parametrize(
    ("page", "path"),
    [
        *((say.PAGE, path) for path in ("/v1/batches", "/v1/files", "/v1/batches/batch_1", "content")),
        *((say.NO_COMPLETION, path) for path in ("/v1/files", "/v1/batches/batch_1")),
    ],
)
def test_a_page_in_place_of_an_answer(stub: Stub, tmp_path: Path, page: Fault, path: str) -> None:
    """The client takes it for one. Nothing is lost by it: not the batch, and not its answers."""
    stub.gate = lambda request: page if request.path.endswith(path) else None
    said = fails(lambda: batched(stub, tmp_path, max_retries=1).rate(replies(5)))
    assert "its answer " in said and rows(tmp_path) == []
    stub.gate = lambda request: None
    assert axes(batched(stub, tmp_path).rate(replies(5))) == expected(5)
    assert sizes(stub) == [5]


def test_a_batch_whose_creation_was_not_heard_is_found(stub: Stub, tmp_path: Path) -> None:
    """It was made, but the answer that says so was cut off: the next try looks before it makes another."""

    def unheard(request: Request) -> Fault | None:
        if (request.method, request.path) == ("POST", "/v1/batches") and not stub.batches.batches:
            stub.batches.handle("POST", "/batches", request.headers, request.raw)
            return say.CUT
        return None

    stub.gate = unheard
    assert axes(batched(stub, tmp_path).rate(replies(5))) == expected(5)
    assert sizes(stub) == [5]


@pytest.mark.parametrize("end", ["completed", "expired", "failed"])
def test_a_run_that_died_before_it_could_remember_its_batch(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: Any
) -> None:
    """It is found, over or not, and what came of it is kept. One that has failed is no use: another is sent."""

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    stub.batches.plans = [Plan(polls=1, end=end, done=3), Plan()]
    with monkeypatch.context() as patch:
        patch.setattr(Answers, "remember_batch", dies)
        with pytest.raises(KeyboardInterrupt):
            batched(stub, tmp_path).rate(replies(5))
    assert sizes(stub) == [5] and rows(tmp_path) == []
    assert stub.batches.handle("GET", "/batches/batch_1", {}, b"")[1]["status"] == end
    if end == "expired":
        assert "2 questions of the batch" in fails(lambda: batched(stub, tmp_path).rate(replies(5)))
    assert axes(batched(stub, tmp_path).rate(replies(5))) == expected(5)
    assert sizes(stub) == {"completed": [5], "expired": [5, 2], "failed": [5, 5]}[end]


def test_a_run_that_died_while_it_read_the_answers(stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = Book.keep

    def dies(self: Book, *arguments: Any) -> Any:
        if len(rows(tmp_path)) == 3:
            raise KeyboardInterrupt
        return keep(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Book, "keep", dies)
        with pytest.raises(KeyboardInterrupt):
            batched(stub, tmp_path).rate(replies(8))
    assert axes(batched(stub, tmp_path).rate(replies(8))) == expected(8)
    assert sizes(stub) == [8] and len(rows(tmp_path)) == 8


def test_a_run_that_was_killed_while_it_waited(stub: Stub, tmp_path: Path) -> None:
    """The next runs ask for some of its questions, then for all and more: what it sent is collected, not sent again."""
    stub.batches.plans = [Plan(polls=10**9), Plan()]
    code = CHILD.replace("Settings(", "Settings(batch=True, ")
    command = [sys.executable, "-c", code, stub.url, str(tmp_path), "10", "4", "0"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not (stub.batches.batches and stub.batches.batches["batch_1"].polls) and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    stub.batches.batches["batch_1"].plan = Plan(polls=1)
    assert axes(batched(stub, tmp_path).rate(replies(4, 2))) == expected(4, 2)
    assert len(rows(tmp_path)) == 4
    assert axes(batched(stub, tmp_path).rate(replies(12))) == expected(12)
    assert sizes(stub) == [10, 2] and len(rows(tmp_path)) == 12


def test_an_endpoint_that_fails_for_long_keeps_its_batch(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    faults: list[Any] = [say.server_error(503), say.unauthorized(), say.CUT]
    messages = ["still refused after 2 retries", "refused the key", "cannot be reached"]
    for fault, message in zip(faults, messages, strict=True):
        stub.gate = lambda request, fault=fault: fault if "batch_" in request.path else None
        assert message in fails(lambda: batched(stub, tmp_path, max_retries=2).rate(replies(5)))
    stub.gate = lambda request: None
    assert axes(batched(stub, tmp_path).rate(replies(5))) == expected(5)
    assert sizes(stub) == [5]


def test_a_batch_that_the_endpoint_does_not_know(stub: Stub, tmp_path: Path) -> None:
    """After another key or another address, say. There is a way on, and a way back to the batch that was paid for."""
    stub.gate = lambda request: say.unauthorized() if "batch_" in request.path else None
    fails(lambda: batched(stub, tmp_path).rate(replies(5)))
    stub.gate = lambda request: None
    with Stub(numbered, supports=stub.supports) as elsewhere:
        assert f"{elsewhere.url} does not know batch_1" in fails(lambda: batched(elsewhere, tmp_path).rate(replies(5)))
        assert axes(batched(stub, tmp_path).rate(replies(5))) == expected(5)
        assert (sizes(stub), sizes(elsewhere)) == ([5], [])
    # Here the files are gone, as they are after 30 days.
    stub.gate = lambda request: say.failure(404, "no such file") if request.path.endswith("content") else None
    assert "it has no line for them" in fails(lambda: batched(stub, tmp_path).rate(replies(3, 50)))
    stub.gate = lambda request: None
    assert axes(batched(stub, tmp_path).rate(replies(3, 50))) == expected(3, 50)
    assert sizes(stub) == [5, 3, 3]


def test_lines_of_all_sorts(stub: Stub, tmp_path: Path) -> None:
    """Good: an answer with characters that end a line in a text, though not in a file. Bad: a page, a half line."""

    def says(body: Body) -> Any:
        bad = {1: say.server_error(502), 2: say.NO_COMPLETION, 3: say.PAGE, 4: say.failure(500, f"Wrong: {KEY}")}
        good = Answer(f"\u2028\u0085{numbered(body)}\u2029")
        return bad.get(number(body) or 0, good if number(body) is not None else numbered(body))

    def unescaped(request: Request) -> Fault | None:
        found = stub.batches.files.get(request.path.split("/")[-2])
        if not request.path.endswith("content") or found is None:
            return None
        lines = [json.dumps(json.loads(line), ensure_ascii=False) for line in found.splitlines()]
        odd = ['{"custom_id": "unknown", "response": {}}', "[]", "7", '{"half']
        return Fault(200, "\n".join(odd + lines + odd).encode())

    stub.say, stub.gate = says, unescaped
    said = fails(lambda: batched(stub, tmp_path).rate(replies(8)))
    assert "4 questions of the batch found no answer, e.g. its answer is not a chat completion" in said
    assert sorted(row["id"] for row in rows(tmp_path)) == [f"id of text {n}." for n in (0, 5, 6, 7)]
    assert all(row["text"].startswith("\u2028\u0085{") for row in rows(tmp_path))
    stub.say = lambda body: say.failure(500, f"Wrong: {KEY}")
    said = fails(lambda: batched(stub, tmp_path).rate(replies(8)))
    assert "4 questions" in said and "Wrong: [key]" in said and KEY not in said
    stub.say = numbered
    assert axes(batched(stub, tmp_path).rate(replies(8))) == expected(8)


def test_a_limit_on_the_money_refuses_before_anything_is_sent(stub: Stub, tmp_path: Path) -> None:
    """5 answers of 60 tokens at $0.50 per thousand are $0.15, but they may have 512 tokens each: $1.28."""
    judge = priced(stub, tmp_path, 0, 1000, max_usd=1.2, batch=True)
    assert "is $1.20; $0.00 are spent and the next call could cost $1.28" in fails(lambda: judge.rate(replies(5)))
    assert not any(request.path.startswith(("/v1/files", "/v1/batches")) for request in stub.requests)
    assert axes(priced(stub, tmp_path, 0, 1000, max_usd=1.3, batch=True).rate(replies(5))) == expected(5)
    assert sum(row["usd"] for row in rows(tmp_path)) == pytest.approx(5 * 0.04 / 2)
