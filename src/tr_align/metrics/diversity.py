"""How alike the replies of one model are: Self-BLEU and distinct-n; and how long."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.helpers import extract_all_word_ngrams

ORDER = 4


def words(text: str) -> int:
    """The length of a reply: what white space separates."""
    return len(text.split())


@cache
def _bleu() -> BLEU:
    return BLEU(tokenize="13a", smooth_method="exp", effective_order=True, max_ngram_order=ORDER)


def _tokens(reply: str) -> list[str]:
    """Words and punctuation as sacrebleu's tokeniser 13a parts them; case counts."""
    return str(_bleu().tokenizer(reply.rstrip())).split()


def self_bleu(replies: Sequence[str]) -> float | None:
    """Mean of :func:`self_bleu_scores` over the replies that are not empty.

    Returns: None with fewer than two of them.
    """
    scores = [score for score in self_bleu_scores(replies) if not math.isnan(score)]
    return float(np.mean(scores)) if scores else None


def self_bleu_scores(replies: Sequence[str]) -> list[float]:
    """BLEU of each reply against all others: 0 (nothing shared) to 100 (all the same). Zhu et al. 2018.

    BLEU-4 on words as sacrebleu's `sentence_score` has it with tokeniser 13a, exponential smoothing and effective
    order (a reply of fewer than four words is compared up to its length). The n-grams are counted once instead of
    once a pair of replies: an n-gram's largest count among the others is its largest of all, or the second largest
    for the reply that has the largest itself.

    Args: `replies` of one model, one a prompt. Empty ones share nothing and differ in nothing: they are left out.
    Returns: one score a reply, NaN for empty ones; all NaN with fewer than two replies that are not empty.
    """
    tokens = [_tokens(reply) for reply in replies]
    filled = [place for place, found in enumerate(tokens) if found]
    result = [math.nan] * len(replies)
    if len(filled) < 2:
        return result
    counts = [extract_all_word_ngrams(" ".join(tokens[place]), 1, ORDER)[0] for place in filled]
    lengths = [sum(count for ngram, count in ngrams.items() if len(ngram) == 1) for ngrams in counts]
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, ngrams in enumerate(counts):
        for ngram, count in ngrams.items():
            most, owner, second = largest.get(ngram, (0, i, 0))
            largest[ngram] = (count, i, most) if count > most else (most, owner, max(second, count))
    for i, (ngrams, length) in enumerate(zip(counts, lengths, strict=True)):
        correct, total = [0] * ORDER, [0] * ORDER
        for ngram, count in ngrams.items():
            most, owner, second = largest[ngram]
            correct[len(ngram) - 1] += min(count, second if owner == i else most)
            total[len(ngram) - 1] += count
        # The closest length among the others, and of two as close the shorter.
        closest = min(
            (other for j, other in enumerate(lengths) if j != i), key=lambda other: (abs(other - length), other)
        )
        bleu = BLEU.compute_bleu(correct, total, length, closest, "exp", effective_order=True, max_ngram_order=ORDER)
        result[filled[i]] = float(bleu.score)
    return result


def distinct(replies: Sequence[str], n: int) -> float | None:
    """distinct-n: different n-grams over all n-grams of the whole set of replies, 0 to 1. Li et al. 2016.

    It falls as a set grows: compare sets of the same prompts and look at the lengths as well. Words as in
    :func:`self_bleu`; no n-gram spans two replies.

    Returns: None if no reply has n words.
    """
    ngrams = Counter(tuple(tokens[i : i + n]) for tokens in map(_tokens, replies) for i in range(len(tokens) - n + 1))
    return len(ngrams) / ngrams.total() if ngrams else None
