"""From runs to the rows of a report: every number is worked out in the test or held against the function behind it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tr_align.metrics.diversity import self_bleu
from tr_align.reports.results import CELL, QUANTITIES
from tr_align.settings import AXES, PREFERENCE
from tr_align.stats import mean_ci, share_ci

from .run_folder import (
    HALF_WIDTH,
    LOSE,
    LUCK,
    MIXED,
    RESAMPLES,
    WIN,
    Made,
    around,
    kl,
    one,
    report_of,
    seeds,
)

# Points.


def test_points_of_one_run_by_hand(tmp_path: Path) -> None:
    """Luck is 0 over the first four prompts and -1 over all six."""
    report = report_of(tmp_path, Made())
    shown = [(row["cell"], row["beta"], row["step"], row["final"], row["seeds"], row["n_prompts"], row["kl"])
             for row in report.points]  # fmt: skip
    assert shown == [
        ("sft", None, 0, True, [0], 6, 0.0),
        ("dpo", 0.05, 2, False, [0], 4, 2.0),
        ("dpo", 0.05, 4, True, [0], 6, 4.0),
        ("tr_dpo_soft", 0.05, 2, False, [0], 4, 6.0),
        ("tr_dpo_soft", 0.05, 4, True, [0], 6, 8.0),
    ]
    assert [row["hc"] for row in report.points] == pytest.approx([4.0, 6.0, 5.0, 8.0, 8.5])
    final = report.points[-1]
    assert [final[axis] for axis in AXES] == pytest.approx([8.3, 8.4, 8.5, 8.6, 8.7])
    assert final["reply_words"] == 5.0
    low, high = mean_ci(9.5 + np.array(LUCK), RESAMPLES, 0)[1]
    assert high > 11  # of a scale that ends at 10
    assert around(final, "hc") == pytest.approx([low, 10.0])
    assert around(final, "kl") == [8.0, 8.0]
    assert {key for key in final if key not in (*CELL, "beta", "step", "final", "seeds", "n_prompts")} == {
        f"{name}{end}" for name in (*QUANTITIES, *AXES) for end in ("", "_lo", "_hi")
    }


def test_points_by_a_judge_of_one_axis(tmp_path: Path) -> None:
    """HC is the axis itself, so no column repeats it."""
    report = report_of(tmp_path, Made(axes=(PREFERENCE,)))
    assert [row["hc"] for row in report.points] == pytest.approx([4.0, 6.0, 5.0, 8.0, 8.5])
    assert {key for key in report.points[-1] if key not in (*CELL, "beta", "step", "final", "seeds", "n_prompts")} == {
        f"{name}{end}" for name in QUANTITIES for end in ("", "_lo", "_hi")
    }
    assert report.context["axes"] == []
    assert report.context["judge"] == "a probe fitted on preferences"
    assert list(report.context["judge_accuracy"]) == [PREFERENCE, "off_topic"]
    assert report.prompts[0]["replies"]["dpo"]["axes"] == {PREFERENCE: pytest.approx(6.6)}
    assert one(report.claims, kind="matched_kl")["effect"] == pytest.approx(1.0)


def test_self_bleu_is_only_of_trained_models(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", "the cat sat on a mat", "a dog lay on the mat", "", "no", "the end"]
    report = report_of(
        tmp_path, Made(text=lambda method, step, prompt: texts[prompt] if step in (0, 4) else "the same")
    )
    expected = self_bleu(texts)
    assert expected is not None and 0 < expected < 100
    found = {(row["cell"], row["step"]): row["self_bleu"] for row in report.points}
    assert found["sft", 0] == found["dpo", 4] == pytest.approx(expected)
    assert found["dpo", 2] is None
    assert around(one(report.points, cell="dpo", step=2), "self_bleu") == [None, None]
    low, high = around(one(report.points, cell="dpo", step=4), "self_bleu")
    assert low < expected < high


def test_words_are_those_of_each_reply(tmp_path: Path) -> None:
    report = report_of(tmp_path, Made(text=lambda method, step, prompt: "word " * prompt))
    assert one(report.points, cell="dpo", step=4)["reply_words"] == 2.5
    assert one(report.points, cell="dpo", step=2)["reply_words"] == 1.5


def test_missing_ratings_are_left_out_and_counted(tmp_path: Path) -> None:
    """DPO's fourth reply has no harmlessness: HC is the mean of the others' 1, 2, 3, 5, 6; that axis has five."""
    made = Made(hc=lambda method, step, prompt: None if (method, prompt) == ("dpo", 3) else prompt + 1.0)
    report = report_of(tmp_path, made)
    row = one(report.points, cell="dpo", step=4)
    assert row["hc"] == pytest.approx(17 / 5)
    assert row["harmlessness"] == pytest.approx(17 / 5 + 0.1)
    assert row["coherence"] == pytest.approx((17 - 5 * 0.2 + 5.0) / 6)
    assert row["n_prompts"] == 6
    assert report.problems == ["DPO: the judge's rating of 1 of 6 replies was not readable"]


def test_a_point_without_any_rating_has_no_quality(tmp_path: Path) -> None:
    made = Made(hc=lambda method, step, prompt: None if (method, step) == ("dpo", 2) else 5.0)
    report = report_of(tmp_path, made)
    row = one(report.points, cell="dpo", step=2)
    assert (row["hc"], row["hc_lo"], row["hc_hi"], row["kl"]) == (None, None, None, 2.0)
    assert row["coherence"] == 5.0
    # It could not be compared: its claim and its verdict say so, and so do the problems.
    assert (
        "TR-DPO soft could not be compared: at one of the points none of the ratings could be read" in report.problems
    )
    assert report.context["verdict"] == [
        "No trust-region method of this report could be compared with its base.",
        "Could not be tested: at one of the points none of the ratings could be read.",
    ]
    assert [row["cell"] for row in report.peaks] == ["tr_dpo_soft"]
    assert report.frontier == []


def test_points_over_two_seeds_by_hand(tmp_path: Path) -> None:
    """KL 4 and 6: mean 5, between-seed variance 2, standard error 1; less than none is no KL."""
    first, second = seeds(0, 3)
    second.kl = lambda method, step, prompt: kl(method, step, prompt) + (2 if step == 4 else 0)
    second.prompts, second.curve = (0, 1, 2, 3, 4), (0, 1, 2)
    report = report_of(tmp_path, first, second)
    row = one(report.points, cell="dpo", step=4)
    assert (row["kl"], row["seeds"], row["n_prompts"]) == (5.0, [0, 3], 5)
    assert around(row, "kl") == pytest.approx([0.0, 5 + HALF_WIDTH], rel=1e-5)
    assert one(report.points, cell="dpo", step=2)["n_prompts"] == 3
    assert report.context["n_curve_prompts"] == "3"
    assert report.context["n_prompts"] == "5"


def test_points_come_by_cell_beta_and_step(tmp_path: Path) -> None:
    report = report_of(tmp_path, *(Made(settings={"beta.dpo": beta}) for beta in (0.5, 0.1)))
    assert [(row["cell"], row["beta"], row["step"]) for row in report.points] == [
        ("sft", None, 0),
        *((cell, beta, step) for cell in ("dpo", "tr_dpo_soft") for beta in (0.1, 0.5) for step in (2, 4)),
    ]
    assert report.context["points_along"] == "beta"
    assert report.context["betas"] == {"dpo": [0.1, 0.5]}


def test_the_last_step_is_the_final_one_and_only_of_seeds_that_reached_it(tmp_path: Path) -> None:
    first, second = seeds(0, 1, kl=lambda method, step, prompt: float(step), hc=lambda method, step, prompt: 5.0)
    second.steps = (1, 2)
    report = report_of(tmp_path, first, second)
    shown = [(row["step"], row["final"], row["seeds"]) for row in report.points if row["cell"] == "dpo"]
    assert shown == [(1, False, [1]), (2, False, [0, 1]), (4, True, [0])]


# Duels.


def test_wins_of_one_run_by_hand(tmp_path: Path) -> None:
    """Of five readable duels one is won, one lost and three are neither; points 1, 0, 0.5, 0.5, 0.75."""
    made = Made(duel=lambda method, against, prompt: MIXED[prompt] if against == "base" else WIN)
    report = report_of(tmp_path, made)
    assert [(row["cell"], row["versus"], row["opponent"], row["beta"]) for row in report.wins] == [
        ("dpo", "sft", "SFT", 0.05),
        ("tr_dpo_soft", "sft", "SFT", 0.05),
        ("tr_dpo_soft", "base", "DPO", 0.05),
    ]
    row = report.wins[2]
    assert (row["seeds"], row["n_prompts"]) == ([0], 6)
    assert [row[name] for name in ("win", "tie", "lose", "rate")] == pytest.approx([0.2, 0.6, 0.2, 0.55])
    outcomes = np.array([1, 0, 0.5, 0.5, 0.75, math.nan])
    ties = np.array([0, 0, 1, 1, 1, math.nan])
    assert around(row, "rate") == pytest.approx(share_ci(outcomes, RESAMPLES, 0)[1])
    assert around(row, "tie") == pytest.approx(share_ci(ties, RESAMPLES, 0)[1])
    # All six won: 0.025^(1/6) at the least (Clopper-Pearson).
    assert (report.wins[0]["win"], *around(report.wins[0], "win")) == pytest.approx((1.0, 0.025 ** (1 / 6), 1.0))
    assert (report.wins[0]["lose"], *around(report.wins[0], "lose")) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 6)))
    assert "TR-DPO soft against base: 1 of 6 duels were not readable" in report.problems


def test_shares_of_two_seeds_stay_between_none_and_all(tmp_path: Path) -> None:
    """All won and all lost: half, and Student's t with one degree of freedom would go from -6 to 7."""
    first, second = seeds(0, 1)
    first.duel = lambda method, against, prompt: WIN
    second.duel = lambda method, against, prompt: LOSE
    row = one(report_of(tmp_path, first, second).wins, cell="dpo")
    assert (row["win"], *around(row, "win"), row["seeds"]) == (0.5, 0.0, 1.0, [0, 1])


