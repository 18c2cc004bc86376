"""The other half of a report's rows: training, fixed texts, the reply browser, the context and the problems."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from tr_align.metrics.ood import KINDS
from tr_align.reports.collect import collect, plain, to_json
from tr_align.reports.runs import Run, from_folder, load
from tr_align.stats import mean_ci

from .run_folder import (
    FLIPPED,
    HALF_WIDTH,
    LUCK,
    MIXED,
    RESAMPLES,
    UNREAD,
    WIN,
    Made,
    around,
    hc,
    made_run,
    one,
    report_of,
    seeds,
    write,
)

# Training, updates, out-of-distribution texts.


def test_training_has_a_row_a_logged_step(tmp_path: Path) -> None:
    report = report_of(tmp_path, *seeds(4, 2))
    rows = [row for row in report.training if row["cell"] == "tr_dpo_soft"]
    assert [(row["seed"], row["step"]) for row in rows] == [(seed, step) for seed in (2, 4) for step in (1, 2, 3, 4)]
    assert {row["beta"] for row in rows} == {0.05}
    assert rows[1]["loss_value"] == pytest.approx(0.35)
    assert {row["loss"] for row in rows} == {"dpo"}  # the method's: what figures are split by
    assert rows[1]["margin"] == pytest.approx(0.2)
    assert (rows[1]["name"], rows[1]["update"], rows[1]["method"]) == ("TR-DPO soft", "soft", "tr_dpo_soft")
    assert {row["cell"] for row in report.training} == {"dpo", "tr_dpo_soft"}


def test_references_move_after_every_interval_but_not_after_the_end(tmp_path: Path) -> None:
    """8 steps: soft every 3 moves after 3 and 6; hard every 4 after 4, and after 8 nothing is trained any more."""
    settings = {"align.steps": 8, "ref_update.every": 3, "ref_update.tau": 4}
    report = report_of(tmp_path, Made(methods=("dpo", "tr_dpo_soft", "tr_dpo_hard"), settings=settings))
    assert report.updates == {"dpo": [], "tr_dpo_soft": [3, 6], "tr_dpo_hard": [4]}


def growing(method: str, step: int, prompt: int, kind: str) -> tuple[float, int]:
    """Prompt i has i + 1 tokens and -(i + 1)^2 nats, and a nat less a step."""
    return -float((prompt + 1) ** 2) - step, prompt + 1


def test_likelihoods_by_hand(tmp_path: Path) -> None:
    """Four prompts: -(1 + 4 + 9 + 16) / 4 = -7.5 nats a reply, and -(1 + 2 + 3 + 4) / 4 = -2.5 a token (the mean of the
    ratios); at step s, s nats less a reply and s (1 + 1/2 + 1/3 + 1/4) / 4 = 25 s / 48 less a token."""
    report = report_of(tmp_path, Made(logp=growing))
    rows = [row for row in report.ood if row["cell"] == "dpo"]
    assert [(row["step"], row["kind"]) for row in rows] == [(step, kind) for step in (0, 2, 4) for kind in KINDS]
    for row in rows:
        assert (row["beta"], row["seeds"], row["n"], row["name"]) == (0.05, [0], 4, "DPO")
        assert row["per_reply"] == pytest.approx(-7.5 - row["step"])
        assert row["per_token"] == pytest.approx(-2.5 - row["step"] * 25 / 48)
        assert row["change"] == pytest.approx(-row["step"] * 25 / 48)
        assert row["change_per_reply"] == pytest.approx(-row["step"])
    values = -np.array([1.0, 4.0, 9.0, 16.0])
    assert around(rows[0], "per_reply") == pytest.approx(mean_ci(values, RESAMPLES, 0)[1])
    assert around(rows[0], "per_token") == pytest.approx(mean_ci(-np.arange(1.0, 5.0), RESAMPLES, 0)[1])
    # The change is taken text by text: its interval has nothing of how much the texts differ.
    assert rows[10]["step"] == 4
    assert around(rows[10], "change") == pytest.approx(mean_ci(-4 / np.arange(1.0, 5.0), RESAMPLES, 0)[1])
    assert around(rows[0], "change") == pytest.approx([0.0, 0.0])
    assert {row["cell"] for row in report.ood} == {"dpo", "tr_dpo_soft"}


def test_likelihoods_over_two_seeds(tmp_path: Path) -> None:
    """-1 and -3 nats a token: mean -2, half-width 12.7 (between-seed variance 2, standard error 1)."""
    first, second = seeds(0, 1)
    first.logp = lambda method, step, prompt, kind: (-2.0, 2)
    second.logp = lambda method, step, prompt, kind: (-6.0, 2)
    second.curve = (0, 1, 2)
    row = one(report_of(tmp_path, first, second).ood, cell="dpo", step=2, kind="sft")
    assert (row["per_token"], row["per_reply"], row["seeds"], row["n"]) == (-2.0, -4.0, [0, 1], 3)
    assert around(row, "per_token") == pytest.approx([-2 - HALF_WIDTH, -2 + HALF_WIDTH], rel=1e-5)


def test_where_likelihoods_were_not_measured(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / "likelihoods" / "sft.jsonl").unlink()
    (tmp_path / "a" / "likelihoods" / "dpo.jsonl").unlink()
    run = load("first", from_folder(tmp_path / "a"))
    assert [(row["cell"], row["step"]) for row in collect([run]).ood[::5]] == [("tr_dpo_soft", 2), ("tr_dpo_soft", 4)]
    other = made_run(tmp_path, "other", Made(settings={"seed": 1}))
    rows = collect([run, other]).ood[::5]
    assert [(row["cell"], row["step"], row["seeds"]) for row in rows if row["cell"] == "dpo"] == [
        ("dpo", 0, [1]),
        ("dpo", 2, [1]),
        ("dpo", 4, [1]),
    ]
    assert {(row["step"], *row["seeds"]) for row in rows if row["cell"] == "tr_dpo_soft"} == {
        (0, 1),
        (2, 0, 1),
        (4, 0, 1),
    }
    assert report_of(tmp_path / "none", Made(logp=None)).ood == []


# The reply browser.


def test_the_browser_shows_the_first_runs_trained_models(tmp_path: Path) -> None:
    first, second = seeds(5, 0)
    first.duel = lambda method, against, prompt: MIXED[prompt] if against == "base" else WIN
    first.hc = lambda method, step, prompt: None if (method, prompt) == ("dpo", 2) else hc(method, step, prompt)
    second.text = lambda method, step, prompt: "another run"
    report = report_of(tmp_path, first, second)
    assert [row["id"] for row in report.prompts] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    row = report.prompts[2]
    assert row["prompt"] == "Question 2?"  # without the system prompt
    assert list(row["replies"]) == ["sft", "dpo", "tr_dpo_soft"]
    soft = row["replies"]["tr_dpo_soft"]
    assert (soft["name"], soft["update"], soft["text"], soft["words"], soft["kl"]) == (
        "TR-DPO soft",
        "soft",
        "tr_dpo_soft at 4 says 2",
        5,
        8.0,
    )
    assert soft["hc"] == pytest.approx(9.6)
    assert soft["axes"]["detail"] == pytest.approx(9.8)
    said = [row["replies"]["tr_dpo_soft"]["vs_base"] for row in report.prompts]
    assert said == ["win", "lose", "tie", "flipped", "tie", "unread"]
    assert {row["replies"]["tr_dpo_soft"]["vs_sft"] for row in report.prompts} == {"win"}
    dpo, start = row["replies"]["dpo"], row["replies"]["sft"]
    assert (dpo["vs_sft"], dpo["vs_base"], dpo["hc"], dpo["axes"]["harmlessness"]) == ("win", None, None, None)
    assert (start["text"], start["vs_sft"], start["vs_base"]) == ("sft at 0 says 2", None, None)


def test_a_verdict_that_prefers_the_second_place_twice_is_flipped_too(tmp_path: Path) -> None:
    report = report_of(tmp_path, Made(duel=lambda method, against, prompt: ("second", "second")))
    assert report.prompts[0]["replies"]["dpo"]["vs_sft"] == "flipped"


def test_the_browser_has_the_cells_of_the_first_run_only(tmp_path: Path) -> None:
    first, second = Made(settings={"ref_update.alpha": 0.9}), Made(settings={"ref_update.alpha": 0.3})
    first.prompts = (0, 1, 2, 3)
    second.methods = ("dpo", "tr_dpo_soft", "tr_dpo_hard")
    report = report_of(tmp_path, first, second)
    assert list(report.prompts[0]["replies"]) == ["sft", "dpo", "tr_dpo_soft-a0.9-e2"]
    assert len(report.prompts) == 4


def test_a_conversation_is_shown_turn_by_turn(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", ""), ("assistant", "Hi."), ("user", "Why?")]
    for step in run.models["sft"].answers.values():
        step["p0"]["prompt"] = [{"role": role, "content": content} for role, content in turns]
    del run.models["dpo"].answers[4]["p1"]
    report = collect([run])
    assert report.prompts[0]["prompt"] == "Hello\n\nHi.\n\nWhy?"
    assert list(report.prompts[1]["replies"]) == ["sft", "tr_dpo_soft"]


# The context, and what is missing.


def test_the_context_says_which_part_of_the_data_it_was(tmp_path: Path) -> None:
    settings = {"data.source": "anthropic_hh", "data.subsets": ["helpful-base", "harmless-base"]}
    assert report_of(tmp_path, Made(settings=settings)).context["data"] == "Anthropic-HH, helpful-base, harmless-base"


def test_the_context_says_what_was_run(tmp_path: Path) -> None:
    methods = ("dpo", "tr_dpo_soft", "kto")
    first = Made(methods=methods, settings={"seed": 2, "ref_update.alpha": 0.9})
    report = report_of(tmp_path, first, Made(methods=methods, settings={"seed": 1}), seconds={"align": 3.5})
    found = report.context
    assert (found["model"], found["data"], found["judge"]) == ("two-layer", "embedded requests", "embedded probes")
    assert (found["hc_unit"], found["seeds"], found["steps"]) == ("points, 1 to 10", [1, 2], 4)
    assert found["axes"] == ["coherence", "correctness", "helpfulness", "harmlessness", "detail"]
    assert list(found["betas"].items()) == [("dpo", [0.05]), ("kto", [0.05])]
    assert found["points_along"] == "steps"
    assert (found["n_curve_prompts"], found["n_prompts"]) == ("4", "6")
    assert found["runs"] == [
        {
            "run": f"run {place}",
            "seed": seed,
            "alpha": alpha,
            "every": 2,
            "tau": 2,
            "beta": {"dpo": 0.05, "ipo": 0.01, "kto": 0.05},
            "methods": ["dpo", "tr_dpo_soft", "kto"],
            "made": None,
        }
        for place, seed, alpha in ((0, 2, 0.9), (1, 1, 0.6))
    ]
    assert found["settings"]["ref_update.alpha"] == 0.9
    assert found["settings"]["align.evaluate_at"] == [0.5, 1.0]
    assert not [key for key in found["settings"] if key.startswith("methods")]
    assert found["judge_accuracy"]["coherence"] == {"accuracy": 0.9, "ci": [0.8, 1.0], "n": 32}
    assert (found["calibration"], found["judge_warning"]) == (None, None)
    assert found["seconds"] == {"align": 3.5}
    assert found["versions"]["tr-align"] and "torch" in found["versions"]
    assert None not in found["versions"].values()
    assert found["date"] == datetime.date.today().isoformat()
    assert len(found["verdict"]) == 2


def test_the_context_of_another_judge_model_and_data(tmp_path: Path) -> None:
    changed = {"judge.name": "openai", "model.name": "org/some-model", "data.source": "anthropic_hh"}
    found = report_of(tmp_path / "a", Made(settings=changed)).context
    assert (found["model"], found["data"], found["judge"]) == ("org/some-model", "Anthropic-HH", "gpt-4o-2024-08-06")
    found = report_of(tmp_path / "b", Made(settings={"data.source": "files", "data.path": "my/pairs.csv"})).context
    assert found["data"] == "my/pairs.csv"


def test_a_judge_that_does_no_better_than_chance_is_warned_of(tmp_path: Path) -> None:
    agreement = {"value": 0.5, "ci": [0.4, 0.6], "n": 90, "n_missing": 0}
    card = {"agreement": agreement, "verdict": "no better than chance", "agreement_rating": agreement}
    found = report_of(tmp_path, Made(calibration=card | {"verdict_rating": "better than chance"})).context
    assert found["calibration"]["agreement"]["n"] == 90
    assert "no better than chance (50.0 % [40.0, 60.0], n = 90)" in found["judge_warning"]


def test_base_methods_alone_claim_nothing(tmp_path: Path) -> None:
    report = report_of(tmp_path, Made(methods=("dpo", "ipo")))
    assert (report.claims, report.frontier, report.problems) == ([], [], [])
    assert [row["cell"] for row in report.peaks] == ["dpo", "ipo"]
    assert report.context["verdict"] == [
        "No trust-region method of this report could be compared with its base.",
        "It holds no trust-region method together with its base.",
    ]


def test_a_run_with_nothing_trained_still_makes_a_report(tmp_path: Path) -> None:
    write(tmp_path / "a")
    for method in ("dpo", "tr_dpo_soft"):
        (tmp_path / "a" / "generations" / f"{method}.jsonl").unlink()
    report = collect([load("early", from_folder(tmp_path / "a"))])
    assert [row["cell"] for row in report.points] == ["sft"]
    assert (report.context["n_prompts"], report.context["n_curve_prompts"]) == ("0", None)
    assert (report.context["betas"], report.context["judge_bias"]["n"]) == ({}, 0)
    assert len(report.problems) == 2
    json.dumps(asdict(report), allow_nan=False)


def test_models_that_were_never_evaluated_before_the_end_have_no_curve_prompts(tmp_path: Path) -> None:
    report = report_of(tmp_path, Made(steps=(4,)))
    assert (report.context["n_curve_prompts"], report.context["n_prompts"]) == (None, "6")


def test_frontier_and_peaks_are_the_comparisons(tmp_path: Path) -> None:
    """Soft is 1 above the base at 4 nats, both at 5 + k / 2 up to the base's first point at 2. Hard has its peak, 7, at
    5 nats and ends at 4."""
    report = report_of(tmp_path, Made(methods=("dpo", "tr_dpo_soft", "tr_dpo_hard")))
    soft = [row for row in report.frontier if row["cell"] == "tr_dpo_soft"]
    assert [row["kl"] for row in soft] == pytest.approx([4 * (place + 1) / 12 for place in range(12)])
    assert [row["difference"] for row in soft] == pytest.approx([0.0] * 6 + [place / 6 for place in range(1, 7)])
    assert [row["largest"] for row in soft] == [False] * 11 + [True]
    last = soft[-1]
    assert (last["base"], last["name"], last["seeds"], last["n_prompts"]) == ("DPO", "TR-DPO soft", [0], 4)
    assert around(last, "difference") == pytest.approx([1.0, 1.0])
    hard = one(report.peaks, cell="tr_dpo_hard")
    assert (hard["kl"], hard["at_end"], hard["seeds"], hard["n_prompts"], hard["along"]) == (
        5.0,
        False,
        [0],
        4,
        "steps",
    )
    assert hard["hc"] == pytest.approx(7.0)
    assert (hard["drop"], *around(hard, "drop")) == pytest.approx((3.0, 3.0, 3.0))
    assert around(hard, "kl") == [5.0, 5.0]
    assert one(report.peaks, cell="tr_dpo_soft")["at_end"] is True


def test_the_drop_of_two_seeds_is_over_two_seeds(tmp_path: Path) -> None:
    """Hard loses 3 and 5: mean 4, half-width 12.7."""
    methods = ("dpo", "tr_dpo_hard")
    first, second = seeds(0, 1, methods=methods)

    def further(method: str, step: int, prompt: int) -> float | None:
        return 2.0 + LUCK[prompt] if (method, step) == ("tr_dpo_hard", 4) else hc(method, step, prompt)

    second.hc = further
    row = one(report_of(tmp_path, first, second).peaks, cell="tr_dpo_hard")
    assert row["drop"] == pytest.approx(4.0)
    assert around(row, "drop") == pytest.approx([4 - HALF_WIDTH, 4 + HALF_WIDTH], rel=1e-4)
    assert row["seeds"] == [0, 1]


def test_what_the_judge_left_unread_is_said_of_each_run(tmp_path: Path) -> None:
    first, second = seeds(0, 1)
    first.hc = lambda method, step, prompt: None if (method, step, prompt) in {
        ("dpo", 2, 0), ("dpo", 4, 1), ("dpo", 4, 2), ("sft", 0, 0)
    } else 5.0  # fmt: skip
    second.duel = lambda method, against, prompt: UNREAD if (method, against) == ("dpo", "sft") and prompt else WIN
    assert report_of(tmp_path, first, second).problems == [
        "run 0: SFT: the judge's rating of 1 of 6 replies was not readable",
        "run 0: DPO: the judge's rating of 2 of 6 replies was not readable",
        "run 1: DPO against sft: 5 of 6 duels were not readable",
    ]


def test_runs_that_cannot_be_compared_are_left_out_and_named(tmp_path: Path) -> None:
    report = report_of(tmp_path, *seeds(0, 1), Made(settings={"seed": 2, "align.max_grad_norm": 0.5}))
    assert report.context["seeds"] == [0, 1]
    assert len(report.context["runs"]) == 2
    assert len(report.problems) == 1
    assert report.problems[0].startswith("run 2 is left out: it differs from run 0 in align.max_grad_norm")


def test_a_method_and_a_seed_that_are_missing_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a", Made(settings={"seed": 1}))
    (tmp_path / "a" / "judgements" / "tr_dpo_soft.jsonl").unlink()
    runs = [made_run(tmp_path, "first"), load("second", from_folder(tmp_path / "a"))]
    assert collect(runs).problems == [
        "second: judgements/tr_dpo_soft.jsonl is missing: TR-DPO soft is left out (its stage did not finish)",
        "TR-DPO soft at β = 0.05 lacks seed 1: its numbers are over 1 of 2 seeds",
    ]


def test_no_number_that_is_none_leaves(tmp_path: Path) -> None:
    """Half of the ratings and duels unread, a log with NaN, one seed of two without most: all is JSON without NaN."""
    first, second = seeds(0, 1)
    for made in (first, second):
        made.hc = lambda method, step, prompt: None if (prompt + step // 2) % 2 else 5.0 + LUCK[prompt]
        made.duel = lambda method, against, prompt: UNREAD if prompt % 2 else FLIPPED
    runs: list[Run] = [made_run(tmp_path, f"run {place}", made) for place, made in enumerate((first, second))]
    runs[0].models["dpo"].log[0] |= {"loss": math.nan, "grad_norm": math.inf}
    report = collect(runs)
    json.dumps(asdict(report), allow_nan=False)
    line = one(report.training, cell="dpo", seed=0, step=1)
    assert (line["loss_value"], line["grad_norm"]) == (None, None)
    replies = [row["replies"]["dpo"]["hc"] for row in report.prompts]
    assert [value is None for value in replies] == [False, True] * 3


def test_plain_values_by_hand() -> None:
    found = plain(
        {"a": (1.5, math.nan), "b": [{"c": -math.inf}], "d": "text", "e": True, "f": np.float64("nan"), "g": 2}
    )
    assert found == {"a": [1.5, None], "b": [{"c": None}], "d": "text", "e": True, "f": None, "g": 2}
    assert to_json({"β": math.nan, "n": [1]}) == '{\n "β": null,\n "n": [\n  1\n ]\n}\n'
