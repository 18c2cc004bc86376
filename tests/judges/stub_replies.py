"""What the stub says: answers, faults of every kind, and the functions that choose between them."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

Body = dict[str, Any]
JSON = "application/json"
TOKENS = re.compile(r"\d+| ?[^\W\d]+|\s+|.", re.DOTALL)  # a number is one token, without the space before it


class Token(NamedTuple):
    """A token of an answer; `top` has (token, log-probability) of the most likely, itself among them or not."""

    text: str
    logprob: float = -0.01
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sent:
    """How an answer goes out: `half` of it and then cut, a byte every `pause` seconds, or nothing."""

    sent: Literal["whole", "half", "drip", "cut", "hang"] = "whole"
    latency: float | None = None  # seconds before it; None: the stub's
    pause: float = 0.05


@dataclass(frozen=True)
class Answer(Sent):
    """A completion."""

    text: str | None = ""
    tokens: Sequence[Token] | None = None  # None: the text is split
    finish: str = "stop"
    refusal: str | None = None
    model: str | None = None  # None: the one asked for
    usage: bool = True


@dataclass(frozen=True)
class Fault(Sent):
    """Any other answer: a dict or list goes out as JSON, text as a page; without a body it is only how it is sent."""

    status: int = 200
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)


Reply = Answer | Fault
Say = Callable[[Body], str | Reply | None]


def as_reply(said: str | Reply | None) -> Reply:
    return said if isinstance(said, Answer | Fault) else Answer(said)


def failure(
    status: int, message: str, code: str | None = None, param: str | None = None, type: str = "invalid_request_error"
) -> Fault:
    """An error as OpenAI words it."""
    return Fault(status, {"error": {"message": message, "type": type, "param": param, "code": code}})


def rate_limited(after: float | None = None, form: Literal["seconds", "ms", "date"] = "seconds") -> Fault:
    """429, to be tried again `after` seconds: told in seconds, in milliseconds, by date or not at all."""
    headers = {}
    if after is not None:
        name = "Retry-After-Ms" if form == "ms" else "Retry-After"
        date = formatdate(math.ceil(time.time() + after), usegmt=True)
        headers[name] = date if form == "date" else f"{1000 * after:g}" if form == "ms" else f"{after:g}"
    fault = failure(429, "Rate limit reached for requests", "rate_limit_exceeded", type="requests")
    return replace(fault, headers=headers)


def server_error(status: int = 500) -> Fault:
    """500 and 503 as OpenAI has them, 502 and 504 as the proxy before it."""
    if status in (502, 504):
        return Fault(status, f"<html><h1>{status} {HTTPStatus(status).phrase}</h1><center>nginx</center></html>")
    text = "The server had an error while processing your request" if status == 500 else "The engine is overloaded"
    return failure(status, text, type="server_error")


def unsupported(param: str) -> Fault:
    if param == "temperature":
        text = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
        return failure(400, text, "unsupported_value", param)
    text = f"Unsupported parameter: '{param}' is not supported with this model."
    if param == "max_tokens":
        text += " Use 'max_completion_tokens' instead."
    return failure(400, text, "unsupported_parameter", param)


def model_not_found(model: str) -> Fault:
    return failure(404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found")


def unauthorized(key: str = "sk-wrong") -> Fault:
    return failure(401, f"Incorrect API key provided: {key}.", "invalid_api_key")


NO_QUOTA = failure(429, "You exceeded your current quota", "insufficient_quota", type="insufficient_quota")
CONTENT_FILTER = failure(400, "The response was filtered due to the prompt", "content_filter", "prompt")
TOO_LONG = failure(400, "This model's maximum context length is 8192 tokens", "context_length_exceeded", "messages")
CUT, CUT_HALF, HANG = Fault(sent="cut"), Answer("Cut in the middle", sent="half"), Fault(sent="hang")
MALFORMED = Fault(200, '{"id": "chatcmpl-0", "choices": [{"ind', {"Content-Type": JSON})
PAGE = Fault(200, "<!doctype html><title>Sign in</title>")
NO_COMPLETION = Fault(200, {"status": "ok"})
NO_CHOICES = Fault(200, {"id": "x", "object": "chat.completion", "created": 0, "model": "stub-1", "choices": []})
REFUSAL = Answer(None, refusal="I'm sorry, I can't help with that.")


def half(text: str) -> Answer:
    return Answer(text[: len(text) // 2], finish="length")


def completion(body: Body, answer: Answer, number: int = 0) -> Body:
    """The answer as a chat completion to the request."""
    tokens = _split(answer.text or answer.refusal or "") if answer.tokens is None else answer.tokens
    logprobs = None
    if body.get("logprobs"):
        content = [_logprobs(token, body.get("top_logprobs") or 0) for token in tokens]
        logprobs = {"content": content, "refusal": None}
    text = "".join(token.text for token in tokens) if answer.tokens and not answer.text else answer.text
    message = {"role": "assistant", "content": text, "refusal": answer.refusal}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}
    prompt = sum(len(str(message.get("content") or "")) for message in body.get("messages", ())) // 4
    usage = {"prompt_tokens": prompt, "completion_tokens": len(tokens), "total_tokens": prompt + len(tokens)}
    made = {"id": f"chatcmpl-{number}", "object": "chat.completion", "created": int(time.time())}
    made |= {"model": answer.model or body.get("model")}
    made["choices"] = [choice | {"index": index} for index in range(body.get("n") or 1)]
    return made | {"usage": usage} if answer.usage else made


@lru_cache(1024)
def _split(text: str) -> tuple[Token, ...]:
    """The tokens of an answer that names none; beside a number, its two neighbours are likely."""
    tokens = []
    for token in TOKENS.findall(text):
        top: tuple[tuple[str, float], ...] = ()
        if token.isdecimal() and len(token) < 9:
            top = tuple((str(int(token) + step), math.log(p)) for step, p in ((0, 0.8), (1, 0.15), (-1, 0.05)))
        tokens.append(Token(token, top[0][1], top) if top else Token(token))
    return tuple(tokens)


def _logprobs(token: Token, top: int) -> Body:
    def one(text: str, logprob: float) -> Body:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "surrogatepass"))}

    likely = token.top or ((token.text, token.logprob),)
    return one(token.text, token.logprob) | {"top_logprobs": [one(*pair) for pair in likely[:top]]}


@dataclass
class Fixed:
    """Says one valid answer to a rating and one to a comparison, or what the request's JSON schema asks for."""

    rating: str = json.dumps(dict.fromkeys(("coherence", "correctness", "helpfulness", "harmlessness", "detail"), 7))
    comparison: str = '{"comparison": "Both are fine.", "better": "A"}'

    def __call__(self, body: Body) -> str:
        schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema")
        if schema:
            return json.dumps(self._fill(schema))
        return self.comparison if '"better":' in str(body["messages"][-1]["content"]) else self.rating

    def _fill(self, schema: Body) -> Any:
        if "enum" in schema:
            return 7 if 7 in schema["enum"] else schema["enum"][0]
        if schema.get("type") == "object":
            return {name: self._fill(value) for name, value in schema.get("properties", {}).items()}
        return {"number": 7, "integer": 7, "boolean": True, "array": []}.get(schema.get("type", ""), "Fine.")


@dataclass
class Chaos:
    """Says what `say` says or, with the given probabilities, a fault (or what a function makes of the answer).

    The draws depend on the seed, the body and how often it came, not on the order of the requests. The same body gets
    at most `in_a_row` faults in a row.
    """

    say: Say
    odds: Sequence[tuple[float, Reply | Callable[[Answer], Reply]]]
    seed: int = 0
    in_a_row: int = 2
    drawn: Counter[int] = field(default_factory=Counter)  # how often each of `odds`
    _tries: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, body: Body) -> Reply:
        key = json.dumps(body, sort_keys=True)
        count, row = self._tries.get(key, (0, 0))
        draw = random.Random(f"{self.seed} {count} {key}").random() if row < self.in_a_row else 1.0
        for number, (probability, fault) in enumerate(self.odds):
            draw -= probability
            if draw < 0:
                self._tries[key] = (count + 1, row + 1)
                self.drawn[number] += 1
                if not callable(fault):
                    return fault
                said = as_reply(self.say(body))
                return fault(said) if isinstance(said, Answer) else said
        self._tries[key] = (count + 1, 0)
        return as_reply(self.say(body))
