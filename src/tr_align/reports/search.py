"""The runs of a search for settings as a table: what each method came to with each learning rate and beta."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tr_align.config import load_params
from tr_align.reports.common import in_order, label, share_with_interval, with_interval

Row = dict[str, Any]


def rows(folders: Sequence[Path]) -> list[Row]:
    """A row a training of these runs, the best of a method first.

    Args: `folders`: of runs of the pipeline; what has no scores yet is left out.
    Returns: `method`, `learning_rate`, `beta`, `hc`, `kl` and `win_rate_vs_sft`, each with its `_ci`, and `n_prompts`,
        all of the trained model, and `seed`.
    """
    found = []
    for folder in folders:
        params = load_params(folder / "params.yaml")
        for name in params.methods:
            path = folder / "reports" / "score" / f"{name}.json"
            if not path.is_file():
                continue
            final = json.loads(path.read_text(encoding="utf-8"))["final"]
            row: Row = {"method": name, "learning_rate": params.learning_rate(name)}
            row |= {"beta": getattr(params.beta, params.methods[name].loss), "seed": params.seed}
            for key in ("hc", "kl", "win_rate_vs_sft"):
                row |= {key: final[key], f"{key}_ci": final[f"{key}_ci"]}
            found.append(row | {"n_prompts": final["n_prompts"]})
    order = in_order({row["method"] for row in found})
    return sorted(found, key=lambda row: (order.index(row["method"]), -row["hc"]))


def markdown(found: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = ["| method | learning rate | β | HC | KL, nats | wins against SFT |", "|---|---|---|---|---|---|"]
    for row in found:
        numbers = [
            with_interval(row["hc"], row["hc_ci"], 2),
            with_interval(row["kl"], row["kl_ci"], 1),
            share_with_interval(row["win_rate_vs_sft"], row["win_rate_vs_sft_ci"]),
        ]
        settings = [label(row["method"]), f"{row['learning_rate']:g}", f"{row['beta']:g}"]
        lines.append("| " + " | ".join([*settings, *numbers]) + " |")
    if found:
        prompts, seeds = {row["n_prompts"] for row in found}, {row["seed"] for row in found}
        text = ", ".join(map(str, sorted(prompts))), ", ".join(map(str, sorted(seeds)))
        lines += ["", f"95 % intervals over {text[0]} prompts; seed {text[1]}."]
    return "\n".join(lines) + "\n"
