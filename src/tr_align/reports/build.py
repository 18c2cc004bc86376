"""From the stages' files to everything under reports/: numbers, figure, table, page."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from tr_align.config import METHODS, Params
from tr_align.judging import last_step
from tr_align.metrics.bias import bias, pairs_of
from tr_align.reports import card, figures, page, table
from tr_align.reports.claims import answers_of, claims
from tr_align.reports.common import in_order
from tr_align.scratch import read_rows, write_atomically

Row = dict[str, Any]
Rows = dict[str, list[Row]]
"""The lines of a stage's file, by model."""
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
    replies, judgements = (
        {name: read_rows(root / folder / f"{name}.jsonl") for name in ["sft", *methods]}
        for folder in ("generations", "judgements")
    )
    context = _context(params, reports) | {
        "claims": claims(params, {name: answers_of(replies[name], judgements[name]) for name in replies}),
        "judge_bias": _judge_bias(params, replies, judgements),
    }
    training = {name: read_rows(reports / "train" / f"{name}.jsonl") for name in methods}

    write_atomically(reports / "metrics.json", json.dumps(metrics, indent=1) + "\n")
    write_atomically(reports / "kl_hc.json", json.dumps(curve, indent=1) + "\n")
    write_atomically(reports / "claims.json", json.dumps(context["claims"], indent=1, ensure_ascii=False) + "\n")
    write_atomically(reports / "table.md", table.markdown(metrics, context))
    figures.render(figures.kl_vs_hc(curve, context), reports, "kl_vs_hc")
    figures.render(figures.win_rates(metrics, context), reports, "win_rates")
    write_atomically(reports / "index.html", page.page(metrics, curve, context, _samples(replies), training))
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
    measured = reports / "calibration.json"
    calibration = json.loads(measured.read_text("utf-8")) if measured.exists() else None
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
        "calibration": calibration,
        "judge_warning": card.warning(calibration) if calibration else None,
        "date": datetime.date.today().isoformat(),
    }


def _judge_bias(params: Params, replies: Rows, judgements: Rows) -> Row:
    """The judge's bias over the duels of all methods together; the duels about one prompt are drawn together."""
    duels = []
    for name, method in params.methods.items():
        for against, other in (("sft", "sft"), ("base", method.base)):
            duels += pairs_of(judgements[name], replies[name], replies[other], against)
    return bias(duels, params.score.bootstrap, params.seed)


def _samples(replies: Rows) -> list[Row]:
    """The first evaluation prompts with every model's reply, chosen by position and not by how they look."""
    texts = {name: {row["prompt_id"]: row["reply"] for row in last_step(rows)} for name, rows in replies.items()}
    return [
        {
            "prompt": "\n\n".join(m["content"] for m in row["prompt"] if m["content"] and m["role"] != "system"),
            "replies": {name: texts[name][row["prompt_id"]] for name in replies},
        }
        for row in replies["sft"][:SAMPLES]
    ]
