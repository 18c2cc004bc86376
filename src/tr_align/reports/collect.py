"""From finished runs to the rows of a report."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from tr_align.judges.base import as_number, axes_of, parts_of_hc
from tr_align.metrics.bias import bias
from tr_align.metrics.diversity import self_bleu_scores
from tr_align.metrics.seeds import Estimate, mean_over_seeds, share_over_seeds
from tr_align.reports import card
from tr_align.reports.claims import claims, verdict
from tr_align.reports.common import LOSSES, count_text, judge_text, update_steps
from tr_align.reports.compare import comparisons, frontier_rows, peak_rows, spread
from tr_align.reports.contrasts import contrast_claims, setting_rows
from tr_align.reports.likelihood_claims import likelihood_claims
from tr_align.reports.likelihoods import likelihood_rows
from tr_align.reports.reply_claims import reply_claims
from tr_align.reports.results import Report
from tr_align.reports.runs import Run, comparable, flat
from tr_align.reports.study import Study, study
from tr_align.stats import mean_ci

Row = dict[str, Any]
DATA = {
    "embedded": "embedded requests",
    "anthropic_hh": "Anthropic-HH",
    "tldr": "Reddit TL;DR",
    "ultrafeedback": "UltraFeedback",
}
"""What a report calls the sources; files are called by their path."""

PACKAGES = ("tr-align", "torch", "transformers", "trl", "accelerate", "datasets", "dvc", "mlflow", "openai", "numpy")
BOUNDS = {"kl": (0.0, math.inf), "self_bleu": (0.0, 100.0), "reply_words": (0.0, math.inf)}
"""What a quantity's values lie between, so its mean too, however wide an interval over two seeds is; HC and its axes
have the judge's scale."""
SCALE = (1.0, 10.0)
VERDICTS = {1.0: "win", 0.0: "lose"}


def collect(runs: Sequence[Run], seconds: Mapping[str, float] | None = None) -> Report:
    """Everything a report of these runs shows.

    Args:
        runs: the first one's settings are the report's; runs that cannot be compared with it are left out, and
            `problems` says so. seconds: how long each stage took, where known.
    """
    runs, left_out = comparable(runs)
    first = runs[0].params
    resamples, seed = first.score.bootstrap, first.seed
    sorted_runs = study(runs)
    found, failed = comparisons(sorted_runs, resamples, seed)
    others = [make(sorted_runs, resamples, seed) for make in (reply_claims, likelihood_claims, contrast_claims)]
    tested = claims(sorted_runs, found, failed, [one for group in others for one in group])
    by_setting, not_drawn = setting_rows(sorted_runs, resamples, seed)
    toy = runs[0].toy
    points = _points(sorted_runs, resamples, seed)
    problems = [*left_out, *sorted_runs.problems, *_unread(sorted_runs)]
    problems += [
        f"{sorted_runs.cells[one.cell]['name']} is compared with its base along the training at β = "
        f"{one.pairing.beta:g}: no seed was trained with all their betas"
        for one in found
        if one.pairing.along == "steps" and len(sorted_runs.by_loss(sorted_runs.cells[one.cell]["loss"])) > 1
    ]
    problems += [f"{sorted_runs.cells[cell]['name']} could not be compared: {why}" for cell, why in failed.items()]
    problems += not_drawn
    parts = dict(
        context=_context(sorted_runs, points, seconds or {}) | {"verdict": verdict(tested)},
        points=points,
        wins=_wins(sorted_runs, resamples, seed),
        frontier=frontier_rows(sorted_runs, found),
        peaks=peak_rows(sorted_runs, resamples, seed),
        claims=[*tested, *(toy or {}).get("claims", ())],
        training=_training(sorted_runs),
        updates={
            cell: update_steps(row, first.align.steps) for cell, row in sorted_runs.cells.items() if cell != "sft"
        },
        ood=likelihood_rows(sorted_runs, resamples, seed),
        by_setting=by_setting,
        toy=toy,
        prompts=_prompts(sorted_runs),
        problems=problems,
    )
    return Report(**plain(parts))


def plain(value: Any) -> Any:
    """A value for JSON: numbers that are not finite become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json(value: Any) -> str:
    """Rows as a JSON file."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _points(study: Study, resamples: int, seed: int) -> list[Row]:
    rows, axes = [], parts_of_hc(_axes(study))
    for cell, columns in study.cells.items():
        for (name, beta), by_seed in sorted(study.trained.items(), key=lambda item: item[0][1] or 0.0):
            if name != cell:
                continue
            last = max(trained.last for trained in by_seed.values())
            for step in sorted({step for trained in by_seed.values() for step in trained.answers}):
                answers = {s: trained.answers[step] for s, trained in by_seed.items() if step in trained.answers}
                row = columns | {"beta": beta, "step": step, "final": step == last, "seeds": sorted(answers)}
                row["n_prompts"] = min(map(len, answers.values()))
                measures = _measures(list(answers.values()), axes, step == last, resamples, seed)
                for quantity, estimate in measures.items():
                    row |= _within(quantity, spread(quantity, estimate))
                rows.append(row)
    return rows


