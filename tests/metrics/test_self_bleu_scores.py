"""Self-BLEU reply by reply, which intervals are made from: each reply has its own score, in its own place."""

from __future__ import annotations

import math

import pytest
from sacrebleu.metrics.bleu import BLEU

from tr_align.metrics.diversity import self_bleu, self_bleu_scores

REPLIES = ["", "the cat sat on the mat", "no", "", "the cat sat on a mat", "a dog lay on the mat today", "no"]


def test_each_score_is_in_the_place_of_its_reply() -> None:
    """Against sacrebleu, reply by reply; empty replies have none and are nobody's reference."""
    bleu = BLEU(tokenize="13a", smooth_method="exp", effective_order=True)
    filled = [place for place, reply in enumerate(REPLIES) if reply]
    found = self_bleu_scores(REPLIES)
    assert [place for place, score in enumerate(found) if not math.isnan(score)] == filled
    for place in filled:
        others = [REPLIES[other] for other in filled if other != place]
        assert found[place] == pytest.approx(bleu.sentence_score(REPLIES[place], others).score)
    assert found[2] == found[6] == pytest.approx(100.0)  # one word, and the other is the same
    assert self_bleu(REPLIES) == pytest.approx(sum(found[place] for place in filled) / 5)


@pytest.mark.parametrize("replies", [[], ["alone"], ["", "alone", ""], ["", ""]])
def test_a_reply_without_others_has_no_score(replies: list[str]) -> None:
    assert all(map(math.isnan, self_bleu_scores(replies)))
    assert len(self_bleu_scores(replies)) == len(replies)
    assert self_bleu(replies) is None
