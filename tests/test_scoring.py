"""A handful of replies and judgements, and their numbers by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tr_align.config import AXES
from tr_align.errors import UserError
from tr_align.scoring import score

Row = dict[str, Any]


def reply(step: int, prompt: str, kl: float, ratio: float, tokens: int) -> Row:
    return {"step": step, "prompt_id": prompt, "kl": kl, "log_ratio": ratio, "tokens": tokens}


def rating(step: int, prompt: str, *axes: float | None) -> Row:
    return {"kind": "rating", "step": step, "prompt_id": prompt, "axes": dict(zip(AXES, axes, strict=True))}


def duels(against: str, prompt: str, first: str | None, second: str | None) -> list[Row]:
    """The verdicts with the policy's reply shown first and shown second."""
    common = {"kind": "duel", "against": against, "prompt_id": prompt}
    return [{**common, "shown": "first", "preference": first}, {**common, "shown": "second", "preference": second}]


# The last step comes first: the order of the rows says nothing.
REPLIES = [
    reply(4, "a", 1.0, 3.0, 10),
    reply(4, "b", 2.0, -1.0, 20),
    reply(4, "c", 6.0, 4.0, 30),
    reply(2, "a", 0.5, 0.25, 7),
    reply(2, "b", 1.5, 0.75, 9),
]
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
    final = score(REPLIES, JUDGEMENTS, 200, 0)["final"]
    means = {key: value for key, value in final.items() if not key.endswith("_ci")}
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
            "win_rate_vs_base": 0.625,
            "n_prompts": 3,
            "n_missing": 2,  # one axis of c's rating, one duel
            "reply_tokens": 20.0,
            "step": 4,
        }
    )
    # The mean of three draws from (1, 2, 6) lies between the smallest and the largest.
    low, high = final["kl_ci"]
    assert 1.0 <= low < 3.0 < high <= 6.0
    assert final["hc_ci"] == [3.0, 6.0]
    assert set(final) == set(means) | {f"{key}_ci" for key in means} - {
        f"{key}_ci" for key in ("n_prompts", "n_missing", "reply_tokens", "step")
    }


def test_the_curve_has_a_row_a_step() -> None:
    first, last = score(REPLIES, JUDGEMENTS, 200, 0)["curve"]
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
    final = score(REPLIES, rows, 200, 0)["final"]
    assert final["win_rate_vs_base"] is None
    assert final["win_rate_vs_base_ci"] is None
    assert final["win_rate_vs_sft"] == 0.5
    assert final["n_missing"] == 1


def test_the_sft_model_has_nobody_to_beat() -> None:
    rows = [row for row in JUDGEMENTS if row["kind"] == "rating"]
    final = score(REPLIES, rows, 200, 0)["final"]
    assert (final["win_rate_vs_sft"], final["win_rate_vs_base"]) == (None, None)


def test_a_judge_that_cannot_be_read_is_an_error() -> None:
    rows = copy.deepcopy(JUDGEMENTS)
    for row in rows:
        if row["kind"] == "duel" and row["against"] == "sft":
            row["preference"] = None
    with pytest.raises(UserError, match=r"win_rate_vs_sft: .*no readable answer to any of 3 .*judge\.openai\.model"):
        score(REPLIES, rows, 200, 0)
    rows = copy.deepcopy(JUDGEMENTS)
    for row in rows:
        if row["kind"] == "rating" and row["step"] == 2:
            row["axes"]["detail"] = None
    with pytest.raises(UserError, match="no readable answer to any of 2"):
        score(REPLIES, rows, 200, 0)


def test_the_judgements_may_come_in_any_order() -> None:
    assert score(REPLIES, JUDGEMENTS[::-1], 200, 1) == score(REPLIES, JUDGEMENTS, 200, 1)
