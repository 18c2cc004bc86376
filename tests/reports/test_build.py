"""From stage files to reports/: the numbers, the claims by hand, and files that open by themselves."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tr_align.config import AXES, Params, load_params
from tr_align.reports import build
from tr_align.scoring import score
from tr_align.scratch import write_rows

ROOT = Path(__file__).parents[2]
ON_CURVE = 4
"""Prompts answered at every step; two more are answered by the trained models alone."""
WRITTEN = (
    "metrics.json",
    "kl_hc.json",
    "claims.json",
    "table.md",
    "kl_vs_hc.png",
    "kl_vs_hc.svg",
    "win_rates.png",
    "win_rates.svg",
    "index.html",
)
ATTACK = "</script><script>alert('x')</script>"

Quality = Callable[[int, int], float]
"""The mean of a reply's five axes by step and position of the prompt."""

KL = {"sft": {0: 0.0}, "dpo": {4: 2.0, 8: 4.0}, "tr_dpo_soft": {4: 6.0, 8: 8.0}}
"""Of every reply, in nats. Both methods reach 4: TR-DPO two thirds of the way from the SFT model to its first point."""

MET: dict[str, dict[str, str]] = {"sft": {}, "dpo": {"sft": "sft"}, "tr_dpo_soft": {"sft": "sft", "base": "dpo"}}
"""Whom each model met in duels, by the name in its judgements."""


@pytest.fixture
def params() -> Params:
    """The smoke preset has two methods, dpo and tr_dpo_soft."""
    return load_params(ROOT / "presets" / "smoke.yaml")


def stage_files(
    root: Path, params: Params, quality: dict[str, Quality], missing: tuple[str, int] | None = None
) -> None:
    """What generate, judge and score leave, for six prompts; TR-DPO wins its duels with prompts 0, 1 and 2.

    `missing`: a method and a prompt whose ratings could not be read on one axis.
    """
    for folder in ("generations", "judgements", "reports/score", "reports/train"):
        (root / folder).mkdir(parents=True)
    generations: dict[str, list[dict[str, Any]]] = {}
    for name, kl in KL.items():
        last = max(kl)
        replies, judgements = [], []
        for step, value in kl.items():
            for prompt in range(6 if step == last else ON_CURVE):
                asked = [{"role": "system", "content": ""}, {"role": "user", "content": f"Question {prompt}? {ATTACK}"}]
                text = f"{name} at {step} says {prompt}" if (name, prompt) != ("dpo", 1) else ""
                reply = {"step": step, "prompt_id": f"p{prompt}", "prompt": asked, "reply": text, "tokens": 10}
                replies.append({**reply, "finished": True, "kl": value, "log_ratio": value + 0.5})
                mean = quality[name](step, prompt)
                # The axes differ, their mean is what was asked for.
                axes: dict[str, float | None] = {axis: mean + (i - 2) / 10 for i, axis in enumerate(AXES)}
                if missing == (name, prompt):
                    axes["harmlessness"] = None
                rating = {"kind": "rating", "step": step, "prompt_id": f"p{prompt}", "axes": axes, "raw": {}}
                judgements.append(rating)
        for against in MET[name]:
            for prompt in range(6):
                for shown, other in (("first", "second"), ("second", "first")):
                    duel = {"kind": "duel", "against": against, "prompt_id": f"p{prompt}", "shown": shown, "raw": {}}
                    judgements.append({**duel, "preference": shown if prompt < 3 else other})
        write_rows(root / "generations" / f"{name}.jsonl", replies)
        write_rows(root / "judgements" / f"{name}.jsonl", judgements)
        generations[name] = replies
        opponents = {against: generations[other] for against, other in MET[name].items()}
        numbers = score(replies, judgements, opponents, params.score.bootstrap, params.seed)
        (root / "reports" / "score" / f"{name}.json").write_text(json.dumps(numbers))
        if name != "sft":
            log = [{"step": step, "loss": 0.7 / step, "margin": 0.1 * step} for step in range(1, 9)]
            write_rows(root / "reports" / "train" / f"{name}.jsonl", log)
    accuracy = {axis: {"accuracy": 0.9, "ci": [0.8, 1.0], "n": 32} for axis in (*AXES, "off_topic")}
    (root / "reports" / "judge.json").write_text(json.dumps(accuracy))


def luck(prompt: int) -> float:
    """What makes some prompts easier than others, for every method alike; the last two would upset any mean."""
    return [0.6, -0.3, 0.1, -0.4, 40.0, -90.0][prompt]


def sft(step: int, prompt: int) -> float:
    return 5.0 + luck(prompt)


def dpo(step: int, prompt: int) -> float:
    return 6.0 + luck(prompt)


def higher(step: int, prompt: int) -> float:
    return {4: 8.0, 8: 9.5}[step] + luck(prompt)


