"""A judge's card in words: the warning, the terminal's lines, and the page's section."""

from __future__ import annotations

from typing import Any

import pytest

from tr_align.reports.card import section, text, warning
from tr_align.reports.page import build_page
from tr_align.settings import AXES

from .made_up import context, report
from .test_page import ATTACK, outline

WARNING = "Warning: this judge agrees with the labels no better than chance (54.0 % [45.2, 63.1], n = 100)."


def estimate(value: float | None, ci: list[float] | None, n: int = 100, missing: int = 0) -> dict[str, Any]:
    return {"value": value, "ci": ci, "n": n, "n_missing": missing}


@pytest.fixture
def card() -> dict[str, Any]:
    """Made up: a judge that is better than chance in both respects."""
    return {
        "label_source": "human preferences",
        "n_pairs": 100,
        "n_prompts": 90,
        "agreement": estimate(0.7, [0.61, 0.79]),
        "agreement_rating": estimate(0.66, [0.56, 0.75]),
        "verdict": "better than chance",
        "verdict_rating": "better than chance",
        "axes": {"detail": estimate(0.9, [0.8, 0.95], 40)},
        "bias": {
            "n": 98,
            "n_missing": 2,
            "n_longer": 77,
            "consistent": 0.81,
            "consistent_ci": [0.72, 0.88],
            "first_shown": 0.55,
            "first_shown_ci": [0.5, 0.6],
            "longer": 0.6,
            "longer_ci": [0.49, 0.71],
        },
        "length": {
            "chosen_longer": estimate(0.8, [0.7, 0.9], 50),
            "chosen_shorter": estimate(0.57, [0.4, 0.7], 27),
            "difference": {"value": 0.23, "ci": [0.0002, 0.44], "n": 77},
            "labels_longer": estimate(0.65, [0.54, 0.75], 77),
        },
        "obvious": {"other_prompt": estimate(1.0, [0.858, 1.0], 24), "empty": estimate(None, None, 0, 24)},
        "injections": {
            "placement": "appended",
            "fooled": estimate(0.125, [0.05, 0.2], 72),
            "bare": estimate(0.25, [0.1, 0.4], 72),
            "effect": estimate(-0.125, [-0.2, -0.01], 72),
            "rating_shift": estimate(1.5, [-0.25, 3.0], 71, 1),
            "attacks": {
                "direct_order": {"kind": "order", "fooled": 0.5, "bare": 0.25, "n": 6, "n_missing": 0},
                "fake_turn": {"kind": "fake turn", "fooled": None, "bare": None, "n": 0, "n_missing": 6},
            },
        },
        "missing": {"ratings": {"n_missing": 3, "n": 296}, "duels": {"n_missing": 0, "n": 584}},
        "unit": "points, 1 to 10",
        "seed": 0,
        "resamples": 2000,
    }


@pytest.fixture
def weak(card: dict[str, Any]) -> dict[str, Any]:
    return card | {"agreement": estimate(0.54, [0.452, 0.631]), "verdict": "no better than chance"}


# The warning


def test_no_warning_about_a_judge_that_is_better_than_chance(card: dict[str, Any]) -> None:
    assert warning(card) is None


def test_warnings_by_verdict(card: dict[str, Any], weak: dict[str, Any]) -> None:
    assert warning(weak) == WARNING
    worse = card | {"agreement": estimate(0.3, [0.2, 0.4]), "verdict": "worse than chance"}
    assert warning(worse) == (
        "Warning: this judge agrees with the labels worse than chance (30.0 % [20.0, 40.0], n = 100)."
    )
    ratings = card | {"agreement_rating": estimate(0.5, [0.4, 0.6], 88), "verdict_rating": "no better than chance"}
    assert warning(ratings) == (
        "Warning: this judge's ratings agree with the labels no better than chance (50.0 % [40.0, 60.0], n = 88)."
    )
    # The preference is what both figures are read by first.
    assert warning(weak | {"verdict_rating": "worse than chance"}) == WARNING


def test_the_warning_about_a_judge_that_says_nothing(card: dict[str, Any]) -> None:
    silent = card | {"agreement": estimate(None, None, 0, 100), "verdict": "no better than chance"}
    assert warning(silent) == "Warning: this judge agrees with no label: none of its 100 answers could be read."


# The terminal


def test_the_card_in_the_terminal(card: dict[str, Any]) -> None:
    lines = text(card).split("\n")
    assert lines[0] == (
        "Measured on 100 labelled pairs of 90 prompts (human preferences). Its preferences are better than chance, "
        "its ratings better than chance. In brackets 95 % intervals."
    )
    assert "  preference        70.0 % [61.0, 79.0]  n = 100" in lines
    assert "  rating of detail  90.0 % [80.0, 95.0]  n = 40" in lines
    assert "  reply to another prompt  100.0 % [85.8, 100.0]  n = 24" in lines
    assert "  empty reply              –                      n = 0" in lines
    squeezed = [" ".join(line.split()) for line in lines]
    for line in (
        "same verdict in both orders 81.0 % [72.0, 88.0] n = 98",
        "prefers the reply shown first 55.0 % [50.0, 60.0] n = 98",
        "prefers the longer reply 60.0 % [49.0, 71.0] n = 77",
        "the labels prefer the longer 65.0 % [54.0, 75.0] n = 77",
        "right where the better is longer 80.0 % [70.0, 90.0] n = 50",
        "right where it is shorter 57.0 % [40.0, 70.0] n = 27",
        "difference of these two, points +23.0 [0.0, +44.0] n = 77",
        "fooled by the bare reply 25.0 % [10.0, 40.0] n = 72",
        "fooled with the text 12.5 % [5.0, 20.0] n = 72",
        "effect of the text, points -12.5 [-20.0, -1.0] n = 72",
        "effect on its HC (points, 1 to 10) +1.50 [-0.25, +3.00] n = 71",
    ):
        assert line in squeezed
    assert lines[-1] == "Could not be read and left out: 3 of 296 ratings."
    assert max(map(len, lines[1:])) <= 80


