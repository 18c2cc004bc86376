"""A judge behind any OpenAI-compatible endpoint: a chat model rates replies and compares two of them.

Every raw answer is kept in a JSON Lines file as it comes. A request that is already in the file is read back
instead of asked, so a killed run continues and a repeat of a finished one makes no call.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion
from tqdm import tqdm  # type: ignore[import-untyped]

from tr_align.config import AXES
from tr_align.config import OpenAIJudge as Settings
from tr_align.data.schema import Message
from tr_align.errors import UserError
from tr_align.judges.base import Duel, Preference, Rating, Reply, Verdict

THREADS = 8
MAX_TOKENS = {"rate": 128, "prefer": 256}
REMINDERS = {
    "rate": "Reminder: answer with the JSON object alone, its five keys and a number from 1 to 10 for each.",
    "prefer": 'Reminder: the last line has to be exactly {"better": "A"}, {"better": "B"} or {"better": "TIE"}.',
}
VERDICTS: dict[str, Preference] = {"A": "first", "B": "second", "TIE": "tie"}
PLACEHOLDER_KEY = "none"
# Anything shorter is no secret ("EMPTY", "none"), and hiding it would change words of the answers.
SECRET_LENGTH = 8
# Statuses of GET /models that say nothing about the completions: no right to list, or no such endpoint.
NO_LIST = {403, 404, 405, 501}


def parse_rating(text: str) -> dict[str, float | None]:
    """The number on each axis; None where the answer has none, or none from 1 to 10.

    Prose or a code fence around the object is skipped. An answer with two objects, or with one that is not JSON,
    has no rating at all: which numbers are meant would be a guess.
    """
    try:
        found = json.loads(text[text.find("{") : text.rfind("}") + 1], object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError):
        found = {}
    return {axis: _grade(found.get(axis)) for axis in AXES}


def parse_preference(text: str) -> Preference | None:
    """The verdict on the last line; None where that line is no verdict, or an earlier line is another one."""
    lines = [line for line in text.splitlines() if line.strip() and not line.strip().startswith("```")]
    verdicts = [_verdict(line) for line in lines]
    if not verdicts or len(set(verdicts) - {None}) != 1:
        return None
    return verdicts[-1]


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    return {key: value for key, value in pairs if keys.count(key) == 1}


def _grade(value: Any) -> float | None:
    # bool is a subclass of int; NaN fails the comparison.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 10:
        return None
    return float(value)


def _verdict(line: str) -> Preference | None:
    try:
        found = json.loads(line, object_pairs_hook=_without_repeated_keys)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or set(found) != {"better"} or not isinstance(found["better"], str):
        return None
    return VERDICTS.get(found["better"].strip().upper())


@cache
def _template(kind: str) -> str:
    return files("tr_align.judges").joinpath("prompts", f"{kind}.txt").read_text(encoding="utf-8")


def _fill(template: str, values: Mapping[str, str]) -> str:
    # One pass: a reply that contains a marker is shown as it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda marker: values[marker[1]], template)


def _render(prompt: Sequence[Message]) -> str:
    return "\n\n".join(f"[{m.role.capitalize()}]\n{m.content}" for m in prompt if m.role != "system" or m.content)


class _Answers:
    """The answers file: one row a call, by request key. Any thread may add to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        if not path.exists():
            return
        content = path.read_bytes()
        *lines, tail = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            if line.strip() and not self._remember(line):
                raise UserError(f"{path}:{number}: is not an answer of the judge; delete that line, or the whole file")
        if not tail:
            return
        # The process was killed while it wrote the last line, or the line only lacks its end.
        with path.open("r+b") as file:
            if self._remember(tail):
                file.seek(0, os.SEEK_END)
                file.write(b"\n")
            else:
                file.truncate(len(content) - len(tail))

    def _remember(self, line: bytes) -> bool:
        try:
            row = json.loads(line)
        except ValueError:
            return False
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("key", "text")):
            return False
        self.rows[row["key"]] = row
        return True

    def add(self, row: dict[str, Any]) -> None:
        # ASCII only, so that no character of an answer can end the line or fail to be encoded.
        line = json.dumps(row).encode() + b"\n"
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(line)
                file.flush()
            self.rows[row["key"]] = row


