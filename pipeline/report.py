"""Stage `report`: figures, table, page and metrics from the scores; MLflow brought up to them."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402
from tr_align.reports import build, table  # noqa: E402
from tr_align.reports.publish import publish  # noqa: E402


def main() -> None:
    params = load_params()
    metrics, _, context = build.build(params)
    publish(params, Path("reports"))
    print("\n" + table.text(metrics, context) + "\n")
    for claim in context["claims"]:
        print(f"  {claim['verdict']:<13} {claim['claim']}: {claim['evidence']}")
    print("\nFigure: reports/kl_vs_hc.png   Page: reports/index.html   MLflow: make ui\n")


run_stage(main)
