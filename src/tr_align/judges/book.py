"""The book of an LLM judge: which questions are open, what their answers cost, and every answer kept as it comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.chat.chat_completion import Choice

from tr_align.errors import UserError
from tr_align.judges import prices
from tr_align.judges.cache import Answers, Row, request_key
from tr_align.judges.endpoint import Endpoint, parameters
from tr_align.judges.prices import dollars
from tr_align.judges.rubric import BRACKETS
from tr_align.settings import OpenAIJudge as Settings

REMINDERS = {
    "rate": "Reminder: answer with the JSON object alone, its five keys and a whole number from 1 to 10 for each.",
    "prefer": 'Reminder: answer with the JSON object alone, its "better" exactly "A", "B" or "TIE".',
    BRACKETS: "Reminder: the answer has to have exactly one verdict, in double brackets, as asked for above.",
}
USUAL_TOKENS = 60
"""Of an answer, until this model's own are known; only the estimate uses it."""
MARGIN = 1.5
"""Factor on the estimated tokens of a question whose cost is set aside while it is asked."""
ONLY_REFUSALS = 5
"""Refused questions, with no answer before, that are taken for the endpoint's fault and not the questions'."""


class Stop(Exception):
    """The run has to end, for the reason given; what was answered is kept."""


@dataclass(frozen=True)
class Question:
    """What the judge is asked: `kind` is rate or prefer, `form` the answer's (see Rubric), `readable` reads it."""

    kind: str
    form: str
    id: str
    text: str
    readable: Callable[[str], bool]


@dataclass(frozen=True)
class Request:
    """One call: its name in the file, and what is sent."""

    key: str
    kind: str
    id: str
    messages: list[dict[str, str]]
    parameters: dict[str, Any]


