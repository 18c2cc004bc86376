"""The stub itself, through the real `openai` client: each behaviour gives the exception or object it stands for."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from . import stub_replies as say
from .stub import ALL, Limit, Stub
from .stub_batch import Plan
from .stub_replies import Answer, Chaos, Fault, Reply, Token

MESSAGES: Any = [{"role": "user", "content": "Rate this."}]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Stub() as stub:
        yield stub


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(stub: Stub, timeout: float = 5) -> openai.OpenAI:
    return openai.OpenAI(base_url=stub.url, api_key="sk-test", max_retries=0, timeout=timeout)


def ask(stub: Stub, mode: str = "sync", timeout: float = 5, **more: Any) -> Any:
    """One completion; what the client makes of it, or its exception."""
    arguments = {"model": "stub-1", "messages": MESSAGES} | more
    if mode == "sync":
        with connect(stub, timeout) as client:
            return client.chat.completions.create(**arguments)

    async def run() -> Any:
        settings: Any = {"base_url": stub.url, "api_key": "sk-test", "max_retries": 0, "timeout": timeout}
        async with openai.AsyncOpenAI(**settings) as client:
            return await client.chat.completions.create(**arguments)

    return asyncio.run(run())


def says(stub: Stub, reply: str | Reply | None) -> None:
    stub.say = lambda body: reply


def test_a_completion(stub: Stub, mode: str) -> None:
    says(stub, "Seven: 7.")
    before = time.monotonic()
    made = ask(stub, mode, model="judge", temperature=0, max_tokens=5, response_format={"type": "json_object"})
    assert isinstance(made, ChatCompletion)
    assert made.choices[0].message.content == "Seven: 7."
    assert (made.model, made.choices[0].finish_reason, made.choices[0].logprobs) == ("judge", "stop", None)
    assert made.usage is not None and made.usage.completion_tokens == 5
    (request,) = stub.requests
    assert request.body is not None and (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.body["messages"] == MESSAGES and request.body["temperature"] == 0
    assert request.headers["authorization"] == "Bearer sk-test"
    assert before < request.at < time.monotonic()
    assert (stub.answered, stub.in_flight, stub.most_in_flight, request.answered) == (1, 0, 1, True)


def test_by_default_it_has_an_answer_to_each_question(stub: Stub) -> None:
    rating = json.loads(ask(stub).choices[0].message.content)
    assert rating["coherence"] == 7 and len(rating) == 5
    compared = ask(stub, messages=[{"role": "user", "content": 'Say {"better": "A"}.'}])
    assert json.loads(compared.choices[0].message.content)["better"] == "A"
    properties = {"why": {"type": "string"}, "better": {"enum": ["B", "A"]}, "detail": {"type": "integer"}}
    schema = {"name": "x", "schema": {"type": "object", "properties": properties}}
    filled = ask(stub, response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(filled.choices[0].message.content) == {"why": "Fine.", "better": "B", "detail": 7}


@pytest.mark.parametrize(
    ("reply", "error", "status", "code", "param"),
    [
        (say.rate_limited(), openai.RateLimitError, 429, "rate_limit_exceeded", None),
        (say.NO_QUOTA, openai.RateLimitError, 429, "insufficient_quota", None),
        (say.server_error(500), openai.InternalServerError, 500, None, None),
        (say.server_error(502), openai.InternalServerError, 502, None, None),
        (say.server_error(503), openai.InternalServerError, 503, None, None),
        (say.server_error(504), openai.InternalServerError, 504, None, None),
        (say.model_not_found("stub-1"), openai.NotFoundError, 404, "model_not_found", None),
        (say.unauthorized(), openai.AuthenticationError, 401, "invalid_api_key", None),
        (say.CONTENT_FILTER, openai.BadRequestError, 400, "content_filter", "prompt"),
        (say.TOO_LONG, openai.BadRequestError, 400, "context_length_exceeded", "messages"),
        (say.unsupported("logprobs"), openai.BadRequestError, 400, "unsupported_parameter", "logprobs"),
        (say.failure(418, "teapot", "tea"), openai.APIStatusError, 418, "tea", None),
    ],
)
def test_an_error(
    stub: Stub, mode: str, reply: Fault, error: type[openai.APIStatusError], status: int, code: str, param: str
) -> None:
    says(stub, reply)
    with pytest.raises(error) as caught:
        ask(stub, mode)
    assert (caught.value.status_code, caught.value.code, caught.value.param) == (status, code, param)
    assert (stub.answered, stub.statuses) == (0, {status: 1})


@pytest.mark.parametrize(
    ("after", "form", "header", "value"),
    [
        (None, "seconds", "retry-after", None),
        (2, "seconds", "retry-after", "2"),
        (0.25, "seconds", "retry-after", "0.25"),
        (0.25, "ms", "retry-after-ms", "250"),
    ],
)
def test_when_to_try_again(stub: Stub, after: float | None, form: Any, header: str, value: str | None) -> None:
    says(stub, say.rate_limited(after, form))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(stub)
    assert caught.value.response.headers.get(header) == value


def test_when_to_try_again_as_a_date(stub: Stub) -> None:
    says(stub, say.rate_limited(3, "date"))
    with pytest.raises(openai.RateLimitError) as caught:
        ask(stub)
    assert 2 < parsedate_to_datetime(caught.value.response.headers["retry-after"]).timestamp() - time.time() < 4.1


@pytest.mark.parametrize("reply", [say.CUT, say.CUT_HALF])
def test_a_connection_that_is_cut(stub: Stub, mode: str, reply: Reply) -> None:
    says(stub, reply)
    with pytest.raises(openai.APIConnectionError) as caught:
        ask(stub, mode)
    assert not isinstance(caught.value, openai.APITimeoutError)
    assert (stub.answered, stub.in_flight, stub.statuses) == (0, 0, {"lost": 1})


@pytest.mark.parametrize("reply", [say.HANG, Answer("late", latency=60)])
def test_no_answer_in_time(stub: Stub, mode: str, reply: Reply) -> None:
    says(stub, reply)
    with pytest.raises(openai.APITimeoutError):
        ask(stub, mode, timeout=0.1)
    # That the client has gone away is seen, so that it does not count as in flight.
    wait_until(lambda: stub.in_flight == 0)
    assert stub.statuses == {"lost": 1}


def test_latency(stub: Stub) -> None:
    stub.latency = 0.4
    began = time.monotonic()
    ask(stub)
    assert time.monotonic() - began >= 0.4
    says(stub, Answer("at once", latency=0))
    began = time.monotonic()
    ask(stub)
    assert time.monotonic() - began < 0.4


def test_a_slow_body_passes_every_read_timeout(stub: Stub, mode: str) -> None:
    says(stub, Answer("dripped", sent="drip", pause=0.002))
    began = time.monotonic()
    assert ask(stub, mode, timeout=0.4).choices[0].message.content == "dripped"
    assert time.monotonic() - began > 0.5
    assert stub.answered == 1


@pytest.mark.parametrize("reply", [say.MALFORMED, say.PAGE, say.NO_COMPLETION])
def test_what_is_no_completion(stub: Stub, mode: str, reply: Fault) -> None:
    """The client raises on malformed JSON, hands a page through as text and makes an object of any other JSON."""
    says(stub, reply)
    if reply is say.MALFORMED:
        with pytest.raises(ValueError):
            ask(stub, mode)
    elif reply is say.PAGE:
        assert ask(stub, mode) == say.PAGE.body
    else:
        made = ask(stub, mode)
        assert made.choices is None and made.status == "ok"
    assert (stub.answered, stub.statuses) == (0, {200: 1})


def test_odd_completions(stub: Stub, mode: str) -> None:
    says(stub, say.NO_CHOICES)
    assert ask(stub, mode).choices == []
    says(stub, None)
    assert ask(stub, mode).choices[0].message.content is None
    says(stub, say.REFUSAL)
    message = ask(stub, mode).choices[0].message
    assert message.content is None and message.refusal.startswith("I'm sorry")
    says(stub, say.half('{"coherence": 7, "detail": 6}'))
    choice = ask(stub, mode).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("length", '{"coherence": ')
    says(stub, Answer("7", model="another", usage=False))
    made = ask(stub, mode)
    assert (made.model, made.usage) == ("another", None)
    says(stub, "lone \ud83d, and \U0001f600\u2028")
    assert ask(stub, mode, logprobs=True, n=2).choices[1].message.content == "lone \ud83d, and \U0001f600\u2028"


def test_log_probabilities(stub: Stub, mode: str) -> None:
    says(stub, '{"a": 10, "b": 7}')
    content = ask(stub, mode, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(token.token for token in content) == '{"a": 10, "b": 7}'
    (ten,) = [token for token in content if token.token == "10"]
    assert ten.bytes == [49, 48] and ten.logprob == pytest.approx(math.log(0.8))
    assert [(top.token, round(math.exp(top.logprob), 2)) for top in ten.top_logprobs] == [("10", 0.8), ("11", 0.15)]
    assert ask(stub, mode, logprobs=True).choices[0].logprobs.content[0].top_logprobs == []
    likely = (("8", -0.4), (" 8", -1.5), ("9", -2.0))
    says(stub, Answer(tokens=[Token("Grade: "), Token("8", -0.4, likely)]))
    choice = ask(stub, mode, logprobs=True, top_logprobs=20).choices[0]
    assert choice.message.content == "Grade: 8"
    assert [(top.token, top.logprob) for top in choice.logprobs.content[1].top_logprobs] == list(likely)


@pytest.mark.parametrize(
    ("without", "more", "param"),
    [
        ("response_format", {"response_format": {"type": "json_object"}}, "response_format"),
        ("logprobs", {"logprobs": True, "top_logprobs": 5}, "logprobs"),
        ("logprobs", {"top_logprobs": 5}, "top_logprobs"),
        ("temperature", {"temperature": 0}, "temperature"),
        ("max_tokens", {"max_tokens": 10}, "max_tokens"),
    ],
)
def test_a_parameter_that_is_not_supported(stub: Stub, without: str, more: Any, param: str) -> None:
    stub.supports = ALL - {without}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(stub, **more)
    assert caught.value.param == param
    assert ("max_completion_tokens" in str(caught.value)) == (param == "max_tokens")
    ask(stub, logprobs=False, temperature=1, max_completion_tokens=10)
    assert [request.answered for request in stub.chats] == [False, True]


def test_a_parameter_that_is_ignored(stub: Stub) -> None:
    stub.ignores = {"logprobs", "response_format"}
    made = ask(stub, logprobs=True, top_logprobs=5, response_format={"type": "json_object"})
    assert made.choices[0].logprobs is None
    assert stub.chats[0].body is not None and stub.chats[0].body["logprobs"] is True


def test_models(stub: Stub) -> None:
    stub.models = ["one", "two"]
    with connect(stub, timeout=0.5) as client:
        assert [model.id for model in client.models.list().data] == ["one", "two"]
        stub.models = replace(say.server_error(503), latency=0.1)
        began = time.monotonic()
        with pytest.raises(openai.InternalServerError):
            client.models.list()
        assert time.monotonic() - began > 0.1
        stub.models = Fault(200, {"object": "list", "data": []})
        assert client.models.list().data == []
        stub.models = say.HANG
        with pytest.raises(openai.APITimeoutError):
            client.models.list()
        stub.gate = lambda request: say.failure(404, "no such route") if request.path == "/v1/models" else None
        with pytest.raises(openai.NotFoundError):
            client.models.list()
        client.chat.completions.create(model="one", messages=MESSAGES)
    assert (len(stub.requests), len(stub.chats), stub.most_in_flight) == (6, 1, 1)


def test_a_key(stub: Stub) -> None:
    stub.key = "sk-right"
    with pytest.raises(openai.AuthenticationError, match="sk-test"):
        ask(stub)
    stub.key = "sk-test"
    ask(stub)


def test_what_say_raises_fails_the_test() -> None:
    def wrong(body: Any) -> str:
        raise AssertionError("not this question")

    stub = Stub(wrong)
    with pytest.raises(AssertionError, match="not this question"), stub, pytest.raises(openai.InternalServerError):
        ask(stub)


def test_many_at_once_are_counted(stub: Stub) -> None:
    stub.latency = 0.1
    with connect(stub) as client, ThreadPoolExecutor(20) as pool:
        ask = lambda n: client.chat.completions.create(model=f"{n}", messages=MESSAGES)  # noqa: E731
        assert [made.model for made in pool.map(ask, range(40))] == [str(n) for n in range(40)]
    assert (stub.answered, stub.in_flight) == (40, 0) and 10 < stub.most_in_flight <= 20
    assert [request.at for request in stub.requests] == sorted(request.at for request in stub.requests)


def test_a_limit_of_requests_in_flight(stub: Stub) -> None:
    stub.limit, stub.latency = Limit(concurrency=4, after=0.02), 0.05
    refused = flood(stub, workers=12, count=24)
    assert (stub.answered, stub.most_in_flight, stub.in_flight) == (24, 4, 0)
    assert refused == stub.statuses[429] > 0


def test_a_limit_of_requests_a_second(stub: Stub) -> None:
    stub.limit = Limit(rate=100, burst=5)
    began = time.monotonic()
    refused = flood(stub, workers=12, count=45)
    assert 0.4 <= time.monotonic() - began < 5
    assert stub.answered == 45 and refused == stub.statuses[429] > 0


def flood(stub: Stub, workers: int, count: int) -> int:
    """So many completions, tried again when the stub says so; how many were refused."""
    refused = []

    def one(client: openai.OpenAI) -> None:
        while True:
            try:
                client.chat.completions.create(model="stub-1", messages=MESSAGES)
                return
            except openai.RateLimitError as error:
                refused.append(error)
                time.sleep(float(error.response.headers["retry-after-ms"]) / 1000)

    with connect(stub) as client, ThreadPoolExecutor(workers) as pool:
        list(pool.map(one, [client] * count))
    return len(refused)


def test_random_faults_end_and_do_not_depend_on_the_order() -> None:
    odds: Any = [(0.3, say.server_error()), (0.2, say.rate_limited()), (0.2, lambda answer: say.half(answer.text))]

    def told(order: list[int]) -> dict[int, list[Reply]]:
        chaos = Chaos(lambda body: "good", odds, seed=3)
        answers: dict[int, list[Reply]] = {number: [] for number in order}
        for _ in range(30):
            for number in order:
                answers[number].append(chaos({"number": number}))
        assert sum(chaos.drawn.values()) == sum(reply != Answer("good") for row in answers.values() for reply in row)
        assert chaos.drawn[0] > chaos.drawn[1] > 0 and chaos.drawn[2] > 0
        return answers

    answers = told(list(range(40)))
    assert answers == told(list(reversed(range(40))))
    for row in answers.values():
        marks = "".join("." if reply == Answer("good") else "x" for reply in row)
        assert "xxx" not in marks and "xx" in marks
    assert any(say.half("good") in row for row in answers.values())


def lines(*texts: str, model: str = "stub-1") -> bytes:
    rows = [
        {
            "custom_id": text,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": model, "messages": [{"role": "user", "content": text}]},
        }
        for text in texts
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def submit(client: openai.OpenAI, content: bytes, **metadata: str) -> str:
    file = client.files.create(file=("questions.jsonl", content), purpose="batch")
    assert file.bytes == len(content) and file.filename == "questions.jsonl"
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata
    )
    assert batch.status == "validating" and batch.output_file_id is None
    return batch.id


def answers(client: openai.OpenAI, file_id: str | None) -> list[Any]:
    assert file_id is not None
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch(stub: Stub) -> None:
    stub.say = lambda body: f"about {body['messages'][0]['content']}"
    stub.batches.plans = [Plan(polls=4)]
    with connect(stub) as client:
        id = submit(client, lines("a", "b\u2028", "c"), run="7")
        batches = [client.batches.retrieve(id).to_dict() for _ in range(5)]
        assert [batch["status"] for batch in batches] == [
            "in_progress",
            "in_progress",
            "finalizing",
            "completed",
            "completed",
        ]
        batch = client.batches.list().data[0]
        assert (batch.id, batch.metadata, batch.error_file_id) == (id, {"run": "7"}, None)
        assert batch.request_counts is not None
        assert batch.request_counts.to_dict() == {"total": 3, "completed": 3, "failed": 0}
        rows = answers(client, batch.output_file_id)
        assert [row["custom_id"] for row in rows] == ["a", "b\u2028", "c"]
        made = ChatCompletion.model_validate(rows[1]["response"]["body"])
        assert made.choices[0].message.content == "about b\u2028" and rows[1]["error"] is None
        assert client.files.delete(batch.output_file_id or "").deleted
        with pytest.raises(openai.NotFoundError):
            client.files.content(batch.output_file_id or "")
        with pytest.raises(openai.ConflictError):
            client.batches.cancel(id)
    assert [line["custom_id"] for line in stub.batches.lines] == ["a", "b\u2028", "c"]
    assert stub.chats == []


def test_a_batch_with_errors_in_another_order(stub: Stub) -> None:
    faults = {"2": say.CONTENT_FILTER, "4": say.CUT, "5": say.PAGE}
    stub.say = lambda body: faults.get(body["messages"][0]["content"], "good")
    stub.batches.plans = [Plan(polls=1, error_lines={1}, lost_lines={3}, shuffle=1), Plan(polls=1, error_lines={0})]
    with connect(stub) as client:
        batch = client.batches.retrieve(submit(client, lines(*"0123456789")))
        assert batch.status == "completed" and batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (6, 3)
        output = [row["custom_id"] for row in answers(client, batch.output_file_id)]
        assert output != sorted(output) and set(output) == set("056789")
        errors = {row["custom_id"]: row for row in answers(client, batch.error_file_id)}
        assert errors.keys() == {"1", "2", "4"}
        assert errors["1"]["response"]["status_code"] == 500
        assert errors["2"]["response"]["body"]["error"]["code"] == "content_filter"
        assert errors["4"]["response"] is None and errors["4"]["error"]["code"] == "server_error"
        batch = client.batches.retrieve(submit(client, lines("all")))
        assert (batch.status, batch.output_file_id) == ("completed", None)
        assert len(answers(client, batch.error_file_id)) == 1


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_a_batch_that_ends_early(stub: Stub, end: Any) -> None:
    stub.batches.plans = [Plan(polls=2, end="expired", done=3)]
    with connect(stub) as client:
        id = submit(client, lines(*"abcde"))
        assert client.batches.retrieve(id).status == "in_progress"
        if end == "cancelled":
            assert client.batches.cancel(id).status == "cancelling"
        batch = client.batches.retrieve(id)
        assert batch.status == end
        assert [row["custom_id"] for row in answers(client, batch.output_file_id)] == ["a", "b", "c"]
        errors = answers(client, batch.error_file_id)
        assert {row["custom_id"]: row["error"]["code"] for row in errors} == {"d": f"batch_{end}", "e": f"batch_{end}"}
    assert len(stub.batches.lines) == 3


def test_a_batch_that_fails(stub: Stub) -> None:
    stub.batches.plans = [Plan(end="failed"), Plan(polls=1)]
    stub.batches.most_lines = 3
    twice = lines("a", "a") + b"{broken\n" + lines("b", model="other") + b'{"custom_id": "x"}\n'
    with connect(stub) as client:
        assert failed(client, lines("a")) == [("token_limit_exceeded", None)]
        assert failed(client, twice) == [
            ("duplicate_custom_id", 2),
            ("invalid_json_line", 3),
            ("mismatched_model", 4),
            ("missing_required_parameter", 5),
        ]
        assert failed(client, b"") == [("empty_file", None)]
        assert failed(client, lines(*"abcd")) == [("too_many_tasks", None)]
        assert failed(client, lines("a").replace(b"chat/", b"")) == [("mismatched_url", 1)]
        assert client.batches.retrieve(submit(client, lines(*"abc"))).status == "completed"
        with pytest.raises(openai.BadRequestError, match="jsonl"):
            client.files.create(file=("questions.txt", b"x"), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="file-99"):
            client.batches.create(input_file_id="file-99", endpoint="/v1/chat/completions", completion_window="24h")
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_99")
        stub.gate = lambda request: say.failure(404, "none here") if request.path == "/v1/files" else None
        with pytest.raises(openai.NotFoundError, match="none here"):
            submit(client, lines("a"))


def failed(client: openai.OpenAI, content: bytes) -> list[tuple[str | None, int | None]]:
    batch = client.batches.retrieve(submit(client, content))
    assert batch.status == "failed" and batch.errors is not None
    return [(error.code, error.line) for error in batch.errors.data or []]


def test_a_file_is_taken_as_it_is(stub: Stub, tmp_path: Path) -> None:
    """Whichever way the client sends it: from memory, from a path, in chunks."""
    content = b"\r\n--x\r\n" + bytes(range(256)) * 20_000 + b"\n\r\n"
    path = tmp_path / "a; b.jsonl"
    path.write_bytes(content)
    with connect(stub) as client:
        client.files.create(file=("a.jsonl", content), purpose="batch")
        client.files.create(file=path, purpose="batch")
    chunks = [
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x\r\nContent-Disposition: form-data;'
    ]
    chunks += [b' name="file"; filename="a.jsonl"\r\n\r\n', content[8:], b"\r\n--x--\r\n"]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with urllib.request.urlopen(urllib.request.Request(f"{stub.url}/files", iter(chunks), headers, method="POST")):
        pass
    assert list(stub.batches.files.values()) == [content, content, content[8:]]


def test_as_a_process_of_its_own() -> None:
    command = [
        sys.executable,
        str(Path(__file__).with_name("stub.py")),
        "--latency",
        "0.05",
        "--unsupported",
        "logprobs",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, ExitStack() as stack:
        stack.callback(process.terminate)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with openai.OpenAI(base_url=url, api_key="x", max_retries=0) as client:
            made = client.chat.completions.create(model="stub-1", messages=MESSAGES)
            assert "coherence" in str(made.choices[0].message.content)
            with pytest.raises(openai.BadRequestError):
                client.chat.completions.create(model="stub-1", messages=MESSAGES, logprobs=True)
        with urllib.request.urlopen(f"{url}/stats") as response:
            assert json.load(response) == {
                "answered": 1,
                "in_flight": 0,
                "most_in_flight": 1,
                "statuses": {"200": 1, "400": 1},
            }


def test_it_stops_with_connections_that_hang() -> None:
    before = threading.active_count()
    with Stub(lambda body: say.HANG) as stub, pytest.raises(openai.APITimeoutError):
        ask(stub, timeout=0.05)
    assert threading.active_count() == before
    with pytest.raises(openai.APIConnectionError):
        ask(stub)
    with Stub(port=stub.port) as again:  # a server that was away and is back
        assert again.url == stub.url
        ask(again)


def wait_until(true: Any) -> None:
    end = time.monotonic() + 2
    while not true() and time.monotonic() < end:
        time.sleep(0.005)
    assert true()
