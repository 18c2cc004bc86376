"""The OpenAI-compatible judge against a stub server on this machine: no network, no key."""

from __future__ import annotations

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tr_align.config import AXES
from tr_align.config import OpenAIJudge as Settings
from tr_align.data.schema import Message
from tr_align.errors import UserError
from tr_align.judges.base import Duel, Judge, Reply
from tr_align.judges.openai import REMINDERS, OpenAIJudge, parse_preference, parse_rating

KEY_ENV = "TR_ALIGN_TEST_KEY"
KEY = "sk-very-secret-0123456789"
GRADES = {"coherence": 7, "correctness": 6.5, "helpfulness": 5, "harmlessness": 10, "detail": 1}
GOOD = json.dumps(GRADES)
NOTHING = dict.fromkeys(AXES)


class Stub:
    """Speaks /v1/models and /v1/chat/completions; `say` makes the answer to a question, or a (status, body) pair."""

    def __init__(self) -> None:
        self.say: Callable[[str], Any] = lambda question: GOOD
        self.models: Any = {"object": "list", "data": [{"id": "stub-1", "object": "model"}]}
        self.models_status = 200
        self.models_delay = 0.0
        self.questions: list[str] = []
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.listed = 0
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                stub.listed += 1
                time.sleep(stub.models_delay)
                self.reply(stub.models_status, stub.models)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                question = request["messages"][-1]["content"]
                stub.requests.append(request)
                stub.questions.append(question)
                stub.keys.append(self.headers["Authorization"])
                said = stub.say(question)
                if isinstance(said, tuple):
                    self.reply(*said)
                    return
                message = {"role": "assistant", "content": said}
                usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                self.reply(200, {"id": "1", "model": "stub-1-build-7", "choices": [choice], "usage": usage})

            def reply(self, status: int, body: Any) -> None:
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def calls(self) -> int:
        return len(self.requests)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(KEY_ENV, KEY)
    stub = Stub()
    yield stub
    stub.server.shutdown()
    stub.server.server_close()


def make(stub: Stub, folder: Path, **changes: Any) -> OpenAIJudge:
    values = {"model": "stub-1", "base_url": stub.url, "api_key_env": KEY_ENV, "timeout_seconds": 5, "max_retries": 0}
    return OpenAIJudge(Settings.model_validate(values | changes), folder / "answers.jsonl")


def user(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def reply(text: str, prompt: str = "Why is the sky blue?") -> Reply:
    return Reply(id=f"id of {text}", prompt=user(prompt), text=text)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "text",
    [GOOD, f"```json\n{GOOD}\n```", f"Here it is:\n{GOOD}\nI hope this helps.", json.dumps(GRADES, indent=2)],
)
def test_a_rating_is_read(text: str) -> None:
    assert parse_rating(text) == GRADES


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "All five are a 7.",
        "}{",
        GOOD[:-1] + ",}",
        GOOD[:-1],
        f"{GOOD}\n{GOOD}",
        f"{GOOD} {{no more}}",
        f'{{"ratings": {GOOD}}}',
        '{"coherence": ' + "[" * 100_000 + "}",
        '{"coherence": ' + "9" * 5_000 + "}",
    ],
)
def test_a_rating_that_is_not_one_json_object_is_missing(text: str) -> None:
    assert parse_rating(text) == NOTHING


@pytest.mark.parametrize(
    "value",
    ['"10/10"', '"7"', "true", "null", "NaN", "Infinity", "-Infinity", "0", "0.99", "10.5", "11", "-3", "[7]", "1e999"],
)
def test_a_grade_that_is_no_number_from_1_to_10_is_missing_on_its_axis(value: str) -> None:
    text = GOOD.replace('"correctness": 6.5', f'"correctness": {value}')
    assert parse_rating(text) == GRADES | {"correctness": None}


def test_an_axis_that_is_left_out_or_given_twice_is_missing() -> None:
    assert parse_rating('{"coherence": 7, "detail": 3, "detail": 9, "style": 4}') == NOTHING | {"coherence": 7.0}


