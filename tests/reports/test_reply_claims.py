"""Diversity, and HC with length held fixed, at equal KL: worked out by hand from made-up replies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tr_align.metrics.diversity import self_bleu, self_bleu_scores
from tr_align.reports import reply_claims as reply_claims_module
from tr_align.reports.claims import claims
from tr_align.reports.reply_claims import length_slope, reply_claims, self_bleu_of
from tr_align.reports.study import Study, hc_of, pairing

from .run_folder import CURVE, LUCK, RESAMPLES, Made, one
from .sweep_runs import studied

Row = dict[str, Any]
THREE = ("dpo", "tr_dpo_soft", "tr_dpo_hard")


def rows_of(study: Study) -> list[Row]:
    return claims(study, [], {}, reply_claims(study, RESAMPLES, 0))


# Length.


def words_of(method: str, step: int, prompt: int) -> int:
    """So many that log(1 + words) is a multiple of log 2: 1, 3 or 7 words."""
    if method == "sft":
        return 1
    return 7 if method == "tr_dpo_soft" else 3


def rated(slope: float) -> Made:
    """HC is 4 and so much for each doubling of 1 + words."""

    def hc(method: str, step: int, prompt: int) -> float:
        return 4 + LUCK[prompt] + slope * math.log2(1 + words_of(method, step, prompt))

    def text(method: str, step: int, prompt: int) -> str:
        return " ".join(["word"] * words_of(method, step, prompt))

    return Made(hc=hc, text=text)


def test_all_of_a_gain_that_length_explains_goes_away(tmp_path: Path) -> None:
    """0.5 points a doubling: b = 0.5 / log 2 = 0.72. At 4 nats the base, there, has 3 words; soft, from 1 at 0 nats to
    7 at 6 nats, is at 1 + 6 * 4 / 6 = 5 and, in doublings, at 1 + 2 * 4 / 6 = 7 / 3, the base at 2: HC differs by
    0.5 / 3 and length explains it."""
    found = studied(tmp_path, rated(0.5))
    assert length_slope(found) == pytest.approx(0.5 / math.log(2))
    row = one(rows_of(found), kind="length_adjusted")
    assert (row["effect"], row["verdict"], row["kl"]) == (pytest.approx(0.0, abs=1e-9), "inconclusive", 4.0)
    assert row["detail"] == "+2.00 [+2.00, +2.00] words a reply; b = 0.72 HC points per unit of log(1 + words)"
    assert row["evidence"].startswith("HC less b log(1 + words) differs by ")
    assert "at 4.0 nats, the largest KL both reached (+2.00" in row["evidence"]
    assert (
        row["claim"] == "TR-DPO soft keeps more quality than DPO at the same KL with the length of replies held fixed"
    )
    assert (row["unit"], row["paper"]["trust"], row["paper"]["value"], row["n_prompts"]) == (
        "HC points",
        "weak",
        None,
        4,
    )


def test_what_length_does_not_explain_is_left(tmp_path: Path) -> None:
    """HC is the same for all, so that b is 0; a slope of 3 points a doubling would take 3 / 3 from longer replies."""
    found = studied(tmp_path, rated(0.0))
    assert length_slope(found) == pytest.approx(0.0)
    row = one(rows_of(found), kind="length_adjusted")
    assert (row["effect"], row["detail"].partition("; ")[2]) == (
        pytest.approx(0.0), "b = 0.00 HC points per unit of log(1 + words)"
    )  # fmt: skip
    tested = reply_claims_module._length(found, "tr_dpo_soft", "dpo", 3 / math.log(2), RESAMPLES, 0)
    assert tested.estimate is not None and tested.estimate.value == pytest.approx(-1.0)
    assert tested.says == "contradicted"


def test_the_slope_is_within_prompts_and_seeds(tmp_path: Path) -> None:
    """The prompts' luck, -9 to 3 points, is no business of it; nor is that another seed, whose replies are twice as
    long and one word longer, is rated by 2.5 higher and not by the 0.5 of a doubling."""
    first, second = rated(0.5), rated(0.5)
    lower, shorter = second.hc, second.text
    second.settings, second.hc = {"seed": 1}, lambda *at: (lower(*at) or 0.0) + 2.5
    second.text = lambda *at: f"{shorter(*at)} {shorter(*at)} word"
    assert length_slope(studied(tmp_path, first, second)) == pytest.approx(0.5 / math.log(2))


def test_a_reply_that_was_not_rated_does_not_count(tmp_path: Path) -> None:
    made = rated(0.5)
    whole = made.hc
    made.hc = lambda method, step, prompt: None if (method, prompt) == ("dpo", 1) else whole(method, step, prompt)
    found = studied(tmp_path, made)
    assert length_slope(found) == pytest.approx(0.5 / math.log(2))
    assert one(rows_of(found), kind="length_adjusted")["effect"] is not None


# Diversity.

SENTENCES = (
    "water the basil twice a week and no more",
    "put the basil on a bright sill in winter",
    "turn the pot once a week so that it grows straight",
    "a cold draught from the window is what kills it",
    "feed it when it grows and never in december",
    "cut the tips and it will branch below",
)


def spoken(alike: str) -> Made:
    """One method says the same to every prompt, 100; the others speak differently."""

    def text(method: str, step: int, prompt: int) -> str:
        return SENTENCES[0] if method == alike and step else SENTENCES[prompt]

    return Made(methods=THREE, text=text, hc=lambda *_: 5.0)


def test_more_alike_at_the_same_kl_contradicts(tmp_path: Path) -> None:
    """At 4 nats soft is two thirds of the way from SFT's Self-BLEU, of the four prompts of the curve, to 100."""
    rows = {row["cell"]: row for row in rows_of(studied(tmp_path, spoken("tr_dpo_soft"))) if row["kind"] == "diversity"}
    start = self_bleu(SENTENCES[:CURVE])
    assert start is not None and start < 30
    soft, hard = rows["tr_dpo_soft"], rows["tr_dpo_hard"]
    assert (soft["effect"], soft["kl"]) == (pytest.approx((100 - start) * 4 / 6), 4.0)
    assert (soft["verdict"], soft["unit"], soft["n_prompts"]) == ("contradicted", "points of BLEU", 4)
    assert (hard["effect"], hard["verdict"]) == (pytest.approx(0.0), "inconclusive")
    assert soft["claim"] == "TR-DPO soft's replies are more diverse than DPO's at the same KL"
    assert soft["evidence"].startswith("Self-BLEU differs by +") and "detail" not in soft
    assert soft["paper"]["text"].endswith("its numbers are unknown")


