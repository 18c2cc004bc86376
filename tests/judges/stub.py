"""A server that speaks OpenAI's protocol, to test and to time a judge: no network, no key, nothing of tr_align.

    with Stub(lambda body: "7") as stub: ...    # in a thread of its own; stub.url ends with /v1
    python tests/judges/stub.py --latency 0.2   # a process of its own: prints its url, has one answer to each question

What it can say is in stub_replies.py; the Batch API is in stub_batch.py.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

if not __package__:  # as a process of its own: its neighbours are found as they are by the tests
    sys.path[0], __package__ = str(Path(__file__).parents[1]), "judges"

from .stub_batch import Batches
from .stub_replies import (
    JSON,
    Body,
    Fault,
    Fixed,
    Say,
    as_reply,
    completion,
    failure,
    rate_limited,
    unauthorized,
    unsupported,
)

PARAMETERS = {"response_format": "response_format", "logprobs": "logprobs", "top_logprobs": "logprobs"}
PARAMETERS |= {"temperature": "temperature", "max_tokens": "max_tokens"}  # and the capability that each needs
ALL = frozenset(PARAMETERS.values())


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    raw: bytes
    at: float  # time.monotonic() when it had come in
    body: Body | None = None  # of a chat completion
    status: int | None = None  # None: it has no whole answer, or none yet
    answered: bool = False  # with a completion


@dataclass
class Limit:
    """At most so many requests a second or in flight; what is beyond gets 429.

    `after` is the seconds in Retry-After; None: until the next request is free, or 0.1 where too many are in flight.
    """

    rate: float | None = None
    concurrency: int | None = None
    burst: float | None = None  # how many may come at once; None: what comes in a tenth of a second, at least one
    after: float | None = None
    form: Any = "ms"
    _free: float = 0.0
    _at: float | None = None

    def refuse(self, in_flight: int) -> Fault | None:
        if self.concurrency is not None and in_flight >= self.concurrency:
            return rate_limited(0.1 if self.after is None else self.after, self.form)
        if self.rate is not None:
            now, most = time.monotonic(), max(1.0, self.rate / 10 if self.burst is None else self.burst)
            self._free = most if self._at is None else min(most, self._free + (now - self._at) * self.rate)
            self._at = now
            if self._free < 1:
                return rate_limited((1 - self._free) / self.rate if self.after is None else self.after, self.form)
            self._free -= 1
        return None


class Stub:
    """The server. All of its attributes may be set while it runs."""

    def __init__(
        self,
        say: Say | None = None,
        *,
        models: Sequence[str] | Fault = ("stub-1",),
        latency: float = 0.0,
        supports: Collection[str] = ALL,
        ignores: Collection[str] = (),
        limit: Limit | None = None,
        key: str | None = None,
        port: int = 0,
        record: bool = True,
    ) -> None:
        """Set up a stub.

        Args:
            say: makes the answer to a request's body, by default `Fixed`; it runs in the server's loop: no waiting.
            models: what /models lists, or its answer. supports: of `ALL`; the other parameters get an error.
            ignores: parameters that are taken and do nothing. key: the only one that is not refused.
            record: keep every request; without, only the counts.
        """
        self.say: Say = say or Fixed()
        self.models, self.latency, self.limit, self.key = models, latency, limit, key
        self.supports, self.ignores = supports, ignores
        self.gate: Callable[[Request], Fault | None] = lambda request: None
        """Asked first about every request, /models and batches too; what it gives is the answer."""
        self.batches = Batches(self._line)
        self.port, self.url = port, ""
        self.answered = 0
        """Completions that went out whole."""
        self.in_flight = 0
        """Chat completions under way, without those that the limit refused; `most_in_flight` is its maximum."""
        self.most_in_flight = 0
        self.statuses: Counter[int | str] = Counter()
        """Of the chat completions that were answered; "lost" counts those without a whole answer."""
        self.errors: list[Exception] = []
        """What `say` raised; the first is raised again when the `with` block ends."""
        self._record, self._requests, self._count = record, list[Request](), 0
        self._stop: Callable[[], object] = lambda: None

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in the order in which they came in."""
        return list(self._requests)

    @property
    def chats(self) -> list[Request]:
        """Those for a chat completion; `body` is never None."""
        return [request for request in self.requests if request.body is not None]

    def __enter__(self) -> Stub:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(started.set)), daemon=True)
        self._thread.start()
        if not started.wait(10):
            raise RuntimeError("the stub did not start")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._stop()
        self._thread.join(10)
        if self.errors and kind is None:
            raise self.errors[0]

    async def serve(self, started: Callable[[], object]) -> None:
        """Serve until stopped; `started` is called when `url` is known."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        # A long backlog, because hundreds of connections may come at once; a refused one waits for a second.
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, backlog=4096, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._stop = lambda: loop.call_soon_threadsafe(stop.set)
        started()
        await stop.wait()
        server.close()  # the end of the loop cancels the connections, those that hang too

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await _read(reader)
                if self._record:
                    self._requests.append(request)
                await self._respond(request, reader, writer)
                if request.headers.get("connection", "").lower() == "close":
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone, or shall believe that the server is
        finally:
            writer.close()

    async def _respond(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = request.path.removeprefix("/v1")
        reply = self.gate(request)
        if reply is None and self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            reply = unauthorized(request.headers.get("authorization", "").removeprefix("Bearer "))
        if request.method == "POST" and path == "/chat/completions":
            await self._chat(request, reply, reader, writer)
            return
        if reply is None and path == "/models":
            reply = self.models if isinstance(self.models, Fault) else _listed(self.models)
        elif reply is None and path == "/stats":
            names = ("answered", "in_flight", "most_in_flight", "statuses")
            reply = Fault(200, {name: getattr(self, name) for name in names})
        elif reply is None and path.startswith(("/files", "/batches")):
            reply = Fault(*self.batches.handle(request.method, path, request.headers, request.raw))
        reply = reply or failure(404, f"Unknown: {request.method} {path}")
        await self._send(reply, reader, writer, partial(setattr, request, "status"))

    async def _chat(
        self, request: Request, reply: Fault | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            body = request.body = json.loads(request.raw)
        except ValueError:
            reply = failure(400, "We could not parse the JSON body of your request.")
        refused = self.limit.refuse(self.in_flight) if self.limit and reply is None else None
        self.in_flight += refused is None
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        fixed = reply or refused
        reply, completes = (fixed, False) if fixed else self._reply(body)

        def settle(status: int | None) -> None:
            self.in_flight -= refused is None
            self.statuses[status or "lost"] += 1
            request.status, request.answered = status, completes and status is not None
            self.answered += request.answered

        try:
            await self._send(reply, reader, writer, settle, 0.0 if refused else self.latency)
        finally:
            if request.status is None:
                settle(None)

    def _reply(self, body: Body) -> tuple[Fault, bool]:
        """What goes out for a chat completion, and whether it is one."""
        for name, needed in PARAMETERS.items():
            plain = {"logprobs": False, "temperature": 1}.get(name)  # what every model takes
            if needed not in self.supports and body.get(name) not in (None, plain):
                return unsupported(name), False
        if self.ignores:
            body = {name: value for name, value in body.items() if PARAMETERS.get(name) not in self.ignores}
        try:
            said = as_reply(self.say(body))
            if isinstance(said, Fault):
                return said, False
            made = completion(body, said, self._count)
            return Fault(200, made, sent=said.sent, latency=said.latency, pause=said.pause), True
        except Exception as error:
            self.errors.append(error)
            return failure(500, f"the stub's `say` raised {error!r}"), False

    def _line(self, body: Body) -> tuple[int, Any] | None:
        """The answer to a line of a batch: status and body, or None where it would have no whole response."""
        reply, _ = self._reply(body)
        return (reply.status, reply.body) if reply.sent == "whole" else None

    async def _send(
        self,
        reply: Fault,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        settle: Callable[[int], None],
        latency: float = 0.0,
    ) -> None:
        """Send the answer in its way; a connection that is to be cut ends with ConnectionError.

        `settle` is called before the last byte, so that whoever has read the answer finds it counted.
        """
        if reply.sent == "hang":
            await reader.read(1)  # until the client has enough
            raise ConnectionError
        latency = latency if reply.latency is None else reply.latency
        if latency > 0:
            await _pause(reader, latency)
        if reply.sent == "cut":
            raise ConnectionError
        if isinstance(reply.body, str | bytes):
            data, kind = reply.body, "text/html" if isinstance(reply.body, str) else "application/octet-stream"
            data = data.encode() if isinstance(data, str) else data
        else:
            data, kind = json.dumps(reply.body).encode(), JSON
        self._count += 1
        headers = {"Content-Type": kind, "Content-Length": len(data), "X-Request-Id": f"req_{self._count}"}
        lines = [f"{name}: {value}\r\n" for name, value in (headers | dict(reply.headers)).items()]
        head = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{''.join(lines)}\r\n".encode()
        if reply.sent == "half":
            writer.write(head + data[: len(data) // 2])
            await writer.drain()
            raise ConnectionError
        if reply.sent == "drip":
            for at in range(len(data) - 1):
                writer.write(head + data[at : at + 1])
                await _pause(reader, reply.pause)
                head = b""
            data = data[-1:]
        settle(reply.status)
        writer.write(head + data)
        await writer.drain()


def _listed(models: Sequence[str]) -> Fault:
    data = [{"id": model, "object": "model", "created": 0, "owned_by": "stub"} for model in models]
    return Fault(200, {"object": "list", "data": data})


async def _read(reader: asyncio.StreamReader) -> Request:
    """The next request of a connection; IncompleteReadError when there is none."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    raw = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            raw += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
    elif length := int(headers.get("content-length", 0)):
        raw = await reader.readexactly(length)
    return Request(method, target.partition("?")[0], headers, raw, time.monotonic())


async def _pause(reader: asyncio.StreamReader, seconds: float) -> None:
    """Wait; ConnectionError as soon as the client goes away, so that what it gave up is not in flight any more."""
    try:
        async with asyncio.timeout(seconds):
            await reader.read(1)
    except TimeoutError:
        return
    raise ConnectionError


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the OpenAI protocol with fixed answers; GET /v1/stats counts.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--rate", type=float, help="requests a second; what is beyond gets 429")
    parser.add_argument("--concurrency", type=int, help="requests in flight; what is beyond gets 429")
    parser.add_argument("--unsupported", nargs="*", default=[], choices=sorted(ALL), help="what gets an error")
    parser.add_argument("--rating", default=Fixed.rating, help="the answer to a rating")
    parser.add_argument("--comparison", default=Fixed.comparison, help="the answer to a comparison")
    options = parser.parse_args()
    stub = Stub(
        Fixed(options.rating, options.comparison),
        latency=options.latency,
        supports=ALL - set(options.unsupported),
        limit=Limit(options.rate, options.concurrency) if options.rate or options.concurrency else None,
        port=options.port,
        record=False,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(stub.serve(lambda: print(stub.url, flush=True)))


if __name__ == "__main__":
    main()
