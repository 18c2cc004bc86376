"""Claims about log-probabilities from made-up runs: by hand, in both directions, and what could not be tested."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tr_align.metrics.ood import KINDS
from tr_align.metrics.seeds import Estimate
from tr_align.reports import likelihood_claims as likelihood_claims_module
from tr_align.reports.claims import Finding, claims
from tr_align.reports.likelihood_claims import likelihood_claims
from tr_align.reports.runs import from_folder, load
from tr_align.reports.study import Study, study

from .run_folder import HALF_WIDTH, RESAMPLES, Made, made_run, one, seeds, write

P = 2 / (1 + RESAMPLES)
"""Where no resample reaches zero."""
THREE = ("dpo", "tr_dpo_soft", "tr_dpo_hard")
LUCK = (-3.0, 0.5, 1.0, -0.25)
"""Per token, of the texts of a prompt under every policy alike: it cancels."""
Change = Callable[[str, int, int, str], float]


def texts(change: Change) -> Callable[[str, int, int, str], tuple[float, int]]:
    """Texts of prompt + 1 tokens whose log-probability per token changes since SFT by so much."""

    def logp(method: str, step: int, prompt: int, kind: str) -> tuple[float, int]:
        own = 0.0 if method == "sft" else change(method, step, prompt, kind)
        return (prompt + 1) * (LUCK[prompt] + KINDS.index(kind) + own), prompt + 1

    return logp


def studied(root: Path, *mades: Made) -> Study:
    return study([made_run(root, f"run {place}", made) for place, made in enumerate(mades)])


def rows_of(root: Path, *mades: Made) -> list[dict[str, Any]]:
    found = studied(root, *mades)
    return claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0))


# Text outside the data, at the same KL.

DOWN = {"dpo": {2: -1.0, 4: -2.0}, "tr_dpo_soft": {2: -6.0, 4: -7.0}, "tr_dpo_hard": {2: -1.0, 4: 30.0}}
"""The base is at 2 and 4 nats, soft at 6 and 8, hard at 5 and 10. At 4 nats, where the base ends, soft has lost
6 * 4 / 6 = 4, and hard 1 * 4 / 5 = 0.8, the base 2."""


def outside(method: str, step: int, prompt: int, kind: str) -> float:
    """Foreign texts change by half of what mismatched ones do, and the others by much that is no business of it."""
    return {"mismatched": 1.0, "foreign": 0.5}.get(kind, -10.0) * DOWN[method][step]


def test_less_probability_outside_is_what_supports_the_claim(tmp_path: Path) -> None:
    """Mismatched -4 + 2 = -2 and foreign half of it, on average -1.5; hard -0.8 + 2 = 1.2 and 0.6: 0.9 more."""
    rows = {row["id"]: row for row in rows_of(tmp_path, Made(methods=THREE, logp=texts(outside)))}
    soft, hard = rows["ood/tr_dpo_soft"], rows["ood/tr_dpo_hard"]
    assert (soft["effect"], soft["verdict"]) == (pytest.approx(-1.5), "supported")
    assert (hard["effect"], hard["verdict"]) == (pytest.approx(0.9), "contradicted")
    # The largest p of two is not corrected, the smaller twice, and none less than one before it.
    assert [row["p_holm"] for row in (soft, hard)] == pytest.approx([2 * P, 2 * P])
    assert soft["p"] == pytest.approx(P)
    for row in (soft, hard):
        assert row["ci"] == pytest.approx([row["effect"]] * 2)
        assert (row["unit"], row["kl"], row["beta"], row["seeds"]) == ("nats per token", 4.0, 0.05, [0])
        assert (row["n_prompts"], row["base"]) == (4, "DPO")
        assert row["paper"]["trust"] == "weak" and row["paper"]["value"] is None
    assert soft["claim"] == "TR-DPO soft gives less probability to text outside the data than DPO at the same KL"
    assert soft["detail"] == "mismatched replies -2.00 [-2.00, -2.00], foreign texts -1.00 [-1.00, -1.00]"
    assert soft["evidence"] == (
        "log-probability of text outside the data differs by -1.50 [-1.50, -1.50] nats per token at 4.0 nats, the "
        f"largest KL both reached ({soft['detail']}) (4 prompts, 1 seed); Holm-corrected p = 0.04"
    )


def test_no_difference_is_inconclusive(tmp_path: Path) -> None:
    """Two prompts lower by 2, two higher: a mean of zero."""

    def mixed(method: str, step: int, prompt: int, kind: str) -> float:
        return 0.0 if method == "dpo" else (2.0 if prompt % 2 else -2.0)

    row = one(rows_of(tmp_path, Made(logp=texts(mixed))), kind="ood")
    assert (row["effect"], row["verdict"]) == (pytest.approx(0.0), "inconclusive")
    assert row["ci"][0] < 0 < row["ci"][1] and row["p"] > 0.1


def test_two_seeds_are_averaged(tmp_path: Path) -> None:
    """-1.5 and 0: -0.75 with half-width 0.75 times Student's t of one degree of freedom."""
    first, second = seeds(0, 1)
    first.logp, second.logp = texts(outside), texts(lambda method, step, prompt, kind: 0.0)
    row = one(rows_of(tmp_path, first, second), kind="ood")
    assert (row["effect"], row["seeds"], row["verdict"]) == (pytest.approx(-0.75), [0, 1], "inconclusive")
    assert row["ci"] == pytest.approx([-0.75 - 0.75 * HALF_WIDTH, -0.75 + 0.75 * HALF_WIDTH], rel=1e-4)


