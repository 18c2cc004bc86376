"""The figures compile, show every row, and survive partial results; the DVC template is the same figure."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import vl_convert
from dvc_render.vega import VegaRenderer

from tr_align.reports.dvc_plots import PATH, dvc_template, template_text
from tr_align.reports.figures import interactive_html, kl_vs_hc, render, win_rates
from tr_align.reports.theme import VEGA_LITE
from tr_align.reports.training import MOST_POINTS, training_curves

ROOT = Path(__file__).parents[2]
Rows = list[dict[str, Any]]


def compiles(spec: dict[str, Any]) -> str:
    assert vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE)["marks"]
    return vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)


def words(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def symbols(svg: str) -> int:
    """Points drawn with a tooltip; Vega names them by the field of their step."""
    return len(re.findall(r'<path aria-label="[^"]*method: [^"]*step: ', svg))


def test_every_row_is_in_the_spec_and_drawn(curve: Rows, context: dict[str, Any]) -> None:
    spec = kl_vs_hc(curve, context)
    assert spec["data"]["values"] == curve
    svg = compiles(spec)
    trained, sft_in_three_panels = 9 * 3, 3
    assert symbols(svg) == trained + sft_in_three_panels
    assert {"DPO", "IPO", "KTO", "base", "soft α=0.6", "hard τ=4"} <= set(words(svg))
    assert "HC score, mean of five axes (SD of good replies)" in words(svg)


def test_subtitle_says_what_was_run(curve: Rows, context: dict[str, Any]) -> None:
    first, second = kl_vs_hc(curve, context)["title"]["subtitle"]
    assert first == "smollm2-135m-instruct on the embedded preferences, judged by the embedded probe"
    assert second == (
        "130 prompts at the end of training (large points), 24 before; seed 0; "
        "bars: 95 % bootstrap intervals over prompts"
    )


@pytest.mark.parametrize(
    ("methods", "panels", "legend"),
    [
        ({"dpo"}, {"DPO"}, {"base"}),
        ({"kto", "tr_kto_hard"}, {"KTO"}, {"base", "hard τ=4"}),
        ({"dpo", "tr_dpo_soft", "ipo"}, {"DPO", "IPO"}, {"base", "soft α=0.6"}),
    ],
)
def test_partial_results(
    curve: Rows, context: dict[str, Any], methods: set[str], panels: set[str], legend: set[str]
) -> None:
    some = [row for row in curve if row["method"] in methods | {"sft"}]
    for stacked in (False, True):
        shown = set(words(compiles(kl_vs_hc(some, context, stacked=stacked))))
        assert shown & {"DPO", "IPO", "KTO"} == panels
        assert shown & {"base", "soft α=0.6", "hard τ=4"} == legend


@pytest.mark.parametrize("seed", [0, None, 7])
def test_a_line_starts_at_the_sft_point(curve: Rows, context: dict[str, Any], seed: int | None) -> None:
    curve[0]["seed"] = seed
    svg = compiles(kl_vs_hc([row for row in curve if row["method"] in ("sft", "dpo")], context))
    lines = re.findall(r'<path[^>]*aria-roledescription="line mark"[^>]* d="([^"]*)"', svg)
    assert len(lines) == 1
    start, *_ = lines[0].removeprefix("M").split("L")
    assert float(start.split(",")[0]) == 0.0
    assert lines[0].count("L") == 3


def test_each_seed_has_its_own_line(curve: Rows, context: dict[str, Any]) -> None:
    dpo = [row for row in curve if row["method"] == "dpo"]
    again = [{**row, "seed": 1, "hc": row["hc"] + 0.1} for row in dpo]
    svg = compiles(kl_vs_hc([curve[0], *dpo, *again], context))
    lines = re.findall(r'<path[^>]*aria-roledescription="line mark"[^>]* d="([^"]*)"', svg)
    assert sorted(line.count("L") for line in lines) == [2, 3]


def test_points_without_intervals_are_drawn(curve: Rows, context: dict[str, Any]) -> None:
    for row in curve:
        row |= dict.fromkeys(("kl_lo", "kl_hi", "hc_lo", "hc_hi"))
    assert symbols(compiles(kl_vs_hc(curve, context))) == 30


def test_render_writes_png_and_svg(curve: Rows, context: dict[str, Any], tmp_path: Path) -> None:
    png, svg = render(kl_vs_hc(curve, context), tmp_path / "new", "figure")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text(encoding="utf-8").startswith("<svg")
    width = int.from_bytes(png.read_bytes()[16:20], "big")
    assert width > 1200


def test_interactive_html_needs_no_network(curve: Rows, context: dict[str, Any]) -> None:
    html = interactive_html(kl_vs_hc(curve, context))
    assert not re.search(r"""(?:src|href)\s*=\s*["']https?://""", html)


