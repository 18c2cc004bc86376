"""The same claims under several judges: what depends on the judge, and what is not a judge's business."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.reports import table
from tr_align.reports.agreement import DEPENDS, agreement, judged, markdown, read_claims, side_by_side
from tr_align.reports.page import build_page
from tr_align.reports.results import Report

from . import made_up

Row = dict[str, Any]


def claim(
    effect: float | None, verdict: str, half: float = 0.3, name: str = "matched_kl/tr_dpo_soft", **more: Any
) -> Row:
    ci = None if effect is None else [effect - half, effect + half]
    row = {
        "id": name,
        "kind": name.partition("/")[0],
        "claim": f"{name} | holds",
        "unit": "HC points",
        "effect": effect,
    }
    row |= {"ci": ci, "p_holm": None if effect is None else 0.04, "verdict": verdict, "kl": 4.0, "beta": None}
    return row | {"n_prompts": 64, "seeds": [0, 1]} | more


@pytest.mark.parametrize(
    ("one", "other", "depends"),
    [
        (claim(0.5, "supported"), claim(0.4, "supported"), False),
        (claim(0.5, "supported"), claim(0.4, "inconclusive"), True),
        (claim(0.5, "supported"), claim(-0.5, "contradicted"), True),
        (claim(0.1, "inconclusive"), claim(-0.1, "inconclusive"), False),
        # Not significant after Holm, but an interval that excludes zero, and another sign.
        (claim(0.5, "inconclusive"), claim(-0.1, "inconclusive"), True),
        (claim(0.1, "inconclusive"), claim(-0.5, "inconclusive"), True),
        (claim(0.5, "inconclusive"), claim(0.1, "inconclusive"), False),
        (claim(0.5, "inconclusive"), claim(0.0, "inconclusive"), False),
        (claim(0.3, "inconclusive"), claim(-0.1, "inconclusive"), False),  # ends at zero
        (claim(None, "inconclusive"), claim(0.5, "inconclusive"), False),
        (claim(None, "inconclusive"), claim(0.5, "supported"), True),
    ],
)  # fmt: skip
def test_what_depends_on_the_judge(one: Row, other: Row, depends: bool) -> None:
    (row,) = agreement({"probe": [one], "reward": [other]})
    (turned,) = agreement({"reward": [other], "probe": [one]})
    assert (row["depends"], turned["depends"]) == (depends, depends)
    assert row["judges"]["probe"] == {key: one[key] for key in ("effect", "ci", "p_holm", "verdict")}
    assert (row["id"], row["claim"], row["unit"]) == (one["id"], one["claim"], "HC points")
    assert (DEPENDS in markdown([row]).splitlines()[2]) is depends


def test_any_two_of_three_judges_may_disagree() -> None:
    first, second, third = claim(0.5, "supported"), claim(0.4, "supported"), claim(0.1, "inconclusive")
    assert agreement({"a": [first], "b": [second], "c": [third]})[0]["depends"]
    assert not agreement({"a": [first], "b": [second]})[0]["depends"]


def test_the_table_by_hand() -> None:
    rows = agreement(
        {
            "probe": [claim(0.5, "supported"), claim(None, "inconclusive", name="area/tr_dpo_soft")],
            "reward": [
                claim(0.1, "inconclusive"),
                claim(7.0, "supported", 4.0, name="duel/tr_dpo_soft", unit="points"),
            ],
        }
    )
    assert markdown(rows) == (
        "| claim | probe | verdict | reward | verdict |  |\n"
        "| :-- | --: | :-- | --: | :-- | :-- |\n"
        "| matched_kl/tr_dpo_soft \\| holds (matched_kl/tr_dpo_soft) | +0.50 [+0.20, +0.80] HC points | supported | "
        "+0.10 [-0.20, +0.40] HC points | inconclusive | depends on the judge |\n"
        "| area/tr_dpo_soft \\| holds (area/tr_dpo_soft) | – | inconclusive | – | not in its report |  |\n"
        "| duel/tr_dpo_soft \\| holds (duel/tr_dpo_soft) | – | not in its report | +7.0 [+3.0, +11.0] points | "
        "supported |  |\n\n"
        "1 of 1 claims depend on the judge (probe, reward): verdicts differ, or effects have different signs and one "
        "of the intervals excludes zero. Effects with 95 % intervals; verdicts after Holm's correction within each "
        "judge's report.\n"
    )
    assert rows[1]["judges"]["reward"] is None and not rows[1]["depends"]


def test_judges_of_other_replies_are_found_out() -> None:
    """The KL of the same replies is the same whoever rates them."""
    for changed in ({"kl": 4.1}, {"seeds": [0]}, {"n_prompts": 63}, {"beta": 0.1}):
        rows = agreement({"a": [claim(0.5, "supported")], "b": [claim(0.5, "supported", **changed)]})
        assert not rows[0]["same_replies"]
        assert "did not rate the same replies: matched_kl/tr_dpo_soft." in markdown(rows)
    (row,) = agreement({"a": [claim(0.5, "supported")], "b": [claim(0.5, "supported", kl=4.0 + 1e-12)]})
    assert row["same_replies"]


def test_claims_without_a_judge_are_left_out(tmp_path: Path) -> None:
    kinds = ("matched_kl", "reach", "alpha", "ood", "recovery", "diversity", "length_adjusted", "toy_reward", "duel")
    file = tmp_path / "claims.json"
    file.write_text(json.dumps([claim(0.5, "supported", name=f"{kind}/x") for kind in kinds]), encoding="utf-8")
    assert [row["kind"] for row in read_claims(file)] == ["matched_kl", "alpha", "length_adjusted", "duel"]


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '[{"id": "x"}]', "7"])
def test_a_file_that_holds_no_claims(tmp_path: Path, text: str) -> None:
    (tmp_path / "claims.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"claims\.json: holds no claims .*name the claims\.json of a report$"):
        read_claims(tmp_path / "claims.json")
    with pytest.raises(UserError, match=r"nowhere\.json: there is no such file"):
        read_claims(tmp_path / "nowhere.json")


def test_nothing_in_common() -> None:
    assert markdown([]).endswith("Holm's correction within each judge's report.\n")


FOLDERS = {"probe": Path("out"), "reward": Path("out/reward")}


def of_two_judges() -> dict[str, Report]:
    """Reports of the same replies: TR-DPO soft helps by one judge alone; of a duel the reward model has one seed."""
    own = [row | {"beta": None} for row in made_up.claims()]
    own.append(own[0] | {"id": "reach/tr_dpo_soft", "kind": "reach"})
    changed = {
        "matched_kl/tr_dpo_soft": {"effect": -0.05, "ci": [-0.31, 0.22], "verdict": "inconclusive"},
        "duel/tr_kto_soft": {"seeds": [0]},
    }
    claims = [row | changed.get(row["id"], {}) for row in own]
    context = made_up.context() | {"judge": "a reward model"}
    reports = {"probe": made_up.report(claims=own), "reward": made_up.report(claims=claims, context=context)}
    rows = agreement({name: judged(report.claims) for name, report in reports.items()})
    return side_by_side(rows, reports, FOLDERS)


def test_reports_of_two_judges_name_each_other() -> None:
    both = of_two_judges()
    assert both["probe"].context["judges"] == [{"judge": "a reward model", "page": "reward/index.html"}]
    assert both["reward"].context["judges"] == [{"judge": made_up.context()["judge"], "page": "../index.html"}]
    soft, ipo, *apart = both["probe"].claims
    other = {"judge": "a reward model", "effect": -0.05, "ci": [-0.31, 0.22], "verdict": "inconclusive"}
    assert soft["depends"] and soft["elsewhere"] == [other]
    back = both["reward"].claims[0]
    assert back["depends"] and back["elsewhere"][0]["effect"] == soft["effect"] == 0.42
    assert not ipo["depends"] and ipo["elsewhere"][0]["verdict"] == "inconclusive"
    # nothing is said where the replies were not the same, nor where no judge has a part
    assert [(row["kind"], "depends" in row) for row in apart] == [("duel", False), ("reach", False)]


def test_their_pages_and_tables_say_what_depends_on_the_judge() -> None:
    both = of_two_judges()
    page = build_page(both["probe"], [])
    assert '<a href="reward/index.html">a reward model</a>' in page
    assert "1 of the 2 comparisons below, and 1 of the 2 claims about quality, depend on the judge." in page
    assert page.count("supported, depends on the judge</small>") == 1  # at the top
    assert "<small>a reward model: −0.05 [−0.31, +0.22], inconclusive</small>" in page
    assert page.count("<small>depends on the judge</small>") == 1
    text = table.claims_markdown(both["probe"])
    assert "| supported, depends on the judge |" in text and text.count("depends on the judge") == 2
    assert "A claim depends on the judge if a reward model has another verdict on the same replies" in text


def test_a_report_of_one_judge_says_nothing_of_others() -> None:
    alone = made_up.report()
    assert DEPENDS not in build_page(alone, []) + table.claims_markdown(alone)