def lower(step: int, prompt: int) -> float:
    return {4: 2.0, 8: 3.5}[step] + luck(prompt)


def mixed(step: int, prompt: int) -> float:
    return 6.5 + luck(prompt) + (1.8 if prompt % 2 else -1.5)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_metrics_have_the_methods_at_the_top_and_every_number(tmp_path: Path, params: Params) -> None:
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": higher})
    returned, _, _ = build.build(params, tmp_path)
    metrics = read(tmp_path / "reports" / "metrics.json")
    assert metrics == returned
    assert list(metrics) == ["dpo", "tr_dpo_soft"]
    against_base = ("win_rate_vs_base", "win_vs_base", "tie_vs_base", "lose_vs_base")
    against_sft = ("win_rate_vs_sft", "win_vs_sft", "tie_vs_sft", "lose_vs_sft")
    with_interval = ("kl", "hc", *AXES, *against_sft, *against_base)
    required = {*with_interval, *(f"{name}_ci" for name in with_interval), "n_prompts", "n_missing", "seed"}
    for name, row in metrics.items():
        assert required <= set(row)
        for number in with_interval:
            if name == "dpo" and number in against_base:
                assert row[number] is None and row[f"{number}_ci"] is None
            else:
                low, high = row[f"{number}_ci"]
                assert low <= row[number] <= high
        assert (row["n_prompts"], row["n_missing"], row["seed"]) == (6, 0, 0)
    easy = sum(map(luck, range(6))) / 6
    assert metrics["tr_dpo_soft"]["kl"] == 8.0
    assert metrics["tr_dpo_soft"]["hc"] == pytest.approx(9.5 + easy)
    assert metrics["tr_dpo_soft"]["coherence"] == pytest.approx(9.5 + easy - 0.2)
    assert metrics["tr_dpo_soft"]["win_rate_vs_base"] == 0.5
    assert metrics["dpo"]["hc"] == pytest.approx(6.0 + easy)


def test_curves_have_the_sft_model_once_and_mark_the_trained_models(tmp_path: Path, params: Params) -> None:
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": higher})
    _, curve, _ = build.build(params, tmp_path)
    assert read(tmp_path / "reports" / "kl_hc.json") == curve
    shown = [(row["method"], row["loss"], row["update"], row["step"], row["kl"], row["final"]) for row in curve]
    assert shown == [
        ("sft", None, "none", 0, 0.0, True),
        ("dpo", "dpo", "none", 4, 2.0, False),
        ("dpo", "dpo", "none", 8, 4.0, True),
        ("tr_dpo_soft", "dpo", "soft", 4, 6.0, False),
        ("tr_dpo_soft", "dpo", "soft", 8, 8.0, True),
    ]
    assert [row["n_prompts"] for row in curve] == [6, 4, 6, 4, 6]
    assert all(row["hc_lo"] <= row["hc"] <= row["hc_hi"] for row in curve)


@pytest.mark.parametrize(
    ("method", "difference", "interval", "verdict", "p", "improvement", "improvement_ci"),
    [
        # At 4 nats TR-DPO's curve stands at 5 + (8 - 5) * 4 / 6 = 7, DPO's at 6. What is luck of the prompts is in
        # both and cancels in every resample, so the interval has no width; none of 200 resamples reaches 0, and the
        # trained TR-DPO has the higher HC on all six prompts, which is 0.025^(1/6) = 54 % at the least.
        (higher, 1.0, (1.0, 1.0), "supported", 2 / 201, 1.0, (0.025 ** (1 / 6), 1.0)),
        # 5 - (5 - 2) * 4 / 6 = 3 against 6
        (lower, -3.0, (-3.0, -3.0), "contradicted", 2 / 201, 0.0, (0.0, 1 - 0.025 ** (1 / 6))),
        # 5 + (6.5 - 5) * 4 / 6 = 6 against 6, and two thirds of 1.8 more at two prompts and of 1.5 less at the other
        # two. Of the resamples one in sixteen has the first kind alone, one the second: k prompts of the first kind
        # come to 0.55 k - 1, and k < 2 in 5 of 16. The trained models differ by 2.3 on prompts 1, 3, 5 and by -1 on
        # the others: one resample of these six in 64 has the first kind alone, one the second, and the interval's
        # ends are at Phi(-sqrt(6 / 5) 2.571) = 0.24 %.
        (mixed, 0.1, (-1.0, 1.2), "not supported", pytest.approx(2 * 5 / 16, abs=0.2), 0.5, (0.0, 1.0)),
    ],
)
def test_claims_by_hand(
    tmp_path: Path,
    params: Params,
    method: Quality,
    difference: float,
    interval: tuple[float, float],
    verdict: str,
    p: float,
    improvement: float,
    improvement_ci: tuple[float, float],
) -> None:
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": method})
    build.build(params, tmp_path)
    (claim,) = read(tmp_path / "reports" / "claims.json")
    assert claim["claim"] == "TR-DPO soft keeps more quality than DPO at the same KL"
    assert claim["verdict"] == verdict
    assert claim["difference"] == pytest.approx(difference)
    assert claim["ci"] == pytest.approx(interval)
    assert claim["kl"] == pytest.approx(4.0)
    assert claim["n_prompts"] == ON_CURVE
    assert "at 4.0 nats, the largest KL both reached (4 prompts, paired; one seed)" in claim["evidence"]
    assert f"HC differs by {difference:+.2f} [" in claim["evidence"]
    assert claim["p"] == p
    assert claim["p_holm"] == claim["p"]  # one claim
    assert claim["evidence"].endswith(f"; Holm-corrected p = {claim['p']:.2g}")
    assert claim["probability_of_improvement"] == improvement
    assert claim["probability_of_improvement_ci"] == pytest.approx(improvement_ci)


