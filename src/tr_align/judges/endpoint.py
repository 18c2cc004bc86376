"""One OpenAI-compatible endpoint: a call, what it can do, and what its errors mean."""

from __future__ import annotations

import asyncio
import difflib
import email.utils
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import openai
from openai.types.chat import ChatCompletion

from tr_align.errors import UserError
from tr_align.judges.gate import backoff
from tr_align.judges.parse import SCHEMAS, parse_preference
from tr_align.settings import OpenAIJudge as Settings

PLACEHOLDER_KEY = "none"
# Anything shorter is no secret ("EMPTY", "none"), and hiding it would change words of the answers.
SECRET_LENGTH = 8
REFUSED = (400, 413, 422)
"""Statuses that concern one question: a content filter, a text that is too long."""
LONGEST_RETRY_AFTER = 600.0
"""Seconds; an endpoint that asks for a longer pause (a limit by the day) stops the run instead."""

TRIAL = (
    'Which number is larger, 4 or 5? A is 4 and B is 5. Answer with {"comparison": "5 is more than 4", "better": "B"}'
)
FULL: dict[str, Any] = {"limit": "max_tokens", "temperature": True, "structured": True, "logprobs": 20}
"""What is tried first: the name of the length limit, temperature 0, a JSON schema, that many log-probabilities."""

Meaning = Literal["stop", "refused", "throttled", "failed"]


class NotACompletion(openai.OpenAIError):
    """The endpoint answered, but not with a chat completion that has a choice."""


def parameters(form: str, features: Mapping[str, Any], max_tokens: int) -> dict[str, Any]:
    """The parameters of a request for an answer of this form, as far as the model takes them."""
    result: dict[str, Any] = {features["limit"]: max_tokens}
    if features["temperature"]:
        result["temperature"] = 0
    if features["structured"] and form in SCHEMAS:
        schema = {"name": form, "strict": True, "schema": SCHEMAS[form]}
        result["response_format"] = {"type": "json_schema", "json_schema": schema}
    if form == "rate" and features["logprobs"]:
        result |= {"logprobs": True, "top_logprobs": features["logprobs"]}
    return result


def meaning(error: Exception) -> Meaning:
    """What an error means for the run: it stops all, refuses one question, asks for a pause, or may pass."""
    if not isinstance(error, openai.APIStatusError):
        return "failed"
    status = error.status_code
    if status == 429 and not _out_of_money(error):
        return "stop" if (retry_after(error) or 0) > LONGEST_RETRY_AFTER else "throttled"
    if status in REFUSED:
        return "refused"
    return "failed" if status >= 500 or status in (408, 409, 425) else "stop"


def _out_of_money(error: openai.APIStatusError) -> bool:
    """402, or a 429 that no waiting mends."""
    return error.status_code == 402 or "insufficient_quota" in (error.code, error.type)


def retry_after(error: Exception) -> float | None:
    """Seconds the endpoint asks to wait, from its headers: milliseconds, seconds or a date; None if it does not say."""
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    value = headers.get("retry-after", "")
    for text, factor in ((headers.get("retry-after-ms", ""), 1e-3), (value, 1.0)):
        try:
            return max(0.0, float(text) * factor)
        except ValueError:
            continue
    try:
        date = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None
    except (ValueError, OverflowError):  # a year 99999
        return None


