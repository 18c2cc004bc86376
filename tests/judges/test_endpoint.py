"""What an endpoint's errors mean, what is asked of it, and in which words its faults are told; nothing is called."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from email.utils import formatdate
from typing import Any

import httpx2
import openai
import pytest

from tr_align.errors import UserError
from tr_align.judges import endpoint as module
from tr_align.judges.endpoint import (
    FULL,
    LONGEST_RETRY_AFTER,
    Endpoint,
    NotACompletion,
    meaning,
    parameters,
    retry_after,
)
from tr_align.judges.parse import SCHEMAS
from tr_align.settings import OpenAIJudge as Settings

KEY_ENV = "TR_ALIGN_TEST_KEY"
KEY = "sk-very-secret-0123456789"
REQUEST = httpx2.Request("POST", "http://here/v1/chat/completions")
CLIENT = openai.OpenAI(api_key="x", base_url="http://here/v1")
PLAIN: dict[str, Any] = {"limit": "max_tokens", "temperature": False, "structured": False, "logprobs": 0}


def failure(status: int, message: str = "no", headers: Any = None, **body: Any) -> openai.APIStatusError:
    """The exception of the client for such an answer."""
    response = httpx2.Response(status, headers=headers, request=REQUEST, json={"error": {"message": message, **body}})
    return CLIENT._make_status_error_from_response(response)


def out_of_time() -> NotACompletion:
    error = NotACompletion("no whole answer within 60 s")
    error.__cause__ = TimeoutError()
    return error


def unreachable(cause: Exception | None = None) -> openai.APIConnectionError:
    error = openai.APIConnectionError(request=REQUEST)
    error.__cause__ = cause
    return error


def make(**changes: Any) -> Endpoint:
    values = {"model": "judge-1", "base_url": "http://here/v1", "api_key_env": KEY_ENV}
    return Endpoint(Settings.model_validate(values | changes))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, KEY)


@pytest.mark.parametrize(
    ("expected", "statuses"),
    [
        ("stop", (401, 402, 403, 404, 405, 410, 418, 451)),
        ("refused", (400, 413, 422)),
        ("throttled", (429,)),
        ("failed", (408, 409, 425, 500, 501, 502, 503, 504, 520, 529)),
    ],
)
def test_the_meaning_of_a_status(expected: str, statuses: tuple[int, ...]) -> None:
    assert {status: meaning(failure(status)) for status in statuses} == dict.fromkeys(statuses, expected)


def test_every_status_has_a_meaning() -> None:
    """Only what concerns one question is passed over, and only what may pass is tried again."""
    found = {status: meaning(failure(status)) for status in range(400, 600)}
    assert {status for status, what in found.items() if what == "refused"} == {400, 413, 422}
    assert {status for status, what in found.items() if what == "throttled"} == {429}
    assert {status for status, what in found.items() if what == "failed"} == {408, 409, 425, *range(500, 600)}


@pytest.mark.parametrize("error", [unreachable(), openai.APITimeoutError(REQUEST), NotACompletion("x"), out_of_time()])
def test_no_answer_may_pass(error: Exception) -> None:
    assert (meaning(error), retry_after(error)) == ("failed", None)


def test_a_429_that_no_waiting_mends_stops() -> None:
    assert meaning(failure(429, code="rate_limit_exceeded", type="requests")) == "throttled"
    assert meaning(failure(429, code="insufficient_quota")) == "stop"
    assert meaning(failure(429, type="insufficient_quota")) == "stop"
    assert meaning(failure(429, headers={"Retry-After": f"{LONGEST_RETRY_AFTER:g}"})) == "throttled"
    assert meaning(failure(429, headers={"Retry-After": f"{LONGEST_RETRY_AFTER + 1:g}"})) == "stop"
    assert meaning(failure(429, headers={"Retry-After": "inf"})) == "stop"
    # Of a server error the pause is not taken from there.
    assert meaning(failure(503, headers={"Retry-After": "86400"})) == "failed"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": " 7 "}, 7),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After-Ms": "1500"}, 1.5),
        ({"retry-after-ms": "20", "retry-after": "1"}, 0.02),
        ({"Retry-After-Ms": "soon", "Retry-After": "3"}, 3),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "5s"}, None),
        ({"Retry-After": "Mon, 01 Jan 99999 00:00:00 GMT"}, None),
        ({"Retry-After": "99999999999999999999 Jan 99999999999999999999 1:2 +99999999999999999999"}, None),
    ],
    ids=str,
)
def test_the_pause_an_endpoint_asks_for(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(failure(429, headers=headers)) == seconds


def test_a_pause_until_a_date() -> None:
    date = formatdate(time.time() + 90, usegmt=True)
    assert 88 <= (retry_after(failure(429, headers={"Retry-After": date})) or 0) <= 90
    # The same moment as seen from two hours further east.
    east = formatdate(time.time() + 90 + 7200).replace("-0000", "+0200")
    assert 88 <= (retry_after(failure(503, headers={"Retry-After": east})) or 0) <= 90


def test_no_header_breaks_it() -> None:
    """20,000 headers made of the parts of dates and numbers: seconds, not negative, or None."""
    draw = random.Random(0)
    parts = [
        "Mon,",
        "Jan",
        "99",
        "0",
        "-1",
        "2026",
        "9" * 20,
        "GMT",
        "+0000",
        f"+{'9' * 20}",
        "12:00:00",
        "1:2",
        ",",
        ":",
    ]
    error = failure(429)
    for _ in range(20_000):
        error.response.headers["retry-after"] = " ".join(draw.choices(parts, k=draw.randint(1, 7)))
        found = retry_after(error)
        assert found is None or found >= 0


@pytest.mark.parametrize("kind", ["rate", "prefer"])
def test_the_parameters_of_every_combination_of_features(kind: str) -> None:
    """The limit has one of two names; the three others are there or not: 2 * 2 * 2 * 3 requests, all different."""
    seen = []
    options = itertools.product(["max_tokens", "max_completion_tokens"], [True, False], [True, False], [20, 5, 0])
    for limit, temperature, structured, logprobs in options:
        features = {"limit": limit, "temperature": temperature, "structured": structured, "logprobs": logprobs}
        found = parameters(kind, features, 512)
        expected: dict[str, Any] = {limit: 512}
        expected |= {"temperature": 0} if temperature else {}
        expected |= {"logprobs": True, "top_logprobs": logprobs} if logprobs and kind == "rate" else {}
        made = found.pop("response_format", None)
        assert found == expected and (made is not None) == structured
        if structured:
            schema = {"name": kind, "strict": True, "schema": SCHEMAS[kind]}
            assert made == {"type": "json_schema", "json_schema": schema}
        seen.append((found, made))
    # A comparison is one letter: its probabilities are not asked for.
    assert len({repr(values) for values in seen}) == (24 if kind == "rate" else 8)


def test_everything_is_tried_first() -> None:
    assert parameters("rate", FULL, 7).keys() == {
        *("max_tokens", "temperature", "response_format", "logprobs", "top_logprobs")
    }
    assert parameters("rate", PLAIN, 7) == {"max_tokens": 7}


@pytest.mark.parametrize(
    ("complaint", "changed"),
    [
        ("Use 'max_completion_tokens' instead", {"limit": "max_completion_tokens"}),
        ("top_logprobs has to be 5 or less", {"logprobs": 5}),
        ("logprobs are not supported", {"logprobs": 0}),
        ("'Temperature' does not support 0", {"temperature": False}),
        ("response_format: unknown", {"structured": False}),
        ("something else", {"structured": False}),
    ],
)
def test_what_is_complained_of_is_given_up(complaint: str, changed: dict[str, Any]) -> None:
    features = dict(FULL)
    assert module._drop(features, complaint)
    assert features == FULL | changed


def test_without_a_reason_one_thing_after_the_other_is_given_up_until_nothing_is_left() -> None:
    features, order = dict(FULL), []
    while module._drop(features, "no"):
        order.append(dict(features))
    assert order == [
        FULL | {"structured": False},
        FULL | {"structured": False, "logprobs": 0},
        PLAIN,
    ]
    # What is complained of again ends too.
    features = dict(FULL)
    assert [module._drop(features, "top_logprobs") for _ in range(5)] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (openai.APITimeoutError(REQUEST), ("did not answer within 60 s", "raise judge.openai.timeout_seconds")),
        (out_of_time(), ("did not answer within 60 s", "raise judge.openai.timeout_seconds")),
        (
            unreachable(OSError("no route")),
            ("cannot be reached (no route)", "start the server, or correct judge.openai.base_url"),
        ),
        (unreachable(), ("cannot be reached (Connection error.)", "judge.openai.base_url")),
        (failure(401, "bad key"), (f"refused the key in {KEY_ENV}", "bad key", f"export {KEY_ENV} with a key")),
        (failure(403, "not for you"), (f"refused the key in {KEY_ENV}", "not for you", f"export {KEY_ENV}")),
        (
            failure(404, "no such model"),
            (
                "does not have the model",
                "no such model",
                "judge.openai.model",
                "judge.openai.base_url",
                "ends with /v1",
            ),
        ),
        (failure(402, "pay"), ("has no more credit", "pay", "top it up, and run again")),
        (failure(429, "pay", code="insufficient_quota"), ("has no more credit", "top it up, and run again")),
        (
            failure(429, "slow", headers={"Retry-After": "7200"}),
            ("a pause of 120 minutes", "slow", "run again after it"),
        ),
        (failure(429, "slow"), ("still refused after 5 retries", "slow", "limits", "run again")),
        (failure(500, "oops"), ("still refused after 5 retries", "oops", "logs", "run again")),
        (failure(400, "too long"), ("refused the request", "too long", "see whether judge.openai.model")),
        (failure(405, "method"), ("refused the request", "method", "judge.openai.model")),
        (NotACompletion("its answer is not JSON"), ("its answer is not JSON", "correct judge.openai.base_url")),
    ],
    ids=lambda value: (
        None if isinstance(value, tuple) else f"{type(value).__name__} {getattr(value, 'status_code', '')}"
    ),
)
def test_a_fault_is_told_with_its_place_and_the_way_out(error: Exception, words: tuple[str, ...]) -> None:
    message = make().explain(error)
    assert message.startswith("judge.openai: http://here/v1 (model judge-1): ")
    told, _, todo = message.partition("; ")
    assert words[0] in told and todo
    for word in words:
        assert word in message


def test_without_a_key_the_endpoint_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    assert f"asks for a key, and {KEY_ENV} is not set" in make().explain(failure(401))


@pytest.mark.parametrize("status", [400, 404])
def test_the_models_that_come_closest_are_named(status: int) -> None:
    message = make(model="judge-l").explain(failure(status), ["other", "judge-1", "judge-2", "judge"])
    assert "does not have the model" in message and "it has e.g. judge" in message
    for name in ("judge-1", "judge-2"):
        assert name in message
    assert "other" not in message
    # None is close: the first three.
    assert "it has e.g. xyz, qwv, kkk," in make().explain(failure(status), ["xyz", "qwv", "kkk", "zzz"])
    assert "it has" not in make().explain(failure(404), [])
    # A model that is there and a request that is refused is another matter.
    assert "refused the request" in make().explain(failure(400), ["judge-1"])


def test_the_address_is_the_one_asked() -> None:
    assert make().address == "http://here/v1"
    assert make(base_url=None).address == "https://api.openai.com/v1"
    assert "https://api.openai.com/v1 (model judge-1)" in make(base_url=None).explain(failure(500))


def test_the_key_is_hidden_in_whatever_the_endpoint_says() -> None:
    endpoint = make()
    for status in (400, 401, 403, 404, 429, 500):
        message = endpoint.explain(failure(status, f"You sent {KEY}."))
        assert KEY not in message and "You sent [key]." in message
    assert KEY not in endpoint.explain(unreachable(OSError(KEY)))
    assert KEY not in endpoint.explain(failure(404), [KEY])
    assert endpoint.hide(f"{KEY}{KEY} and {KEY[:-1]}") == f"[key][key] and {KEY[:-1]}"
    assert KEY not in repr(endpoint) + str(vars(endpoint)["settings"])


@pytest.mark.parametrize(("key", "hidden"), [("EMPTY", False), ("1234567", False), ("12345678", True)])
def test_a_word_that_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch, key: str, hidden: bool) -> None:
    monkeypatch.setenv(KEY_ENV, key)
    assert make().hide(f"It is {key}.") == ("It is [key]." if hidden else f"It is {key}.")


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_openai_itself_needs_a_key_and_a_server_of_ones_own_does_not(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(KEY_ENV) if value is None else monkeypatch.setenv(KEY_ENV, value)
    with pytest.raises(UserError, match=rf"^judge\.openai: .*export {KEY_ENV}=.*or set judge\.openai\.base_url"):
        make(base_url=None)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    assert make().client().api_key == "none"
    assert make().hide("none") == "none"


def test_the_client_tries_nothing_again_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENV, f" {KEY}\n")
    client = make(timeout_seconds=7).client()
    assert (client.api_key, client.max_retries, client.timeout) == (KEY, 0, 7)
    assert str(client.base_url) == "http://here/v1/"


@pytest.mark.parametrize("value", [f"{KEY}\u2026", f"{KEY}\nexport"])
def test_a_key_that_cannot_be_sent_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(KEY_ENV, value)
    with pytest.raises(UserError, match=KEY_ENV) as caught:
        make()
    assert KEY not in str(caught.value)


def test_the_trial_never_waits_longer_than_the_longest_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server error that asks for a day, then for 5 s, then for nothing: 600, 5 and at most 2 s."""
    faults = [failure(503, headers={"Retry-After": after}) for after in ("86400", "5", "")]
    slept: list[float] = []

    async def refuse(*_: Any, **__: Any) -> Any:
        raise faults[len(slept)] if len(slept) < 3 else failure(401)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(Endpoint, "complete", refuse)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    with pytest.raises(openai.AuthenticationError):
        asyncio.run(make()._features(None))  # type: ignore[arg-type]
    assert slept[:2] == [600, 5] and len(slept) == 3 and 0 <= slept[2] <= 2
