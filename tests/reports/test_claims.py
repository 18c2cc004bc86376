"""The claims from made-up runs: effects by hand, Holm within a kind, the paper's numbers, and the opening sentences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tr_align.config import METHODS
from tr_align.metrics.seeds import Estimate
from tr_align.reports.claims import COMPARED, KINDS, UNITS, Finding, claims, count, verdict
from tr_align.reports.compare import Comparison, comparisons
from tr_align.reports.page import tables
from tr_align.reports.study import Study, study
from tr_align.toy import claims as toy_claims

from .run_folder import HALF_WIDTH, LOSE, LUCK, RESAMPLES, WIN, Made, hc, kl, made_run, one, seeds

P = 2 / (1 + RESAMPLES)
"""Where no resample reaches zero."""
THREE = ("dpo", "tr_dpo_soft", "tr_dpo_hard")
TRUST_REGION = [name for name in METHODS if name.startswith("tr_")]
Row = dict[str, Any]


def prepared(root: Path, *mades: Made) -> tuple[Study, list[Comparison], Any]:
    sorted_runs = study([made_run(root, f"run {place}", made) for place, made in enumerate(mades)])
    return sorted_runs, *comparisons(sorted_runs, RESAMPLES, 0)


def rows_of(root: Path, *mades: Made) -> list[Row]:
    return claims(*prepared(root, *mades))


def test_a_row_a_kind_and_trust_region_method_in_order(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, Made(methods=tuple(METHODS)))
    assert [row["id"] for row in rows] == [f"{kind}/{method}" for kind in COMPARED for method in sorted(
        TRUST_REGION, key=list(METHODS).index)]  # fmt: skip
    assert [row["claim"] for row in rows if row["method"] == "tr_ipo_hard"] == [
        "TR-IPO hard keeps more quality than IPO at the same KL",
        "TR-IPO hard's curve of quality against KL lies above IPO's",
        "TR-IPO hard ends with more quality than IPO, at whatever KL",
        "TR-IPO hard beats IPO in duels",
        "TR-IPO hard moves further from the SFT model than IPO",
    ]
    always = {"id", "kind", "cell", "name", "method", "loss", "update", "alpha", "every", "tau", "base", "claim"}
    always |= {
        "verdict",
        "effect",
        "unit",
        "ci",
        "p",
        "p_holm",
        "n_prompts",
        "seeds",
        "beta",
        "kl",
        "evidence",
        "paper",
    }
    improvement = {"probability_of_improvement", "probability_of_improvement_ci", "detectable"}
    assert {frozenset(row) for row in rows if row["kind"] != "matched_kl"} == {frozenset(always)}
    assert {frozenset(row) for row in rows if row["kind"] == "matched_kl"} == {frozenset(always | improvement)}
    assert {row["unit"] for row in rows} == {UNITS[kind] for kind in COMPARED}
    assert set(UNITS) == set(KINDS) == set(tables.KINDS) - set(toy_claims.CLAIMS)
    assert list(KINDS)[: len(COMPARED)] == list(COMPARED)


def by_id(rows: list[Row]) -> dict[str, Row]:
    return {row["id"]: row for row in rows}


def test_every_kind_by_hand(tmp_path: Path) -> None:
    """As worked out in test_compare.py. Two cells a kind: Holm doubles the smaller p; of two equal ones both."""
    made = Made(methods=THREE, duel=lambda method, against, prompt: LOSE if method == "tr_dpo_hard" else WIN)
    rows = by_id(rows_of(tmp_path, made))
    expected = {
        "matched_kl/tr_dpo_soft": (1.0, "HC points", "supported", 2 * P),
        "matched_kl/tr_dpo_hard": (0.6, "HC points", "supported", 2 * P),
        "area/tr_dpo_soft": (1.0, "HC points × nats", "supported", 2 * P),
        "area/tr_dpo_hard": (0.2, "HC points × nats", "supported", 2 * P),
        "trained/tr_dpo_soft": (3.5, "HC points", "supported", 2 * P),
        "trained/tr_dpo_hard": (-2.0, "HC points", "contradicted", 2 * P),
        # Six of six, as a coin: p = 2 / 2^6, and no more than a hint after Holm.
        "duel/tr_dpo_soft": (100.0, "percentage points", "inconclusive", 2 / 32),
        "duel/tr_dpo_hard": (-100.0, "percentage points", "inconclusive", 2 / 32),
        "reach/tr_dpo_soft": (4.0, "nats", "supported", 2 * P),
        "reach/tr_dpo_hard": (6.0, "nats", "supported", 2 * P),
    }
    assert list(rows) == list(expected)
    for name, (effect, unit, verdict_, p_holm) in expected.items():
        row = rows[name]
        # Clopper & Pearson: the share of wins is at least 0.025^(1/6), wins minus losses twice that less one.
        near = (200 * 0.025 ** (1 / 6) - 100) * effect / 100
        ends = sorted([near, effect]) if row["kind"] == "duel" else [effect, effect]
        assert (row["effect"], row["ci"]) == (pytest.approx(effect), pytest.approx(ends)), name
        assert (row["unit"], row["verdict"]) == (unit, verdict_), name
        assert row["p_holm"] == pytest.approx(p_holm), name
        assert (row["seeds"], row["beta"], row["base"]) == ([0], 0.05, "DPO"), name
        assert row["n_prompts"] == (4 if row["kind"] in ("matched_kl", "area") else 6), name
        assert row["kl"] == (4.0 if row["kind"] == "matched_kl" else None), name
    assert rows["reach/tr_dpo_hard"]["p"] == pytest.approx(P)
    assert rows["matched_kl/tr_dpo_soft"]["probability_of_improvement"] == 1.0
    assert rows["matched_kl/tr_dpo_soft"]["probability_of_improvement_ci"] == pytest.approx([0.025 ** (1 / 6), 1.0])
    # Hard ends at 4, the base at 6.
    assert rows["matched_kl/tr_dpo_hard"]["probability_of_improvement"] == 0.0
    columns = ("cell", "name", "method", "loss", "update", "alpha", "every", "tau")
    assert [rows["duel/tr_dpo_hard"][key] for key in columns] == [
        "tr_dpo_hard", "TR-DPO hard", "tr_dpo_hard", "dpo", "hard", None, None, 2
    ]  # fmt: skip


def test_the_evidence_in_words(tmp_path: Path) -> None:
    sorted_runs, (found, *_), _ = prepared(tmp_path, Made())
    sure = Estimate(0.42, [0.11, 0.73], 0.0123)
    share = Estimate(0.125, [-0.05, 0.3], 0.2)
    difference = replace(found.difference, at=[Estimate(9.0, [8.0, 10.0], 0.5), sure], area=sure)
    changed = replace(
        found, difference=difference, duel=share, reach=sure, quality=sure, reach_prompts=7, duel_prompts=5
    )
    rows = {row["kind"]: row for row in claims(sorted_runs, [changed], {})}
    assert {kind: row["evidence"] for kind, row in rows.items()} == {
        "matched_kl": "HC differs by +0.42 [+0.11, +0.73] at 4.0 nats, the largest KL both reached (4 prompts, "
        "1 seed); Holm-corrected p = 0.012",
        "area": "area between the curves from 0 to 4.0 nats +0.42 [+0.11, +0.73] (4 prompts, 1 seed); "
        "Holm-corrected p = 0.012",
        "duel": "wins minus losses +12 [-5, +30] percentage points (5 prompts, 1 seed); Holm-corrected p = 0.2",
        "reach": "the trained models' KL differs by +0.42 [+0.11, +0.73] nats (7 prompts, 1 seed); "
        "Holm-corrected p = 0.012",
        "trained": "HC of the trained models differs by +0.42 [+0.11, +0.73] points (7 prompts, 1 seed); "
        "Holm-corrected p = 0.012",
    }
    assert (rows["duel"]["effect"], rows["duel"]["ci"], rows["duel"]["p"]) == (12.5, [-5.0, 30.0], 0.2)
    assert (rows["duel"]["n_prompts"], rows["reach"]["n_prompts"], rows["area"]["n_prompts"]) == (5, 7, 4)


@pytest.mark.parametrize(
    ("ci", "p", "expected"),
    [
        ([1.0, 3.0], 0.01, "supported"),
        ([-3.0, -1.0], 0.01, "contradicted"),
        ([0.0, 2.0], 0.01, "inconclusive"),
        ([-2.0, 0.0], 0.01, "inconclusive"),
        ([-1.0, 3.0], 0.01, "inconclusive"),
        ([1.0, 3.0], 0.06, "inconclusive"),
        ([1.0, 3.0], 0.05, "inconclusive"),
        ([1.0, 3.0], 0.0499, "supported"),
        ([-3.0, -1.0], 0.06, "inconclusive"),
    ],
)
def test_a_verdict_needs_the_interval_and_the_p_value(tmp_path: Path, ci: list[float], p: float, expected: str) -> None:
    sorted_runs, (found, *_), _ = prepared(tmp_path, Made())
    changed = replace(found, reach=Estimate(sum(ci) / 2, ci, p))
    assert one(claims(sorted_runs, [changed], {}), kind="reach")["verdict"] == expected


def test_p_values_are_corrected_within_a_kind(tmp_path: Path) -> None:
    """Six cells with p = 0.001, 0.2, 0.009, 0.02, 0.5, 0.9: times 6, 3, 5, 4, 2, 1; none less than one before it."""
    sorted_runs, found, _ = prepared(tmp_path, Made(methods=tuple(METHODS)))
    p = (0.001, 0.2, 0.009, 0.02, 0.5, 0.9)
    changed = [replace(each, reach=Estimate(1.0, [0.5, 1.5], value)) for each, value in zip(found, p, strict=True)]
    rows = [row for row in claims(sorted_runs, changed, {}) if row["kind"] == "reach"]
    assert [row["p_holm"] for row in rows] == pytest.approx([0.006, 0.6, 0.045, 0.08, 1.0, 1.0])
    assert [row["p"] for row in rows] == list(p)
    assert [row["verdict"] == "supported" for row in rows] == [True, False, True, False, False, False]
    # Five of them alone were corrected for five: another kind's p-values change nothing.
    fewer = [replace(changed[0], reach=None), *changed[1:]]
    rows = claims(sorted_runs, fewer, {})
    assert [row["p_holm"] for row in rows if row["kind"] == "reach"] == pytest.approx([0.6, 0.045, 0.08, 1.0, 1.0])
    assert len([row for row in rows if row["kind"] == "area"]) == 6


def test_a_kind_that_could_not_be_measured_has_no_row(tmp_path: Path) -> None:
    sorted_runs, (found, *_), _ = prepared(tmp_path, Made())
    changed = replace(found, duel=None, reach=None, quality=None, improvement=None)
    rows = claims(sorted_runs, [changed], {})
    assert [row["kind"] for row in rows] == ["matched_kl", "area"]
    assert "probability_of_improvement" not in rows[0]


def test_two_seeds_differ_by_hand(tmp_path: Path) -> None:
    """At 4 nats 1 and 3 above the base: 2, half-width 12.7."""
    first, second = seeds(0, 1)

    def higher(method: str, step: int, prompt: int) -> float | None:
        return 11.0 + LUCK[prompt] if (method, step) == ("tr_dpo_soft", 2) else hc(method, step, prompt)

    second.hc = higher
    row = rows_of(tmp_path, first, second)[0]
    assert (row["effect"], row["verdict"], row["seeds"]) == (pytest.approx(2.0), "inconclusive", [0, 1])
    assert row["ci"] == pytest.approx([2 - HALF_WIDTH, 2 + HALF_WIDTH], rel=1e-4)
    # Student's t of 2 with one degree of freedom: p = 1 - 2 arctan(2) / pi
    assert row["p"] == pytest.approx(0.2952, rel=1e-3)
    assert "(4 prompts a seed, 2 seeds)" in row["evidence"]
    assert verdict([row])[1].startswith(
        "The largest difference is +2 [-11, +15] HC points (TR-DPO soft against DPO at "
    )


def test_with_several_betas_duels_are_of_one_and_curves_of_all(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, *(Made(settings={"beta.dpo": beta}) for beta in (0.1, 0.5, 0.02)))
    assert {row["kind"]: (row["beta"], row["n_prompts"]) for row in rows} == {
        "matched_kl": (None, 6),
        "area": (None, 6),
        "duel": (0.1, 6),
        "reach": (0.1, 6),
        "trained": (0.1, 6),
    }


def test_two_seeds_that_agree_are_sure(tmp_path: Path) -> None:
    row = rows_of(tmp_path, *seeds(0, 1))[0]
    assert (row["effect"], row["verdict"]) == (pytest.approx(1.0), "supported")
    assert row["p"] < 1e-6


# What the paper reports.


def test_each_duel_stands_beside_the_papers_number_for_its_method(tmp_path: Path) -> None:
    rows = [row for row in rows_of(tmp_path, Made(methods=tuple(METHODS))) if row["kind"] == "duel"]
    shown = {row["method"]: (row["paper"]["value"], row["paper"]["source"]) for row in rows}
    assert shown == {
        "tr_dpo_soft": (19.0, "figure of v1"),
        "tr_dpo_hard": (12.8, "figure of v1"),
        "tr_ipo_soft": (14.3, "abstract of v2"),
        "tr_ipo_hard": (14.3, "abstract of v2"),
        "tr_kto_soft": (15.0, "abstract of v2"),
        "tr_kto_hard": (15.0, "abstract of v2"),
    }
    assert {(row["paper"]["unit"], row["paper"]["trust"]) for row in rows} == {("points", "verified")}
    for row in rows:
        assert f"+{row['paper']['value']} points" in row["paper"]["text"]


def test_the_other_kinds_have_what_the_paper_says_and_no_number(tmp_path: Path) -> None:
    rows = [row for row in rows_of(tmp_path, Made()) if row["kind"] != "duel"]
    assert [(row["kind"], row["paper"]["value"], row["paper"]["unit"], row["paper"]["trust"]) for row in rows] == [
        ("matched_kl", None, None, "verified"),
        ("area", None, None, None),
        ("trained", None, None, "weak"),
        ("reach", None, None, "secondary"),
    ]
    assert all(row["paper"]["text"] for row in rows)
    assert len({row["paper"]["text"] for row in rows}) == 4


# What could not be tested.


def test_a_cell_that_could_not_be_compared_is_said_to_be_untested(tmp_path: Path) -> None:
    made = Made(methods=THREE, kl=lambda method, step, prompt: 0.0 if "soft" in method else kl(method, step, prompt))
    rows = rows_of(tmp_path, made)
    assert [row["id"] for row in rows] == ["matched_kl/tr_dpo_soft", *(f"{kind}/tr_dpo_hard" for kind in COMPARED)]
    row = rows[0]
    assert {key: row[key] for key in ("effect", "ci", "p", "p_holm", "kl", "beta")} == dict.fromkeys(
        ("effect", "ci", "p", "p_holm", "kl", "beta")
    )
    assert (row["kind"], row["verdict"], row["n_prompts"], row["seeds"]) == ("matched_kl", "inconclusive", 0, [])
    assert (row["name"], row["base"], row["unit"], row["alpha"]) == ("TR-DPO soft", "DPO", "HC points", 0.6)
    assert row["claim"] == "TR-DPO soft keeps more quality than DPO at the same KL"
    why = "the curves share no range of KL: one of them never left the SFT model"
    assert row["evidence"] == f"could not be tested: {why}"
    assert row["paper"]["trust"] == "verified"
    # One p-value of this kind is left: it is not corrected.
    assert rows[1]["p_holm"] == rows[1]["p"] == pytest.approx(P)
    assert verdict(rows)[0] == "Yes: TR-DPO hard kept more quality than the base at the same KL."
    assert verdict(rows[:1]) == [
        "No trust-region method of this report could be compared with its base.",
        f"Could not be tested: {why}.",
    ]


# The two sentences that a report opens with.


def row(name: str, verdict_: str, effect: float = 0.4, half: float = 0.3, kind: str = "matched_kl", **more: Any) -> Row:
    known: Row = {
        "name": name,
        "verdict": verdict_,
        "effect": effect,
        "ci": [effect - half, effect + half],
        "kind": kind,
    }
    known["detectable"] = 1.43 * half
    return known | {"base": "DPO", "kl": 14.04, "n_prompts": 64, "seeds": [0, 1, 2], "evidence": "why"} | more


A, B, C = row("A", "supported"), row("B", "supported", 0.5), row("C", "supported", 0.1, 0.05)
DOWN, DOWNER = row("D", "contradicted", -0.6), row("E", "contradicted", -0.5)
OPEN, OPENER = row("F", "inconclusive", 0.1), row("G", "inconclusive", -0.2)
NEARLY = row("H", "inconclusive", 0.4)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([A], "Yes: A kept more quality than the base at the same KL."),
        ([A, B], "Yes: A and B kept more quality than the base at the same KL."),
        ([A, B, C], "Yes: A, B and C kept more quality than the base at the same KL."),
        (
            [A, OPEN, OPENER],
            "In part: A kept more quality than the base at the same KL; for the other 2 the difference cannot be told "
            "from zero.",
        ),
        ([A, DOWN], "In part: A kept more quality than the base at the same KL, D kept less."),
        (
            [A, DOWN, OPEN],
            "In part: A kept more quality than the base at the same KL, D kept less; for the other one the difference "
            "cannot be told from zero.",
        ),
        ([DOWN], "No: D kept less."),
        ([DOWN, DOWNER, OPEN], "No: D and E kept less; for the other one the difference cannot be told from zero."),
        ([OPEN], "No: this run does not show that the one trust-region method keeps more quality than its base at the "
         "same KL."),
        (
            [OPEN, OPENER],
            "No: this run does not show that any of the 2 trust-region methods keeps more quality than its base at the "
            "same KL. Every 95 % interval contains zero.",
        ),
        (
            [OPEN, NEARLY],
            "No: this run does not show that any of the 2 trust-region methods keeps more quality than its base at the "
            "same KL. None is significant.",
        ),
    ],
)  # fmt: skip
def test_the_first_sentence_answers_the_question(rows: list[Row], expected: str) -> None:
    others = [row("X", "contradicted", -9.0, kind="duel"), row("Y", "supported", 9.0, kind="area")]
    assert verdict([*rows, *others])[0] == expected


def test_the_second_sentence_has_effect_interval_kl_n_seeds_and_what_could_be_missed() -> None:
    """The largest by size is D's; the widest half-width is 1.26, with which 1.43 * 1.26 = 1.80 is detectable."""
    rows = [A, DOWN, row("W", "inconclusive", 0.0, 1.26), row("Z", "supported", 9.0, kind="duel")]
    rows += [row("U", "inconclusive") | {"effect": None, "ci": None}]
    assert verdict(rows)[1] == (
        "The largest difference is -0.60 [-0.90, -0.30] HC points (D against DPO at 14.0 nats; 64 prompts a seed, "
        "3 seeds); differences of less than about 1.8 points could go unseen here (80 % power)."
    )