class Endpoint:
    """An endpoint and the key for it.

    Raises:
        UserError: no key is exported although the endpoint needs one.
    """

    def __init__(self, settings: Settings) -> None:
        name = settings.api_key_env
        key = os.environ.get(name, "").strip()
        if not key and settings.base_url is None:
            raise UserError(
                f"judge.openai: the environment variable {name} is not set; `export {name}=...` with the key of "
                "the endpoint, or set judge.openai.base_url to a local server that needs none"
            )
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"judge.openai: the value of {name} has characters that no key has; export it again")
        self.settings = settings
        self._key = key

    def client(self) -> openai.AsyncOpenAI:
        """A client without retries of its own; it belongs to the running event loop."""
        settings = self.settings
        return openai.AsyncOpenAI(
            api_key=self._key or PLACEHOLDER_KEY,
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=0,
        )

    @property
    def address(self) -> str:
        return self.settings.base_url or "https://api.openai.com/v1"

    async def complete(
        self, client: openai.AsyncOpenAI, messages: Sequence[Mapping[str, str]], **values: Any
    ) -> ChatCompletion:
        """One chat completion.

        Raises:
            openai.OpenAIError: no answer, or one that is no completion.
        """
        arguments: dict[str, Any] = {"model": self.settings.model, "messages": list(messages)}
        try:
            # As an extra, because the client takes longer over a JSON schema than over all the rest of a call.
            # Its own time limit is for each piece of the answer: one that drips could take for ever.
            async with asyncio.timeout(self.settings.timeout_seconds):
                completion = await client.chat.completions.create(**arguments, extra_body=values)
        except TimeoutError as error:
            raise NotACompletion(f"no whole answer within {self.settings.timeout_seconds:g} s") from error
        except (ValueError, RecursionError) as error:  # a body that claims to be JSON and is not
            raise NotACompletion("its answer is not JSON") from error
        return self.checked(completion)

    def checked(self, completion: Any) -> ChatCompletion:
        """The completion, if it is one: the client hands bodies of another form through."""
        try:
            message = completion.choices[0].message
            text = message.content or message.refusal or ""
        except (AttributeError, LookupError, TypeError):
            text = None
        if not isinstance(completion, ChatCompletion) or text is None:
            raise NotACompletion("its answer is not a chat completion")
        return completion

    async def check(self, known: dict[str, Any] | None) -> dict[str, Any]:
        """See that the endpoint answers, and find out which parameters it takes, unless that is `known`.

        Raises:
            UserError: it cannot be reached, refuses the key or does not have the model.
        """
        models: list[str] = []
        async with self.client() as client:
            try:
                models = [str(model.id) for model in (await client.models.list()).data or []]
            except openai.APIStatusError as error:
                # Any other status (no right to list, no such path, a broken list) says nothing about completions.
                if error.status_code == 401:
                    raise UserError(self.explain(error)) from None
            except openai.APIConnectionError as error:
                raise UserError(self.explain(error)) from None
            except (openai.OpenAIError, AttributeError, TypeError, ValueError):
                pass  # what the client makes of a body that is no list of models
            if known:
                return known
            try:
                return await self._features(client)
            except openai.OpenAIError as error:
                raise UserError(self.explain(error, models)) from None

    async def _features(self, client: openai.AsyncOpenAI) -> dict[str, Any]:
        """Which of :data:`FULL` the model takes: a few small questions, until one is answered."""
        features = dict(FULL)
        retries = 0
        while True:
            values = parameters("prefer", features, self.settings.max_tokens)
            if features["logprobs"]:
                values |= {"logprobs": True, "top_logprobs": features["logprobs"]}
            try:
                completion = await self.complete(client, [{"role": "user", "content": TRIAL}], **values)
            except openai.OpenAIError as error:
                if _about_parameters(error) and _drop(features, str(error)):
                    continue
                # A server error says nothing about the parameters.
                await self.pause(error, retries)
                retries += 1
                continue
            # Some servers take a parameter and pass it over.
            choice = completion.choices[0]
            if not getattr(choice.logprobs, "content", None):
                features["logprobs"] = 0
            if parse_preference(str(choice.message.content)) is None:
                features["structured"] = False
            return features

    async def pause(self, error: Exception, attempt: int) -> None:
        """Wait before trying again what failed in this attempt, counted from 0.

        Raises:
            Exception: the error itself, if trying again is of no use or was tried `max_retries` times.
        """
        if meaning(error) not in ("throttled", "failed") or attempt >= self.settings.max_retries:
            raise error
        await asyncio.sleep(min(retry_after(error) or backoff(attempt), LONGEST_RETRY_AFTER))

    def explain(self, error: Exception, known: Sequence[str] = ()) -> str:
        """What went wrong, where and the way out. The endpoint's own words may repeat the key: it is hidden."""
        model, name = self.settings.model, self.settings.api_key_env
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if isinstance(error, openai.APITimeoutError) or isinstance(error.__cause__, TimeoutError):
            what = f"did not answer within {self.settings.timeout_seconds:g} s"
            todo = "see whether the server is overloaded, or raise judge.openai.timeout_seconds"
        elif isinstance(error, openai.APIConnectionError):
            what = f"cannot be reached ({error.__cause__ or error})"
            todo = "start the server, or correct judge.openai.base_url"
        elif status in (401, 403):
            what = f"refused the key in {name}" if self._key else f"asks for a key, and {name} is not set"
            what = f"{what} ({error})"
            todo = f"export {name} with a key that is valid there and may use the model"
        elif status == 404 or (status == 400 and known and model not in known):
            close = difflib.get_close_matches(model, known, n=3, cutoff=0.4) or known[:3]
            what = f"does not have the model, or is not the endpoint ({error})"
            todo = "correct judge.openai.model" + (f"; it has e.g. {', '.join(close)}" if close else "")
            todo += ", or judge.openai.base_url, which for most servers ends with /v1"
        elif isinstance(error, openai.APIStatusError) and _out_of_money(error):
            what, todo = f"has no more credit for this key ({error})", "top it up, and run again"
        elif status == 429 and (wait := retry_after(error) or 0) > LONGEST_RETRY_AFTER:
            what, todo = f"asks for a pause of {wait / 60:.0f} minutes ({error})", "run again after it"
        elif status == 429 or (status or 0) >= 500:
            what = f"still refused after {self.settings.max_retries} retries ({error})"
            todo = "wait, or see to its limits and logs, and run again"
        elif status is not None:
            what, todo = f"refused the request ({error})", "see whether judge.openai.model takes such requests"
        else:
            what, todo = f"{error}", "correct judge.openai.base_url, which for most servers ends with /v1"
        return self.hide(f"judge.openai: {self.address} (model {model}): {what}; {todo}")

    def hide(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "[key]") if len(self._key) >= SECRET_LENGTH else text


def _about_parameters(error: Exception) -> bool:
    return isinstance(error, openai.APIStatusError) and error.status_code in (400, 422, 501)


def _drop(features: dict[str, Any], complaint: str) -> bool:
    """Give up what the endpoint complains of, or else what is most often missing; False when nothing is left."""
    complaint = complaint.lower()
    if "max_completion_tokens" in complaint and features["limit"] == "max_tokens":
        features["limit"] = "max_completion_tokens"
    elif "logprobs" in complaint and features["logprobs"]:
        features["logprobs"] = 5 if features["logprobs"] > 5 and "top_logprobs" in complaint else 0
    elif "temperature" in complaint and features["temperature"]:
        features["temperature"] = False
    elif features["structured"]:
        features["structured"] = False
    elif features["logprobs"]:
        features["logprobs"] = 0
    elif features["temperature"]:
        features["temperature"] = False
    else:
        return False
    return True