def test_duels_that_all_seeds_won_are_still_not_certain(tmp_path: Path) -> None:
    """Of the same six prompts: two seeds add no prompt, 0.025^(1/6) again."""
    row = one(report_of(tmp_path, *seeds(0, 1, duel=lambda method, against, prompt: WIN)).wins, cell="dpo")
    assert (row["win"], *around(row, "win")) == pytest.approx((1.0, 0.025 ** (1 / 6), 1.0))
    assert (row["lose"], *around(row, "lose")) == pytest.approx((0.0, 0.0, 1 - 0.025 ** (1 / 6)))


def test_a_model_that_met_nobody_has_no_row(tmp_path: Path) -> None:
    report = report_of(tmp_path, Made(duel=lambda method, against, prompt: None if against == "base" else WIN))
    assert [(row["cell"], row["versus"]) for row in report.wins] == [("dpo", "sft"), ("tr_dpo_soft", "sft")]
    first, second = seeds(0, 1)
    second.duel = lambda method, against, prompt: None
    second.prompts = (0, 1, 2, 3, 4)
    row = one(report_of(tmp_path / "two", first, second).wins, cell="dpo")
    assert (row["seeds"], row["n_prompts"]) == ([0], 6)


def test_wins_have_a_row_a_beta_and_count_the_seed_with_the_fewest_prompts(tmp_path: Path) -> None:
    mades = [Made(settings={"beta.dpo": beta, "seed": seed}) for beta in (0.5, 0.1) for seed in (0, 1)]
    mades[1].prompts = (0, 1, 2, 3, 4)
    report = report_of(tmp_path, *mades)
    rows = [(row["beta"], row["n_prompts"]) for row in report.wins if row["cell"] == "dpo"]
    assert rows == [(0.1, 6), (0.5, 5)]


