"""Asking through OpenAI's Batch API: half the price, and an answer within a day."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import openai
from openai.types import Batch, FileObject
from openai.types.chat import ChatCompletion
from pydantic import ValidationError
from tqdm import tqdm  # type: ignore[import-untyped]

from tr_align.judges.book import Book, Question, Request, Stop
from tr_align.judges.cache import request_key
from tr_align.judges.endpoint import REFUSED, NotACompletion

POLL_SECONDS = 30.0
MOST_REQUESTS, MOST_BYTES = 50_000, 150_000_000
"""Of one batch; OpenAI's limits are 50,000 and 200 MB."""
ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "tr_align"
OVER = {"completed", "failed", "expired", "cancelled"}
Sound = TypeVar("Sound", Batch, FileObject)


async def ask(book: Book, questions: Sequence[Question], bar: tqdm) -> None:
    """Send the open questions as batches, wait, and keep the answers; a second round repeats what cannot be read.

    A batch that was sent is remembered: a run that was killed waits for it and does not send it again.

    Raises:
        Stop: a batch failed or expired, or the endpoint refuses; the answers that came are kept.
    """
    async with book.endpoint.client() as plain:
        # A few calls for many answers: the client's own retries are enough.
        client = plain.with_options(max_retries=book.settings.max_retries)
        try:
            while True:
                todo = {request.key: request for question in questions if (request := book.state(question)[1])}
                bar.n = bar.total - len(todo)
                bar.refresh()
                if not todo:
                    return
                await _round(book, client, todo, bar)
        except openai.OpenAIError as error:
            raise Stop(book.endpoint.explain(error)) from None
        finally:
            # Refusals of a run that was answered at all are kept by `keep`; without one the fault is the endpoint's.
            book.refused.clear()


async def _round(book: Book, client: openai.AsyncOpenAI, todo: Mapping[str, Request], bar: tqdm) -> None:
    sent = {batch: keys & todo.keys() for batch, keys in book.answers.batches(book.settings.model).items()}
    waiting = {key for keys in sent.values() for key in keys}
    fresh = [request for key, request in todo.items() if key not in waiting]
    async with book.reserved(fresh):
        for part in _parts(book, fresh):
            sent[await _send(book, client, part)] = set(part)
        complaints: list[str] = []
        for batch, keys in sent.items():
            if keys:
                complaints += await _collect(book, client, batch, {key: todo[key] for key in keys}, bar)
    book.refuse_all()
    if complaints:
        raise Stop(
            f"judge.openai: {len(complaints)} questions of the batch found no answer, e.g. "
            f"{book.endpoint.hide(complaints[0])}; run again to send them once more"
        )


def _parts(book: Book, requests: Sequence[Request]) -> Iterator[dict[str, str]]:
    """The lines of batch files by request key, in parts that one batch takes."""
    part: dict[str, str] = {}
    size = 0
    for request in requests:
        body = {"model": book.settings.model, "messages": request.messages, **request.parameters}
        line = json.dumps({"custom_id": request.key, "method": "POST", "url": ENDPOINT, "body": body}) + "\n"
        if part and (len(part) >= MOST_REQUESTS or size + len(line) > MOST_BYTES):
            yield part
            part, size = {}, 0
        part[request.key] = line
        size += len(line)
    if part:
        yield part


async def _send(book: Book, client: openai.AsyncOpenAI, part: Mapping[str, str]) -> str:
    """Create a batch, or find it: a run that was killed, or cut off, while it created one does not know its id."""
    digest = request_key({"keys": sorted(part)})
    content = "".join(part.values()).encode()
    attempt = 0
    while not (found := await _find(book, client, digest)):
        try:
            file = _sound(await client.files.create(file=("questions.jsonl", content), purpose="batch"), FileObject)
            # Without the client's own retries: they would not see that the first try was heard.
            batch = await client.with_options(max_retries=0).batches.create(
                input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={TAG: digest}
            )
            found = _sound(batch, Batch).id
            break
        except openai.OpenAIError as error:
            await book.endpoint.pause(error, attempt)
            attempt += 1
    book.answers.remember_batch(found, book.settings.model, part)
    return found


async def _find(book: Book, client: openai.AsyncOpenAI, digest: str) -> str | None:
    """The batch with these very requests, if there is one that was not collected before."""
    known = book.answers.batches(book.settings.model)
    try:
        async for batch in client.batches.list(limit=100):
            if (batch.metadata or {}).get(TAG) == digest and batch.status != "failed" and batch.id not in known:
                return batch.id
    except AttributeError as error:
        raise NotACompletion("its answer is not a list of batches") from error
    return None


def _sound(answer: Any, kind: type[Sound]) -> Sound:
    """The answer, if it is what was asked for: the client hands bodies of another form through."""
    if not isinstance(answer, kind) or not answer.id:
        raise NotACompletion(f"its answer has no {kind.__name__}")
    return answer


async def _collect(
    book: Book, client: openai.AsyncOpenAI, batch_id: str, requests: Mapping[str, Request], bar: tqdm
) -> list[str]:
    """Wait for a batch and keep its answers; returns why requests have none."""
    start = bar.n
    while True:
        try:
            batch = _sound(await client.batches.retrieve(batch_id), Batch)
        except openai.NotFoundError:
            book.answers.forget_batch(batch_id)
            address = book.endpoint.address
            return [f"{address} does not know {batch_id} (sent there with this key?)"] * len(requests)
        if batch.request_counts:
            bar.n = min(bar.total, start + batch.request_counts.completed)
        bar.set_postfix_str(str(batch.status))
        if batch.status in OVER:
            break
        await asyncio.sleep(POLL_SECONDS)
    open_ends = dict(requests)
    complaints: list[str] = []
    for file in (batch.output_file_id, batch.error_file_id):
        if not file:
            continue
        try:
            content = (await client.files.content(file)).content
        except openai.NotFoundError:  # deleted, or too old
            continue
        if content.strip() and not content.lstrip().startswith(b"{"):
            # A page of a proxy, say: the answers are still there.
            raise NotACompletion("its answer is no file of a batch")
        for line in content.splitlines():  # of bytes: in a text, other characters end a line too
            complaints += _read(book, line, open_ends)
    book.answers.settle_batch(batch_id, requests)
    if open_ends:
        errors = [str(error.message) for error in (batch.errors.data if batch.errors else None) or []]
        reason = "; ".join(errors) or "it has no line for them"
        complaints += [f"batch {batch_id} is {batch.status}: {reason}"] * len(open_ends)
    return complaints


def _read(book: Book, line: bytes, open_ends: dict[str, Request]) -> list[str]:
    """Keep one line of a batch's result; a line about something that was not asked is passed over."""
    try:
        row: dict[str, Any] = json.loads(line)
        request = open_ends.pop(row["custom_id"], None)
    except (ValueError, LookupError, TypeError):
        return []
    if request is None:
        return []
    response = row.get("response") or {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            book.keep(request, book.endpoint.checked(ChatCompletion.model_validate(body)))
            return []
        except (ValidationError, openai.OpenAIError):
            return ["its answer is not a chat completion"]
    error = body.get("error") if isinstance(body, dict) else body
    message = str(error or row.get("error") or f"status {status}")
    if status in REFUSED:
        book.refuse(request, openai.OpenAIError(message))
        return []
    return [message]
