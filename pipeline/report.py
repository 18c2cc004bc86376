"""Stage `report`: claims, figures, tables and page from the other stages' files; MLflow brought up to them."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align.config import load_params  # noqa: E402
from tr_align.progress import durations, run_stage  # noqa: E402
from tr_align.reports.build import build, summary  # noqa: E402
from tr_align.reports.collect import collect  # noqa: E402
from tr_align.reports.publish import publish  # noqa: E402
from tr_align.reports.runs import from_folder, load  # noqa: E402


def main() -> None:
    report = collect([load("this run", from_folder("."))], durations())
    build(report, Path("reports"))
    publish(load_params(), Path("reports"))
    print(f"\n{summary(report)}\n\nPage: reports/index.html   Figures: reports/figures   MLflow: make ui\n")


run_stage(main)
