"""The page as HTML: what it says about a report, what it escapes, and what it weighs. The browser has its own tests."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from tr_align.reports.figure import Figure
from tr_align.reports.page import PAGE_BYTES, build_page, tables, words
from tr_align.reports.page.answer import answers
from tr_align.reports.page.build import FIGURE_BYTES
from tr_align.reports.page.embed import figure_data
from tr_align.reports.results import Report
from tr_align.reports.theme import DARK, DARK_PAPER, PAPER, TONES

from .made_up import claims, context, one_axis, report

ATTACK = "<img src=x onerror='window.hacked=1'>"
INK, BACK, BLUE = "#1f2328", "white", "#0072b2"


def stand_in(name: str, title: str, rows: list[dict[str, Any]], x: str, y: str) -> Figure:
    """A small figure, so that the page's tests need none of the real ones."""

    def spec(width: int) -> dict[str, Any]:
        axis = {"labelColor": INK, "titleColor": INK}
        tooltip = [{"field": "name", "title": "method"}, {"field": y, "title": "value", "format": ".2f"}]
        return {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "background": BACK,
            "width": width,
            "height": 200,
            "data": {"values": rows},
            "mark": {"type": "point", "filled": True, "size": 200, "color": BLUE, "opacity": 1},
            "encoding": {
                "x": {"field": x, "type": "quantitative", "axis": axis},
                "y": {"field": y, "type": "quantitative", "scale": {"zero": False}, "axis": axis},
                "tooltip": tooltip,
            },
        }

    caption = f"How to read it: {title}. n = 64 prompts, 2 seeds."
    return Figure(name, title, caption, f"Points of {title}", rows, spec(900), spec(260), spec(200))


def stand_ins(report: Report) -> list[Figure]:
    """One a topic that has rows."""
    points, frontier = [dict(row) for row in report.points], [dict(row) for row in report.frontier]
    named = [
        ("kl_vs_hc", "Quality against distance from SFT", points, "kl", "hc"),
        ("frontier", "TR minus base at the same KL", frontier, "kl", "difference"),
        ("length", "Reply length", points, "kl", "reply_words"),
        ("training", "Training curves", [dict(row) for row in report.training], "step", "margin"),
    ]
    return [stand_in(name, title, rows, x, y) for name, title, rows, x, y in named if rows]