def _within(quantity: str, row: Row) -> Row:
    """A quantity's columns with its interval cut at its bounds."""
    low, high = BOUNDS.get(quantity, SCALE)
    ends = {end: row[end] for end in (f"{quantity}_lo", f"{quantity}_hi") if row[end] is not None}
    return row | {end: min(max(value, low), high) for end, value in ends.items()}


def _axes(study: Study) -> tuple[str, ...]:
    """Of the judge, who is the same in all runs of a report."""
    return axes_of(study.runs[0].judgements["sft"])


def _measures(
    answers: Sequence[Mapping[str, Row]], axes: Sequence[str], final: bool, resamples: int, seed: int
) -> dict[str, Estimate | None]:
    """Each quantity's mean over seeds; Self-BLEU only of trained models, for it rises with the number of replies."""
    ids = [list(by_prompt) for by_prompt in answers]

    def mean(values: Sequence[Iterable[float]]) -> Estimate | None:
        return mean_over_seeds([np.array(list(v), dtype=float) for v in values], ids, resamples, seed, mean_ci)

    result = {
        name: mean([[row[key] for row in by_prompt.values()] for by_prompt in answers])
        for name, key in (("kl", "kl"), ("hc", "hc"), ("reply_words", "words"))
    }
    for axis in axes:
        result[axis] = mean([[as_number(row["axes"][axis]) for row in by_prompt.values()] for by_prompt in answers])
    result["self_bleu"] = None
    if final:
        # Each reply against the others of its set, which stay as they are when replies are drawn anew.
        result["self_bleu"] = mean([self_bleu_scores([row["text"] for row in by.values()]) for by in answers])
    return result


def _wins(study: Study, resamples: int, seed: int) -> list[Row]:
    rows = []
    for cell, columns in study.cells.items():
        base = study.base(cell)
        for versus, opponent in (("sft", "SFT"), ("base", base and study.cells[base]["name"])):
            for beta in study.betas(cell):
                by_seed = study.trained[cell, beta]
                met = {s: trained.outcomes[versus] for s, trained in by_seed.items() if trained.outcomes.get(versus)}
                if opponent is None or not met:
                    continue
                row = columns | {"beta": beta, "versus": versus, "opponent": opponent, "seeds": sorted(met)}
                row["n_prompts"] = min(map(len, met.values()))
                rows.append(row | _shares([met[s] for s in sorted(met)], resamples, seed))
    return rows


def _shares(met: Sequence[Mapping[str, Row]], resamples: int, seed: int) -> Row:
    outcomes = [np.array([row["outcome"] for row in by_prompt.values()]) for by_prompt in met]
    ids = [list(by_prompt) for by_prompt in met]

    kinds: dict[str, Any] = {
        "win": lambda o: (o == 1).astype(float),
        "tie": lambda o: ((o > 0) & (o < 1)).astype(float),
        "lose": lambda o: (o == 0).astype(float),
        "rate": lambda o: o,
    }
    row: Row = {}
    for name, of in kinds.items():
        values = [np.where(np.isnan(o), np.nan, of(o)) for o in outcomes]
        row |= spread(name, share_over_seeds(values, ids, resamples, seed))
    return row


def _training(study: Study) -> list[Row]:
    return [
        study.cells[cell]
        | {"beta": beta, "seed": seed}
        | {"loss_value" if k == "loss" else k: v for k, v in line.items()}
        for (cell, beta), by_seed in study.trained.items()
        for seed, trained in sorted(by_seed.items())
        for line in trained.log
    ]


def _prompts(study: Study) -> list[Row]:
    """The reply browser: all trained models of the first run, prompt by prompt."""
    run = study.runs[0]
    cells = {study.cell_of[run.name, method]: trained for method, trained in run.models.items()}
    rows = []
    for prompt, start in run.models["sft"].answers[0].items():
        replies = {}
        for cell, columns in study.cells.items():
            trained = cells.get(cell)
            if trained is None:
                continue
            answer = trained.answers[trained.last].get(prompt)
            if answer is None:
                continue
            replies[cell] = {
                "name": columns["name"],
                "update": columns["update"],
                **{key: answer[key] for key in ("text", "words", "kl", "hc", "axes")},
                **{
                    f"vs_{against}": _said(trained.outcomes.get(against, {}).get(prompt)) for against in ("sft", "base")
                },
            }
        text = "\n\n".join(m["content"] for m in start["prompt"] if m["content"] and m["role"] != "system")
        rows.append({"id": prompt, "prompt": text, "replies": replies})
    return rows


