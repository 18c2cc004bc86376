"""`tr-align report`: one report of several runs, over seeds, betas and update settings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tr_align.errors import UserError


def register(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "report",
        help="one report of several runs: seeds, betas, alphas",
        description="Build figures, tables, claims and page from this workspace together with other finished runs, "
        "which may differ in seed, beta, ref_update, learning rate and methods. What is missing is left out and named.",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="a DVC experiment, a Git revision, or the folder of a run; the workspace is always the first",
    )
    parser.add_argument("--experiments", action="store_true", help="add all DVC experiments of the current commit")
    parser.add_argument(
        "--judges",
        nargs="+",
        metavar="[NAME=]CLAIMS",
        help="instead of a report: claims.json of two reports or more on the same replies, to see what depends on the "
        "judge (judges.md and judges.json); the name of a judge is its folder's unless given",
    )
    parser.add_argument(
        "--out", default="reports/joined", metavar="FOLDER", help="where to write it (default: reports/joined)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Read the runs, write the report, print the claims; with `--judges` compare reports instead.

    Raises:
        UserError: a run is no folder and no revision, or has nothing to compare; of judges see :func:`compare_judges`.
    """
    if options.judges:
        if options.runs or options.experiments:
            raise UserError("--judges compares reports that are there; leave out the runs and --experiments")
        return compare_judges(options.judges, Path(options.out))
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


def compare_judges(named: Sequence[str], folder: Path) -> None:
    """Write and print which claims depend on the judge.

    Args: `named`: paths of claims.json, each with or without `NAME=` in front. folder: for judges.md and judges.json.
    Raises:
        UserError: fewer than two judges, two of one name, or a file without claims.
    """
    from tr_align.reports.agreement import agreement, read_claims

    paths: dict[str, Path] = {}
    for text in named:
        name, given, rest = text.rpartition("=")
        path = Path(rest)
        name = name if given else path.resolve().parent.name
        if name in paths:
            raise UserError(f"--judges: two of them are called {name}; give names, as in {name}-2={path}")
        paths[name] = path
    if len(paths) < 2:
        raise UserError("--judges: give the claims.json of two reports or more")
    write_judges(agreement({name: read_claims(path) for name, path in paths.items()}), folder)


def write_judges(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write and print the rows of :func:`tr_align.reports.agreement.agreement`."""
    from tr_align.reports.agreement import markdown
    from tr_align.reports.collect import to_json
    from tr_align.scratch import write_atomically

    text = markdown(rows)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "judges.json", to_json(rows))
    write_atomically(folder / "judges.md", text)
    print(f"{text}\nTable: {folder}/judges.md   Rows: {folder}/judges.json")