class Outline(HTMLParser):
    """Elements with their attributes, and the words outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._words: list[str] = []
        self._silent = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self._words.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self._words).split())

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= found.items() for name, found in self.elements)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag]


def outline(html: str) -> Outline:
    return Outline(html)


def built(**changes: Any) -> str:
    made_up = report(**changes)
    return build_page(made_up, stand_ins(made_up))


# The answer


def test_the_verdict_and_the_four_answers_come_first() -> None:
    html = built()
    found = outline(html)
    order = ["<h1", context()["verdict"][0], 'class="answers"', 'id="kl_vs_hc"', 'id="claims"', 'id="results"']
    order += ['id="peaks"', 'id="judge"', 'id="replies"', 'id="settings"']
    places = [html.index(part) for part in order]
    assert places == sorted(places)
    for question in ("Did it help?", "By how much?", "How sure are we?", "At what KL?"):
        assert question in found.words
    for part in (
        "TR-DPO soft against DPO ✓ Yes supported +0.42 [+0.11, +0.73] p = 0.4, 64 prompts, 2 seeds 14.0 nats",
        "TR-IPO hard against IPO ○ Not clear inconclusive +0.10 [−0.20, +0.40] p = 0.4, 64 prompts, 2 seeds 11.2",
        # no claim was tested on this one: the difference stands, without a verdict
        "TR-KTO hard against KTO – Not tested +0.50 [−0.03, +1.04] 64 prompts, 2 seeds 16.8 nats",
    ):
        assert part in found.words


def test_the_answers_stand_by_loss_and_share_one_scale() -> None:
    rows = answers(report())
    assert [row["name"] for row in rows] == [
        f"TR-{loss} {kind}" for loss in ("DPO", "IPO", "KTO") for kind in ("soft", "hard")
    ]
    reach = 1.06 * max(abs(end) for row in rows for end in (row["low"], row["high"]))
    for row in rows:
        assert row["bar"]["at"] == pytest.approx(50 + 50 * row["value"] / reach, abs=0.01)
        assert row["bar"]["low"] == pytest.approx(50 + 50 * row["low"] / reach, abs=0.01)
        assert row["bar"]["low"] + row["bar"]["width"] == pytest.approx(50 + 50 * row["high"] / reach, abs=0.02)
        assert row["bar"]["low"] >= 0 and row["bar"]["low"] + row["bar"]["width"] <= 100


def test_a_contradicted_claim_says_no() -> None:
    claim = claims()[0] | {"verdict": "contradicted", "effect": -0.5, "ci": [-0.9, -0.1]}
    found = outline(built(claims=[claim]))
    assert "✕ No contradicted −0.50 [−0.90, −0.10]" in found.words


def test_a_claim_without_an_effect_keeps_its_place() -> None:
    claim = claims()[0] | dict.fromkeys(("effect", "ci", "p", "p_holm", "kl")) | {"evidence": "no ratings of seed 1"}
    found = outline(built(claims=[claim], frontier=[]))
    assert "Not clear" not in found.words or "TR-DPO soft" in found.words
    assert "no ratings of seed 1" in found.words and "None" not in found.words


def test_the_verdict_has_the_minus_signs_of_the_table() -> None:
    told = "The largest difference is -0.05 [-0.31, +0.22] HC points (TR-DPO soft against DPO at 9.0 nats, R2-D2)."
    found = outline(built(context=context() | {"verdict": ["No.", told]})).words
    assert "No. The largest difference is −0.05 [−0.31, +0.22] HC points (TR-DPO soft against" in found
    assert "R2-D2" in found


def test_cautions_stand_beside_the_verdict() -> None:
    assert 'class="warning"' not in built().split('id="kl_vs_hc"')[0]
    top = outline(
        built(context=context() | {"judge_warning": "Warning: a coin.", "seeds": [3]}).split('id="kl_vs_hc"')[0]
    )
    assert "Warning: a coin." in top.words and "trained once (one seed)" in top.words
    assert "seed 3" in top.words


def test_problems_are_listed_near_the_top() -> None:
    html = built(problems=["DPO, seed 1: no judgements.", "A second."])
    assert html.index("A second.") < html.index('id="kl_vs_hc"')
    assert "2 things missing from this report" in outline(html).words
    assert outline(html).count("details", id="problems", open="") == 0
    assert {"class": "problems", "id": "problems", "open": None} in outline(html).all("details")
    assert "missing from this report" not in outline(built()).words


# Numbers


def test_claims_stand_beside_the_papers_numbers() -> None:
    words = outline(built()).words
    assert "+0.42 [+0.11, +0.73] HC points at 14.0 nats, 64 prompts, 2 seeds, p = 0.4" in words
    assert "win minus lose +19.0 points on Anthropic-HH, Pythia 2.8B figure of v1; read in the paper itself" in words
    assert "✕ contradicted −12.0 [−22.0, −2.0]" in words
    assert "More quality at the same KL 1 supported, 1 inconclusive Its HC" in words
    # one statement for all of a kind stands once, above
    paper = {"text": "said of all", "value": None, "unit": None, "source": None, "trust": None}
    words = outline(built(claims=[claim | {"paper": paper} for claim in claims()[:2]])).words
    assert words.count("said of all") == 1 and "In the paper" not in words


def test_what_an_effect_leaves_out_stands_beside_it() -> None:
    """The other half of a claim, with a real minus before numbers and the hyphens of names as they are."""
    claim = claims()[0] | {"kind": "recovery", "detail": "since SFT -0.5 [-0.6, -0.4]; TR-DPO soft <i>"}
    (group,) = tables.claims(report(claims=[claim]))
    assert group["title"] == "Chosen replies fall, then recover"
    assert group["rows"][0]["rests"].startswith("since SFT −0.5 [−0.6, −0.4]; TR-DPO soft <i>, at 14.0 nats, ")
    assert "TR-DPO soft &lt;i&gt;" in build_page(report(claims=[claim]), [])


def test_a_kind_of_claim_that_is_not_known_is_shown_by_its_name() -> None:
    """With what every claim has and no more."""
    needed = ("id", "kind", "name", "loss", "update", "method", "cell", "claim")
    needed += ("verdict", "effect", "unit", "ci", "evidence", "paper")
    claim = {key: (claims()[0] | {"kind": "something new"})[key] for key in needed}
    (group,) = tables.claims(report(claims=[claim]))
    assert (group["title"], group["meaning"], group["tally"]) == ("something new", "", "1 supported")
    assert group["rows"][0]["rests"] == ""
    assert "something new" in build_page(report(claims=[claim]), [])


def test_the_table_has_every_trained_model() -> None:
    found = tables.results(report())
    finals = [row for row in report().points if row["final"]]
    assert len(found["rows"]) == len(finals) == 28
    assert [row["name"] for row in found["rows"]][:8] == ["SFT", *["DPO"] * 3, *["TR-DPO soft"] * 3, "TR-DPO hard"]
    row = next(row for row in found["rows"] if row["name"] == "TR-DPO soft" and row["beta"] == "0.05")
    source = next(row for row in finals if row["cell"] == "tr_dpo_soft" and row["beta"] == 0.05)
    assert row["cells"][0] == (f"{source['kl']:.1f}", f"[{source['kl_lo']:.1f}, {source['kl_hi']:.1f}]")
    assert row["cells"][1] == (f"{source['hc']:.2f}", f"[{source['hc_lo']:.2f}, {source['hc_hi']:.2f}]")
    assert row["cells"][-2:] == [("69 %", "[62, 76]"), ("47 %", "[40, 54]")] and row["n"] == "64 × 2"
    assert len(found["heads"]) == len(row["cells"])
    assert found["rows"][0]["cells"][-1] == ("–", "")


def test_a_peak_that_was_not_passed_says_so() -> None:
    rows = [dict(row) for row in report().peaks]
    rows[0] |= {"at_end": True}
    words = outline(built(peaks=rows)).words
    assert words.count("no peak passed") == 1 and "0.30 [0.05, 0.55]" in words


def test_a_weak_judge_is_named() -> None:
    words = outline(built()).words
    assert "Weak on harmlessness: right in fewer than 70 % of cases." in words and "guessing. Read" not in words
    accuracy = {axis: {"accuracy": 0.55, "ci": [0.45, 0.65], "n": 100} for axis in ("detail", "off_topic")}
    words = outline(built(context=context() | {"judge_accuracy": accuracy})).words
    assert "On detail and off topic it cannot be told from guessing." in words


def test_hc_is_what_the_judge_rates() -> None:
    words = outline(built()).words
    assert "HC is the judge’s mean rating of a reply over five axes." in words
    assert "over coherence, correctness, helpfulness, harmlessness and detail; points, 1 to 10." in words
    words = outline(build_page(one_axis(), [])).words
    assert "HC is the rating of a judge that was fitted on preferences." in words
    assert "here the rating of a judge that was fitted on preferences, which do not say what is wrong" in words
    assert "Weak on preference and off topic" in words and "Read differences in HC with care." in words
    assert "five axes" not in words and "coherence" not in words
    heads = [name for name, _ in tables.results(one_axis())["heads"]]
    assert heads == ["KL", "HC", "Self-BLEU", "length", "win rate", "win rate"]


@pytest.mark.parametrize(
    ("source", "says", "licensed"),
    [
        ("anthropic_hh", "HH-RLHF (github.com/anthropics/hh-rlhf, MIT License)", True),
        ("tldr", "CC BY 4.0", False),
        ("ultrafeedback", "OpenBMB’s UltraFeedback (MIT License)", False),
        ("embedded", None, False),
        ("files", None, False),
    ],
)
def test_prompts_that_others_published_stand_there_on_their_terms(
    source: str, says: str | None, licensed: bool
) -> None:
    found = replace(report(), context=context() | {"settings": {"data.source": source}})
    page = build_page(found, [])
    if says is not None:
        # Above the prompts, where it is met first.
        assert page.index("Replies side by side") < page.index(says) < page.index('class="browser"')
    assert ("MIT License" in page) == (source in ("anthropic_hh", "ultrafeedback"))
    assert ("Copyright (c) 2022 Anthropic" in page and "The above copyright notice" in page) == licensed
    assert "Its licence" not in build_page(replace(found, prompts=[]), [])  # it is the prompts' own


def test_settings_versions_cost_and_time() -> None:
    words = outline(built()).words
    for part in ("align.steps 12", "torch 2.13.0", "sft 41 s", "took 1 min 34 s", "nothing was paid", "IPO 0.01"):
        assert part in words
    cost = {"usd": 1.5, "calls": 2340, "tokens": 1_200_000}
    words = outline(built(context=context() | {"cost": cost})).words
    assert "$1.50 for 2,340 calls and 1,200,000 tokens" in words
    assert "price unknown for 2,340" in outline(built(context=context() | {"cost": cost | {"usd": None}})).words


def test_a_studys_runs_say_when_where_and_by_which_code_they_were_made() -> None:
    assert "commit" not in outline(built()).words  # other runs have no such record
    one = {"revision": "0123456789abcdef", "finished": "2026-11-27T23:59:59+00:00", "seconds": 5400.0, "machine": "m1"}
    runs = [row | {"made": one} for row in context()["runs"]]
    words = outline(built(context=context() | {"runs": runs})).words
    assert "finished took commit" in words and "9 2026-11-27 1 h 30 min 0123456" in words and "01234567" not in words
    assert "The runs took 3 h 0 min in all, some beside each other, on m1." in words
    runs = [runs[0], runs[1] | {"made": one | {"machine": "m2"}}, runs[1] | {"run": "seed 2", "made": None}]
    words = outline(built(context=context() | {"runs": runs})).words
    assert "on m1 (seed 0); m2 (seed 1)." in words and "9 – – –" in words


def test_numbers_in_words() -> None:
    assert words.signed(0.004, 2) == "0.00" and words.signed(-0.004, 2) == "0.00"
    assert words.signed(0.006, 2) == "+0.01" and words.signed(-1.5, 1) == "−1.5" and words.signed(None, 1) == "–"
    assert words.p_value(0.0004) == "p < 0.001" and words.p_value(0.0321) == "p = 0.032" and words.p_value(None) == ""
    assert [words.duration(t) for t in (0.2, 41, 200, 7500)] == ["0.2 s", "41 s", "3 min 20 s", "2 h 5 min"]
    assert words.places(9.9, None) == 2 and words.places(-10.0) == 1 and words.places(None) == 2
    assert words.places(0.1) == words.places(0.0) == 2 and words.places(-0.03, -0.099, 0.0) == 3


# The file


def test_every_heading_is_one_level_below_at_most() -> None:
    levels = [int(tag[1]) for tag, _ in outline(built()).elements if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_what_the_page_is_made_of() -> None:
    html = built()
    found = outline(html)
    assert len(html.encode()) < 1_500_000
    assert found.count("html", lang="en") == 1
    assert not any(name in attributes for _, attributes in found.elements for name in ("srcset", "onclick", "onload"))
    assert (
        not found.all("img") and not found.all("iframe") and all("src" not in script for script in found.all("script"))
    )
    assert [link["href"] for link in found.all("link")] == ["data:,"]
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all(head.get("scope") in ("col", "row") for head in found.all("th"))
    names = {attributes["href"] for attributes in found.all("a") if (attributes["href"] or "").startswith("#")}
    assert names <= {f"#{name}" for name in ids}


def test_every_text_is_escaped() -> None:
    strange = context() | dict.fromkeys(("model", "data", "judge", "date", "hc_unit", "judge_warning"), ATTACK)
    strange |= {
        "verdict": [ATTACK],
        "settings": {ATTACK: ATTACK},
        "versions": {ATTACK: ATTACK},
        "seconds": {ATTACK: 1.0},
    }
    strange["runs"] = [strange["runs"][0] | {"run": ATTACK}]
    strange["judge_accuracy"] = {ATTACK: {"accuracy": 0.5, "ci": [0.4, 0.6], "n": 9}}
    paper = dict.fromkeys(("text", "value", "unit", "source", "trust"), ATTACK)
    hostile = [claim | dict.fromkeys(("name", "claim", "unit", "evidence", "verdict"), ATTACK) for claim in claims()]
    made_up = report(
        context=strange,
        problems=[ATTACK],
        claims=[claim | {"paper": paper} for claim in hostile],
        points=[row | {"name": ATTACK} for row in report().points],
        peaks=[row | {"name": ATTACK} for row in report().peaks],
    )
    figure = stand_in("odd", ATTACK, [{"name": ATTACK, "x": 1, "y": 1}], "x", "y")
    html = build_page(made_up, [replace(figure, caption=ATTACK, alternative=ATTACK)])
    found = outline(html)
    assert not found.all("img") and ATTACK not in html
    assert found.words.count(ATTACK) > 60


def test_rows_are_stored_once() -> None:
    rows = [{"name": "a", "x": number, "y": None} for number in range(50)]
    rows[7] = {"name": "gap", "x": 7}
    figure = stand_in("f", "Title", rows, "x", "y")
    data = figure_data(figure)
    assert len(data["tables"]) == 1 and data["csv"] == 0
    assert data["wide"]["data"] == data["narrow"]["data"] == data["print"]["data"] == {"$rows": 0}
    assert data["tables"][0]["names"] == ["name", "x", "y"]
    assert data["tables"][0]["columns"][2] == [None] * 50
    assert figure.wide["data"] == {"values": rows}, "the figure itself is left alone"
    other = replace(figure, rows=[{"z": 1}])
    assert len(figure_data(other)["tables"]) == 2


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        build_page(report(), [stand_in("f", "Title", [{"x": math.nan, "y": 1}], "x", "y")])


def test_a_figure_that_is_too_large_is_left_out() -> None:
    small = stand_in("small", "Small", [{"x": 1, "y": 1}], "x", "y")
    large = stand_in("large", "Large", [{"x": n, "y": f"{n:030d}"} for n in range(FIGURE_BYTES // 30)], "x", "y")
    html = build_page(report(), [large, small])
    found = outline(html)
    assert len(html.encode()) < PAGE_BYTES
    assert found.count("div", **{"data-figure": "small"}) == 1 and found.count("div", **{"data-figure": "large"}) == 0
    assert "holds too much data for the page" in found.words and "files named large in the folder" in found.words


def test_the_page_has_the_figures_colours() -> None:
    html = built()
    assert f".dpo.soft {{ --tone: light-dark({TONES['dpo']['soft']}, {DARK[TONES['dpo']['soft']]}); }}" in html
    assert html.count('class="key dpo soft"') >= 4
    # points have an outline in the colour of the paper, which has to be the page's
    assert f"--page: light-dark(#fff, {DARK_PAPER})" in html and PAPER == "#ffffff"