def test_an_interval_that_ends_at_zero_contains_it() -> None:
    rows = [row("A", "inconclusive", 0.3, 0.3), row("B", "inconclusive", -0.3, 0.3)]
    assert verdict(rows)[0].endswith("Every 95 % interval contains zero.")


def test_nothing_to_test() -> None:
    assert verdict([]) == [
        "No trust-region method of this report could be compared with its base.",
        "It holds no trust-region method together with its base.",
    ]


@pytest.mark.parametrize(
    ("seeds_", "expected"),
    [([0], "64 prompts, 1 seed"), ([1, 2], "64 prompts a seed, 2 seeds"), ([], "64 prompts, 0 seeds")],
)
def test_prompts_and_seeds_in_words(seeds_: list[int], expected: str) -> None:
    assert count({"n_prompts": 64, "seeds": seeds_}) == expected


# Claims that something else has tested.


def test_findings_of_others_are_corrected_within_their_kind_and_come_in_order(tmp_path: Path) -> None:
    """Of p = 0.02 and 0.03 the first is doubled and the second may not be less; one without a p counts for none."""
    sorted_runs, found, _ = prepared(tmp_path, Made(methods=tuple(METHODS)))
    lower, higher = Estimate(-2.0, [-3.0, -1.0], 0.02), Estimate(1.0, [0.5, 1.5], 0.001)
    others = [
        Finding("recovery", "tr_ipo_hard", "ipo", "some words", higher, 0.04, "supported", 9, (1, 2)),
        Finding("ood", "tr_dpo_hard", "dpo", "why not"),
        Finding("ood", "tr_kto_soft", "kto", "b", lower, 0.03, "supported", 8, [0], 0.1, 7.5, {"detail": "d"}),
        Finding("ood", "tr_dpo_soft", "dpo", "a", lower, 0.02, "supported", 8, [0]),
        Finding("ood", "tr_ipo_soft", "ipo", "c", higher, 0.9, "contradicted", 8, [0]),
    ]
    rows = claims(sorted_runs, found, {}, others)
    assert rows[: -len(others)] == claims(sorted_runs, found, {})
    shown = {row["id"]: (row["verdict"], row["effect"], row["p"], row["p_holm"]) for row in rows[-len(others) :]}
    assert list(shown.items()) == [
        ("ood/tr_dpo_soft", ("inconclusive", -2.0, 0.02, pytest.approx(0.06))),
        ("ood/tr_dpo_hard", ("inconclusive", None, None, None)),
        ("ood/tr_ipo_soft", ("inconclusive", 1.0, 0.9, pytest.approx(0.9))),
        ("ood/tr_kto_soft", ("inconclusive", -2.0, 0.03, pytest.approx(0.06))),
        # The larger of two p-values is not that of the effect, which alone would be sure.
        ("recovery/tr_ipo_hard", ("supported", 1.0, 0.04, 0.04)),
    ]
    last, kto = rows[-1], rows[-2]
    assert last["evidence"] == "some words (9 prompts a seed, 2 seeds); Holm-corrected p = 0.04"
    assert (last["n_prompts"], last["seeds"], last["ci"], last["beta"]) == (9, [1, 2], [0.5, 1.5], None)
    assert (kto["beta"], kto["kl"], kto["detail"], kto["claim"]) == (
        0.1, 7.5, "d", "TR-KTO soft gives less probability to text outside the data than KTO at the same KL"
    )  # fmt: skip
    assert rows[-4]["evidence"] == "could not be tested: why not" and rows[-4]["seeds"] == []
    assert verdict(rows) == verdict(claims(sorted_runs, found, {}))