def test_the_terminal_ends_with_the_warning(weak: dict[str, Any]) -> None:
    assert text(weak).endswith(f"\n\nCould not be read and left out: 3 of 296 ratings.\n{WARNING}")
    both = weak | {"missing": {"ratings": {"n_missing": 3, "n": 9}, "duels": {"n_missing": 1, "n": 8}}}
    assert "left out: 3 of 9 ratings and 1 of 8 duels." in text(both)
    all_read = weak | {"missing": {"ratings": {"n_missing": 0, "n": 9}, "duels": {"n_missing": 0, "n": 8}}}
    assert "left out" not in text(all_read)


def test_parts_without_anything_are_left_out(card: dict[str, Any]) -> None:
    card["obvious"] = {}
    card["injections"]["attacks"] = {}
    for shown in (text(card), section(card)):
        assert "obviously wrong" not in shown and "give it orders" not in shown and "<details" not in shown


# The page


def test_the_section_shows_every_estimate(card: dict[str, Any], weak: dict[str, Any]) -> None:
    found = outline(section(card))
    # Heads of four tables and of that of the texts; 3, 2, 7 and 4 lines; two texts.
    assert found.count("tr") == 5 + 3 + 2 + 7 + 4 + 2
    for words in ("70.0 %", "[61.0, 79.0]", "rating of detail", "+23.0", "direct order", "50 %", "25 %", "fake turn"):
        assert words in found.words
    # No bar where there is no share: the empty reply, the two differences and the effect on HC.
    assert found.count("div", **{"class": "bar"}) == 16 - 4
    # The dashed line stands where 50 % says nothing: not for consistency and being fooled.
    assert found.count("u") == 12 - 3
    assert found.count("span", **{"class": "verdict supported"}) == 1
    assert "Warning" not in found.words and "3 of 296 ratings" in found.words
    warned = outline(section(weak))
    assert WARNING in warned.words
    assert warned.count("p", **{"class": "warning"}) == 1
    assert warned.count("span", **{"class": "verdict open"}) == 1
    worse = weak | {"verdict": "worse than chance"}
    assert outline(section(worse)).count("span", **{"class": "verdict contradicted"}) == 1


def test_a_bar_shows_the_interval_and_the_value(card: dict[str, Any]) -> None:
    assert '<i style="left:61.0%;width:18.0%"></i><b style="left:70.0%"></b>' in section(card)


def test_everything_is_escaped(card: dict[str, Any]) -> None:
    card |= {"label_source": ATTACK, "unit": ATTACK, "verdict": ATTACK}
    card["axes"] = {ATTACK: estimate(0.9, [0.8, 1.0])}
    card["injections"]["attacks"] = {ATTACK: {"kind": ATTACK, "fooled": 0.5, "bare": 0.5, "n": 6, "n_missing": 0}}
    found = outline(section(card))
    assert found.count("script") == 0 and found.count("img") == 0
    assert found.words.count(ATTACK) >= 5


def test_the_page_has_the_card_after_the_judge(weak: dict[str, Any]) -> None:
    assert "Its card" not in build_page(report(), [])
    whole = build_page(report(context=context() | {"calibration": weak, "judge_warning": WARNING}), [])
    parts = ("How far the judge can be trusted", "Weak on harmlessness", "Its card", "Replies side by side</h2>")
    where = [whole.index(words) for words in parts]
    assert where == sorted(where)
    # beside the verdict, which rests on this judge, and in the section
    assert outline(whole).words.count(WARNING) == 2
    assert whole.index(WARNING) < whole.index('class="answers"')


def test_a_judge_with_a_card_was_measured(card: dict[str, Any]) -> None:
    found = outline(build_page(report(context=context() | {"judge_accuracy": None, "calibration": card}), [])).words
    assert "How far the judge can be trusted" in found and "Its card" in found
    assert "was not measured" not in found
    found = outline(build_page(report(context=context() | {"judge_accuracy": None}), [])).words
    assert "(the embedded probe) was not measured" in found


def test_the_card_covers_the_axes(card: dict[str, Any]) -> None:
    card["axes"] = {axis: estimate(0.9, [0.8, 1.0]) for axis in AXES}
    assert all(f"rating of {axis}" in text(card) for axis in AXES)


def test_a_card_without_axes_says_nothing_of_them(card: dict[str, Any]) -> None:
    said = "An axis is measured on the pairs whose worse reply fails on it."
    assert said in section(card)
    card["axes"] = {}
    assert said not in section(card) and "rating of" not in section(card)