class OpenAIJudge:
    """Rates and compares replies with a chat model, at temperature 0.

    `answers` is the JSON Lines file of raw answers, one row a call: `key` (sha256 of model, messages and parameters),
    `kind`, `id`, `model` as the endpoint names it, `date`, `prompt_tokens`, `completion_tokens`, `finish`, `text`.

    Raises:
        UserError: no key is exported although the endpoint needs one, or `answers` has a line that is no answer.
    """

    unit = "points, 1 to 10"

    def __init__(self, settings: Settings, answers: Path) -> None:
        name = settings.api_key_env
        key = os.environ.get(name, "").strip()
        if not key and settings.base_url is None:
            raise UserError(
                f"judge.openai: the environment variable {name} is not set; `export {name}=...` with the key of "
                "the endpoint, or set judge.openai.base_url to a local server that needs none"
            )
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"judge.openai: the value of {name} has characters that no key has; export it again")
        self._settings = settings
        self._key = key
        self._answers = _Answers(Path(answers))
        self._client = openai.OpenAI(
            api_key=key or PLACEHOLDER_KEY,
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=settings.max_retries,
        )

    def check(self) -> None:
        """Ask the endpoint for its models and, only if that does not settle it, for a completion of one token.

        Raises:
            UserError: it cannot be reached, refuses the key or does not have the model.
        """
        # A wrong address should not be tried for minutes.
        client = self._client.with_options(max_retries=min(1, self._settings.max_retries))
        known: list[str] = []
        try:
            known = [str(model.id) for model in client.models.list().data or []]
        except openai.APIStatusError as error:
            if error.status_code not in NO_LIST:
                raise UserError(self._explain(error)) from None
        except openai.APIConnectionError as error:
            raise UserError(self._explain(error)) from None
        except (openai.OpenAIError, AttributeError, TypeError, ValueError):
            pass  # what the client makes of a body that is no list of models
        if self._settings.model in known:
            return
        # Some endpoints list only a part of what they serve, or answer to aliases.
        try:
            self._complete(client, [{"role": "user", "content": "Say A."}], {"temperature": 0, "max_tokens": 1})
        except openai.OpenAIError as error:
            raise UserError(self._explain(error, known)) from None

    def rate(self, replies: Sequence[Reply]) -> list[Rating]:
        """Rate every reply on the five axes; the ratings come back in the order of the replies.

        Raises:
            UserError: the endpoint stopped answering. The answers so far are kept; running again continues.
        """
        questions = [
            (reply.id, _fill(_template("rate"), {"conversation": _render(reply.prompt), "reply": reply.text}))
            for reply in replies
        ]
        ratings = []
        answers = self._ask("rate", questions, lambda text: None not in parse_rating(text).values())
        for reply, rows in zip(replies, answers, strict=True):
            # Of two answers, the one with more axes; they are never mixed.
            best = min((parse_rating(row["text"]) for row in rows), key=lambda axes: [*axes.values()].count(None))
            ratings.append(Rating(reply.id, best, {"answers": rows}))
        return ratings

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Compare the two replies of every duel, shown in its order; the verdicts come back in the order of the duels.

        Raises:
            UserError: the endpoint stopped answering. The answers so far are kept; running again continues.
        """
        questions = []
        for duel in duels:
            values = {"conversation": _render(duel.prompt), "reply_a": duel.first, "reply_b": duel.second}
            questions.append((duel.id, _fill(_template("prefer"), values)))
        answers = self._ask("prefer", questions, lambda text: parse_preference(text) is not None)
        return [
            Verdict(duel.id, parse_preference(rows[-1]["text"]), {"answers": rows})
            for duel, rows in zip(duels, answers, strict=True)
        ]

    def _ask(
        self, kind: str, questions: Sequence[tuple[str, str]], readable: Callable[[str], bool]
    ) -> list[list[dict[str, Any]]]:
        """For each (id, question), in order: the row of its answer, and of a second if the first is not readable."""

        def ask_twice(item: str, question: str) -> list[dict[str, Any]]:
            row = self._answer(kind, item, question)
            if readable(row["text"]):
                return [row]
            # In the same message, because some chat templates refuse two user turns in a row.
            return [row, self._answer(kind, item, f"{question}\n\n{REMINDERS[kind]}")]

        # Equal questions are asked once: their answers would share one key.
        items: dict[str, str] = {}
        for item, question in questions:
            items.setdefault(question, item)
        rows: dict[str, list[dict[str, Any]]] = {}
        pool = ThreadPoolExecutor(THREADS)
        try:
            futures = {pool.submit(ask_twice, item, question): question for question, item in items.items()}
            for future in tqdm(as_completed(futures), total=len(futures), desc=f"judge: {kind}"):
                rows[futures[future]] = future.result()
        finally:
            # After an error or Ctrl-C nothing more is asked; the calls under way are kept.
            pool.shutdown(cancel_futures=True)
        return [rows[question] for _, question in questions]

    def _answer(self, kind: str, item: str, question: str) -> dict[str, Any]:
        """The row of one request: from the file, or else from the endpoint and then in the file."""
        messages = [{"role": "user", "content": question}]
        parameters = {"temperature": 0, "max_tokens": MAX_TOKENS[kind]}
        request = {"model": self._settings.model, "messages": messages, **parameters}
        key = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        if key in self._answers.rows:
            return self._answers.rows[key]
        try:
            completion = self._complete(self._client, messages, parameters)
        except openai.OpenAIError as error:
            raise UserError(
                f"{self._explain(error)}\nThe question was {kind} {item!r}. The answers so far are kept in "
                f"{self._answers.path}; running again continues from there."
            ) from None
        usage = completion.usage
        row = {
            "key": key,
            "kind": kind,
            "id": item,
            "model": self._hide(str(completion.model or "")),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "prompt_tokens": usage.prompt_tokens if usage else None,
            "completion_tokens": usage.completion_tokens if usage else None,
            "finish": completion.choices[0].finish_reason,
            "text": self._hide(str(completion.choices[0].message.content or "")),
        }
        self._answers.add(row)
        return row

    def _complete(
        self, client: openai.OpenAI, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any]
    ) -> ChatCompletion:
        arguments: dict[str, Any] = {"model": self._settings.model, "messages": messages, **parameters}
        try:
            completion = client.chat.completions.create(**arguments)
        except ValueError:
            completion = None  # a body that claims to be JSON and is not
        # The client hands a body of another form through: a web page, or an error sent with status 200.
        if not isinstance(completion, ChatCompletion) or not completion.choices or not completion.choices[0].message:
            raise openai.OpenAIError("its answer is not a chat completion")
        return completion

    def _explain(self, error: openai.OpenAIError, known: Sequence[str] = ()) -> str:
        """What went wrong, where and the way out. The endpoint's own words may repeat the key: it is hidden."""
        model, name = self._settings.model, self._settings.api_key_env
        where = f"judge.openai: {self._client.base_url} (model {model})"
        status = error.status_code if isinstance(error, openai.APIStatusError) else None
        if isinstance(error, openai.APITimeoutError):
            what = f"did not answer within {self._settings.timeout_seconds:g} s"
            todo = "see whether the server is overloaded, or raise judge.openai.timeout_seconds"
        elif isinstance(error, openai.APIConnectionError):
            what = f"cannot be reached ({error.__cause__ or error})"
            todo = "start the server, or correct judge.openai.base_url"
        elif status in (401, 403):
            what = f"refused the key in {name}" if self._key else f"asks for a key, and {name} is not set"
            what = f"{what} ({error})"
            todo = f"export {name} with a key that is valid there and may use the model"
        elif status == 404 or (status == 400 and known):
            close = difflib.get_close_matches(model, known, n=3, cutoff=0.4) or known[:3]
            what = f"does not have the model, or is not the endpoint ({error})"
            todo = "correct judge.openai.model" + (f"; it has e.g. {', '.join(close)}" if close else "")
            todo += ", or judge.openai.base_url, which for most servers ends with /v1"
        elif status == 429 or (status or 0) >= 500:
            what = f"still refused after {self._settings.max_retries} retries ({error})"
            todo = "wait, or see to its limits and logs, and run again"
        elif status is not None:
            what, todo = f"refused the request ({error})", "see whether judge.openai.model takes such requests"
        else:
            what, todo = f"{error}", "correct judge.openai.base_url, which for most servers ends with /v1"
        return self._hide(f"{where}: {what}; {todo}")

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "[key]") if len(self._key) >= SECRET_LENGTH else text