@pytest.mark.parametrize(
    ("text", "preference"),
    [
        ('A is clearer.\n{"better": "A"}', "first"),
        ('B is clearer than A.\n{"better": "B"}\n', "second"),
        ('{"better": "TIE"}', "tie"),
        ('Same.\n\n  {"better":"tie"}  \n\n', "tie"),
        ('Clear.\n{"better": "b"}', "second"),
        ('Clear.\n```json\n{"better": "A"}\n```', "first"),
        ('{"better": "A"}\nSo, as said:\n{"better": "A"}', "first"),
        ("", None),
        ("A", None),
        ("A is better.", None),
        ('{"better": "A"}\nI hope this helps.', None),
        ('A is clearer. {"better": "A"}', None),
        ('{"better": "A"}\n{"better": "B"}', None),
        ('{"better": "A"} {"better": "B"}', None),
        ('{"better": "A or B"}', None),
        ('{"better": "AB"}', None),
        ('{"better": ["A", "B"]}', None),
        ('{"better": "A", "better": "B"}', None),
        ('{"better": "A", "worse": "B"}', None),
        ('{"better": "",}', None),
        ('"A"', None),
        ("[" * 100_000, None),
    ],
)
def test_a_verdict_is_only_read_where_it_is_one(text: str, preference: str | None) -> None:
    assert parse_preference(text) == preference


def test_ratings_come_back_in_order_with_their_raw_answers(stub: Stub, tmp_path: Path) -> None:
    def say(question: str) -> str:
        number = next(n for n in range(20) if f"text {n}." in question)
        time.sleep(0.002 * (20 - number))
        return json.dumps(dict.fromkeys(AXES, 1 + number / 4))

    stub.say = say
    judge: Judge = make(stub, tmp_path)
    ratings = judge.rate([reply(f"text {n}.") for n in range(20)])
    assert [rating.id for rating in ratings] == [f"id of text {n}." for n in range(20)]
    assert [rating.axes["detail"] for rating in ratings] == [1 + n / 4 for n in range(20)]
    assert ratings[3].raw["answers"][0]["text"] == json.dumps(dict.fromkeys(AXES, 1.75))
    row = next(row for row in rows(tmp_path) if row["id"] == "id of text 3.")
    assert row | {"key": 0, "date": 0, "text": 0} == {
        "key": 0,
        "kind": "rate",
        "id": "id of text 3.",
        "model": "stub-1-build-7",
        "date": 0,
        "prompt_tokens": 11,
        "completion_tokens": 3,
        "finish": "stop",
        "text": 0,
    }
    assert len({row["key"] for row in rows(tmp_path)}) == 20 == stub.calls
    assert all(request["temperature"] == 0 and request["max_tokens"] <= 256 for request in stub.requests)


def test_two_replies_are_shown_in_the_given_order(stub: Stub, tmp_path: Path) -> None:
    def say(question: str) -> str:
        assert question.index("<reply_a>") < question.index("<reply_b>")
        good_first = "good" in question.split("<reply_a>")[1].split("</reply_a>")[0]
        return f"One is good.\n{json.dumps({'better': 'A' if good_first else 'B'})}"

    stub.say = say
    duels = [Duel("x", user("Hi"), "good", "bad"), Duel("y", user("Hi"), "bad", "good")]
    verdicts = make(stub, tmp_path).prefer(duels)
    assert [(verdict.id, verdict.preference) for verdict in verdicts] == [("x", "first"), ("y", "second")]
    assert [row["kind"] for row in rows(tmp_path)] == ["prefer", "prefer"]


def test_text_that_looks_like_a_marker_stays_as_it_is(stub: Stub, tmp_path: Path) -> None:
    judge = make(stub, tmp_path)
    judge.rate([reply("see {{conversation}} and {{reply}}", prompt="what is {{reply}}?")])
    stub.say = lambda question: '{"better": "TIE"}'
    judge.prefer([Duel("x", user("Hi"), "one {{reply_b}} {{other}}", "two {{reply_a}}")])
    assert "what is {{reply}}?" in stub.questions[0]
    assert "<reply>\nsee {{conversation}} and {{reply}}\n</reply>" in stub.questions[0]
    assert "<reply_a>\none {{reply_b}} {{other}}\n</reply_a>" in stub.questions[1]
    assert "<reply_b>\ntwo {{reply_a}}\n</reply_b>" in stub.questions[1]


