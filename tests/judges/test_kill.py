"""The judge's process dies or is not alone, its file is damaged: no answer is lost, and none is paid for twice."""

from __future__ import annotations

import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.judges.base import Duel
from tr_align.judges.cache import Answers

from . import stub_replies as say
from .stub import Stub
from .stub_replies import Answer, Body
from .test_faults import axes, expected, mixed
from .test_openai import KEY_ENV, make, number, numbered, only, question, questions, replies, reply, rows, serve, user

CHILD = f"""
import json, resource, signal, sys
from pathlib import Path
from tr_align.settings import OpenAIJudge as Settings
from tr_align.data.schema import Message
from tr_align.errors import UserError
from tr_align.judges.base import Reply
from tr_align.judges.openai import OpenAIJudge

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in its background
url, folder, count, concurrency, most_bytes = sys.argv[1:]
if int(most_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), int(most_bytes)))
prompt = [Message(role="user", content="Why is the sky blue?")]
replies = [Reply(f"id of text {{n}}.", prompt, f"text {{n}}.") for n in range(int(count))]
settings = Settings(model="stub-1", base_url=url, api_key_env="{KEY_ENV}", concurrency=int(concurrency))
try:
    ratings = OpenAIJudge(settings, Path(folder) / "answers.sqlite").rate(replies)
    print(json.dumps([rating.axes for rating in ratings]))
except UserError as error:
    print("UserError:", error)
except KeyboardInterrupt:
    print("interrupted")
"""
"""Rates the first `count` of `replies`, as a process of its own, and prints the result."""


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    yield from serve(monkeypatch)


