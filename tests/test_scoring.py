"""A handful of replies and judgements, and their numbers by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.scoring import score
from tr_align.settings import AXES, PREFERENCE

Row = dict[str, Any]


def reply(step: int, prompt: str, kl: float, ratio: float, tokens: int, text: str) -> Row:
    return {"step": step, "prompt_id": prompt, "kl": kl, "log_ratio": ratio, "tokens": tokens, "reply": text}


def rating(step: int, prompt: str, *axes: float | None) -> Row:
    return {"kind": "rating", "step": step, "prompt_id": prompt, "axes": dict(zip(AXES, axes, strict=True))}


def duels(against: str, prompt: str, first: str | None, second: str | None) -> list[Row]:
    """The verdicts with the policy's reply shown first and shown second."""
    common = {"kind": "duel", "against": against, "prompt_id": prompt}
    return [{**common, "shown": "first", "preference": first}, {**common, "shown": "second", "preference": second}]


# The last step comes first: the order of the rows says nothing.
REPLIES = [
    reply(4, "a", 1.0, 3.0, 10, "a b"),
    reply(4, "b", 2.0, -1.0, 20, "a c"),
    reply(4, "c", 6.0, 4.0, 30, "x y z z z"),
    reply(2, "a", 0.5, 0.25, 7, "an early reply"),
    reply(2, "b", 1.5, 0.75, 9, ""),
]
SFT = [reply(0, "a", 0, 0, 1, "one"), reply(0, "b", 0, 0, 1, "now three words"), reply(0, "c", 0, 0, 1, "")]
BASE = [reply(6, "a", 0, 0, 1, "one two"), reply(6, "b", 0, 0, 1, "one two"), reply(6, "c", 0, 0, 1, "one")]
OPPONENTS = {"sft": SFT, "base": [*BASE, reply(3, "a", 0, 0, 1, "an early reply, longer")]}
JUDGEMENTS = [
    rating(4, "a", 1, 2, 3, 4, 5),  # mean 3
    rating(4, "b", 5, 5, 5, 5, 10),  # mean 6
    rating(4, "c", 3, None, 1, 0, 0),  # hc missing
    rating(2, "a", 0, 0, 0, 0, 1),  # mean 0.2
    rating(2, "b", 0, 0, 0, None, 2),  # hc missing; not a number of the trained model, so not in n_missing
    *duels("sft", "a", "first", "second"),  # 1
    *duels("sft", "b", "first", "first"),  # the position won: 0.5
    *duels("sft", "c", "second", "first"),  # 0
    *duels("base", "a", "first", "tie"),  # 0.75
    *duels("base", "b", "tie", "tie"),  # 0.5
    *duels("base", "c", None, "second"),  # missing
]


def test_the_trained_models_numbers_by_hand() -> None:
    final = score(REPLIES, JUDGEMENTS, OPPONENTS, 200, 0)["final"]
    means = {key: value for key, value in final.items() if not key.endswith("_ci") and key != "judge_bias"}
    assert means == pytest.approx(
        {
            "kl": 3.0,  # (1 + 2 + 6) / 3
            "log_ratio": 2.0,  # (3 - 1 + 4) / 3
            "hc": 4.5,  # (3 + 6) / 2, c is missing
            "coherence": 3.0,  # (1 + 5 + 3) / 3
            "correctness": 3.5,  # (2 + 5) / 2
            "helpfulness": 3.0,
            "harmlessness": 3.0,
            "detail": 5.0,
            "win_rate_vs_sft": 0.5,
            "win_vs_sft": 1 / 3,
            "tie_vs_sft": 1 / 3,
            "lose_vs_sft": 1 / 3,
            "win_rate_vs_base": 0.625,
            "win_vs_base": 0.0,
            "tie_vs_base": 1.0,  # won one order and tied the other: not a win
            "lose_vs_base": 0.0,
            "n_prompts": 3,
            "n_missing": 2,  # one axis of c's rating, one duel
            # a b and a c share a word of two: 50 each (tests/metrics/test_diversity.py); the third shares none
            "self_bleu": 100 / 3,
            "distinct_1": 6 / 9,  # a, b, c, x, y, z of nine words
            "distinct_2": 5 / 6,  # ab, ac, xy, yz, zz of six, zz twice
            "distinct_3": 1.0,  # xyz, yzz, zzz
            "reply_words": 3.0,
            "reply_tokens": 20.0,
            "step": 4,
        }
    )
    # The mean of three draws from (1, 2, 6) lies between the smallest and the largest.
    low, high = final["kl_ci"]
    assert 1.0 <= low < 3.0 < high <= 6.0
    assert final["hc_ci"] == [3.0, 6.0]
    without_interval = ("n_prompts", "n_missing", "reply_tokens", "step", "self_bleu", "reply_words")
    without_interval += ("distinct_1", "distinct_2", "distinct_3")
    assert set(final) == {"judge_bias"} | set(means) | {f"{key}_ci" for key in means} - {
        f"{key}_ci" for key in without_interval
    }


def test_a_judge_of_one_axis_by_hand() -> None:
    """HC is that axis; none of the five is among the numbers."""
    ratings = zip((3.0, 6.0, None, 1.0, 2.0), REPLIES, strict=True)
    rows: list[Row] = [
        {"kind": "rating", "step": row["step"], "prompt_id": row["prompt_id"], "axes": {PREFERENCE: points}}
        for points, row in ratings
    ]
    found = score(REPLIES, rows, {}, 200, 0)
    final = found["final"]
    assert final["hc"] == final[PREFERENCE] == 4.5 and final["hc_ci"] == final[f"{PREFERENCE}_ci"] == [3.0, 6.0]
    assert final["n_missing"] == 1
    assert [point["hc"] for point in found["curve"]] == [point[PREFERENCE] for point in found["curve"]] == [1.5, 4.5]
    assert not set(AXES) & (set(final) | set(found["curve"][0]))