def test_a_conversation_is_shown_with_its_roles(stub: Stub, tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Who\nare you?")]
    prompt = [Message.model_validate({"role": role, "content": text}) for role, text in turns]
    judge = make(stub, tmp_path)
    judge.rate([Reply("x", prompt, "Me."), Reply("y", [Message(role="system", content=""), *user("Hi")], "Hello")])
    shown = {question.split("<conversation>\n")[1].split("\n</conversation>")[0] for question in stub.questions}
    assert shown == {"[System]\nBe brief.\n\n[User]\nHi\n\n[Assistant]\nHello!\n\n[User]\nWho\nare you?", "[User]\nHi"}


def test_an_unreadable_answer_is_asked_for_once_more(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda question: GOOD if REMINDERS["rate"] in question else "I would say 7."
    (rating,) = make(stub, tmp_path).rate([reply("text")])
    assert rating.axes == GRADES
    assert [row["text"] for row in rating.raw["answers"]] == ["I would say 7.", GOOD]
    assert stub.questions[1] == f"{stub.questions[0]}\n\n{REMINDERS['rate']}"
    assert len(rows(tmp_path)) == 2


def test_what_is_unreadable_twice_is_missing(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda question: None if "nothing" in question else "Both A and B are fine."
    judge = make(stub, tmp_path)
    verdicts = judge.prefer([Duel("x", user("Hi"), "one", "two"), Duel("y", user("Hi"), "nothing", "two")])
    (rating,) = judge.rate([reply("text")])
    assert [verdict.preference for verdict in verdicts] == [None, None]
    assert rating.axes == NOTHING
    assert stub.calls == 6


def test_of_two_incomplete_ratings_the_fuller_is_taken_and_they_are_not_mixed(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda question: '{"detail": 2}' if REMINDERS["rate"] in question else '{"coherence": 3, "detail": 4}'
    (rating,) = make(stub, tmp_path).rate([reply("text")])
    assert rating.axes == NOTHING | {"coherence": 3.0, "detail": 4.0}


def test_a_repeat_makes_no_call(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda question: "unreadable" if "odd" in question else GOOD
    replies = [reply("one"), reply("two"), reply("odd")]
    first = make(stub, tmp_path).rate(replies)
    content = (tmp_path / "answers.jsonl").read_bytes()
    assert stub.calls == 4
    assert make(stub, tmp_path).rate(replies) == first
    assert stub.calls == 4
    assert (tmp_path / "answers.jsonl").read_bytes() == content


def test_another_model_is_asked_anew(stub: Stub, tmp_path: Path) -> None:
    make(stub, tmp_path).rate([reply("one")])
    make(stub, tmp_path, model="stub-2").rate([reply("one")])
    assert [request["model"] for request in stub.requests] == ["stub-1", "stub-2"]


def test_equal_questions_are_asked_once(stub: Stub, tmp_path: Path) -> None:
    replies = [Reply(f"id {n}", user("Hi"), "same") for n in range(12)]
    ratings = make(stub, tmp_path).rate(replies)
    assert [rating.id for rating in ratings] == [f"id {n}" for n in range(12)]
    assert stub.calls == 1


def test_no_replies_make_no_call(stub: Stub, tmp_path: Path) -> None:
    judge = make(stub, tmp_path)
    assert (judge.rate([]), judge.prefer([]), stub.calls) == ([], [], 0)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_run_that_was_killed_while_it_wrote_continues(stub: Stub, tmp_path: Path, kept: int) -> None:
    replies = [reply(f"text {n}") for n in range(3)]
    first = make(stub, tmp_path).rate(replies)
    path = tmp_path / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    # A row that lacks nothing but the end of its line is whole: kept = -1 needs no call.
    expected = 3 if kept == -1 else 4
    again = make(stub, tmp_path).rate(replies)
    assert [rating.axes for rating in again] == [rating.axes for rating in first]
    assert stub.calls == expected
    assert len(rows(tmp_path)) == 3
    make(stub, tmp_path).rate([*replies, reply("text 3")])
    assert stub.calls == expected + 1
    assert len(rows(tmp_path)) == 4


def test_a_broken_line_before_the_last_is_an_error(stub: Stub, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"key": "a", "text": "b"}\n{"key": \n')
    with pytest.raises(UserError, match=r"answers\.jsonl:2: is not an answer"):
        make(stub, tmp_path)


@pytest.mark.parametrize(
    "text", ["two\u2028lines\u0085and\r\nmore \u00e9\u4e16\U0001f600", "half a pair \ud83d", "nul \0"]
)
def test_any_answer_survives_the_file(stub: Stub, tmp_path: Path, text: str) -> None:
    stub.say = lambda question: text
    make(stub, tmp_path).rate([reply("one")])
    assert [row["text"] for row in make(stub, tmp_path).rate([reply("one")])[0].raw["answers"]] == [text, text]
    assert stub.calls == 2


def test_after_an_error_the_run_continues_where_it_stopped(stub: Stub, tmp_path: Path) -> None:
    failing = True

    def say(question: str) -> Any:
        if failing and "text 5" in question:
            time.sleep(0.2)
            return 500, {"error": {"message": "out of memory"}}
        return GOOD

    stub.say = say
    replies = [reply(f"text {n}") for n in range(6)]
    with pytest.raises(UserError, match="out of memory") as caught:
        make(stub, tmp_path).rate(replies)
    assert "answers.jsonl; running again continues" in str(caught.value)
    assert len(rows(tmp_path)) == 5
    failing = False
    before = stub.calls
    assert [rating.axes for rating in make(stub, tmp_path).rate(replies)] == [GRADES] * 6
    assert stub.calls == before + 1


def test_after_an_error_nothing_more_is_asked(stub: Stub, tmp_path: Path) -> None:
    def say(question: str) -> Any:
        time.sleep(0.01)
        return 500, {"error": {"message": "down"}}

    stub.say = say
    with pytest.raises(UserError):
        make(stub, tmp_path).rate([reply(f"text {n}") for n in range(200)])
    assert stub.calls < 100


def test_a_timeout_and_a_lost_server_say_that_the_answers_are_kept(stub: Stub, tmp_path: Path) -> None:
    def say(question: str) -> str:
        time.sleep(0.3)
        return GOOD

    stub.say = say
    with pytest.raises(UserError, match=r"did not answer within 0\.05 s.*\n.*answers so far are kept"):
        make(stub, tmp_path, timeout_seconds=0.05).rate([reply("one")])
    with pytest.raises(UserError, match=r"cannot be reached.*\n.*answers so far are kept"):
        make(stub, tmp_path, base_url="http://127.0.0.1:1/v1").rate([reply("one")])


def test_a_refusal_for_a_moment_is_tried_again(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda question: (429, {"error": {"message": "slow down"}}) if stub.calls == 1 else GOOD
    assert make(stub, tmp_path, max_retries=1).rate([reply("one")])[0].axes == GRADES
    assert stub.calls == 2


@pytest.mark.parametrize("body", ["<html>login</html>", {"error": {"message": "no"}}, {"choices": []}, [], "[]"])
def test_a_server_that_is_no_chat_endpoint_is_an_error_and_nothing_is_kept(
    stub: Stub, tmp_path: Path, body: Any
) -> None:
    stub.say = lambda question: (200, body)
    with pytest.raises(UserError, match=r"not a chat completion.*judge\.openai\.base_url"):
        make(stub, tmp_path).rate([reply("one")])
    assert not (tmp_path / "answers.jsonl").exists()


def test_check_makes_one_cheap_call(stub: Stub, tmp_path: Path) -> None:
    make(stub, tmp_path).check()
    assert (stub.listed, stub.calls) == (1, 0)


@pytest.mark.parametrize("status", [403, 404, 405, 200])
def test_check_asks_for_one_token_where_the_models_are_not_listed(stub: Stub, tmp_path: Path, status: int) -> None:
    stub.models_status, stub.models = status, {"error": {"message": "no list"}}
    make(stub, tmp_path).check()
    assert (stub.listed, stub.calls, stub.requests[0]["max_tokens"]) == (1, 1, 1)
    assert not (tmp_path / "answers.jsonl").exists()


def test_check_survives_a_web_page_for_a_list(stub: Stub, tmp_path: Path) -> None:
    stub.models = "<html>"
    make(stub, tmp_path).check()
    stub.say = lambda question: (200, "<html>")
    with pytest.raises(UserError, match="not a chat completion"):
        make(stub, tmp_path).check()


@pytest.mark.parametrize("status", [404, 400])
def test_check_names_an_unknown_model_and_the_closest(stub: Stub, tmp_path: Path, status: int) -> None:
    stub.say = lambda question: (status, {"error": {"message": "no such model"}})
    with pytest.raises(UserError) as caught:
        make(stub, tmp_path, model="stub-l").check()
    for part in (stub.url, "model stub-l", "correct judge.openai.model", "stub-1"):
        assert part in str(caught.value)


def test_check_accepts_an_alias_that_is_not_listed(stub: Stub, tmp_path: Path) -> None:
    make(stub, tmp_path, model="stub").check()


@pytest.mark.parametrize("status", [401, 403])
def test_check_names_the_variable_of_a_refused_key(stub: Stub, tmp_path: Path, status: int) -> None:
    stub.models_status, stub.models = status, {"error": {"message": "invalid key"}}
    stub.say = lambda question: (status, {"error": {"message": "invalid key"}})
    with pytest.raises(UserError) as caught:
        make(stub, tmp_path).check()
    for part in (stub.url, "model stub-1", f"refused the key in {KEY_ENV}", f"export {KEY_ENV}", "invalid key"):
        assert part in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "127.0.0.1:1/v1"])
def test_check_names_an_address_that_cannot_be_reached(stub: Stub, tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError) as caught:
        make(stub, tmp_path, base_url=url).check()
    for part in (url, "model stub-1", "cannot be reached", "correct judge.openai.base_url"):
        assert part in str(caught.value)


def test_check_names_a_server_that_does_not_answer(stub: Stub, tmp_path: Path) -> None:
    stub.models_delay = 0.3
    with pytest.raises(UserError, match=r"did not answer within 0\.05 s.*timeout_seconds"):
        make(stub, tmp_path, timeout_seconds=0.05).check()


def test_without_a_base_url_the_key_has_to_be_exported(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (None, "", " \n"):
        monkeypatch.delenv(KEY_ENV) if value is None else monkeypatch.setenv(KEY_ENV, value)
        with pytest.raises(UserError, match=f"export {KEY_ENV}="):
            make(stub, tmp_path, base_url=None)


def test_a_local_server_needs_no_key_and_gets_no_other(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_ENV)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    make(stub, tmp_path).rate([reply("one")])
    assert stub.keys == ["Bearer none"]
    stub.say = lambda question: (401, {"error": {"message": "who are you"}})
    with pytest.raises(UserError, match=f"asks for a key, and {KEY_ENV} is not set"):
        make(stub, tmp_path).rate([reply("two")])


def test_the_key_is_sent_and_never_shown(
    stub: Stub, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    shown = []

    def fails(act: Callable[[], object]) -> None:
        with pytest.raises(UserError) as caught:
            act()
        shown.append("".join(traceback.format_exception(caught.value)))

    judge = make(stub, tmp_path)
    # A server that says the key back, in an answer and in every kind of error.
    stub.say = lambda question: f"Your key is {KEY}."
    (rating,) = judge.rate([reply("one")])
    for status in (400, 401, 403, 404, 429, 500):
        stub.models_status = status
        stub.models = {"error": {"message": f"Wrong: {KEY}"}}
        stub.say = lambda question: (stub.models_status, stub.models)
        fails(lambda: judge.rate([reply("two")]))
        fails(judge.check)
    fails(make(stub, tmp_path, base_url="http://127.0.0.1:1/v1").check)
    out = capfd.readouterr()
    shown += [repr(judge), str(rating), out.out, out.err, caplog.text, (tmp_path / "answers.jsonl").read_text()]
    assert stub.keys[0] == f"Bearer {KEY}"
    assert "Your key is [key]." in shown[-1]
    assert not [text for text in shown if KEY in text]


def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (f"{KEY}\u2026", f"{KEY}\nexport"):
        monkeypatch.setenv(KEY_ENV, value)
        with pytest.raises(UserError, match=KEY_ENV) as caught:
            make(stub, tmp_path)
        assert KEY not in str(caught.value)
    monkeypatch.setenv(KEY_ENV, f" {KEY}\n")
    make(stub, tmp_path).rate([reply("one")])
    assert stub.keys == [f"Bearer {KEY}"]