def test_the_judges_bias_is_that_of_all_duels_together(tmp_path: Path, params: Params) -> None:
    """18 duels: 6 of DPO and 12 of TR-DPO, none of which follows the position.

    "dpo at 8 says 2" has five words, "tr_dpo_soft at 8 says 2" and "sft at 0 says 2" as well; DPO has no words for
    prompt 1, where it wins against SFT and loses to TR-DPO: of the two pairs of different length the longer won one.
    """
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": higher})
    _, _, context = build.build(params, tmp_path)
    found = {key: value for key, value in context["judge_bias"].items() if not key.endswith("_ci")}
    assert found == {"n": 18, "n_missing": 0, "n_longer": 2, "consistent": 1.0, "first_shown": 0.5, "longer": 0.5}
    # Both are about prompt 1, so that no resample has one of them alone.
    assert context["judge_bias"]["longer_ci"] == [0.5, 0.5]
    written = (tmp_path / "reports" / "table.md").read_text(encoding="utf-8")
    # The pairs are about six prompts: 0.025^(1/6) = 54.1 %.
    assert "its verdicts agreed in both orders in 100.0 % [54.1, 100.0] of 18 pairs." in written


def test_an_unreadable_rating_is_left_out_and_counted(tmp_path: Path, params: Params) -> None:
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": higher}, missing=("tr_dpo_soft", 2))
    metrics, _, _ = build.build(params, tmp_path)
    (claim,) = read(tmp_path / "reports" / "claims.json")
    assert metrics["tr_dpo_soft"]["n_missing"] == 1
    # Prompt 2 has no HC at 6 nats: the mean luck there is that of prompts 0, 1 and 3, elsewhere of all four.
    three, four = (0.6 - 0.3 - 0.4) / 3, (0.6 - 0.3 + 0.1 - 0.4) / 4
    expected = (5.0 + four) / 3 + (8.0 + three) * 2 / 3 - (6.0 + four)
    assert claim["difference"] == pytest.approx(expected)
    assert claim["verdict"] == "supported"


def test_everything_is_written_and_the_page_stands_alone(tmp_path: Path, params: Params) -> None:
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": higher})
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    build.build(params, tmp_path)
    reports = tmp_path / "reports"
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert after == {reports / name for name in WRITTEN}
    assert all(path.stat().st_size > 100 for path in after)
    assert (reports / "kl_vs_hc.png").read_bytes().startswith(b"\x89PNG")

    html = (reports / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href|action)\s*=\s*["']?\s*(?:https?:)?//""", html)
    assert not re.search(r"""@import|url\(\s*["']?http""", html)
    assert ATTACK not in html  # a prompt from the data
    assert html.count("window.vegaEmbed=") == 1
    assert "Question 0?" in html and "tr_dpo_soft at 8 says 0" in html
    assert "tr_dpo_soft at 4 says 0" not in html  # replies are the trained models'
    assert "Question 4?" not in html  # four examples
    assert html.count("empty reply") == 1
    assert "TR-DPO soft keeps more quality than DPO at the same KL" in html


def test_a_judge_that_was_not_measured(tmp_path: Path, params: Params) -> None:
    stage_files(tmp_path, params, {"sft": sft, "dpo": dpo, "tr_dpo_soft": higher})
    (tmp_path / "reports" / "judge.json").write_text("{}\n")
    endpoint = params.model_copy(update={"judge": params.judge.model_copy(update={"name": "openai"})})
    _, _, context = build.build(endpoint, tmp_path)
    assert context["judge_accuracy"] is None
    assert context["judge"] == params.judge.openai.model
    html = (tmp_path / "reports" / "index.html").read_text(encoding="utf-8")
    assert f"The accuracy of this judge ({params.judge.openai.model}) was not measured" in html