# The judge's bias and what it cost.


def test_the_judges_bias_is_that_of_all_duels_together(tmp_path: Path) -> None:
    """18 duels, none of which follows the position; DPO has no words for prompt 1, where it wins against SFT and loses
    to TR-DPO: of the two pairs of different length the longer won one."""
    made = Made(text=lambda method, step, prompt: "" if (method, prompt) == ("dpo", 1) else "four words a reply")
    found = report_of(tmp_path, made).context["judge_bias"]
    numbers = {key: value for key, value in found.items() if not key.endswith("_ci")}
    assert numbers == {"n": 18, "n_missing": 0, "n_longer": 2, "consistent": 1.0, "first_shown": 0.5, "longer": 0.5}
    # Both are about prompt 1, so that no resample has one of them alone.
    assert found["longer_ci"] == [0.5, 0.5]
    # The pairs are about six prompts.
    assert found["consistent_ci"] == pytest.approx([0.025 ** (1 / 6), 1.0])


def test_a_training_in_two_runs_is_counted_once(tmp_path: Path) -> None:
    """A sweep over alpha holds DPO twice: 6 duels of it and 12 of either TR-DPO."""
    report = report_of(tmp_path, *(Made(settings={"ref_update.alpha": alpha}) for alpha in (0.3, 0.6)))
    assert report.context["judge_bias"]["n"] == 6 + 12 + 12