def test_texts_of_before_foreign_ones_were_measured(tmp_path: Path) -> None:
    found = studied(tmp_path, Made())
    for by_seed in found.trained.values():
        for trained in by_seed.values():
            trained.likelihoods[:] = [line for line in trained.likelihoods if line["kind"] != "foreign"]
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="ood")
    assert (row["verdict"], row["effect"], row["ci"], row["p_holm"]) == ("inconclusive", None, None, None)
    assert row["evidence"] == "could not be tested: the log-probability of foreign texts was not measured"
    assert "detail" not in row


def test_a_prompt_without_one_of_the_kinds_does_not_count(tmp_path: Path) -> None:
    found = studied(tmp_path, Made(logp=texts(outside)))
    for trained in found.trained["dpo", 0.05].values():
        lost = ("mismatched", "p2")
        trained.likelihoods[:] = [line for line in trained.likelihoods if (line["kind"], line["prompt_id"]) != lost]
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="ood")
    assert (row["n_prompts"], row["effect"]) == (3, pytest.approx(-1.5))


def test_a_prompt_without_a_reply_at_some_point_does_not_count(tmp_path: Path) -> None:
    """Its KL there is not known."""
    found = studied(tmp_path, Made(logp=texts(outside)))
    del found.trained["dpo", 0.05][0].answers[2]["p1"]
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="ood")
    assert (row["n_prompts"], row["effect"]) == (3, pytest.approx(-1.5))


def test_no_prompt_in_common(tmp_path: Path) -> None:
    found = studied(tmp_path, Made(logp=texts(outside)))
    lines = found.trained["dpo", 0.05][0].likelihoods
    lines[:] = [line | {"prompt_id": f"another {line['prompt_id']}"} for line in lines]
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="ood")
    why = "no seed has a prompt that was answered and measured at every point"
    assert row["evidence"] == f"could not be tested: {why}"


def test_no_kl_in_common_and_no_text_in_common(tmp_path: Path) -> None:
    still = Made(kl=lambda method, step, prompt: 0.0)
    row = one(rows_of(tmp_path / "still", still), kind="ood")
    assert row["evidence"].startswith("could not be tested: the curves share no range of KL")
    write(tmp_path / "a")
    (tmp_path / "a" / "likelihoods" / "dpo.jsonl").unlink()
    found = study([load("a", from_folder(tmp_path / "a"))])
    rows = claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0))
    why = "no seed has a prompt that was answered and measured at every point"
    assert one(rows, kind="ood")["evidence"] == f"could not be tested: {why}"
    assert one(rows, kind="recovery")["detail"].endswith("; DPO was not measured")


def test_nothing_was_measured(tmp_path: Path) -> None:
    assert rows_of(tmp_path, Made(logp=None)) == []
    assert rows_of(tmp_path / "base", Made(methods=("dpo",))) == []


# Chosen replies that fall and recover.


def course(**by_method: tuple[float, ...]) -> Made:
    """Three points: what chosen replies changed by since SFT, under each method."""
    steps = (1, 2, 4)

    def change(method: str, step: int, prompt: int, kind: str) -> float:
        return by_method.get(method, (-1.0, -1.0, -1.0))[steps.index(step)] if kind == "chosen" else -7.0 * step

    return Made(
        methods=THREE,
        steps=steps,
        logp=texts(change),
        kl=lambda method, step, prompt: 0.0 if method == "sft" else float(step),
        hc=lambda method, step, prompt: 5.0,
    )


