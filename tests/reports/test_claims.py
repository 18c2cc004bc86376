"""The claims from made-up answers: differences by hand, Holm over several of them, and answers that are missing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tr_align.config import AXES, METHODS, Params, load_params
from tr_align.errors import UserError
from tr_align.metrics.matched_kl import difference_at_matched_kl, resampled_differences
from tr_align.reports import claims as module
from tr_align.reports.claims import answers_of, claims
from tr_align.stats import interval

PROMPTS = [f"p{i}" for i in range(40)]
Answers = dict[str, dict[tuple[int, str], tuple[float, float]]]


@pytest.fixture
def params() -> Params:
    """All nine methods and 400 resamples."""
    loaded = load_params(Path(__file__).parents[2] / "presets" / "smoke.yaml")
    score = loaded.score.model_copy(update={"bootstrap": 400})
    return loaded.model_copy(update={"methods": dict(METHODS), "score": score})


def made_up(gains: dict[str, float], noise: float = 1.0) -> Answers:
    """Every method goes from SFT, at HC 5, to KL 4, where its HC is 6 and its gain, with noise of its own a prompt."""
    generator = np.random.default_rng(0)
    answers: Answers = {"sft": {(0, prompt): (0.0, 5.0) for prompt in PROMPTS}}
    for name in METHODS:
        own = generator.normal(size=len(PROMPTS))
        own = (
            noise * (own - own.mean()) / own.std()
        )  # exactly this noise, so that the differences are exactly the gains
        hc = 6.0 + gains.get(name, 0.0) + own
        answers[name] = {(8, prompt): (4.0, float(value)) for prompt, value in zip(PROMPTS, hc, strict=True)}
        answers[name] |= {(4, prompt): (2.0, 5.5) for prompt in PROMPTS[:-1]}
    return answers


def by_method(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return dict(zip([name for name in METHODS if METHODS[name].base != "sft"], rows, strict=True))


def test_one_row_a_trust_region_method_in_order(params: Params) -> None:
    rows = claims(params, made_up({}))
    assert [row["claim"].partition(" keeps")[0] for row in rows] == [
        "TR-DPO soft",
        "TR-DPO hard",
        "TR-IPO soft",
        "TR-IPO hard",
        "TR-KTO soft",
        "TR-KTO hard",
    ]
    assert {row["n_prompts"] for row in rows} == {39}  # one was not answered half-way
    keys = ["claim", "verdict", "evidence", "difference", "ci", "p", "kl", "n_prompts"]
    keys += ["probability_of_improvement", "probability_of_improvement_ci", "p_holm"]
    assert {tuple(row) for row in rows} == {tuple(keys)}


def test_verdicts_after_holm(params: Params) -> None:
    """A difference has the noise sqrt(2 / 40) = 0.22: gains of 2 and -2 are 9 of it, 0.5 is 2.2, and the rest none.

    p is 2 / 401 for the two, which Holm multiplies by 6 and 5 (the two being equal, by 6 both): 0.03. The third has
    some 2 or 3 %, under 5 % by itself and not after Holm's 4.
    """
    rows = by_method(claims(params, made_up({"tr_dpo_soft": 2.0, "tr_kto_hard": -2.0, "tr_ipo_hard": 0.5})))
    up, down, middle = rows["tr_dpo_soft"], rows["tr_kto_hard"], rows["tr_ipo_hard"]
    assert (up["verdict"], down["verdict"], middle["verdict"]) == ("supported", "contradicted", "not supported")
    for row in (up, down):
        assert row["p"] == pytest.approx(2 / 401)
        assert row["p_holm"] == pytest.approx(12 / 401)
        assert row["evidence"].endswith("; Holm-corrected p = 0.03")
    assert middle["ci"][0] > 0
    assert 2 / 401 < middle["p"] < 0.05
    assert middle["p_holm"] == pytest.approx(4 * middle["p"])
    assert middle["p_holm"] > 0.05
    others = [row for row in rows.values() if row not in (up, down, middle)]
    assert {row["verdict"] for row in others} == {"not supported"}
    assert all(row["ci"][0] < 0 < row["ci"][1] for row in others)


def test_alone_the_same_claim_is_supported(params: Params) -> None:
    few = params.model_copy(update={"methods": {name: METHODS[name] for name in ("ipo", "tr_ipo_hard")}})
    (row,) = claims(few, made_up({"tr_ipo_hard": 0.5}))
    assert row["verdict"] == "supported"
    assert row["p_holm"] == row["p"] < 0.05


def test_an_interval_that_touches_zero_supports_nothing(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict needs both: the interval, and p after Holm."""
    few = params.model_copy(update={"methods": {name: METHODS[name] for name in ("ipo", "tr_ipo_hard")}})
    for ci, verdict in (([0.0, 2.0], "not supported"), ([-2.0, 0.0], "not supported"), ([-3.0, -1.0], "contradicted")):
        monkeypatch.setattr(
            module,
            "difference_at_matched_kl",
            lambda *args, ci=ci: (1.0, ci, 4.0, difference_at_matched_kl(*args)[3]),
        )
        (row,) = claims(few, made_up({"tr_ipo_hard": 2.0}))
        assert (row["verdict"], row["p"]) == (verdict, pytest.approx(2 / 401))