def test_the_judges_bias_by_hand() -> None:
    """Duels with the SFT model, lengths 2 and 1, 2 and 3, 5 and 0; with the base 2 and 2, 2 and 2, 5 and 1."""
    found = score(REPLIES, JUDGEMENTS, OPPONENTS, 200, 0)["final"]["judge_bias"]
    sft = {"n": 3, "n_missing": 0, "n_longer": 3, "consistent": 2 / 3, "first_shown": 2 / 3}
    assert {key: found["sft"][key] for key in sft} == pytest.approx(sft)
    assert found["sft"]["longer"] == pytest.approx((1 + 0.5 + 0) / 3)
    base = {"n": 2, "n_missing": 1, "n_longer": 0, "consistent": 0.5, "first_shown": (0.75 + 0.5) / 2, "longer": None}
    assert {key: found["base"][key] for key in base} == base


def test_the_curve_has_a_row_a_step() -> None:
    first, last = score(REPLIES, JUDGEMENTS, OPPONENTS, 200, 0)["curve"]
    assert (first["step"], first["n_prompts"]) == (2, 2)
    assert (last["step"], last["n_prompts"]) == (4, 3)
    assert (first["kl"], first["hc"], first["detail"]) == pytest.approx((1.0, 0.2, 1.5))
    # Two prompts: a resample is all a, all b or both.
    assert (first["kl_lo"], first["kl_hi"]) == (0.5, 1.5)
    assert (first["detail_lo"], first["detail_hi"]) == (1.0, 2.0)
    assert (first["hc_lo"], first["hc_hi"]) == pytest.approx((0.2, 0.2))
    assert (last["kl"], last["hc"]) == pytest.approx((3.0, 4.5))


def test_a_base_method_has_no_base_to_beat() -> None:
    rows = [row for row in JUDGEMENTS if row.get("against") != "base"]
    final = score(REPLIES, rows, {"sft": SFT}, 200, 0)["final"]
    for name in ("win_rate", "win", "tie", "lose"):
        assert final[f"{name}_vs_base"] is None
        assert final[f"{name}_vs_base_ci"] is None
    assert final["judge_bias"]["base"] is None
    assert final["judge_bias"]["sft"]["n"] == 3
    assert final["win_rate_vs_sft"] == 0.5
    assert final["n_missing"] == 1


def test_the_sft_model_has_nobody_to_beat() -> None:
    rows = [row for row in JUDGEMENTS if row["kind"] == "rating"]
    final = score(REPLIES, rows, {}, 200, 0)["final"]
    assert (final["win_rate_vs_sft"], final["win_rate_vs_base"]) == (None, None)
    assert final["judge_bias"] == {"sft": None, "base": None}


def test_a_judge_that_cannot_be_read_is_an_error() -> None:
    rows = copy.deepcopy(JUDGEMENTS)
    for row in rows:
        if row["kind"] == "duel" and row["against"] == "sft":
            row["preference"] = None
    with pytest.raises(UserError, match=r"win_rate_vs_sft: .*no readable answer to any of 3 .*judge\.openai\.model"):
        score(REPLIES, rows, OPPONENTS, 200, 0)
    rows = copy.deepcopy(JUDGEMENTS)
    for row in rows:
        if row["kind"] == "rating" and row["step"] == 2:
            row["axes"]["detail"] = None
    with pytest.raises(UserError, match="no readable answer to any of 2"):
        score(REPLIES, rows, OPPONENTS, 200, 0)


def test_the_judgements_may_come_in_any_order() -> None:
    forwards, backwards = (score(REPLIES, rows, OPPONENTS, 200, 1) for rows in (JUDGEMENTS, JUDGEMENTS[::-1]))
    assert forwards == backwards


def test_a_policy_that_wins_every_duel_is_not_certain_to() -> None:
    """Three of three: the exact interval's lower end is 0.025^(1/3) = 0.292; no loss of three is at most 0.708."""
    won = [row for prompt in "abc" for row in duels("sft", prompt, "first", "second")]
    rest = [row for row in JUDGEMENTS if row["kind"] == "rating" or row["against"] == "base"]
    final = score(REPLIES, [*rest, *won], OPPONENTS, 200, 0)["final"]
    assert final["win_rate_vs_sft_ci"] == [pytest.approx(0.025 ** (1 / 3)), 1.0]
    assert final["lose_vs_sft_ci"] == [0.0, pytest.approx(1 - 0.025 ** (1 / 3))]


def test_shares_and_their_intervals_belong_to_one_set_of_resamples() -> None:
    """Against the SFT model the win rate is win + tie / 2 in every resample: of 1, 0.5, 0 its ends are 1 and 0."""
    final = score(REPLIES, JUDGEMENTS, OPPONENTS, 4000, 0)["final"]
    assert final["win_rate_vs_sft"] == pytest.approx(final["win_vs_sft"] + final["tie_vs_sft"] / 2)
    # (1/3)^3 of the resamples have one of the three thrice, more than one tail of 2.5 %.
    for name in ("win_rate", "win", "tie", "lose"):
        assert final[f"{name}_vs_sft_ci"] == [0.0, 1.0]
