"""From the stages' files to everything under reports/: numbers, figure, table, page."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tr_align.config import AXES, METHODS, Params
from tr_align.metrics.matched_kl import difference_at_matched_kl
from tr_align.reports import figures, page, table
from tr_align.reports.common import in_order, label
from tr_align.scratch import read_rows, write_atomically
from tr_align.stats import Array

Row = dict[str, Any]
SAMPLES = 4


def build(params: Params, root: Path = Path(".")) -> tuple[Row, list[Row], Row]:
    """Write metrics.json, kl_hc.json, claims.json, the figures, table.md and index.html under `root`/reports.

    Returns: the metrics by method, the rows of the curves, and the context they are shown in.
    """
    reports = root / "reports"
    methods = in_order(params.methods)
    scores = {name: json.loads((reports / "score" / f"{name}.json").read_text("utf-8")) for name in ["sft", *methods]}
    metrics = {name: scores[name]["final"] | {"seed": params.seed} for name in methods}
    curve = [
        _point(name, row, row["step"] == scores[name]["final"]["step"], params.seed)
        for name in ["sft", *methods]
        for row in scores[name]["curve"]
    ]
    answers = {name: _answers(root, name) for name in ["sft", *methods]}
    context = _context(params, reports) | {"claims": _claims(params, answers)}
    training = {name: read_rows(reports / "train" / f"{name}.jsonl") for name in methods}

    write_atomically(reports / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    write_atomically(reports / "kl_hc.json", json.dumps(curve, indent=1) + "\n")
    write_atomically(reports / "claims.json", json.dumps(context["claims"], indent=1, ensure_ascii=False) + "\n")
    write_atomically(reports / "table.md", table.markdown(metrics, context))
    figures.render(figures.kl_vs_hc(curve, context), reports, "kl_vs_hc")
    figures.render(figures.win_rates(metrics, context), reports, "win_rates")
    write_atomically(reports / "index.html", page.page(metrics, curve, context, _samples(root, methods), training))
    return metrics, curve, context


def _point(name: str, row: Row, final: bool, seed: int) -> Row:
    method = METHODS.get(name)
    return {
        "method": name,
        "loss": method.loss if method else None,
        "update": method.update if method else "none",
        **{key: row[key] for key in ("step", "kl", "kl_lo", "kl_hi", "hc", "hc_lo", "hc_hi", "n_prompts")},
        "seed": seed,
        "final": final,
    }


def _context(params: Params, reports: Path) -> Row:
    accuracy = json.loads((reports / "judge.json").read_text("utf-8"))
    probe = params.judge.name == "probe"
    return {
        "model": params.model.name.partition(":")[2] or params.model.name,
        "data": {"embedded": "embedded requests", "anthropic_hh": "Anthropic-HH"}.get(
            params.data.source, str(params.data.path)
        ),
        "judge": "embedded probes" if probe else params.judge.openai.model,
        "hc_unit": "points, 1 to 10",
        "seeds": [params.seed],
        "alpha": params.ref_update.alpha,
        "every": params.ref_update.every,
        "tau": params.ref_update.tau,
        "beta": params.beta.model_dump(),
        "steps": params.align.steps,
        "judge_accuracy": accuracy or None,
        "date": datetime.date.today().isoformat(),
    }


def _answers(root: Path, name: str) -> dict[tuple[int, str], tuple[float, float]]:
    """KL and HC of each reply by (step, prompt)."""
    judged = {
        (row["step"], row["prompt_id"]): row["axes"]
        for row in read_rows(root / "judgements" / f"{name}.jsonl")
        if row["kind"] == "rating"
    }
    result = {}
    for row in read_rows(root / "generations" / f"{name}.jsonl"):
        axes = [judged[row["step"], row["prompt_id"]][axis] for axis in AXES]
        hc = float("nan") if None in axes else float(np.mean(axes))
        result[row["step"], row["prompt_id"]] = (row["kl"], hc)
    return result


def _claims(params: Params, answers: dict[str, dict[tuple[int, str], tuple[float, float]]]) -> list[Row]:
    """The paper's claim, once for each TR method: more quality than its base at the same KL."""
    claims = []
    for name in in_order(params.methods):
        base = params.methods[name].base
        if base == "sft":
            continue
        # Prompts that were answered at every point of both trainings.
        prompts = sorted(set.intersection(*(_everywhere(answers[m]) for m in ("sft", base, name))))
        curves = [_curve(answers["sft"], answers[m], prompts) for m in (name, base)]
        difference, (low, high), at = difference_at_matched_kl(
            curves[0], curves[1], params.score.bootstrap, params.seed
        )
        verdict = "supported" if low > 0 else "contradicted" if high < 0 else "not supported"
        claims.append(
            {
                "claim": f"{label(name)} keeps more quality than {label(base)} at the same KL",
                "verdict": verdict,
                "evidence": (
                    f"HC differs by {difference:+.2f} [{low:+.2f}, {high:+.2f}] at {at:.1f} nats, the largest KL both "
                    f"reached ({len(prompts)} prompts, paired; one seed)"
                ),
                "difference": difference,
                "ci": [low, high],
                "kl": at,
                "n_prompts": len(prompts),
            }
        )
    return claims


def _everywhere(answers: dict[tuple[int, str], tuple[float, float]]) -> set[str]:
    steps = {step for step, _ in answers}
    return set.intersection(*({prompt for s, prompt in answers if s == step} for step in steps))


def _curve(
    start: dict[tuple[int, str], tuple[float, float]],
    answers: dict[tuple[int, str], tuple[float, float]],
    prompts: Sequence[str],
) -> tuple[Array, Array]:
    """KL and HC of the SFT model and of each point, shape (points, prompts) each."""
    steps = sorted({step for step, _ in answers})
    rows = [[start[0, prompt] for prompt in prompts]]
    rows += [[answers[step, prompt] for prompt in prompts] for step in steps]
    table_of_both = np.array(rows)
    return table_of_both[..., 0], table_of_both[..., 1]


def _samples(root: Path, methods: Sequence[str]) -> list[Row]:
    """The first evaluation prompts with every model's reply, chosen by position and not by how they look."""
    replies = {name: read_rows(root / "generations" / f"{name}.jsonl") for name in ["sft", *methods]}
    last = {name: max(row["step"] for row in rows) for name, rows in replies.items()}
    texts = {
        name: {row["prompt_id"]: row["reply"] for row in rows if row["step"] == last[name]}
        for name, rows in replies.items()
    }
    return [
        {
            "prompt": "\n\n".join(m["content"] for m in row["prompt"] if m["content"] and m["role"] != "system"),
            "replies": {name: texts[name][row["prompt_id"]] for name in replies},
        }
        for row in replies["sft"][:SAMPLES]
    ]
