"""Stage `report`: figures, table, page and metrics from the scores; MLflow brought up to them."""

from pathlib import Path

from tr_align import scratch, tracking
from tr_align.config import load_params
from tr_align.progress import run_stage
from tr_align.reports import build, table

REPORTS = Path("reports")


def main() -> None:
    params = load_params()
    metrics, curve, context = build.build(params)
    training = {name: scratch.read_rows(REPORTS / "train" / f"{name}.jsonl") for name in metrics}
    curves = tracking.curves(curve)
    artifacts = [REPORTS / name for name in ("kl_vs_hc.png", "win_rates.png", "table.md", "index.html", "metrics.json")]
    tracking.publish(params, training, curves, metrics, artifacts, tracking.dvc_tags())
    print()
    print(table.text(metrics, context))
    print()
    for claim in context["claims"]:
        print(f"  {claim['verdict']:<13} {claim['claim']}: {claim['evidence']}")
    print("\nFigure: reports/kl_vs_hc.png   Page: reports/index.html   MLflow: make ui\n")


run_stage(main)