def test_a_fall_and_a_recovery(tmp_path: Path) -> None:
    """Soft is 0.5 down at step 2 and 0.3 up from there; hard goes on falling, by 1 from step 2 on; the base rests."""
    made = course(tr_dpo_soft=(-0.25, -0.5, -0.2), tr_dpo_hard=(-1.0, -2.0, -3.0), dpo=(-1.0, -1.0, -0.75))
    rows = {row["id"]: row for row in rows_of(tmp_path, made)}
    soft, hard = rows["recovery/tr_dpo_soft"], rows["recovery/tr_dpo_hard"]
    assert (soft["effect"], soft["verdict"], soft["p"]) == (pytest.approx(0.3), "supported", pytest.approx(P))
    # One of the two ways to be contradicted: its p counts twice, and here Holm has nothing to add to the larger one.
    assert (hard["effect"], hard["p"], hard["p_holm"]) == (
        pytest.approx(-1.0), pytest.approx(2 * P), pytest.approx(2 * P)
    )  # fmt: skip
    assert hard["verdict"] == "contradicted"
    assert soft["p_holm"] == pytest.approx(2 * P)
    assert soft["claim"] == "with TR-DPO soft the log-probability of chosen replies first falls and then recovers"
    assert soft["detail"] == (
        "since SFT -0.50 [-0.50, -0.50] at its lowest before the end (step 2), "
        "+0.30 [+0.30, +0.30] from there to the end; "
        "DPO -1.00 [-1.00, -1.00] at its lowest before the end (step 1), +0.25 [+0.25, +0.25] from there to the end"
    )
    assert soft["evidence"] == (
        f"log-probability of chosen replies in nats per token, {soft['detail']} (4 prompts, 1 seed); "
        "Holm-corrected p = 0.04"
    )
    assert (soft["unit"], soft["kl"], soft["beta"], soft["n_prompts"]) == ("nats per token", None, 0.05, 4)
    assert soft["paper"]["trust"] == "secondary"


@pytest.mark.parametrize(
    ("soft", "verdict"),
    [
        ((-0.25, -0.5, -0.2), "supported"),
        ((-0.5, -0.25, -0.2), "supported"),  # lowest at the first point
        ((-0.25, -0.5, 0.5), "supported"),  # ends above where it began
        ((0.1, 0.3, 0.4), "contradicted"),  # never below SFT
        ((0.1, 0.3, 0.1), "contradicted"),  # no rise either, and still above
        ((-0.1, -0.2, -0.3), "contradicted"),  # goes on falling
        ((0.1, 0.2, -0.3), "contradicted"),  # rises first and falls then
        ((-0.2, -0.2, -0.2), "inconclusive"),  # falls and stays
        ((0.0, 0.0, 0.3), "inconclusive"),  # rises without a fall
    ],
)
def test_both_the_fall_and_the_rise_are_needed(tmp_path: Path, soft: tuple[float, ...], verdict: str) -> None:
    made = replace(course(tr_dpo_soft=soft), methods=("dpo", "tr_dpo_soft"))
    assert one(rows_of(tmp_path, made), kind="recovery")["verdict"] == verdict


def test_the_larger_of_the_two_p_values_counts(tmp_path: Path) -> None:
    """The rise is the same for all four texts; the fall is 3, 3, 3 and -1: it is on average 2, and not sure."""

    def change(method: str, step: int, prompt: int, kind: str) -> float:
        fall = 1.0 if prompt == 3 else -3.0
        return fall + (1.0 if step == 4 else 0.0)

    found = studied(tmp_path, Made(logp=texts(change)))
    (tested,) = [one for one in likelihood_claims(found, RESAMPLES, 0) if one.kind == "recovery"]
    assert tested.estimate is not None and tested.estimate.value == pytest.approx(1.0)
    assert tested.estimate.p == pytest.approx(P)
    assert tested.p is not None and tested.p > 2 * P and tested.says == "inconclusive"
    # And the other way round: a sure fall, and a rise that is not.
    rising = Made(logp=texts(lambda method, step, prompt, kind: -1.0 + (step == 4) * (-1.0 if prompt == 3 else 3.0)))
    found = studied(tmp_path / "rising", rising)
    (tested,) = [one for one in likelihood_claims(found, RESAMPLES, 0) if one.kind == "recovery"]
    assert tested.estimate is not None and tested.p == tested.estimate.p > 2 * P


SURE, UNSURE = 0.001, 0.4


