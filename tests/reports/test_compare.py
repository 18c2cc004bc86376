"""Trust-region methods against their base, by every measure: the numbers of run_folder.py by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tr_align.metrics.seeds import Estimate
from tr_align.metrics.win_rate import improvement_over_runs
from tr_align.reports.compare import Comparison, comparisons, peak_rows, spread
from tr_align.reports.runs import Run
from tr_align.reports.study import study
from tr_align.stats import mean_ci

from .run_folder import (
    FLIPPED,
    HALF,
    HALF_WIDTH,
    HEIGHT,
    LOSE,
    LUCK,
    RESAMPLES,
    TIE,
    UNREAD,
    WIN,
    Made,
    hc,
    kl,
    made_run,
    one,
    seeds,
)

P = 2 / (1 + RESAMPLES)
"""Where no resample reaches zero."""


def compared(runs: list[Run]) -> dict[str, Comparison]:
    found, failed = comparisons(study(runs), RESAMPLES, 0)
    assert failed == {}
    return {one.cell: one for one in found}


def of(root: Path, *mades: Made) -> dict[str, Comparison]:
    return compared([made_run(root, f"run {place}", made) for place, made in enumerate(mades)])


def numbers(estimate: Estimate | None) -> tuple[float, ...]:
    assert estimate is not None
    return estimate.value, *estimate.ci


ALL = ("dpo", "tr_dpo_soft", "tr_dpo_hard")


def test_every_measure_by_hand(tmp_path: Path) -> None:
    """Soft: 1 above the base at 4 nats, where the base ends; level up to 2 nats, so an area of 1; 8 - 4 nats further,
    9.5 - 6 higher. Hard: 0.6 above at 4, 0.2 under at 2, area -0.2 + 0.4; 10 - 4 nats further, and 4 - 6 lower."""
    found = of(tmp_path, Made(methods=ALL))
    assert list(found) == ["tr_dpo_soft", "tr_dpo_hard"]
    soft, hard = found.values()
    assert {(each.base, each.beta, tuple(each.seeds)) for each in found.values()} == {("dpo", 0.05, (0,))}
    assert soft.difference.range == hard.difference.range == 4.0
    assert numbers(soft.difference.at[-1]) == pytest.approx((1, 1, 1))
    assert numbers(soft.difference.area) == pytest.approx((1, 1, 1))
    assert numbers(soft.reach) == (4, 4, 4)
    assert numbers(soft.quality) == pytest.approx((3.5, 3.5, 3.5))
    assert numbers(hard.difference.at[-1]) == pytest.approx((0.6, 0.6, 0.6))
    assert numbers(hard.difference.area) == pytest.approx((0.2, 0.2, 0.2))
    assert numbers(hard.reach) == (6, 6, 6)
    assert numbers(hard.quality) == pytest.approx((-2, -2, -2))
    assert hard.quality is not None and hard.quality.p == pytest.approx(P)
    assert (soft.duel_prompts, soft.reach_prompts, soft.pairing.n_prompts) == (6, 6, 4)


def test_duels_are_wins_minus_losses(tmp_path: Path) -> None:
    """Two wins, a loss, a tie, a win beside a tie (neither), one unread: (2 - 1) / 5."""
    verdicts = (WIN, WIN, LOSE, TIE, HALF, UNREAD)
    found = of(tmp_path, Made(duel=lambda method, against, prompt: verdicts[prompt] if against == "base" else LOSE))
    values = np.array([1, 1, -1, 0, 0, math.nan])
    assert numbers(found["tr_dpo_soft"].duel) == pytest.approx((0.2, *mean_ci(values, RESAMPLES, 0)[1]))
    assert found["tr_dpo_soft"].duel_prompts == 6


def test_duels_that_were_not_held_or_not_read(tmp_path: Path) -> None:
    for place, verdicts in enumerate((None, UNREAD)):
        made = Made(duel=lambda method, against, prompt, verdicts=verdicts: verdicts if against == "base" else WIN)
        found = of(tmp_path / str(place), made)["tr_dpo_soft"]
        assert found.duel is None
        assert found.duel_prompts == (6 if verdicts else 0)
    first, second = seeds(0, 1)
    second.duel = lambda method, against, prompt: None
    assert of(tmp_path / "half", first, second)["tr_dpo_soft"].duel is None


def test_duels_of_two_seeds_stay_between_all_lost_and_all_won(tmp_path: Path) -> None:
    """All won and half won, half lost: mean 0.5, and Student's t with so few degrees of freedom passes 1."""
    first, second = seeds(0, 1)
    first.duel = lambda method, against, prompt: WIN
    second.duel = lambda method, against, prompt: WIN if prompt < 3 else LOSE
    value, low, high = numbers(of(tmp_path, first, second)["tr_dpo_soft"].duel)
    assert (value, high) == (0.5, 1.0)
    assert low == -1.0
    first.duel = lambda method, against, prompt: LOSE
    value, low, high = numbers(of(tmp_path / "lost", first, second)["tr_dpo_soft"].duel)
    assert (value, low) == (-0.5, -1.0)


