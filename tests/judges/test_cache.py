"""The file of answers: what names a request, and what survives threads, processes, kills and strange texts."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.judges import cache
from tr_align.judges.cache import COLUMNS, Answers, default_path, request_key

REQUEST: dict[str, Any] = {
    "model": "judge",
    "messages": [{"role": "user", "content": "Rate ü."}],
    "temperature": 0,
    "response_format": {"type": "json_schema", "json_schema": {"name": "rate", "strict": True}},
}


def row(key: str, **values: Any) -> dict[str, Any]:
    made: dict[str, Any] = dict.fromkeys(COLUMNS)
    made |= {"key": key, "kind": "rate", "id": f"id of {key}", "endpoint": "http://here/v1", "asked": "judge"}
    return made | {"model": "judge-1", "date": "2026-01-01", "text": f"text of {key}"} | values


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".judge" / "answers.sqlite"


@pytest.fixture
def answers(path: Path) -> Iterator[Answers]:
    found = Answers(path)
    yield found
    found.close()


def process(code: str, path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Another process with `answers` open on the file."""
    head = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.path[:0] = [{str(Path(cache.__file__).parents[2])!r}, {str(Path(__file__).parents[1])!r}]\n"
        "from tr_align.judges.cache import Answers\nfrom judges.test_cache import row\n"
        "sys.stdin.readline()\nanswers = Answers(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", head + code, str(path), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_key_is_of_the_model_the_messages_and_the_parameters() -> None:
    changed = [copy.deepcopy(REQUEST) for _ in range(7)]
    changed[0]["model"] = "judge-2"
    changed[1]["messages"][0]["content"] += " "
    changed[2]["messages"][0]["role"] = "system"
    changed[3]["messages"] *= 2
    changed[4]["temperature"] = 1
    changed[5]["response_format"]["json_schema"]["name"] = "prefer"
    del changed[6]["response_format"]
    keys = {request_key(request) for request in [REQUEST, *changed]}
    assert len(keys) == 8
    assert all(len(key) == 64 for key in keys)