class Book:
    """Questions to one model, its answers in a file, and the money.

    Args: `max_usd` is the most that all answers in the file may cost.
    Raises:
        UserError: `max_usd` is set for a model without a price.
    """

    def __init__(self, settings: Settings, endpoint: Endpoint, answers: Answers, max_usd: float | None) -> None:
        self.settings, self.endpoint, self.answers, self.max_usd = settings, endpoint, answers, max_usd
        self.price = prices.load(settings.prices, settings.model, settings.batch)
        if max_usd is not None and self.price is None:
            raise UserError(
                f"judge.max_usd: is {max_usd:g}, but {settings.prices} has no price for {settings.model}; add one "
                "(0 for a server of your own), or set judge.max_usd to null"
            )
        self.features: Row = {}
        self.refused: list[tuple[Request, Exception]] = []  # not kept before the endpoint has answered anything
        self._reserved: list[float] = []  # no running sum: what is left of one by rounding would never be spent
        self._spent, self._read = 0.0, -1.0

    def open(self) -> None:
        """Load what is known of the model's parameters: they are part of every request's name."""
        features = self.answers.features(self.settings.model)
        assert features is not None
        self.features = features

    def state(self, question: Question) -> tuple[list[Row], Request | None]:
        """The rows that answer a question so far, and the request that is still to be made, if any.

        An answer that cannot be read is asked for once more, with a reminder of its form.
        """
        rows: list[Row] = []
        for text in (question.text, f"{question.text}\n\n{REMINDERS[question.form]}"):
            # The reminder is in the same message, because some chat templates refuse two user turns in a row.
            messages = [{"role": "user", "content": text}]
            values = parameters(question.form, self.features, self.settings.max_tokens)
            key = request_key({"model": self.settings.model, "messages": messages, **values})
            row = self.answers.get(key)
            if row is None:
                return rows, Request(key, question.kind, question.id, messages, values)
            rows.append(row)
            if row["error"] or question.readable(row["text"]):
                break
        return rows, None

    def keep(self, request: Request, completion: ChatCompletion) -> Row:
        """Keep an answer."""
        choice = completion.choices[0]
        said = str(choice.message.content or choice.message.refusal or "")
        text = self.endpoint.hide(said)
        asked_tokens, given_tokens = _count(completion, "prompt_tokens"), _count(completion, "completion_tokens")
        row = self._row(
            request,
            model=self.endpoint.hide(str(completion.model or "")),
            prompt_tokens=asked_tokens,
            completion_tokens=given_tokens,
            # An endpoint that does not count is estimated, so that `max_usd` still holds.
            usd=self.price.of(
                _tokens(request) if asked_tokens is None else asked_tokens,
                prices.tokens_of(text) if given_tokens is None else given_tokens,
            )
            if self.price
            else None,
            finish=choice.finish_reason and str(choice.finish_reason),
            text=text,
            tokens=_alternatives(choice) if text == said else None,  # else the key would be in them
        )
        kept = self.answers.add(row)
        self._spent += row["usd"] or 0.0
        while self.refused:
            self._keep_refusal(*self.refused.pop())
        return kept

    def refuse(self, request: Request, error: Exception) -> None:
        """Keep that the endpoint does not answer this question (a content filter, a text that is too long)."""
        if self.answers.has_answer(self.settings.model):
            self._keep_refusal(request, error)
        else:
            self.refused.append((request, error))

    def refuse_all(self) -> None:
        """Raises Stop if there are refusals and nothing but refusals: then the fault is not with the questions."""
        if self.refused:
            raise Stop(self.endpoint.explain(self.refused[0][1]))

    def _keep_refusal(self, request: Request, error: Exception) -> None:
        self.answers.add(self._row(request, error=self.endpoint.hide(str(error))))

    def _row(self, request: Request, **values: Any) -> Row:
        row: Row = dict.fromkeys(("prompt_tokens", "completion_tokens", "usd", "finish", "tokens", "error"))
        row |= {"key": request.key, "kind": request.kind, "id": request.id, "endpoint": self.endpoint.address}
        row |= {"asked": self.settings.model, "model": "", "text": ""}
        return row | {"date": datetime.now(UTC).isoformat(timespec="seconds")} | values

    def spent(self) -> float:
        """Dollars in the file, other processes' included (read again every second)."""
        if time.monotonic() - self._read > 1:
            self._spent, self._read = self.answers.spent(), time.monotonic()
        return self._spent

    @asynccontextmanager
    async def reserved(self, requests: Sequence[Request]) -> AsyncIterator[None]:
        """Set aside what these requests may cost at most while they are under way.

        Raises:
            Stop: with them, `max_usd` could be passed.
        """
        most = 0.0
        if self.price and self.max_usd is not None:
            most = sum(self.price.of(MARGIN * _tokens(r), self.settings.max_tokens) for r in requests)
            while self.spent() + sum(self._reserved) + most > self.max_usd:
                if self._reserved:  # calls under way will cost less than was set aside for them
                    await asyncio.sleep(0.02)
                    continue
                raise Stop(
                    f"judge.max_usd: is {dollars(self.max_usd)}; {dollars(self.spent())} are spent and the next call "
                    f"could cost {dollars(most)}; raise it and run again"
                )
        self._reserved.append(most)
        try:
            yield
        finally:
            self._reserved.remove(most)

    def announce(self, kind: str, known: int, requests: Sequence[Request]) -> str:
        """What is about to be asked and what it will cost.

        Raises:
            Stop: by this estimate `max_usd` does not suffice.
        """
        length = self.answers.mean_completion_tokens(self.settings.model, kind) or USUAL_TOKENS
        tokens_in, tokens_out = sum(map(_tokens, requests)), length * len(requests)
        line = f"judge: {known + len(requests)} questions ({kind}), {known} answered before, {len(requests)} to ask"
        if not requests:
            return line
        line += f", about {tokens_in:,.0f} tokens in and {tokens_out:,.0f} out"
        if self.price is None:
            return f"{line}; no price is known for {self.settings.model}, so no cost is counted"
        about = self.price.of(tokens_in, tokens_out)
        line += f": about {dollars(about)}; spent so far {dollars(self.spent())}"
        if self.max_usd is None:
            return line
        if self.spent() + about > self.max_usd:
            raise Stop(f"{line}, but judge.max_usd is {dollars(self.max_usd)}; raise it, or ask less")
        return f"{line} of {dollars(self.max_usd)}"


def _tokens(request: Request) -> float:
    return sum(prices.tokens_of(message["content"]) for message in request.messages)


def _count(completion: ChatCompletion, name: str) -> int | None:
    found = getattr(completion.usage, name, None)
    return found if isinstance(found, int) else None


def _alternatives(choice: Choice) -> list[Any] | None:
    """The answer's tokens and what could have stood in their place; None if the endpoint does not say."""
    try:
        tokens = (choice.logprobs and choice.logprobs.content) or []
        # The alternatives of a number are what counts; those of its words would fill the disk.
        return [
            [
                str(token.token),
                {str(t.token): min(float(t.logprob), 0.0) for t in token.top_logprobs}
                # What follows a 1 says whether it is a 10.
                if _has_digit(token.token) or before.endswith("1")
                else None,
            ]
            for token, before in zip(tokens, ["", *(token.token for token in tokens)], strict=False)
        ] or None
    except (AttributeError, TypeError, ValueError):  # the client does not see to the form of an answer
        return None


def _has_digit(token: str) -> bool:
    return any(character.isdigit() for character in token)