def test_two_seeds_by_hand(tmp_path: Path) -> None:
    """At 4 nats soft is 1 and 3 above its base: mean 2. KL differs by 4 and 6: mean 5. Either standard error is 1."""
    first, second = seeds(0, 1)

    def higher(method: str, step: int, prompt: int) -> float | None:
        found = hc(method, step, prompt)
        # 5 + 6 * 4 / 6 = 9 at 4 nats
        return 11.0 + LUCK[prompt] if (method, step) == ("tr_dpo_soft", 2) else found

    second.hc = higher
    second.kl = lambda method, step, prompt: (
        kl(method, step, prompt) + (2 if (method, step) == ("tr_dpo_soft", 4) else 0)
    )
    found = of(tmp_path, first, second)["tr_dpo_soft"]
    assert found.seeds == found.pairing.seeds == [0, 1]
    assert numbers(found.difference.at[-1]) == pytest.approx((2, 2 - HALF_WIDTH, 2 + HALF_WIDTH), rel=1e-4)
    assert numbers(found.reach) == pytest.approx((5, 5 - HALF_WIDTH, 5 + HALF_WIDTH), rel=1e-4)
    # Both end at 9.5, the base at 6.
    assert numbers(found.quality) == pytest.approx((3.5, 3.5, 3.5))


def test_two_seeds_on_one_prompt_are_as_sure_as_two_seeds(tmp_path: Path) -> None:
    """One prompt shows no spread of prompts; the seeds' 1 and 3 show theirs."""
    first, second = seeds(0, 1, curve=(0,))
    second.hc = lambda method, step, prompt: 11.6 if (method, step) == ("tr_dpo_soft", 2) else hc(method, step, prompt)
    found = of(tmp_path, first, second)["tr_dpo_soft"].difference.at[-1]
    assert numbers(found) == pytest.approx((2, 2 - HALF_WIDTH, 2 + HALF_WIDTH), rel=1e-4)
    assert found.p == pytest.approx(0.2952, rel=1e-3)


def test_one_prompt_is_enough_to_compare(tmp_path: Path) -> None:
    found = of(tmp_path, Made(curve=(0,)))["tr_dpo_soft"]
    assert found.difference.at[-1].value == pytest.approx(1.0)


def test_improvement_of_one_seed(tmp_path: Path) -> None:
    """Better on three prompts, equal on one, worse on one, one unread: 3.5 / 5."""
    ours = (8.0, 8.0, 8.0, 6.0, 5.0, None)
    made = Made(hc=lambda method, step, prompt: ours[prompt] if (method, step) == ("tr_dpo_soft", 4) else 6.0)
    found = of(tmp_path, made)["tr_dpo_soft"].improvement
    assert found is not None and found[0] == pytest.approx(0.7)
    assert found[1][0] < 0.7 < found[1][1]
    all_better = of(tmp_path / "all", Made())["tr_dpo_soft"].improvement
    assert all_better == (1.0, pytest.approx([0.025 ** (1 / 6), 1.0]))


def test_improvement_over_seeds_pairs_all_runs(tmp_path: Path) -> None:
    """7 and 9 against 6 and 8: three of the four pairs are won. The interval is of runs drawn anew."""
    first, second = seeds(0, 1)
    first.hc = lambda method, step, prompt: {"tr_dpo_soft": 7.0, "dpo": 6.0}.get(method, 5.0)
    second.hc = lambda method, step, prompt: {"tr_dpo_soft": 9.0, "dpo": 8.0}.get(method, 5.0)
    found = of(tmp_path, first, second)["tr_dpo_soft"].improvement
    x, y = np.array([[7.0] * 6, [9.0] * 6]), np.array([[6.0] * 6, [8.0] * 6])
    assert found == (0.75, improvement_over_runs(x, y, RESAMPLES, 0))


def test_improvement_over_seeds_with_prompts_of_their_own_is_within_each_seed(tmp_path: Path) -> None:
    """7 against 6 on six prompts and 9 against 8 on five: won every time; eleven prompts, Clopper-Pearson."""
    first, second = seeds(0, 1)
    first.hc = lambda method, step, prompt: {"tr_dpo_soft": 7.0, "dpo": 6.0}.get(method, 5.0)
    second.hc = lambda method, step, prompt: {"tr_dpo_soft": 9.0, "dpo": 8.0}.get(method, 5.0)
    second.prompts = (0, 1, 2, 3, 4)
    found = of(tmp_path, first, second)["tr_dpo_soft"]
    assert found.improvement == (1.0, pytest.approx([0.025 ** (1 / 11), 1.0]))
    assert (found.reach_prompts, found.duel_prompts) == (5, 5)


