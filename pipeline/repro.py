"""`make repro`: `dvc repro` with a plan, so that each stage can say how long is left."""

import json
import os
import subprocess
import sys

from tr_align import progress
from tr_align.config import load_params
from tr_align.errors import UserError
from tr_align.planning.cells import pending


def main() -> int:
    try:
        params = load_params()
    except UserError as error:
        sys.exit(f"error: {error}")
    for warning in params.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    progress.start_session()
    environment = os.environ | {progress.PLAN: json.dumps(pending())}
    status = subprocess.call(["dvc", "repro", *sys.argv[1:]], env=environment)
    if status == 0:
        print("Page: reports/index.html   Figures: reports/figures   Table: reports/table.md   MLflow: make ui")
    return status


if __name__ == "__main__":
    sys.exit(main())
