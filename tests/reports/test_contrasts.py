"""Settings of the update against each other, from runs whose curves are straight lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tr_align.reports.claims import claims
from tr_align.reports.collect import collect
from tr_align.reports.contrasts import contrast_claims, same_lag, setting_rows
from tr_align.reports.study import Study

from .run_folder import RESAMPLES, Made, one, seeds
from .sweep_runs import line, runs_of, studied

Row = dict[str, Any]
SOFT, HARD = ("tr_dpo_soft",), ("tr_dpo_hard",)


def rows_of(study: Study) -> list[Row]:
    return claims(study, [], {}, contrast_claims(study, RESAMPLES, 0))


def test_a_maximum_inside_the_range_by_hand(tmp_path: Path) -> None:
    """The largest KL that all three reach is 4: there 0.2 has 5 + 4 / 4 = 6, 0.6 has 7, and 0.9 has 5.5. 7 less the
    mean of 6 and 5.5 is 1.25."""
    mades = (line(4, 0.5, ("dpo", *SOFT), alpha=0.6), line(8, 0.25, alpha=0.2), line(10, 0.125, alpha=0.9))
    (row,) = rows_of(studied(tmp_path, *mades))
    assert (row["kind"], row["cell"], row["effect"]) == ("alpha", "tr_dpo_soft-a0.6-e2", pytest.approx(1.25))
    assert (row["verdict"], row["kl"], row["beta"], row["n_prompts"], row["seeds"]) == ("supported", 4.0, 0.05, 4, [0])
    assert row["claim"] == "with TR-DPO soft quality at equal KL has its maximum inside the range of α"
    assert row["base"] == "TR-DPO soft α=0.2, every 2 and TR-DPO soft α=0.9, every 2"
    parts = row["detail"].split("; ")
    assert [part.partition(" [")[0] for part in parts] == [
        "α = 0.2 every 2 steps: HC 6.00", "α = 0.6 every 2 steps: HC 7.00", "α = 0.9 every 2 steps: HC 5.50"
    ]  # fmt: skip
    assert row["evidence"].startswith(
        "HC with α = 0.6 every 2 steps differs from the mean of that with α = 0.2 every 2 steps and α = 0.9 every 2 "
        "steps by +1.25 [+1.25, +1.25] points at 4.0 nats, the largest KL all 3 reached (α = 0.2"
    )
    assert row["evidence"].endswith("(4 prompts, 1 seed); Holm-corrected p = 0.02")
    assert (row["paper"]["value"], row["paper"]["trust"], row["unit"]) == (11.8, "verified", "HC points")
    assert "swept" not in row


def test_a_main_alpha_at_the_end_of_the_range_gives_way_to_the_median(tmp_path: Path) -> None:
    """Of 0.1, 0.4, 0.5, 0.9 the middle is 0.5: at 4 nats 5 + 4 * 0.1 less the mean of 5 + 4 and 5 + 4 * 0.5."""
    slopes = {0.1: 1.0, 0.4: 3.0, 0.5: 0.1, 0.9: 0.5}
    row = one(rows_of(studied(tmp_path, *(line(4, slope, alpha=alpha) for alpha, slope in slopes.items()))))
    assert (row["effect"], row["verdict"]) == (pytest.approx(5.4 - (9 + 7) / 2), "contradicted")
    assert row["cell"] == "tr_dpo_soft-a0.1-e2"
    assert row["evidence"].startswith("HC with α = 0.5 every 2 steps")


def test_two_alphas_have_none_between_them(tmp_path: Path) -> None:
    found = studied(tmp_path, line(4, 0.5, alpha=0.6), line(4, 0.5, alpha=0.2), line(4, 0.5, alpha=0.9, every=1))
    assert rows_of(found) == []


def test_an_alpha_with_another_beta_is_no_part_of_it(tmp_path: Path) -> None:
    mades = [line(4, 0.5, alpha=alpha) for alpha in (0.6, 0.3, 0.7)]
    extreme = line(4, 9.0, alpha=0.1, beta__dpo=0.5)
    row = one(rows_of(studied(tmp_path, *mades, extreme)))
    assert row["effect"] == pytest.approx(0.0)
    assert "0.1" not in row["evidence"].partition("(4 prompts")[0]


def test_seeds_that_only_one_of_them_has_do_not_count(tmp_path: Path) -> None:
    mades = [line(4, 0.5, alpha=0.6), line(4, 9.0, alpha=0.6, seed=1)]
    mades += [line(4, slope, alpha=alpha) for alpha, slope in ((0.2, 0.25), (0.9, 0.25))]
    row = one(rows_of(studied(tmp_path, *mades)))
    assert (row["seeds"], row["effect"]) == ([0], pytest.approx(1.0))
    apart = [line(4, 0.5, alpha=0.6), line(4, 0.5, alpha=0.2), line(4, 0.5, alpha=0.9, seed=1)]
    row = one(rows_of(studied(tmp_path / "apart", *apart)))
    assert (row["verdict"], row["effect"]) == ("inconclusive", None)
    assert row["evidence"] == "could not be tested: no seed was trained with all"


def test_too_small_a_tau_by_hand(tmp_path: Path) -> None:
    """At 4 nats the main one, 4, has 7 and the smallest, 2, has 6; 8 is no part of it."""
    mades = (line(4, 0.5, HARD, tau=4), line(8, 0.25, HARD, tau=2), line(9, 5.0, HARD, tau=8))
    row = one(rows_of(studied(tmp_path, *mades)))
    assert (row["kind"], row["cell"], row["effect"]) == ("tau", "tr_dpo_hard-t4", pytest.approx(1.0))
    assert row["claim"] == "with TR-DPO hard too small a τ costs quality at equal KL"
    assert row["evidence"].startswith(
        "HC with τ = 4 differs from that with τ = 2 by +1.00 [+1.00, +1.00] points at 4.0 nats, the largest KL both "
        "reached (τ = 2: HC 6.00"
    )
    assert (row["base"], row["paper"]["value"]) == ("TR-DPO hard τ=2", 28.4)
    # The main one is the smallest: of 8 and 4 the larger stands for what is not too small.
    row = one(rows_of(studied(tmp_path / "b", *(mades[place] for place in (1, 0, 2)))))
    assert (row["cell"], row["base"]) == ("tr_dpo_hard-t2", "TR-DPO hard τ=2")
    assert row["effect"] == pytest.approx(5 * 8 - 0.25 * 8) and row["kl"] == 8.0


def test_an_update_every_step_by_hand(tmp_path: Path) -> None:
    """1 - 0.4^(1/4) = 0.2047: alpha 0.205 every step and 0.6 every fourth leave as much of the reference a step."""
    mades = (line(4, 0.5, alpha=0.6, every=4), line(4, 0.75, alpha=0.205, every=1), line(4, 9.0, alpha=0.5, every=1))
    row = one(rows_of(studied(tmp_path, *mades)))
    assert (row["kind"], row["cell"], row["effect"]) == ("interval", "tr_dpo_soft-a0.6-e4", pytest.approx(1.0))
    assert row["evidence"].startswith(
        "HC with α = 0.205 every step differs from that with α = 0.6 every 4 steps by +1.00"
    )
    assert row["paper"]["text"].startswith("unknown") and row["paper"]["value"] is None


def test_equal_lags(tmp_path: Path) -> None:
    """Of (0.6, 4) 0.4^(1/4) = 0.7953 is left a step. Within 1 % of it: 0.797 of (0.203, 1), 0.788 of (0.212, 1); not
    0.786 of (0.214, 1), nor 0.8038 of (0.1962, 1). What is replaced whole is alike to nothing."""
    knobs = [(0.6, 4), (0.203, 1), (0.212, 1), (0.214, 1), (0.1962, 1), (1.0, 1), (1.0, 4)]
    found = studied(tmp_path, *(line(4, 0.5, alpha=alpha, every=every) for alpha, every in knobs))
    groups = same_lag(found, [cell for cell in found.cells if cell != "sft"])
    assert sorted(groups[0]) == ["tr_dpo_soft-a0.203-e1", "tr_dpo_soft-a0.212-e1", "tr_dpo_soft-a0.6-e4"]
    assert sorted(cell for group in groups[1:] for cell in group) == [
        "tr_dpo_soft-a0.1962-e1", "tr_dpo_soft-a0.214-e1"
    ]  # fmt: skip


def test_one_setting_a_method_has_nothing_to_compare(tmp_path: Path) -> None:
    found = studied(tmp_path, *seeds(0, 1, methods=("dpo", *SOFT, *HARD)))
    assert contrast_claims(found, RESAMPLES, 0) == []
    assert setting_rows(found, RESAMPLES, 0) == ([], [])


# The rows of the figure.


def test_rows_by_setting_by_hand(tmp_path: Path) -> None:
    """All at the KL of the base, which ends first, at 4 nats and 5 + 4 * 0.25 = 6."""
    mades = [line(6, 0.5, alpha=0.6), line(4, 0.25, ("dpo",)), line(8, 0.125, alpha=0.2), line(8, 1.0, alpha=0.9)]
    rows, problems = setting_rows(studied(tmp_path, *mades), RESAMPLES, 0)
    assert problems == []
    assert {row["cell"]: (row["alpha"], row["hc"], row["difference"]) for row in rows} == {
        "tr_dpo_soft-a0.2-e2": (0.2, pytest.approx(5.5), pytest.approx(-0.5)),
        "tr_dpo_soft-a0.6-e2": (0.6, pytest.approx(7.0), pytest.approx(1.0)),
        "tr_dpo_soft-a0.9-e2": (0.9, pytest.approx(9.0), pytest.approx(3.0)),
        "dpo": (None, pytest.approx(6.0), None),
    }
    for row in rows:
        assert (row["panel"], row["kl"], row["beta"], row["base"]) == ("DPO soft, every 2 steps", 4.0, 0.05, "DPO")
        assert (row["seeds"], row["n_prompts"]) == ([0], 4)
        assert row["hc_lo"] < row["hc"] < row["hc_hi"]
    assert rows[0]["difference_lo"] == pytest.approx(-0.5)


def test_settings_that_share_no_seed_are_named(tmp_path: Path) -> None:
    mades = [line(4, 0.5, HARD, tau=tau, seed=seed) for tau, seed in ((2, 0), (4, 0), (8, 1))]
    report = collect(runs_of(tmp_path, *mades))
    assert report.by_setting == []
    assert "TR-DPO hard is not drawn along τ: no seed was trained with all" in report.problems


def test_a_report_of_a_sweep_has_them(tmp_path: Path) -> None:
    mades = [line(4, 0.5, ("dpo", *HARD), tau=2), *(line(4, 0.25, HARD, tau=tau) for tau in (4, 8))]
    report = collect(runs_of(tmp_path, *mades))
    assert [row["cell"] for row in report.by_setting] == [
        "tr_dpo_hard-t2", "tr_dpo_hard-t4", "tr_dpo_hard-t8", "dpo"
    ]  # fmt: skip
    assert {row["panel"] for row in report.by_setting} == {"DPO hard"}
    assert one(report.claims, kind="tau")["id"] == "tau/tr_dpo_hard-t2"


def test_made_lines_are_what_they_say() -> None:
    made = line(4, 0.5, alpha=0.2, beta__dpo=0.1)
    assert isinstance(made, Made)
    assert made.settings == {"ref_update.alpha": 0.2, "methods.tr_dpo_soft.base": "sft", "beta.dpo": 0.1}
    assert (made.kl("dpo", 2, 0), made.kl("sft", 0, 0)) == (2.0, 0.0)
