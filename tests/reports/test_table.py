"""Tables: cells by hand, order, widths, what the notes admit; LaTeX that would compile; the few numbers for DVC."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from reports import made_up
from reports.made_up import report
from tr_align.config import METHODS
from tr_align.reports import table
from tr_align.reports.common import share_with_interval, with_interval
from tr_align.reports.results import Report
from tr_align.settings import AXES

BIAS = (
    "The judge gave the reply shown first 51.2 % [49.8, 52.6] of the points, the longer reply 58.0 % [55.0, 61.0]; its "
    "verdicts agreed in both orders in 93.1 % [92.0, 94.2] of 1950 pairs."
)


def one_beta(**changes: Any) -> Report:
    rows = [row for row in made_up.points() if row["beta"] in (None, 0.05, 0.01)]
    return report(**{"points": rows, **changes})


def lines_of(page: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
        for line in page.splitlines()
        if line.startswith("|")
    ]


def test_cells_by_hand() -> None:
    points = [
        row for row in made_up.points() if row["method"] == "tr_dpo_soft" and row["final"] and row["beta"] == 0.05
    ]
    points[0] |= made_up.around("kl", 9.04, 0.9) | made_up.around("hc", 7.126, 0.26)
    for axis in AXES:
        points[0] |= made_up.around(axis, 6.5, 0.4)
    head, rule, line = lines_of(table.markdown(report(points=points)))
    assert len(rule) == len(head) == 11
    assert dict(zip(head, line, strict=True)) == {
        "method": "TR-DPO soft",
        "KL": "9.0 [8.1, 9.9]",
        "HC": "7.13 [6.87, 7.39]",
        **dict.fromkeys(AXES, "6.50 [6.10, 6.90]"),
        "win vs SFT": "69.0 % [62.0, 76.0]",
        "win vs base": "47.0 % [40.0, 54.0]",
        "n": "64",
    }


def test_a_judge_of_one_axis_has_no_columns_of_others() -> None:
    text = table.markdown(made_up.one_axis())
    assert lines_of(text)[0] == ["method", "KL", "HC", "win vs SFT", "win vs base", "n"]
    assert "KL in nats per reply; HC, fitted on preferences, in points, 1 to 10." in text
    assert r"\begin{tabular}{lrrrrr}" in table.latex(made_up.one_axis())


def test_sorted_by_loss_then_base_soft_hard() -> None:
    names = [line[0] for line in lines_of(table.markdown(one_beta(points=made_up.points()[::-1])))[2:]]
    assert names[:4] == ["DPO, β 0.1", "DPO, β 0.05", "DPO, β 0.02", "TR-DPO soft, β 0.1"]
    assert names[-1] == "TR-KTO hard, β 0.02"
    names = [line[0] for line in lines_of(table.markdown(one_beta()))[2:]]
    assert names == [made_up.label(method) for method in ("dpo", "tr_dpo_soft", "tr_dpo_hard")] + names[3:]
    assert len(names) == 9


def test_a_win_belongs_to_its_beta() -> None:
    lines = {line[0]: line for line in lines_of(table.markdown(report()))}
    assert lines["TR-DPO soft, β 0.05"][-2] == "47.0 % [40.0, 54.0]"
    assert lines["TR-DPO soft, β 0.1"][-2] == "–"
    assert lines["DPO, β 0.05"][-2] == "–"


def test_nothing_is_marked_as_best() -> None:
    assert "**" not in table.markdown(report())


def test_partial() -> None:
    points = [row for row in made_up.points() if row["method"] in ("sft", "tr_ipo_hard", "ipo") and row["beta"] != 0.02]
    for row in points:
        row |= {"detail": None, "detail_lo": None, "detail_hi": None, "kl_lo": None}
    shown = report(points=points, wins=[])
    lines = lines_of(table.markdown(shown))
    assert [line[0] for line in lines[2:]] == [
        "IPO, β 0.01",
        "IPO, β 0.005",
        "TR-IPO hard, β 0.01",
        "TR-IPO hard, β 0.005",
    ]
    assert {line[lines[0].index("detail")] for line in lines[2:]} == {"–"}
    assert re.fullmatch(r"\d+\.\d", lines[2][1])
    for form in (table.text, table.latex):
        assert "TR-IPO hard" in form(shown)


def test_of_nothing_only_the_head_is_left() -> None:
    empty = report(points=[], wins=[], claims=[])
    assert len(lines_of(table.markdown(empty))) == 2
    assert table.claims_markdown(empty) == table.claims_latex(empty) == ""
    assert table.metrics(empty) == {}


def test_decimals_follow_the_intervals() -> None:
    points = [row for row in made_up.points() if row["method"] == "dpo" and row["final"]][:1]
    for half, expected in ((0.2, "123.46 [123.26, 123.66]"), (2.0, "123.5 [121.5, 125.5]"), (12.0, "123 [111, 135]")):
        points[0] |= made_up.around("kl", 123.456, half)
        assert lines_of(table.markdown(report(points=points)))[2][1] == expected


def test_footnote_says_unit_prompts_seeds_and_bias() -> None:
    points = made_up.points()
    points[-1]["n_prompts"] = 60
    note = table.markdown(report(points=points)).splitlines()[-1]
    assert note.startswith("In brackets 95 % intervals over seeds and prompts; n = 60 to 64 prompts; seeds 0, 1.")
    assert "HC and its axes in points, 1 to 10." in note
    assert note.endswith(f"at 50 % neither is preferred. {BIAS}")


def test_footnote_of_one_seed() -> None:
    context = made_up.context() | {"seeds": [3]}
    note = table.footnote(report(context=context, points=[row | {"seeds": [3]} for row in made_up.points()]))
    assert "over prompts, which say nothing about another training run; n = 64 prompts; seed 3." in note


def test_footnote_without_duels_or_without_longer_replies() -> None:
    context = made_up.context()
    few = context["judge_bias"] | {"n_longer": 0, "longer": None, "longer_ci": None}
    note = table.footnote(report(context=context | {"judge_bias": few}))
    assert "shown first 51.2 % [49.8, 52.6] of the points; its verdicts agreed" in note
    nothing = {"n": 0, "n_missing": 4, "n_longer": 0, "consistent": None, "first_shown": None, "longer": None}
    for bias in (nothing, None):
        note = table.footnote(report(context=context | {"judge_bias": bias}))
        assert note.endswith("at 50 % neither is preferred.")


def test_text_fits_the_terminal() -> None:
    points, wins = made_up.points(), made_up.wins()
    for row in [*points, *wins]:
        row["name"] = f"{row['name']} α=0.6 every=2"
    for row in points:
        row |= made_up.around("kl", 1234.5, 100.4)
    for shown in (report(), report(points=points, wins=wins)):
        lines = table.text(shown).splitlines()
        assert max(map(len, lines)) <= table.TEXT_WIDTH
        assert lines[0].split("  ")[0] == "method"
    assert "1234 " in lines[2] and "[1134" not in lines[2]
    assert "6.46 [6.21, 6.71]" in lines[2]


def test_claims() -> None:
    head, _, *lines = lines_of(table.claims_markdown(report()))
    assert head == ["claim", "effect", "p (Holm)", "verdict", "the paper"]
    assert lines[0][1:4] == ["+0.42 [+0.11, +0.73] HC points", "0.4", "supported"]
    assert lines[1][4] == "–"
    some = [claim | {"seeds": [1]} for claim in report().claims]
    _, _, *lacking = lines_of(table.claims_markdown(report(claims=some)))
    assert lacking[0][1] == "+0.42 [+0.11, +0.73] HC points (1 of 2 seeds)"
    assert lines[2][1] == "-12 [-22, -2] points (win minus lose, per cent)"
    assert table.claims_markdown(report()).splitlines()[-1].startswith("Effects with 95 % intervals")
    # a paper has room for the two main kinds
    others = [claim | {"kind": "area", "claim": "lies above"} for claim in report().claims]
    both = table.claims_latex(report(claims=[*report().claims, *others]))
    assert "keeps more quality" in both and "in duels" not in both.split("midrule")[0] and "lies above" not in both


def test_claims_that_could_not_be_tested() -> None:
    claims = made_up.claims()
    claims[0] |= {"effect": None, "ci": None, "p": None, "p_holm": None}
    claims[1] |= {"p_holm": 0.00002, "ci": None}
    lines = lines_of(table.claims_markdown(report(claims=claims)))
    assert lines[2][1:3] == ["–", "–"]
    assert lines[3][1:3] == ["+0.10 HC points", "< 0.001"]
    assert r"$<$" in table.claims_latex(report(claims=claims)) or r"\textless{}" in table.claims_latex(
        report(claims=claims)
    )


@pytest.mark.parametrize("form", [table.latex, table.claims_latex])
def test_latex_is_well_formed(form: Any) -> None:
    context = made_up.context() | {"model": r"a_b & 50% $x$ #1 {y} ~z^2 \q", "hc_unit": "points"}
    points = [{**row, "name": f"{row['name']} α=0.6"} if row["update"] == "soft" else row for row in made_up.points()]
    source = form(report(context=context, points=points))
    body = re.search(r"\\begin\{tabular\}\{(.*)\}\n(.*)\\end\{tabular\}", source, re.DOTALL)
    assert body
    columns = len(re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "", body[1].replace("@", "")))
    rows = [line for line in body[2].splitlines() if not re.match(r"\\(top|mid|bottom)rule", line)]
    for line in rows:
        assert re.search(r" \\\\(\[2pt\])?$", line), line
        assert len(re.findall(r"(?<!\\)&", line)) == columns - 1
    plain = re.sub(r"\\[%&#$_{}\\]|\\[a-zA-Z]+", "", source)
    assert not re.search(r"[%#_^~\\]", plain.replace("\\", ""))
    assert plain.count("$") % 2 == 0
    depth = 0
    for character in re.sub(r"\\[{}]", "", source):
        depth += (character == "{") - (character == "}")
        assert depth >= 0
    assert depth == 0
    assert source.isascii(), set(re.findall(r"[^\x00-\x7f]", source))
    assert source.count(r"\begin{") == source.count(r"\end{") == 2
    assert r"\caption{" in source and "seeds 0, 1" in source and r"95 \%" in source


def test_latex_escapes() -> None:
    assert table.escape(r"50 % & a_b \ ~ ^ {x} $ #") == (
        r"50 \% \& a\_b \textbackslash{} \textasciitilde{} \textasciicircum{} \{x\} \$ \#"
    )
    assert table.escape("TR-DPO soft α=0.6 –") == r"TR-DPO soft $\alpha$=0.6 --"


def test_latex_has_intervals_under_numbers() -> None:
    lines = table.latex(one_beta()).splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("TR-DPO soft"))
    assert lines[place].startswith("TR-DPO soft & 12.0 & 7.16 &")
    assert lines[place + 1].startswith(r" & {\tiny [11.0, 13.0]} & {\tiny [6.91, 7.41]}")


def test_metrics_are_few_and_short() -> None:
    found = table.metrics(one_beta())
    assert list(found) == ["sft", "dpo", "tr_dpo_soft", "tr_dpo_hard", *list(found)[4:]]
    assert set(found) == {"sft", *METHODS}
    assert found["sft"] == {"hc": 6.0}
    assert found["tr_dpo_soft"] == {"kl": 12.0, "hc": 7.16, "win_vs_base": 0.47}
    assert set(found["dpo"]) == {"kl", "hc"}
    assert len(json.dumps(found)) < 700
    several = table.metrics(report())
    assert several["tr_dpo_soft@0.05"] == found["tr_dpo_soft"]
    assert len(several) == 1 + 9 * 3


def test_numbers() -> None:
    assert with_interval(-0.001, [-0.2, 0.004], 2) == "0.00 [-0.20, 0.00]"
    assert with_interval(None, None, 2) == "–"
    assert with_interval(1.0, None, 1) == "1.0"
    assert share_with_interval(0.577, [0.496, 0.658]) == "57.7 % [49.6, 65.8]"
    assert share_with_interval(None, None) == "–"