def test_no_improvement_where_nothing_was_rated_of_both(tmp_path: Path) -> None:
    def alternately(method: str, step: int, prompt: int) -> float | None:
        return None if step == 4 and prompt % 2 == (method == "dpo") else 5.0

    found = of(tmp_path, Made(hc=alternately))["tr_dpo_soft"]
    assert found.improvement is None
    assert found.reach is not None


def test_prompts_that_only_one_answered_are_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path, made=Made(kl=lambda method, step, prompt: kl(method, step, prompt) + prompt))
    run.models["tr_dpo_soft"].answers[4]["p0"]["kl"] = 100.0
    del run.models["dpo"].answers[4]["p0"]
    found = compared([run])["tr_dpo_soft"]
    assert found.reach_prompts == 5
    assert numbers(found.reach)[0] == 4.0


def test_with_several_betas_the_trained_models_are_those_of_the_main_one(tmp_path: Path) -> None:
    """Main beta 0.5, 4 nats further there; 0.1 would be 14 further. The curves are of both."""

    def far(method: str, step: int, prompt: int) -> float:
        return kl(method, step, prompt) + (10 if method == "tr_dpo_soft" else 0)

    found = of(tmp_path, Made(settings={"beta.dpo": 0.5}), Made(settings={"beta.dpo": 0.1}, kl=far))["tr_dpo_soft"]
    assert (found.beta, found.pairing.along, found.pairing.beta) == (0.5, "beta", None)
    assert numbers(found.reach)[0] == 4.0


def test_where_the_main_beta_has_no_base_the_middle_one_is_compared(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, f"beta {beta}", Made(settings={"beta.dpo": beta})) for beta in (0.5, 0.1, 0.2, 0.3)]
    del runs[0].models["dpo"]
    assert compared(runs)["tr_dpo_soft"].beta == 0.2


def test_seeds_of_one_alone_are_not_compared(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, f"seed {made.settings['seed']}", made) for made in seeds(0, 1, 2)]
    del runs[1].models["dpo"]
    found = compared(runs)["tr_dpo_soft"]
    assert found.seeds == found.pairing.seeds == [0, 2]


def test_why_a_cell_could_not_be_compared(tmp_path: Path) -> None:
    """Soft never left the SFT model; hard can be compared."""
    made = Made(methods=ALL, kl=lambda method, step, prompt: 0.0 if "soft" in method else kl(method, step, prompt))
    sorted_runs = study([made_run(tmp_path, made=made)])
    found, failed = comparisons(sorted_runs, RESAMPLES, 0)
    assert [each.cell for each in found] == ["tr_dpo_hard"]
    assert failed == {"tr_dpo_soft": "the curves share no range of KL: one of them never left the SFT model"}


def test_flipped_verdicts_are_neither(tmp_path: Path) -> None:
    found = of(tmp_path, Made(duel=lambda method, against, prompt: FLIPPED))["tr_dpo_soft"]
    assert numbers(found.duel) == (0, 0, 0)


def test_peaks_with_several_betas_are_of_trained_models(tmp_path: Path) -> None:
    """Hard: SFT at 5, trained at 10 nats with 4 and, with the other beta, at 11 nats with 8."""

    def settings(beta: float, **more: Any) -> Made:
        return Made(methods=("dpo", "tr_dpo_hard"), settings={"beta.dpo": beta}, **more)

    other = settings(
        0.1,
        kl=lambda method, step, prompt: kl(method, step, prompt) + (step > 0),
        hc=lambda method, step, prompt: 8.0 + LUCK[prompt] if "hard" in method else hc(method, step, prompt),
    )
    runs = [made_run(tmp_path, f"run {place}", made) for place, made in enumerate((settings(0.5), other))]
    row = one(peak_rows(study(runs), RESAMPLES, 0), cell="tr_dpo_hard")
    assert (row["kl"], row["along"], row["at_end"], row["n_prompts"]) == (11.0, "beta", True, 6)
    assert row["hc"] == pytest.approx(8.0 + np.mean(LUCK))
    assert HEIGHT["hard"][2] == 7.0  # its best step, which is not a trained model


def test_the_ends_of_an_interval_as_columns() -> None:
    assert spread("x", Estimate(1.0, [0.5, 2.0], 0.1)) == {"x": 1.0, "x_lo": 0.5, "x_hi": 2.0}
    assert spread("x", None) == {"x": None, "x_lo": None, "x_hi": None}
