"""Self-BLEU against sacrebleu, distinct-n by hand, and replies that are empty, alone or all the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from tr_align.metrics.diversity import distinct, self_bleu, words


def plainly(replies: list[str]) -> float:
    """Each reply against all others with sacrebleu's own sentence_score."""
    bleu = BLEU(effective_order=True)  # tokeniser 13a, exponential smoothing, order 4 are its defaults
    scores = [bleu.sentence_score(reply, replies[:i] + replies[i + 1 :]).score for i, reply in enumerate(replies)]
    return float(np.mean(scores))


def written(seed: int, count: int, longest: int, vocabulary: int) -> list[str]:
    """Replies of 1 to `longest` words, some common and most rare, with capitals, commas and full stops."""
    generator = np.random.default_rng(seed)
    names = [f"w{i}" if i % 3 else f"W{i}," for i in range(vocabulary)]
    chances = 1 / np.arange(1, vocabulary + 1)
    return [
        " ".join(generator.choice(names, size=generator.integers(1, longest + 1), p=chances / chances.sum())) + "."
        for _ in range(count)
    ]


def test_words() -> None:
    assert [words(text) for text in ("", " \n", "one", "it's two.\n\nno,  four")] == [0, 0, 1, 4]


@pytest.mark.parametrize(("count", "longest", "vocabulary"), [(2, 6, 4), (12, 30, 15), (25, 60, 300), (30, 3, 5)])
def test_self_bleu_is_sacrebleus(count: int, longest: int, vocabulary: int) -> None:
    for seed in range(4):
        replies = written(seed, count, longest, vocabulary)
        assert self_bleu(replies) == pytest.approx(plainly(replies), abs=1e-9)


def test_self_bleu_of_text() -> None:
    """The second reply has "the" more often than any other, the last shares nothing; the first and third are alike."""
    replies = [
        "The cat sat on the mat. It purred.",
        "the the the the cat",
        "The cat sat on the mat. It slept, and it's fine.",
        "Water the basil twice, not more!",
        "Nothing shared",
    ]
    found = self_bleu(replies)
    assert found == pytest.approx(plainly(replies), abs=1e-9)
    assert found is not None and 10 < found < 60


def test_self_bleu_at_its_ends() -> None:
    assert self_bleu(["the same reply, twice"] * 2) == pytest.approx(100)
    assert self_bleu(["short"] * 3) == pytest.approx(100)  # three of four orders have nothing to count
    assert self_bleu(["a b c", "d e f", "g h"]) == 0.0


def test_half_of_a_set_by_hand() -> None:
    """a b against a c: 1 of 2 words, and 0 of 1 pairs of words, smoothed to 1/2: 100 sqrt(1/2 * 1/2) = 50."""
    assert self_bleu(["a b", "a c"]) == pytest.approx(50)
    # x has no word in common with them and scores 0; to a b and a c, as long as each other, it changes nothing.
    assert self_bleu(["a b", "a c", "x y z"]) == pytest.approx(100 / 3)


def test_empty_replies_are_left_out() -> None:
    assert self_bleu(["a b", "", "a c", " \n"]) == pytest.approx(50)
    assert distinct(["a b", "", "a c"], 1) == 0.75
    assert self_bleu(["", ""]) is None
    assert distinct(["", ""], 1) is None


def test_one_reply_has_nothing_to_be_like() -> None:
    assert self_bleu([]) is None
    assert self_bleu(["one reply"]) is None
    assert self_bleu(["one reply", ""]) is None
    assert distinct([], 2) is None


def test_distinct_by_hand() -> None:
    """a b a b, and a b: words a, b of 6; pairs ab, ba, ab and ab: 2 of 4; triples aba, bab: 2 of 2."""
    replies = ["a b a b", "a b"]
    assert distinct(replies, 1) == pytest.approx(2 / 6)
    assert distinct(replies, 2) == pytest.approx(2 / 4)
    assert distinct(replies, 3) == 1.0
    assert distinct(["a b"], 3) is None
    # Case counts, and a full stop is a token: The, the, cat, . of 5.
    assert distinct(["The cat.", "the cat"], 1) == pytest.approx(4 / 5)
    assert distinct(["same here"] * 4, 2) == 0.25


def test_five_hundred_replies_take_seconds() -> None:
    """Measured: 0.2 s; sacrebleu's own sentence_score, once a reply, takes 47 s."""
    generator = np.random.default_rng(0)
    names = [f"w{i}" for i in range(3000)]
    replies = [" ".join(generator.choice(names, size=100)) for _ in range(500)]
    start = time.perf_counter()
    self_bleu(replies)
    assert time.perf_counter() - start < 10
