"""How near the judge comes to the rate that an endpoint's latency allows, beside what a user would write instead.

A stub endpoint in a process of its own answers after 200 ms. With 64 calls at once the ideal is 64 / 0.2 = 320 answers
a second. Three ways of asking the same questions, in turns: this judge (every answer kept in SQLite, rate limit,
budget, progress bar), a bare loop over the async `openai` client with a semaphore, and the synchronous client in a pool
of threads.

    python benchmarks/judge.py [--questions 12800] [--rounds 3] [--latency 0.2] [--concurrency 64]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai

from tr_align.data.schema import Message
from tr_align.judges.base import Duel
from tr_align.judges.openai import OpenAIJudge
from tr_align.settings import OpenAIJudge as Settings

STUB = Path(__file__).parents[1] / "tests" / "judges" / "stub.py"
REPLY = "a word of the reply and another one " * 20


def duels(count: int, round_: str) -> list[Duel]:
    """Different questions in every round: an answer that is known is not asked for."""
    prompt = [Message(role="user", content="Why is the sky blue? " * 10)]
    return [Duel(f"{i}", prompt, f"{round_} {i} {REPLY}", f"{i} {round_} {REPLY}") for i in range(count)]


def ours(url: str, concurrency: int, questions: list[Duel], folder: Path) -> None:
    judge = OpenAIJudge(Settings(model="stub", base_url=url, concurrency=concurrency), folder / "answers.sqlite")
    verdicts = judge.prefer(questions)
    assert all(verdict.preference for verdict in verdicts)


def bare_loop(url: str, concurrency: int, questions: list[Duel], folder: Path) -> None:
    async def run() -> None:
        slots = asyncio.Semaphore(concurrency)
        async with openai.AsyncOpenAI(base_url=url, api_key="none") as client:

            async def ask(duel: Duel) -> str | None:
                async with slots:
                    completion = await client.chat.completions.create(
                        model="stub", messages=[{"role": "user", "content": text(duel)}], temperature=0
                    )
                return completion.choices[0].message.content

            assert all(await asyncio.gather(*map(ask, questions)))

    asyncio.run(run())


def threads(url: str, concurrency: int, questions: list[Duel], folder: Path) -> None:
    with openai.OpenAI(base_url=url, api_key="none") as client, ThreadPoolExecutor(concurrency) as pool:

        def ask(duel: Duel) -> str | None:
            completion = client.chat.completions.create(
                model="stub", messages=[{"role": "user", "content": text(duel)}], temperature=0
            )
            return completion.choices[0].message.content

        assert all(pool.map(ask, questions))


def text(duel: Duel) -> str:
    return f'{duel.prompt[0].content}\n\nA: {duel.first}\n\nB: {duel.second}\n\nAnswer with {{"better": "A"}} or "B".'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=12_800)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    ways: dict[str, Callable[[str, int, list[Duel], Path], None]] = {
        "tr-align": ours,
        "async loop": bare_loop,
        "threads": threads,
    }
    ideal = options.concurrency / options.latency
    stub = subprocess.Popen(
        [sys.executable, str(STUB), "--latency", str(options.latency)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert stub.stdout is not None
        url = stub.stdout.readline().strip()
        rates: dict[str, list[float]] = {name: [] for name in ways}
        with tempfile.TemporaryDirectory() as folder:
            for name, ask in ways.items():  # the first call finds out what the endpoint can do
                ask(url, options.concurrency, duels(1, f"warm {name}"), Path(folder))
            for round_ in range(options.rounds):
                for name, ask in ways.items():
                    questions = duels(options.questions, f"{round_} {name}")
                    started = time.perf_counter()
                    ask(url, options.concurrency, questions, Path(folder))
                    rates[name].append(options.questions / (time.perf_counter() - started))
                    print(f"{name}: {rates[name][-1]:.0f} answers/s", file=sys.stderr)
    finally:
        stub.terminate()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "ideal_per_second": ideal,
        **{f"{name}, per second": round(value, 1) for name, value in medians.items()},
        **{f"{name}, of the ideal": round(value / ideal, 3) for name, value in medians.items()},
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