@pytest.mark.parametrize(
    ("low", "rise", "p", "says"),
    [
        (Estimate(-1.0, [-2.0, -0.5], 0.01), Estimate(1.0, [0.5, 2.0], 0.02), 0.02, "supported"),
        (Estimate(-1.0, [-2.0, -0.5], 0.02), Estimate(1.0, [0.5, 2.0], 0.01), 0.02, "supported"),
        # An interval that contains zero, though the p-value would do.
        (Estimate(-1.0, [-2.0, -0.5], SURE), Estimate(1.0, [-0.5, 2.0], SURE), SURE, "inconclusive"),
        (Estimate(-1.0, [-2.0, 0.5], SURE), Estimate(1.0, [0.5, 2.0], SURE), SURE, "inconclusive"),
        # What speaks for the claim does not speak against it.
        (Estimate(-1.0, [-2.0, -0.5], SURE), Estimate(-1.0, [-2.0, 0.5], UNSURE), 0.8, "inconclusive"),
        (Estimate(0.5, [-0.5, 1.0], UNSURE), Estimate(1.0, [0.5, 2.0], SURE), 0.8, "inconclusive"),
        (Estimate(0.5, [0.2, 1.0], 0.01), Estimate(1.0, [0.5, 2.0], SURE), 0.02, "contradicted"),
        (Estimate(-1.0, [-2.0, -0.5], SURE), Estimate(-1.0, [-2.0, -0.5], 0.01), 0.02, "contradicted"),
        # Two ways to be wrong at once.
        (Estimate(0.5, [0.2, 1.0], 0.03), Estimate(-1.0, [-2.0, 0.5], UNSURE), 0.06, "contradicted"),
        (Estimate(0.0, [-1.0, 1.0], 1.0), Estimate(0.0, [-1.0, 1.0], 1.0), 1.0, "inconclusive"),
    ],
)
def test_the_verdict_and_p_of_two_estimates(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    low: Estimate,
    rise: Estimate,
    p: float,
    says: str,
) -> None:
    found = studied(tmp_path, Made())
    monkeypatch.setattr(
        likelihood_claims_module, "_course", lambda *_: likelihood_claims_module.Course(low, rise, [2], 4, [0])
    )
    (tested,) = [one for one in likelihood_claims(found, RESAMPLES, 0) if one.kind == "recovery"]
    assert (tested.estimate, tested.p, tested.says) == (rise, pytest.approx(p), says)


def test_the_halves_and_seeds_may_differ_in_where_it_is_lowest(tmp_path: Path) -> None:
    first, second = course(tr_dpo_soft=(-0.25, -0.5, -0.2)), course(tr_dpo_soft=(-0.7, -0.5, -0.2))
    second.settings = {"seed": 1}
    row = one(rows_of(tmp_path, first, second), id="recovery/tr_dpo_soft")
    # 0.3 from step 2, and 0.5 from step 1.
    assert (row["effect"], row["seeds"]) == (pytest.approx(0.4), [0, 1])
    assert row["ci"] == pytest.approx([0.4 - 0.1 * HALF_WIDTH, 0.4 + 0.1 * HALF_WIDTH], rel=1e-4)
    assert "(steps 1 and 2)" in row["detail"] and "(4 prompts a seed, 2 seeds)" in row["evidence"]


def test_nothing_to_test_at_the_first_point(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, Made(steps=(4,)))
    row = one(rows, kind="recovery")
    assert (row["verdict"], row["effect"], row["p"]) == ("inconclusive", None, None)
    why = "the end is the first point at which the training was evaluated"
    assert row["evidence"] == f"could not be tested: {why}"
    assert one(rows, kind="ood")["effect"] is not None


def test_chosen_replies_of_the_sft_model_were_not_measured(tmp_path: Path) -> None:
    write(tmp_path / "a")
    path = tmp_path / "a" / "likelihoods" / "sft.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line)["kind"] != "chosen"]
    path.write_text("\n".join(lines) + "\n")
    found = study([load("a", from_folder(tmp_path / "a"))])
    (tested,) = [one for one in likelihood_claims(found, RESAMPLES, 0) if one.kind == "recovery"]
    assert tested == Finding(
        "recovery",
        "tr_dpo_soft",
        "dpo",
        "the log-probability of chosen replies was not measured under both the SFT model and a policy",
    )


def test_a_base_of_another_beta(tmp_path: Path) -> None:
    """Each at its own: the claim is about the method alone, and the base is said to be missing."""
    base = Made(methods=("dpo",), settings={"beta.dpo": 0.3})
    own = Made(methods=THREE[:2], settings={"beta.dpo": 0.1})
    found = studied(tmp_path, base, own)
    del found.trained["dpo", 0.1]
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="recovery")
    assert (row["beta"], row["detail"].endswith("; DPO was not measured")) == (0.1, True)
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="ood")
    assert row["evidence"] == "could not be tested: they were trained with no beta in common"


def test_seeds_without_texts_are_left_out(tmp_path: Path) -> None:
    first, second = course(tr_dpo_soft=(-0.25, -0.5, -0.2)), course(tr_dpo_soft=(-0.7, -0.5, -0.2))
    second.settings, second.logp = {"seed": 1}, None
    row = one(rows_of(tmp_path, first, second), id="recovery/tr_dpo_soft")
    assert (row["seeds"], row["effect"]) == ([0], pytest.approx(0.3))
    first, second = seeds(0, 1)
    first.logp, second.logp = texts(outside), texts(outside)
    found = studied(tmp_path / "one", first, second)
    found.trained["dpo", 0.05][0].likelihoods.clear()
    row = one(claims(found, [], {}, likelihood_claims(found, RESAMPLES, 0)), kind="ood")
    assert (row["seeds"], row["effect"]) == ([1], pytest.approx(-1.5))