# What the data could have shown, and the families of a sweep.


def test_what_could_have_been_found_is_said_of_the_main_claim(tmp_path: Path) -> None:
    """An interval of 0.62 to 0.2 and back is 0.31 to either side; with many degrees of freedom 1.4294 times as much."""
    sorted_runs, (found, *_), _ = prepared(tmp_path, Made())
    at = [Estimate(0.42, [0.11, 0.73], 0.01), Estimate(0.42, [0.11, 0.73], 0.01, freedom=3)]
    rows = [
        claims(sorted_runs, [replace(found, difference=replace(found.difference, at=[last]))], {})[0] for last in at
    ]
    assert rows[0]["detectable"] == pytest.approx(0.31 * 1.42940, rel=1e-4)
    assert rows[1]["detectable"] == pytest.approx(0.31 * 1.33730, rel=1e-3)  # as the tests of power try out
    # The made-up run has four prompts: three degrees of freedom, and no spread.
    assert found.difference.at[-1].freedom == 3
    assert claims(sorted_runs, [found], {})[0]["detectable"] == pytest.approx(0.0, abs=1e-9)


def test_swept_cells_are_a_family_of_their_own(tmp_path: Path) -> None:
    """Soft 0.6 and hard are main ones, 0.2 and 0.9 are not: each family corrects for two."""
    extra = [
        Made(methods=("dpo", "tr_dpo_soft"), settings={"ref_update.alpha": alpha}) for alpha in (0.2, 0.9)
    ]  # fmt: skip
    sorted_runs, found, _ = prepared(tmp_path, Made(methods=THREE), *extra)
    p = {"tr_dpo_soft-a0.6-e2": 0.02, "tr_dpo_hard": 0.03, "tr_dpo_soft-a0.2-e2": 0.04, "tr_dpo_soft-a0.9-e2": 0.01}
    assert {one.cell for one in found} == set(p)
    changed = [replace(one, reach=Estimate(1.0, [0.5, 1.5], p[one.cell])) for one in found]
    rows = [row for row in claims(sorted_runs, changed, {}) if row["kind"] == "reach"]
    assert {row["cell"]: row["p_holm"] for row in rows} == pytest.approx(
        {
            "tr_dpo_soft-a0.6-e2": 0.04,
            "tr_dpo_hard": 0.04,
            "tr_dpo_soft-a0.2-e2": 0.04,
            "tr_dpo_soft-a0.9-e2": 0.02,
        }
    )
    assert [row["cell"] for row in rows if row.get("swept")] == ["tr_dpo_soft-a0.2-e2", "tr_dpo_soft-a0.9-e2"]
    assert all(row["swept"] is True for row in rows if "swept" in row)


def test_the_opening_sentences_are_about_the_main_settings() -> None:
    """Unless there are no others."""
    swept = row("S", "contradicted", -9.0, swept=True)
    assert verdict([A, swept]) == verdict([A])
    assert verdict([swept])[0] == "No: S kept less."