def start(stub: Stub, folder: Path, count: int, concurrency: int = 8, most_bytes: int = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", CHILD, stub.url, folder, count, concurrency, most_bytes]
    return subprocess.Popen(list(map(str, arguments)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> Any:
    """What a process that worked printed."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in err and "locked" not in err, err
    return json.loads(out) if out.startswith("[") else out


def wait(true: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.002)
    assert true()


def unreadable(body: Body) -> str:
    """Every seventh answer cannot be read at first, every 35th not then either."""
    found = number(body)
    if found is not None and (found % 35 == 0 or (found % 7 == 0 and "Reminder" not in question(body))):
        return "I would say 7."
    return numbered(body)


ROUNDS, COUNT, AT_ONCE = 8, 700, 8


def test_a_killed_run_loses_no_answer_and_asks_again_only_what_was_under_way(stub: Stub, tmp_path: Path) -> None:
    """Each round dies after a random time. Before its end it is stopped, so that what it has kept can be counted."""
    stub.say, stub.latency = unreadable, 0.02
    times = random.Random(7)
    kept: dict[str, Any] = {}
    for _ in range(ROUNDS):
        before, had = len(questions(stub)), {row["key"] for row in kept.values()}
        process = start(stub, tmp_path, COUNT, AT_ONCE)
        while len(questions(stub)) == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(times.uniform(0, 0.3))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        found = {row["key"]: row for row in rows(tmp_path)}
        asked = Counter(questions(stub)[before:])
        process.kill()
        process.communicate()
        assert asked and max(asked.values()) == 1
        # Whatever was kept is as it was, nothing of it was asked again, and all but what was under way is kept.
        assert kept.items() <= found.items() and had <= found.keys()
        assert 0 <= asked.total() - (len(found) - len(kept)) <= AT_ONCE
        # An answer that was being written when the process stopped may be there, whole, or not.
        kept = {row["key"]: row for row in rows(tmp_path)}
        assert found.items() <= kept.items() and len(kept) <= len(found) + 1
    assert len(kept) < COUNT
    ratings = output(start(stub, tmp_path, COUNT, AT_ONCE))
    quiet = make(stub, tmp_path / "quiet")
    total = len(questions(stub))
    assert ratings == axes(quiet.rate(replies(COUNT)))
    least = COUNT + COUNT // 7
    assert len(rows(tmp_path)) == len(set(questions(stub)[:total])) == least
    assert least <= total <= least + ROUNDS * AT_ONCE


def test_a_finished_run_is_repeated_without_any_request(stub: Stub, tmp_path: Path) -> None:
    """Not even for the models: with a server that is gone the result is the same, refusals and all."""
    stub.say = lambda body: numbered(body) if "REPLY A" in question(body) else mixed(body)
    duels = [Duel(f"{n}", user("Hi"), f"one {n}", f"two {n}") for n in range(9)]
    judge = make(stub, tmp_path)
    first = judge.rate(replies(60)), judge.prefer(duels)
    before, content = len(stub.requests), rows(tmp_path)
    judge = make(stub, tmp_path)
    assert (judge.rate(replies(60)), judge.prefer(duels)) == first
    assert len(stub.requests) == before
    judge = make(stub, tmp_path, base_url="http://127.0.0.1:1/v1")
    assert (judge.rate(replies(60)), judge.prefer(duels)) == first
    assert rows(tmp_path) == content


def test_processes_with_the_same_questions_share_their_answers(stub: Stub, tmp_path: Path) -> None:
    """All start on a file that is not there yet. What two asked at the same time has the row of the first."""
    stub.say, stub.latency = lambda body: Answer(numbered(body), model=f"stub-{len(stub.chats)}"), 0.01
    processes = [start(stub, tmp_path, 250) for _ in range(3)]
    results = [output(process) for process in processes]
    assert results == [expected(250)] * 3
    assert len(rows(tmp_path)) == 250
    assert 250 <= len(questions(stub)) <= 3 * 250 and 1 <= stub.answered - len(questions(stub)) <= 3
    # Another one alone agrees with all of them, and asks nothing.
    before = len(stub.requests)
    assert output(start(stub, tmp_path, 250)) == results[0]
    assert len(stub.requests) == before


def test_a_row_that_another_process_wrote_first_is_the_one_that_counts(stub: Stub, tmp_path: Path) -> None:
    """Both ask the same question; the later answer, another one, changes nothing."""
    slow, quick = make(stub, tmp_path), make(stub, tmp_path)
    slow.check()
    stub.say = lambda body: Answer(numbered({"messages": [{"content": "text 8."}]}), latency=0.3)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(axes(slow.rate(replies(1)))))
    thread.start()
    wait(lambda: len(questions(stub)) == 1)
    stub.say = numbered
    assert axes(quick.rate(replies(1))) == expected(1)
    thread.join()
    assert results == expected(1) and len(questions(stub)) == 2 and len(rows(tmp_path)) == 1


def test_a_writer_waits_for_another(stub: Stub, tmp_path: Path) -> None:
    judge = make(stub, tmp_path)
    judge.check()
    other = sqlite3.connect(tmp_path / "answers.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.7, lambda: other.execute("COMMIT"))
    timer.start()
    assert axes(judge.rate(replies(20))) == expected(20)
    timer.join()
    other.close()


@pytest.mark.parametrize("where", ["calls", "pause", "trial", "models"])
def test_an_interrupt_ends_the_run_quietly_and_keeps_the_answers(stub: Stub, tmp_path: Path, where: str) -> None:
    """While calls are under way, in a pause that the endpoint asked for, and while it is found out what it can do."""
    late = {"calls": Answer("late", latency=60), "pause": say.rate_limited(60)}.get(where, say.HANG)

    def says(body: Body) -> Any:
        found = number(body)
        return late if (where == "trial" if found is None else found >= 20) else numbered(body)

    stub.say = says
    if where == "models":
        stub.models = say.HANG
    there = {
        "models": lambda: len(stub.requests) == 1,
        "trial": lambda: stub.in_flight == 1 and len(stub.chats) == 3,  # two times too many parameters
        "calls": lambda: (stub.answered, stub.in_flight) == (21, 8),
        "pause": lambda: stub.statuses[429] and not stub.in_flight,
    }
    process = start(stub, tmp_path, 60)
    wait(there[where])
    time.sleep(0.1)
    done = max(stub.answered - 1, 0)
    assert done >= {"calls": 20, "pause": 12}.get(where, 0)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    out, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 10  # the call would have taken a minute
    assert (out, process.returncode) == ("interrupted\n", 0)
    assert not re.search("Traceback|never retrieved|Error|Exception|unclosed", err)
    assert len(rows(tmp_path)) == done
    stub.say, stub.models, before = numbered, ["stub-1"], len(questions(stub))
    assert axes(make(stub, tmp_path).rate(replies(60))) == expected(60)
    assert len(questions(stub)) - before == 60 - done


def test_a_disk_that_is_full(stub: Stub, tmp_path: Path) -> None:
    """A limit on the size of a file stands for it. What was written before is there, and there is a way on."""
    said = output(start(stub, tmp_path, 400, most_bytes=300_000))
    assert said.startswith("UserError:") and "answers.sqlite: the answers cannot be kept there" in said
    assert "make room" in said
    kept, before = len(rows(tmp_path)), len(questions(stub))
    assert 0 < kept < 400 and kept <= stub.answered - 1 <= kept + 8
    assert axes(make(stub, tmp_path).rate(replies(400))) == expected(400)
    assert len(questions(stub)) - before == 400 - kept


def test_a_file_that_is_damaged(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "answers.sqlite"
    path.write_bytes(b"no database, but long enough to be looked at as one" * 99)
    with pytest.raises(UserError, match=r"answers\.sqlite: the answers cannot be kept there.*move it away") as caught:
        make(stub, tmp_path)
    assert "not a database" in str(caught.value)
    path.unlink()
    judge = make(stub, tmp_path)
    judge.rate(replies(100))
    judge._answers.close()
    content = path.read_bytes()
    assert len(content) > 50_000
    # From the second page on: what holds the rows.
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    with pytest.raises(UserError, match=r"answers\.sqlite: the answers cannot be kept there.*move it away"):
        make(stub, tmp_path).rate(replies(100))
    path.write_bytes(content)
    before = len(stub.requests)
    assert axes(make(stub, tmp_path).rate(replies(100))) == expected(100) and len(stub.requests) == before


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("two\u2028lines\u0085and\r\nmore \u00e9\u4e16\U0001f600", None),
        ("nul \0", None),
        ("half a pair \ud83d", "half a pair ?"),
    ],
)
def test_any_text_survives_question_and_file(stub: Stub, tmp_path: Path, text: str, kept: str | None) -> None:
    stub.say = only(text)
    make(stub, tmp_path).rate([reply(text)])
    assert f"\n{kept or text}\n" in questions(stub)[0]
    (rating,) = make(stub, tmp_path).rate([reply(text)])
    assert [row["text"] for row in rating.raw["answers"]] == [kept or text] * 2
    assert len(questions(stub)) == 2


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "answers.sqlite", tmp_path / "folder", Path("/proc/none/answers.sqlite")):
        with pytest.raises(UserError, match=re.escape(f"{path}: the answers cannot be kept there")):
            Answers(path)
