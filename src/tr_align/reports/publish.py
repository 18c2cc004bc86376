"""Send what lies under reports/ to MLflow: after a run, or to rebuild the store in a fresh clone."""

from __future__ import annotations

import json
from pathlib import Path

from tr_align import tracking
from tr_align.config import Params
from tr_align.errors import UserError
from tr_align.scratch import read_rows

ARTIFACTS = ("kl_vs_hc.png", "win_rates.png", "table.md", "index.html", "metrics.json", "claims.json")


def publish(params: Params, reports: Path) -> None:
    """Bring MLflow up to the report files.

    Raises:
        UserError: there is no report yet.
    """
    if not (reports / "metrics.json").exists():
        raise UserError(f"{reports / 'metrics.json'}: there is no such file; run `make repro` first")
    metrics = json.loads((reports / "metrics.json").read_text("utf-8"))
    curves = tracking.curves(json.loads((reports / "kl_hc.json").read_text("utf-8")))
    training = {name: read_rows(reports / "train" / f"{name}.jsonl") for name in metrics}
    artifacts = [reports / name for name in ARTIFACTS]
    tracking.publish(params, training, curves, metrics, artifacts, tracking.dvc_tags())
