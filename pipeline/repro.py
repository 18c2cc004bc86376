"""`make repro`: `dvc repro` with a plan, so that each stage can say how long is left; it ends with the results."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tr_align import progress
from tr_align.config import load_params
from tr_align.errors import UserError
from tr_align.planning.cells import pending
from tr_align.settings import AXES

TABLE = Path("reports/table.md")


def main() -> int:
    try:
        params = load_params()
    except UserError as error:
        sys.exit(f"error: {error}")
    for warning in params.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    progress.start_session()
    before = _written()
    environment = os.environ | {progress.PLAN: json.dumps(pending())}
    status = subprocess.call(["dvc", "repro", *sys.argv[1:]], env=environment)
    if status == 0:
        if _written() == before:  # where everything came out as committed, the stage that prints it had nothing to do
            print(f"\nEvery result is as dvc.lock has it:\n\n{_main_columns()}\n")
        print("Page: reports/index.html   Figures: reports/figures   Table: reports/table.md   MLflow: make ui")
    return status


def _written() -> int | None:
    return TABLE.stat().st_mtime_ns if TABLE.exists() else None


def _main_columns() -> str:
    """The table of the methods as a terminal can show it, without the axes of HC."""
    table = TABLE.read_text("utf-8").partition("\n\n")[0]
    frame = pd.read_csv(io.StringIO(table), sep=r"\s*\|\s*", engine="python").iloc[1:, 1:-1]
    return frame.drop(columns=[axis for axis in AXES if axis in frame]).to_string(index=False)


if __name__ == "__main__":
    sys.exit(main())