def paid(kind: str, question: str) -> dict[str, Any]:
    """Ratings ask twice for each reply, duels once; TR-DPO's first rating is DPO's, by its key."""
    if kind == "duel":
        return {"answers": [{"key": f"duel {question}", "usd": 0.5, "prompt_tokens": 7, "completion_tokens": None}]}
    name = "dpo/2/0" if question == "tr_dpo_soft/2/0" else question
    answer = {"key": f"rating {name}", "usd": 0.25, "prompt_tokens": 100, "completion_tokens": 10}
    return {"answers": [answer, answer | {"key": f"again {name}"}]}


def test_each_answer_is_paid_for_once(tmp_path: Path) -> None:
    """6 + 10 + 10 ratings of two answers each, one reply of which was rated before: 50. 18 duels, both orders of which
    have the same key here: 18. Dollars 50 / 4 + 18 / 2; tokens 50 * 110 + 18 * 7."""
    made = Made(settings={"judge.name": "openai"}, raw=paid)
    cost = report_of(tmp_path, made, Made(settings={"judge.name": "openai", "seed": 1}, raw=paid)).context["cost"]
    assert cost == {"usd": 21.5, "calls": 68, "tokens": 5626}


def test_answers_without_a_key_are_all_counted_and_an_unknown_price_makes_the_sum_unknown(tmp_path: Path) -> None:
    def local(kind: str, question: str) -> dict[str, Any]:
        answer = {"prompt_tokens": 3, "completion_tokens": 2, "usd": 0.0}
        return {"answers": [answer]} if kind == "rating" else {}

    assert report_of(tmp_path / "a", Made(raw=local)).context["cost"] == {"usd": 0.0, "calls": 26, "tokens": 130}

    def unknown(kind: str, question: str) -> dict[str, Any]:
        price = None if question == "dpo/4/5" else 1.0
        return {"answers": [{"key": question, "usd": price, "prompt_tokens": 1, "completion_tokens": 1}]}

    assert report_of(tmp_path / "b", Made(raw=unknown)).context["cost"]["usd"] is None


def test_the_embedded_judge_costs_nothing(tmp_path: Path) -> None:
    assert report_of(tmp_path, Made()).context["cost"] is None
