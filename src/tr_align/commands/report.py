"""`tr-align report`: one report of several runs, over seeds, betas and update settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="one report of several runs: seeds, betas, alphas",
        description="Build figures, tables, claims and page from this workspace together with other finished runs, "
        "which may differ in seed, beta, ref_update and methods. What is missing is left out and named.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a DVC experiment, a Git revision, or the folder of a run; the workspace is always the first",
    )
    parser.add_argument("--experiments", action="store_true", help="add all DVC experiments of the current commit")
    parser.add_argument(
        "--out", default="reports/joined", metavar="FOLDER", help="where to write it (default: reports/joined)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the runs, write the report, print the claims.

    Raises:
        UserError: a run is no folder and no revision, or has nothing to compare.
    """
    from tr_align.reports.build import build, summary
    from tr_align.reports.collect import collect
    from tr_align.reports.runs import experiments, from_folder, from_revision, load

    names = [*options.runs, *(experiments() if options.experiments else [])]
    loaded = [load("this workspace", from_folder("."))]
    for name in dict.fromkeys(names):
        loaded.append(load(name, from_folder(name) if Path(name).is_dir() else from_revision(name)))
    report = collect(loaded)
    build(report, Path(options.out))
    print(summary(report))
    for problem in report.problems:
        print(f"  note: {problem}")
    print(f"\nPage: {options.out}/index.html   Figures: {options.out}/figures   Claims: {options.out}/claims.json")