def test_p_is_of_the_resamples_behind_the_interval(params: Params) -> None:
    answers = made_up({"tr_ipo_hard": 0.3})
    (row,) = [row for row in claims(params, answers) if "TR-IPO hard" in row["claim"]]
    curves = [module._curve(answers["sft"], answers[name], sorted(PROMPTS[:-1])) for name in ("tr_ipo_hard", "ipo")]
    draws = resampled_differences(curves[0], curves[1], 400, params.seed)
    assert row["ci"] == pytest.approx(interval(draws, len(PROMPTS) - 1))
    assert row["ci"] == difference_at_matched_kl(curves[0], curves[1], 400, params.seed)[1]
    assert row["p"] == pytest.approx(2 * (1 + (draws <= 0).sum()) / 401)


def test_improvement_of_the_trained_models(params: Params) -> None:
    """Of 40 prompts the method is better on 20, equal on 10 and worse on 10: (20 + 10 / 2) / 40 = 0.625."""
    answers = made_up({}, noise=0.0)
    for i, prompt in enumerate(PROMPTS):
        answers["tr_dpo_soft"][8, prompt] = (4.0, 6.0 + (i < 20) - (i >= 30))
    row = by_method(claims(params, answers))["tr_dpo_soft"]
    assert row["probability_of_improvement"] == 0.625
    low, high = row["probability_of_improvement_ci"]
    # 1, 1/2, 0 on 20, 10, 10 prompts: the standard deviation is sqrt(.5 + .0625 - .625^2) / sqrt 40 = 0.066.
    assert (low, high) == (pytest.approx(0.625 - 1.96 * 0.066, abs=0.03), pytest.approx(0.625 + 1.96 * 0.066, abs=0.03))


def test_a_missing_rating_or_reply_is_left_out_of_both(params: Params) -> None:
    """p0 and p1 have a rating of one alone, p3 a reply of one alone, and on p2 DPO is better: 36 of 37."""
    answers = made_up({"tr_dpo_soft": 2.0}, noise=0.0)
    answers["tr_dpo_soft"][8, "p0"] = (4.0, float("nan"))
    answers["dpo"][8, "p1"] = (4.0, float("nan"))
    answers["dpo"][8, "p2"] = (4.0, 9.0)
    del answers["dpo"][8, "p3"]
    row = by_method(claims(params, answers))["tr_dpo_soft"]
    assert row["probability_of_improvement"] == pytest.approx(36 / 37)
    assert row["n_prompts"] == 38


def test_resamples_without_a_rating_are_left_out_quietly(params: Params) -> None:
    """One prompt of 40 has readable ratings: most resamples say nothing, and the others all the same, that it is up.

    A resample of 39 has that prompt with a chance of 1 - (38/39)^39 = 0.637: p is about 2 / (1 + 0.637 * 400).
    """
    answers = made_up({"tr_dpo_soft": 2.0}, noise=0.0)
    for name in ("dpo", "tr_dpo_soft"):
        for prompt in PROMPTS[1:]:
            answers[name][8, prompt] = (4.0, float("nan"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = by_method(claims(params, answers))["tr_dpo_soft"]
    assert (row["difference"], row["ci"]) == (2.0, [2.0, 2.0])
    assert row["p"] == pytest.approx(2 / (1 + 0.637 * 400), rel=0.1)


def test_no_rating_of_both_is_an_error(params: Params) -> None:
    answers = made_up({})
    for i, prompt in enumerate(PROMPTS):
        answers["tr_dpo_soft" if i % 2 else "dpo"][8, prompt] = (4.0, float("nan"))
    with pytest.raises(UserError, match=r"TR-DPO soft and DPO: .*no pair.*could be read.*judge\.openai\.model"):
        claims(params, answers)


def test_a_run_of_base_methods_claims_nothing(params: Params) -> None:
    few = params.model_copy(update={"methods": {"dpo": METHODS["dpo"]}})
    assert claims(few, made_up({})) == []


def test_answers_of_a_judges_rows() -> None:
    """HC is the mean of the five axes, (1 + 2 + 3 + 4 + 5) / 5, and missing if one of them is."""
    replies = [{"step": 8, "prompt_id": "a", "kl": 1.5}, {"step": 8, "prompt_id": "b", "kl": 2.5}]
    axes = dict(zip(AXES, (1, 2, 3, 4, 5), strict=True))
    rows: list[dict[str, Any]] = [
        {"kind": "duel", "against": "sft", "prompt_id": "a", "shown": "first", "preference": "tie"},
        {"kind": "rating", "step": 8, "prompt_id": "b", "axes": axes | {"detail": None}},
        {"kind": "rating", "step": 8, "prompt_id": "a", "axes": axes},
    ]
    found = answers_of(replies, rows)
    assert found[8, "a"] == (1.5, 3.0)
    assert found[8, "b"][0] == 2.5
    assert np.isnan(found[8, "b"][1])
    assert len(found) == 2