def test_less_alike_at_the_same_kl_supports(tmp_path: Path) -> None:
    """The base says the same to everyone at 2 and 4 nats."""
    row = one(rows_of(studied(tmp_path, spoken("dpo"))), id="diversity/tr_dpo_soft")
    start = self_bleu(SENTENCES[:CURVE])
    assert start is not None
    assert (row["effect"], row["verdict"]) == (pytest.approx(start - 100), "supported")


def test_replies_are_held_against_those_to_the_same_prompts(tmp_path: Path) -> None:
    """The trained model answers six prompts and its checkpoint four: both are measured over the four, or the trained
    one would seem to be more alike. The mean over prompts is Self-BLEU."""
    found = studied(tmp_path, spoken("tr_dpo_soft"))
    trained, names = found.trained["dpo", 0.05][0], [f"p{prompt}" for prompt in range(CURVE)]
    assert len(trained.answers[4]) == 6 and len(trained.answers[2]) == CURVE
    curves = pairing(found, "tr_dpo_soft", "dpo", self_bleu_of())
    for row in curves.base[0].quality:
        assert row.tolist() == pytest.approx(self_bleu_scores(SENTENCES[:CURVE]))
        assert row.mean() == pytest.approx(self_bleu(SENTENCES[:CURVE]))
    alike = self_bleu_of()
    assert alike(trained, 4, names) is alike(trained, 4, names)
    assert alike(trained, 4, names[:2]) != alike(trained, 4, names)
    late = self_bleu_scores([SENTENCES[2], SENTENCES[5]])
    assert alike(trained, 4, ["p2", "p5"]) == dict(zip(["p2", "p5"], late, strict=True))
    assert hc_of(trained, 4, names[:1]) == {"p0": pytest.approx(5.0)}


def test_what_cannot_be_compared_is_said_to_be_untested(tmp_path: Path) -> None:
    still = Made(kl=lambda method, step, prompt: 0.0)
    rows = rows_of(studied(tmp_path, still))
    assert [(row["kind"], row["verdict"], row["effect"]) for row in rows] == [
        ("length_adjusted", "inconclusive", None), ("diversity", "inconclusive", None)
    ]  # fmt: skip
    assert all(row["evidence"].startswith("could not be tested: the curves share no range of KL") for row in rows)


def test_a_base_alone_has_nothing_to_test(tmp_path: Path) -> None:
    assert rows_of(studied(tmp_path, Made(methods=("dpo",)))) == []