def _said(duel: Row | None) -> str | None:
    """What a duel came to; "flipped" where each order preferred the reply shown in the same place."""
    if duel is None:
        return None
    first, second = duel["first"], duel["second"]
    if first is None or second is None:
        return "unread"
    if first == second and first != "tie":
        return "flipped"
    return VERDICTS.get(duel["outcome"], "tie")


def _unread(study: Study) -> list[str]:
    problems = []
    for run in study.runs:
        prefix = f"{run.name}: " if len(study.runs) > 1 else ""
        for method, trained in run.models.items():
            name = study.cells[study.cell_of[run.name, method]]["name"]
            ratings = [row["hc"] for row in trained.answers[trained.last].values()]
            missing = sum(map(math.isnan, ratings))
            if missing:
                problems.append(
                    f"{prefix}{name}: the judge's rating of {missing} of {len(ratings)} replies was not readable"
                )
            for against, duels in trained.outcomes.items():
                lost = sum(math.isnan(duel["outcome"]) for duel in duels.values())
                if lost:
                    problems.append(f"{prefix}{name} against {against}: {lost} of {len(duels)} duels were not readable")
    return problems


def _context(study: Study, points: Sequence[Row], seconds: Mapping[str, float]) -> Row:
    run = study.runs[0]
    params = run.params
    axes = _axes(study)
    losses = {row["loss"] for row in study.cells.values() if row["loss"]}
    betas = {loss: study.by_loss(loss) for loss in LOSSES if loss in losses}
    trained = [row for row in points if row["cell"] != "sft"]
    before = [row["n_prompts"] for row in trained if not row["final"]]
    return {
        "model": params.model.name.partition(":")[2] or params.model.name,
        "data": ", ".join([DATA.get(params.data.source, str(params.data.path)), *(params.data.subsets or ())]),
        "judge": judge_text(params.judge, axes),
        "axes": parts_of_hc(axes),
        "hc_unit": "points, 1 to 10",
        "seeds": study.seeds,
        "betas": betas,
        "steps": params.align.steps,
        "main": [cell for cell in study.cells if cell != "sft" and study.is_main(cell)],
        "points_along": "beta" if any(len(values) > 1 for values in betas.values()) else "steps",
        "runs": [
            {
                "run": one.name,
                "seed": one.params.seed,
                **one.params.ref_update.model_dump(),
                "beta": one.params.beta.model_dump(),
                "methods": [method for method in one.models if method != "sft"],
                "made": one.made,
            }
            for one in study.runs
        ],
        "learning_rates": {cell: sorted(set(rates.values())) for cell, rates in study.learning_rates.items()},
        "judge_accuracy": run.judge_accuracy,
        "judge_bias": _judge_bias(study),
        "calibration": run.calibration,
        "judge_warning": card.warning(run.calibration) if run.calibration else None,
        "settings": flat(params.model_dump(mode="json", exclude={"methods"})),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "seconds": dict(seconds),
        "cost": _cost(study),
        "n_curve_prompts": count_text(before) if before else None,
        "n_prompts": count_text(row["n_prompts"] for row in trained if row["final"]) if trained else "0",
        "date": datetime.date.today().isoformat(),
    }


def _judge_bias(study: Study) -> Row:
    """The judge's bias over the duels of all trainings, each once; the duels about one prompt are drawn together."""
    duels = [
        duel
        for by_seed in study.trained.values()
        for trained in by_seed.values()
        for rows in trained.outcomes.values()
        for duel in rows.values()
    ]
    first = study.runs[0].params
    return bias(duels, first.score.bootstrap, first.seed)


def _cost(study: Study) -> Row | None:
    """What an endpoint's answers cost, each counted once; None of the embedded judge, which costs nothing."""
    answers = {
        (answer.get("key") or id(answer)): answer
        for run in study.runs
        for rows in run.judgements.values()
        for row in rows
        for answer in row.get("raw", {}).get("answers", ())
    }
    if not answers:
        return None
    prices = [answer.get("usd") for answer in answers.values()]
    return {
        "usd": None if None in prices else sum(prices),
        "calls": len(answers),
        "tokens": sum(
            (answer.get(name) or 0) for answer in answers.values() for name in ("prompt_tokens", "completion_tokens")
        ),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
