"""Asking an endpoint many questions at once, at the rate it bears, until each is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import openai
from tqdm import tqdm  # type: ignore[import-untyped]

from tr_align.judges.book import ONLY_REFUSALS, Book, Question, Request, Stop
from tr_align.judges.endpoint import meaning, retry_after
from tr_align.judges.gate import Down, Gate, backoff
from tr_align.judges.prices import dollars

STAGGER = 0.003
"""Seconds between the first calls of two workers. Calls that start together come back together and then wait for each
other, round after round; spread out they find the client free."""


class Asking:
    """One run over the open questions.

    A question whose call fails is tried again up to `max_retries` times; a pause that the endpoint asks for does not
    count. When the run has to stop, calls under way are waited for: they are paid for.
    """

    def __init__(self, book: Book, questions: Sequence[tuple[Question, Request]], bar: tqdm) -> None:
        """`questions`, each with the request that is open."""
        self.book, self.bar = book, bar
        self.todo = iter(questions)
        self.gate = Gate(book.settings.concurrency, book.settings.max_retries)
        self.calling: set[asyncio.Task[None]] = set()
        self.workers: list[asyncio.Task[None]] = []
        self.stop: Exception | None = None
        self.failed: list[str] = []
        self.error: Exception = Exception()

    async def run(self, count: int) -> None:
        """Ask, with as many workers as there are questions (`count`) or slots.

        Raises:
            Stop: the run had to end, or single questions found no answer.
            UserError: an answer could not be kept.
        """
        async with self.book.endpoint.client() as self.client:
            self.workers = [asyncio.create_task(self._work(i * STAGGER)) for i in range(min(count, self.gate.most))]
            try:
                await asyncio.gather(*self.workers, return_exceptions=True)
            finally:
                for worker in self.workers:
                    worker.cancel()
        if self.stop:
            raise self.stop
        if self.failed:
            raise Stop(
                f"{len(self.failed)} questions found no answer, {self.failed[0]!r} among them; the last error: "
                + self.book.endpoint.explain(self.error)
            )
        self.book.refuse_all()

    async def _work(self, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
            for question, first in self.todo:
                request: Request | None = first
                while request and not self.stop and await self._answer(request):
                    request = self.book.state(question)[1]
                if self.stop:
                    return
                self.bar.update()
        except Exception as error:
            self.stop = self.stop or error
            for worker in self.workers:  # those that wait for a slot need not wait for it
                if worker not in self.calling and worker is not asyncio.current_task():
                    worker.cancel()

    async def _answer(self, request: Request) -> bool:
        """Make a request until it is settled; False if it failed too often or was refused."""
        attempt = 0
        me = asyncio.current_task()
        assert me is not None
        while not self.stop:
            async with self.gate.admitted() as call_round:
                async with self.book.reserved([request]):
                    self.calling.add(me)
                    try:
                        completion = await self.book.endpoint.complete(
                            self.client, request.messages, **request.parameters
                        )
                        self.gate.answered()
                        self.book.keep(request, completion)
                        if self.book.price:
                            self.bar.set_postfix_str(dollars(self.book.spent()), refresh=False)
                        return True
                    except openai.OpenAIError as error:
                        failure = error
                    finally:
                        self.calling.discard(me)
                try:
                    match meaning(failure):
                        case "stop":
                            raise Stop(self.book.endpoint.explain(failure))
                        case "refused":
                            self.gate.answered()
                            self.book.refuse(request, failure)
                            # Refusals come fast: first see what becomes of the calls under way.
                            while len(self.book.refused) >= ONLY_REFUSALS:
                                if not self.calling:
                                    self.book.refuse_all()
                                await asyncio.sleep(0.02)
                            return False
                        case "throttled":
                            self.gate.throttled(call_round, retry_after(failure))
                            continue
                        case "failed":
                            self.gate.failed(call_round)
                except Down:
                    raise Stop(self.book.endpoint.explain(failure)) from None
            attempt += 1
            if attempt > self.book.settings.max_retries:
                self.failed.append(request.id)
                self.error = failure
                return False
            if not self.stop:
                await asyncio.sleep(backoff(attempt - 1))
        return False