def test_the_key_does_not_depend_on_the_order_of_parameters_but_on_that_of_messages() -> None:
    def backwards(value: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value

    assert request_key(backwards(REQUEST)) == request_key(REQUEST)
    assert list(backwards(REQUEST)) != list(REQUEST)
    one, two = {"role": "user", "content": "a"}, {"role": "user", "content": "b"}
    assert request_key({"messages": [one, two]}) != request_key({"messages": [two, one]})


def test_a_key_is_the_same_in_every_release() -> None:
    """Of `{"a": "\\u00fc", "b": [1, 0.5, null]}` by `printf ... | sha256sum`: kept answers stay known."""
    digest = "5e6a96156656b7ae4f646b114c641067a393b192f8806a00daddb3d48ff080e3"
    assert request_key({"b": [1, 0.5, None], "a": "ü"}) == digest


def test_the_file_is_shared_by_the_experiments_of_a_repository(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert default_path() == tmp_path / ".judge" / "answers.sqlite"
    monkeypatch.delenv("DVC_ROOT")
    assert default_path() == Path(".judge/answers.sqlite")


def test_a_row_comes_back_as_it_was(answers: Answers, path: Path) -> None:
    tokens = [["{", None], ["7", {"7": -0.25, " 8": -1.5}]]
    full = row("a", prompt_tokens=11, completion_tokens=3, usd=0.25, finish="stop", tokens=tokens, error="no")
    assert answers.get("a") is None
    assert answers.add(full) == full == answers.get("a")
    assert list(full) == list(COLUMNS)
    assert answers.add(row("b")) == row("b")
    again = Answers(path)
    assert (again.get("a"), again.get("b"), again.get("c")) == (full, row("b"), None)


def test_the_first_answer_stays(answers: Answers, path: Path) -> None:
    first = answers.add(row("a", text="first", usd=1.0))
    assert answers.add(row("a", text="second", usd=2.0)) == first
    assert Answers(path).add(row("a", text="third")) == first
    assert answers.spent() == 1.0


def test_threads_write_one_file(path: Path) -> None:
    """Four threads, two of them with one connection, each with 100 rows of 150: 25 new ones and 75 of the others.

    Thread t writes numbers 25 t to 25 t + 99: 0 to 174 in all, each kept once, by whoever was first.
    """
    shared = Answers(path)
    own = [shared, shared, Answers(path), Answers(path)]
    start = Barrier(4)

    def write(thread: int) -> list[dict[str, Any]]:
        start.wait()
        return [own[thread].add(row(str(n), text=f"by {thread}")) for n in range(25 * thread, 25 * thread + 100)]

    with ThreadPoolExecutor(4) as pool:
        seen = [kept for rows in pool.map(write, range(4)) for kept in rows]
    final = {str(n): shared.get(str(n)) for n in range(175)}
    assert None not in final.values() and shared.get("175") is None
    assert len(seen) == 400 and all(final[kept["key"]] == kept for kept in seen)


def test_processes_write_one_new_file(path: Path) -> None:
    """Three processes create the file at once and write 60 rows each, 20 of them nobody else's: 3 * 20 + 40 = 100."""
    code = "for n in range(40): answers.add(row(str(n), text=sys.argv[2]))\n"
    code += "for n in range(20): answers.add(row(sys.argv[2] + str(n), text=sys.argv[2]))\nprint('done')"
    writers = [process(code, path, name) for name in "xyz"]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate(timeout=60)[0] for writer in writers] == ["done\n"] * 3
    answers = Answers(path)
    names = [str(n) for n in range(40)] + [f"{name}{n}" for name in "xyz" for n in range(20)]
    rows = [answers.get(name) for name in names]
    assert len(names) == 100 and None not in rows
    assert all(found and found["text"] == found["key"][0] for found in rows[40:])
    assert {found["text"] for found in rows[:40] if found} <= {"x", "y", "z"}


def test_a_killed_writer_loses_nothing_and_blocks_nobody(path: Path) -> None:
    code = "for n in range(10**6):\n    answers.add(row(str(n), text='x' * 5000))\n    print(n, flush=True)"
    writer = process(code, path)
    assert writer.stdin is not None and writer.stdout is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()
    for _ in range(50):
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    last = max([last, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
    writer.wait()
    answers = Answers(path)
    assert last >= 49
    assert all(answers.get(str(n)) == row(str(n), text="x" * 5000) for n in range(last + 1))
    assert answers.add(row("after")) == row("after")


def test_a_log_that_was_torn_while_it_was_written_keeps_the_rows_before(path: Path, tmp_path: Path) -> None:
    """A power cut leaves part of the write-ahead log: the rows up to some one are there, and writing goes on."""
    answers = Answers(path)
    for n in range(30):
        answers.add(row(str(n), text=f"{n} " * 1000))
    log = path.with_name(f"{path.name}-wal")
    size, counts = log.stat().st_size, []
    for part in (0.2, 0.5, 0.77, 1.0):
        torn = tmp_path / f"torn {part}" / path.name
        torn.parent.mkdir()
        shutil.copy(path, torn)
        (torn.parent / log.name).write_bytes(log.read_bytes()[: int(part * size)])
        left = Answers(torn)
        found = [left.get(str(n)) is not None for n in range(30)]
        assert found == sorted(found, reverse=True)
        assert all(left.get(str(n)) == answers.get(str(n)) for n in range(sum(found)))
        counts.append(sum(found))
        assert left.add(row("after")) == row("after")
    assert counts == sorted(counts) and 0 < counts[0] < counts[1] < counts[2] < counts[3] == 30


def test_features_are_kept_by_model(answers: Answers, path: Path) -> None:
    assert answers.features("judge") is None
    answers.remember_features("judge", {"limit": "max_tokens", "logprobs": 20, "structured": False})
    answers.remember_features("other", {"limit": "x"})
    answers.remember_features("judge", {"limit": "max_tokens", "logprobs": 0, "structured": False})
    assert Answers(path).features("judge") == {"limit": "max_tokens", "logprobs": 0, "structured": False}
    assert Answers(path).features("other") == {"limit": "x"}


def test_batches_are_kept_until_they_are_collected(answers: Answers, path: Path) -> None:
    assert answers.batches("judge") == {}
    answers.remember_batch("b1", "judge", ["k2", "k1", "k1"])
    answers.remember_batch("b2", "judge", {"k3"})
    answers.remember_batch("b3", "other", {"k4"})
    answers.remember_batch("b1", "judge", {"k9"})  # known: it was found again
    assert Answers(path).batches("judge") == {"b1": {"k1", "k2"}, "b2": {"k3"}}
    assert list(answers.batches("judge")) == ["b1", "b2"]
    answers.settle_batch("b1", ["k2", "k7"])
    answers.settle_batch("no such batch", ["k1"])
    assert Answers(path).batches("judge") == {"b1": {"k1"}, "b2": {"k3"}}
    answers.settle_batch("b1", ["k1"])
    answers.forget_batch("b2")
    assert Answers(path).batches("judge") == {"b1": set()}
    assert answers.batches("other") == {"b3": {"k4"}}


def test_sums_and_means(answers: Answers) -> None:
    """Spent: 0.5 + 0.25, whatever the model; a row without a price adds nothing. Mean of 10 and 20: 15."""
    assert (answers.spent(), answers.mean_completion_tokens("judge", "rate"), answers.has_answer("judge")) == (
        0,
        None,
        False,
    )
    answers.add(row("refused", error="filtered"))
    assert (answers.spent(), answers.has_answer("judge")) == (0, False)
    answers.add(row("a", usd=0.5, completion_tokens=10))
    answers.add(row("b", usd=None, completion_tokens=20))
    answers.add(row("c", usd=0.25, completion_tokens=70, kind="prefer"))
    answers.add(row("d", completion_tokens=999, asked="other"))
    assert answers.spent() == 0.75
    assert answers.mean_completion_tokens("judge", "rate") == 15.0
    assert answers.mean_completion_tokens("judge", "prefer") == 70.0
    assert answers.mean_completion_tokens("nobody", "rate") is None
    assert answers.has_answer("judge") and answers.has_answer("other") and not answers.has_answer("nobody")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "two\u2028lines\u0085and\r\nmore\n\u00e9\u4e16\U0001f600",
        "nul \0 in between \0",
        "'; DROP TABLE answers; --",
        "a very long text " * 200_000,
    ],
    ids=["empty", "unicode", "nul", "quotes", "long"],
)
def test_any_text_survives(answers: Answers, path: Path, text: str) -> None:
    made = row("a", text=text, id=text, error=text or None, tokens=[[text, {text: -0.5}]])
    assert answers.add(made) == made == Answers(path).get("a")
    assert path.exists()


def test_half_of_a_surrogate_pair_is_kept_as_a_question_mark(answers: Answers) -> None:
    """JSON can carry it, SQLite's text cannot. In a request, it makes another key than the question mark."""
    kept = answers.add(row("a", text="half \ud83d", error="\udc00", tokens=[["\ud83d", None]]))
    assert kept == row("a", text="half ?", error="?", tokens=[["\ud83d", None]]) == answers.get("a")
    keys = {request_key({"messages": [{"content": text}]}) for text in ("\ud83d", "\ude00", "\ud83d\ude00", "?")}
    assert len(keys) == 4


@pytest.mark.parametrize("content", [b"this is no database, and long enough to be looked at " * 50, b"x" * 5])
def test_a_file_that_is_no_database(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        Answers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "if the file is damaged move it away, and run again" in message
    assert path.read_bytes() == content


def test_a_database_damaged_in_the_middle(path: Path) -> None:
    answers = Answers(path)
    for n in range(200):
        answers.add(row(str(n), text="x" * 500))
    answers.close()
    content = bytearray(path.read_bytes())
    assert len(content) > 50_000
    content[8192:-4096] = b"\xaa" * (len(content) - 12288)
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        damaged = Answers(path)
        for n in range(200):
            damaged.get(str(n))


def test_a_database_of_something_else(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE answers (question, answer)")
    answers = Answers(path)
    with pytest.raises(UserError, match="cannot be kept there"):
        answers.add(row("a"))


@pytest.mark.parametrize("place", ["folder", "in a file", "in a folder that is a file"])
def test_a_place_where_no_file_can_be(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    path = {"folder": "folder", "in a file": "file/answers.sqlite"}.get(place, "file/.judge/answers.sqlite")
    with pytest.raises(UserError, match="cannot be kept there"):
        Answers(tmp_path / path)
