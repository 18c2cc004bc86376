"""The judge's money: what is said before, what is counted, and a limit that holds."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.judges import prices
from tr_align.judges.base import Duel
from tr_align.judges.openai import OpenAIJudge

from . import stub_replies as say
from .stub import Stub
from .stub_replies import Answer, Body, Fault
from .test_openai import make, number, numbered, only, question, questions, replies, reply, rows, serve, user


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    yield from serve(monkeypatch)


def priced(
    stub: Stub, folder: Path, input: float, output: float, max_usd: float | None = None, **changes: Any
) -> OpenAIJudge:
    """A judge that costs so many dollars per million tokens."""
    path = folder / "prices.yaml"
    path.write_text(f"batch_discount: 0.5\nmodels: {{stub-1: {{input: {input}, output: {output}}}}}\n")
    return make(stub, folder, max_usd, prices=str(path), **changes)


def spent(folder: Path) -> float:
    return sum(row["usd"] or 0.0 for row in rows(folder))


def test_the_lines_before_and_after(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Estimated are a token for 4 bytes of a question and 60 for an answer; then the mean of the known answers."""
    (tmp_path / "p.yaml").write_text("models: {stub-1: {input: 10, output: 1000}}")
    judge = make(stub, tmp_path, prices=str(tmp_path / "p.yaml"))
    judge.rate(replies(2))
    sizes = sum(map(len, questions(stub))) / 4
    first, err = re.escape(f"{sizes:,.0f}"), capsys.readouterr().err
    about = f"about {first} tokens in and 120 out: about \\${(sizes * 10 + 120e3) / 1e6:.2f}; spent so far \\$0.00\n"
    assert re.search(r"judge: 2 questions \(rate\), 0 answered before, 2 to ask, " + about, err)
    spent = sum(row["usd"] for row in rows(tmp_path))
    assert f"judge: 2 answers, 0 of them known before; ${spent:.2g} spent in all\n" in err
    stub.say = lambda body: say.CONTENT_FILTER if number(body) == 3 else numbered(body)
    judge.rate(replies(4))
    err = capsys.readouterr().err
    length = len(say.TOKENS.findall(numbered({"messages": [{"content": "text 1."}]})))
    assert re.search(
        rf"judge: 4 questions \(rate\), 2 answered before, 2 to ask, about \S+ tokens in and {2 * length} out", err
    )
    assert "judge: 4 answers, 2 of them known before; the endpoint refused 1 (missing), e.g. Error code: 400" in err
    judge.rate(replies(4))
    assert "to ask" not in capsys.readouterr().err
    make(stub, tmp_path).rate(replies(5))
    assert "no price is known for stub-1, so no cost is counted" in capsys.readouterr().err


