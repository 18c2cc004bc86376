"""`make repro`: `dvc repro` with a plan, so that each stage can say how long is left."""

import json
import os
import subprocess
import sys

from dvc.repo import Repo

from tr_align import progress
from tr_align.config import load_params
from tr_align.errors import UserError


def planned() -> list[str]:
    """Stages that have to run: those that changed and all that follows from them, as far as DVC knows now."""
    with Repo() as repo:
        changed = set(repo.status())
        followers: dict[str, set[str]] = {}
        for stage, dependency in repo.index.graph.edges:
            followers.setdefault(dependency.addressing, set()).add(stage.addressing)
    open_ends = list(changed)
    while open_ends:
        for follower in followers.get(open_ends.pop(), set()) - changed:
            changed.add(follower)
            open_ends.append(follower)
    return sorted(changed)


def main() -> int:
    try:
        params = load_params()
    except UserError as error:
        sys.exit(f"error: {error}")
    for warning in params.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    progress.start_session()
    environment = os.environ | {progress.PLAN: json.dumps(planned())}
    status = subprocess.call(["dvc", "repro", *sys.argv[1:]], env=environment)
    if status == 0:
        print("Page: reports/index.html   Figures: reports/figures   Table: reports/table.md   MLflow: make ui")
    return status


if __name__ == "__main__":
    sys.exit(main())