def test_win_rates_show_every_duel(metrics: dict[str, Any], context: dict[str, Any]) -> None:
    spec = win_rates(metrics, context)
    duels = [row["versus"] for row in spec["data"]["values"]]
    assert duels.count("Against the SFT model") == 9
    assert duels.count("Against its own base method") == 6
    assert "54 %" in words(compiles(spec))


def test_win_rates_of_one_base_method(metrics: dict[str, Any], context: dict[str, Any]) -> None:
    shown = words(compiles(win_rates({"ipo": metrics["ipo"]}, context)))
    assert "IPO" in shown
    assert "Against its own base method" not in shown


def test_extreme_win_rates_stay_on_the_axis(metrics: dict[str, Any], context: dict[str, Any]) -> None:
    metrics["dpo"] |= {"win_rate_vs_sft": 1.0, "win_rate_vs_sft_ci": [1.0, 1.0]}
    metrics["ipo"] |= {"win_rate_vs_sft": 0.0, "win_rate_vs_sft_ci": [0.0, 0.0]}
    scale = win_rates(metrics, context)["spec"]["layer"][2]["encoding"]["x"]["scale"]
    assert scale["domain"] == [0.0, 1.0]


def test_training_curves_of_long_logs_are_thinned(training: dict[str, Rows], context: dict[str, Any]) -> None:
    training["dpo"] = [{**training["dpo"][0], "step": step} for step in range(1, 1002)]
    spec = training_curves(training, context)
    steps = [row["step"] for row in spec["data"]["values"] if row["method"] == "DPO" and row["quantity"] == "loss"]
    assert len(steps) <= MOST_POINTS
    assert (steps[0], steps[-1]) == (1, 1001)
    assert {"Loss", "Margin", "Reference from SFT", "Policy from reference"} <= set(words(compiles(spec)))


def test_committed_template_is_current() -> None:
    committed = (ROOT / PATH).read_text(encoding="utf-8")
    assert committed == template_text(), "run python -m tr_align.reports.dvc_plots"


def test_template_is_the_figure(curve: Rows, context: dict[str, Any]) -> None:
    """Same layers in the same order: one definition serves both."""
    template, figure = dvc_template(context), kl_vs_hc(curve, context)
    assert [layer["mark"] for layer in template["spec"]["layer"]] == [
        layer["mark"] for layer in figure["spec"]["layer"]
    ]


def test_dvc_fills_the_template_with_several_revisions(curve: Rows, tmp_path: Path) -> None:
    (tmp_path / "kl_vs_hc.json").write_text(template_text(), encoding="utf-8")
    rows = [{**copy.copy(row), "rev": rev} for rev in ("workspace", "main") for row in curve]
    renderer = VegaRenderer(
        rows, "kl_hc", template="kl_vs_hc", template_dir=str(tmp_path), x="kl", y="hc", title="quality"
    )
    filled = renderer.partial_html()
    assert "<DVC_METRIC" not in filled
    svg = compiles(json.loads(filled))
    assert symbols(svg) == 2 * (27 + 3)
    assert {"quality", "revision", "main", "workspace"} <= set(words(svg))