def test_the_estimate_refuses_before_the_first_question(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """10 answers of 60 tokens at $1 per thousand: $0.60."""
    with pytest.raises(
        UserError, match=r"10 to ask.* about \$0\.60; spent so far \$0\.00, but judge\.max_usd is \$0\.59"
    ):
        priced(stub, tmp_path, 0, 1000, max_usd=0.59).rate(replies(10))
    assert rows(tmp_path) == questions(stub) == []
    priced(stub, tmp_path, 0, 1000, max_usd=0.61, max_tokens=99).rate(replies(10))
    assert "about $0.60; spent so far $0.00 of $0.61\n" in capsys.readouterr().err
    # What is answered already costs nothing, whatever the limit.
    priced(stub, tmp_path, 0, 1000, max_usd=0.01, max_tokens=99).rate(replies(10))


def rambling(words: int) -> Any:
    """An answer that goes on for so many words."""
    return lambda body: numbered(body) + ("" if number(body) is None else " word" * words)


@pytest.mark.parametrize(("concurrency", "latency"), [(1, 0.0), (32, 0.03)])
def test_the_limit_holds_and_is_used_up(stub: Stub, tmp_path: Path, concurrency: int, latency: float) -> None:
    """Answers have 420 tokens where 60 were expected, and up to 512 are set aside for each: at $1 per thousand,
    $15 are for 35, however many are under way: before the last, 14.28 + 0.512 = 14.792 fit; after it, 15.212 do not.
    """
    stub.say, stub.latency = rambling(380), latency
    assert len(say.TOKENS.findall(rambling(380)({"messages": [{"content": "text 1."}]}))) == 420
    judge = priced(stub, tmp_path, 0, 1000, max_usd=15, concurrency=concurrency)
    with pytest.raises(
        UserError, match=r"judge\.max_usd: is \$15\.00; \$14\.70 are spent.* could cost \$0\.51; raise it"
    ):
        judge.rate(replies(200))
    assert stub.answered - 1 == len(rows(tmp_path)) == 35
    # Now it is known how long answers are: 5 more, at least, are 2.10.
    with pytest.raises(UserError, match=r"to ask.*spent so far \$14\.70, but judge\.max_usd is \$16\.00"):
        priced(stub, tmp_path, 0, 1000, max_usd=16, concurrency=concurrency).rate(replies(40))
    priced(stub, tmp_path, 0, 1000, max_usd=30, concurrency=concurrency).rate(replies(40))
    assert len(rows(tmp_path)) == len(set(questions(stub))) == len(questions(stub)) == stub.answered - 1


def test_the_end_of_the_money_is_found_whatever_the_sums_round_to(stub: Stub, tmp_path: Path) -> None:
    """Amounts of all sizes, added and taken away again: what is left of them by rounding is no call under way."""
    stub.say, stub.latency = rambling(300), 0.002
    judge = priced(stub, tmp_path, 0.3, 0.7, max_usd=0.04, concurrency=16)
    texts = [reply(f"text {n}. " + "x" * (n * n % 611)) for n in range(200)]
    ended: list[str] = []

    def run() -> None:
        with pytest.raises(UserError) as caught:
            judge.rate(texts)
        ended.append(str(caught.value))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert ended and "are spent" in ended[0]
    assert 0.04 - 0.0007 < spent(tmp_path) <= 0.04


def test_the_limit_holds_in_other_scripts(stub: Stub, tmp_path: Path) -> None:
    """A token for each character is the most that current tokenizers make of Chinese."""

    def counted(body: Body) -> Fault:
        made = say.completion(body, Answer(numbered(body)))
        chinese = len(re.findall(r"[\u4e00-\u9fff]", question(body)))
        made["usage"]["prompt_tokens"] = chinese + (len(question(body)) - chinese) // 4
        return Fault(200, made)

    stub.say, stub.latency = counted, 0.02
    judge = priced(stub, tmp_path, 1000, 0, max_usd=100)
    judge.rate(replies(1))
    # One costs $2.42, and is estimated at $1.92: by that 24 are for less than $48.
    cost = rows(tmp_path)[0]["usd"] + 2
    assert 2.3 < cost < 2.5
    with pytest.raises(UserError, match=r"are spent and the next call could cost"):
        priced(stub, tmp_path, 1000, 0, max_usd=20 * cost).rate([reply(f"text {n}. " + "天" * 2000) for n in range(24)])
    assert 15 * cost < spent(tmp_path) <= 20 * cost


def test_a_model_without_a_price(stub: Stub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"judge\.max_usd: is 5, but .*prices\.yaml has no price for stub-1; add one"):
        make(stub, tmp_path, max_usd=5)
    make(stub, tmp_path).rate(replies(1))
    assert rows(tmp_path)[0]["usd"] is None
    # A server of the user's own costs nothing: no limit is reached.
    priced(stub, tmp_path, 0, 0, max_usd=0.001).rate(replies(3))
    assert [row["usd"] for row in rows(tmp_path)].count(0.0) == 2


def test_money_of_other_models_and_other_processes_counts(stub: Stub, tmp_path: Path) -> None:
    """Before the run, and what another one spends meanwhile (seen after a second). An answer costs $0.04.

    5.50 - 10 * 0.04 - 70 * 0.04 = 2.30 are left for it, and 0.05 are set aside for a call: 57 of its 80 questions.
    """
    stub.models = ["stub-1", "stub-2"]
    path = tmp_path / "both.yaml"
    path.write_text("models: {stub-1: {input: 0, output: 1000}, stub-2: {input: 0, output: 1000}}")
    make(stub, tmp_path, 9, prices=str(path), model="stub-2").rate(replies(10))
    with pytest.raises(UserError, match=r"spent so far \$0\.40, but judge\.max_usd is \$0\.50"):
        make(stub, tmp_path, 0.5, prices=str(path)).rate(replies(10))
    stub.latency = 0.03
    other = make(stub, tmp_path, 99, prices=str(path), model="stub-2")
    thread = threading.Thread(target=lambda: (time.sleep(0.2), other.rate(replies(70, 100))))
    thread.start()
    with pytest.raises(UserError, match=r"\$5\.48 are spent and the next call could cost \$0\.05"):
        make(stub, tmp_path, 5.5, prices=str(path), concurrency=1, max_tokens=50).rate(replies(80))
    thread.join()
    assert sum(row["asked"] == "stub-1" for row in rows(tmp_path)) == 57


def test_an_endpoint_that_counts_no_tokens_is_estimated(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda body: Answer(numbered(body), usage=False)
    priced(stub, tmp_path, 100, 10000, max_usd=1.5, max_tokens=60).rate(replies(1))
    (row,) = rows(tmp_path)
    assert (row["prompt_tokens"], row["completion_tokens"]) == (None, None)
    assert row["usd"] == pytest.approx((100 * len(questions(stub)[0]) / 4 + 10000 * len(row["text"]) / 4) / 1e6)
    with pytest.raises(UserError, match=r"spent so far \$0\.25, but judge\.max_usd is \$1\.50"):
        priced(stub, tmp_path, 100, 10000, max_usd=1.5, max_tokens=60).rate(replies(3))


def test_the_forecast(stub: Stub, tmp_path: Path) -> None:
    """By hand: the packaged prompts with at most so many tokens of prompt and reply, a comparison with two of them."""
    folder = Path(prices.__file__).parent / "prompts"
    rate, prefer = (len((folder / f"{kind}.txt").read_bytes()) / 4 for kind in ("rate", "prefer"))
    tokens = 100 * (rate + 50 + 30) + 40 * (prefer + 50 + 60)
    line = f"judge: 100 ratings and 40 comparisons ahead, up to {tokens:,.0f} tokens in and about 8,400 out"
    assert make(stub, tmp_path).forecast(100, 40, 50, 30) == f"{line}; no price is known for stub-1"
    cost = prices.dollars((10 * tokens + 100 * 8400) / 1e6)
    assert priced(stub, tmp_path, 10, 100).forecast(100, 40, 50, 30) == (
        f"{line}: about {cost}, less what is answered already"
    )
    tight = priced(stub, tmp_path, 10, 100, max_usd=1.4).forecast(100, 40, 50, 30)
    assert tight.endswith("\nwarning: judge.max_usd is $1.40, $0.00 spent: it may not suffice")
    assert "price: $10 in, $100 out per million tokens" in priced(stub, tmp_path, 10, 100).check()
    assert make(stub, tmp_path).check().endswith("price: unknown")


def test_what_was_asked_twice_or_not_answered_is_counted_as_it_is(stub: Stub, tmp_path: Path) -> None:
    stub.say = lambda body: say.CONTENT_FILTER if "REPLY A" in question(body) else only("I would say 7.")(body)
    judge = priced(stub, tmp_path, 10, 100)
    judge.rate(replies(1))
    judge.prefer([Duel("x", user("Hi"), "one", "two")])
    assert sorted(row["usd"] is None for row in rows(tmp_path)) == [False, False, True]
    # The stub's count: "I", " would", " say", a space, "7" and the full stop.
    asked = sum(len(text) // 4 for text in questions(stub)[:2])
    assert spent(tmp_path) == pytest.approx((10 * asked + 100 * 12) / 1e6)
