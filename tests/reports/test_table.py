"""Tables: cells by hand, order, widths, and what the footnote admits."""

from __future__ import annotations

from typing import Any

from tr_align.reports.common import share_with_interval, with_interval
from tr_align.reports.table import TEXT_WIDTH, markdown, text

Metrics = dict[str, dict[str, Any]]


def table_lines(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]


def test_cells_by_hand(metrics: Metrics, context: dict[str, Any]) -> None:
    head, rule, *lines = table_lines(markdown(metrics, context))
    assert head[:3] == ["method", "KL", "HC"]
    assert head[-3:] == ["win vs SFT", "win vs base", "n"]
    assert len(rule) == len(head) == 11
    soft = dict(zip(head, lines[1], strict=True))
    assert soft == {
        "method": "TR-DPO soft",
        "KL": "9.0 [8.1, 9.9]",
        "HC": "0.31 [0.22, 0.40]",
        "coherence": "0.21 [0.09, 0.33]",
        "correctness": "0.26 [0.14, 0.38]",
        "helpfulness": "0.31 [0.19, 0.43]",
        "harmlessness": "0.36 [0.24, 0.48]",
        "detail": "0.41 [0.29, 0.53]",
        "win vs SFT": "62.4 % [54.4, 70.4]",
        "win vs base": "54.0 % [46.0, 62.0]",
        "n": "130",
    }
    assert lines[0][-2] == "–"


def test_sorted_by_loss_then_base_soft_hard(metrics: Metrics, context: dict[str, Any]) -> None:
    shuffled = dict(sorted(metrics.items(), reverse=True))
    names = [line[0] for line in table_lines(markdown(shuffled, context))[2:]]
    assert names[:4] == ["DPO", "TR-DPO soft", "TR-DPO hard", "IPO"]
    assert names[-1] == "TR-KTO hard"


def test_nothing_is_marked_as_best(metrics: Metrics, context: dict[str, Any]) -> None:
    assert "**" not in markdown(metrics, context)


def test_partial(metrics: Metrics, context: dict[str, Any]) -> None:
    some = {name: metrics[name] for name in ("tr_ipo_hard", "ipo")}
    assert [line[0] for line in table_lines(markdown(some, context))[2:]] == ["IPO", "TR-IPO hard"]


def test_footnote_says_unit_prompts_seeds_and_missing(metrics: Metrics, context: dict[str, Any]) -> None:
    metrics["tr_kto_soft"] |= {"n_prompts": 127, "n_missing": 3}
    note = markdown(metrics, context | {"seeds": [0, 1]}).splitlines()[-1]
    assert "n = 127 to 130 prompts; seeds 0, 1." in note
    assert "SD of good replies" in note
    assert note.endswith("Left out for lack of a readable score: TR-KTO soft 3.")


BIAS = (
    "The judge gave the reply shown first 51.2 % [49.8, 52.6] of the points, the longer reply 58.0 % [55.0, 61.0]; its "
    "verdicts agreed in both orders in 93.1 % [92.0, 94.2] of 1950 pairs."
)


def test_footnote_says_how_the_judge_is_biased(metrics: Metrics, context: dict[str, Any]) -> None:
    assert markdown(metrics, context).splitlines()[-1].endswith(f"neither is preferred. {BIAS}")
    metrics["dpo"] |= {"n_missing": 1}
    assert f"{BIAS} Left out for lack" in markdown(metrics, context)


def test_footnote_without_duels_or_without_longer_replies(metrics: Metrics, context: dict[str, Any]) -> None:
    bias = context["judge_bias"] | {"n_longer": 0, "longer": None, "longer_ci": None}
    note = markdown(metrics, context | {"judge_bias": bias}).splitlines()[-1]
    assert "shown first 51.2 % [49.8, 52.6] of the points; its verdicts agreed" in note
    nothing = {"n": 0, "n_missing": 4, "n_longer": 0, "consistent": None, "first_shown": None, "longer": None}
    nothing |= {"consistent_ci": None, "first_shown_ci": None, "longer_ci": None}
    note = markdown(metrics, context | {"judge_bias": nothing}).splitlines()[-1]
    assert note.endswith("at a win rate of 50 % neither is preferred.")


def test_text_fits_the_terminal(metrics: Metrics, context: dict[str, Any]) -> None:
    for row in metrics.values():
        row |= {"kl": 1234.5, "kl_ci": [1100.25, 1400.75]}
    lines = text(metrics, context).splitlines()
    assert max(map(len, lines)) <= TEXT_WIDTH
    assert lines[0].split("  ")[0] == "method"
    starts = {line.index("1234.5 [1100.2, 1400.8]") for line in lines[2:11]}
    assert starts == {len("TR-DPO soft") + 2}


def test_numbers() -> None:
    assert with_interval(-0.001, [-0.2, 0.004], 2) == "0.00 [-0.20, 0.00]"
    assert with_interval(None, None, 2) == "–"
    assert with_interval(1.0, None, 1) == "1.0"
    assert share_with_interval(0.577, [0.496, 0.658]) == "57.7 % [49.6, 65.8]"
    assert share_with_interval(None, None) == "–"
