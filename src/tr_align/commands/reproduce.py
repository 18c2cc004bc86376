"""`tr-align reproduce`: the runs of a study, one report a judge of them; stopped, it goes on."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from tr_align.commands.options import count
from tr_align.commands.stopped import leave_if, stop_signals
from tr_align.errors import UserError

DEFAULT = "presets/studies/hh-smollm2-135m.yaml"


def register(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "reproduce",
        help="the runs of a study, and its report",
        description="Do the runs that a study lists, each in runs/JUDGE/NAME with DVC's cache shared, most important "
        "first, and make a report of them for each judge. What is done is not done again: stop it and start it again.",
    )
    parser.add_argument("study", nargs="?", default=DEFAULT, help=f"its file (default: {DEFAULT})")
    parser.add_argument("-j", "--jobs", type=count, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--data", metavar="PATH", help="a copy of the data in place of the preset's data.path")
    parser.add_argument(
        "--only", nargs="+", metavar="RUN", help="these runs and no others; the report has all there are"
    )
    parser.add_argument("--keep-weights", action="store_true", help="keep the policies when they are scored")
    parser.add_argument("--report", action="store_true", help="only make the reports, of the runs that are done")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, write the reports, print the verdicts.

    Raises:
        UserError: the study is invalid, or a run failed; the others were done.
        SystemExit: it was stopped.
    """
    from tr_align.experiments.folders import Runner
    from tr_align.experiments.study import read_study, settings

    study = read_study(options.study)
    runs = _chosen(study, options.only)
    data = os.path.abspath(options.data) if options.data else None
    for each in study.runs:  # an error in the last run's settings is found before the first is trained
        settings(study, each, study.judges[0], data)
    if options.dry_run:
        for each in runs:
            print(f"  {each.name:<16} {each.why}")
        return
    runner = Runner(study, Path.cwd(), _environment(options.jobs), data, options.keep_weights)
    failed: list[str] = []
    if not options.report:
        with stop_signals(runner.stop) as stopped:
            for judge in study.judges:
                failed += _all(runner, runs, judge, options.jobs)
                leave_if(stopped)
    _reports(runner, study)
    if failed:
        raise UserError("\n  ".join([f"{len(failed)} runs are not done; the same command tries them again", *failed]))


def _chosen(study: Any, only: Sequence[str] | None) -> list[Any]:
    names = [run.name for run in study.runs]
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise UserError(f"--only: the study has no run {', '.join(unknown)}; it has {', '.join(names)}")
    return [run for run in study.runs if only is None or run.name in only]


def _environment(jobs: int) -> dict[str, str]:
    """Of the stages: this interpreter's `python`, the workspace's MLflow store, a share of the cores."""
    from tr_align.tracking.store import address

    threads = max(1, (os.cpu_count() or 1) // jobs)
    return {
        "MLFLOW_TRACKING_URI": address(),
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def _all(runner: Any, runs: Sequence[Any], judge: Any, jobs: int) -> list[str]:
    """Do runs, several at a time; why some failed."""
    failed = []
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(runner.do, run, judge): run for run in runs}
        for number, future in enumerate(as_completed(started), start=1):
            name = started[future].name
            try:
                minutes = future.result() / 60
                print(f"[{judge} {number}/{len(runs)}] {name} done after {minutes:.1f} min", flush=True)
            except UserError as error:
                failed.append(str(error))
                if not runner.stopped:
                    print(f"[{judge} {number}/{len(runs)}] {error}", flush=True)
    return failed


def _reports(runner: Any, study: Any) -> None:
    """A report a judge of the runs that are done, the first one's at `out`, the others' in a folder of it; beside it
    what depends on the judge, what the search has found, and each run's commit, machine and hours."""
    from tr_align.commands.report import write_judges
    from tr_align.reports.agreement import agreement, judged, side_by_side
    from tr_align.reports.build import build, summary
    from tr_align.reports.collect import collect
    from tr_align.reports.publish import publish_study
    from tr_align.reports.runs import from_folder, load

    _records(runner, study)  # first: it needs less of a run than its report does
    reports, runs = {}, {}
    folders = {judge: Path(study.out) / (judge if number else "") for number, judge in enumerate(study.judges)}
    for judge in study.judges:
        done = [
            (run, runner.folder(run, judge), runner.record(run, judge))
            for run in study.runs
            if run.report and runner.done(run, judge)
        ]
        if not done:
            print(f"{judge}: no run is done, so there is no report")
            continue
        runs[judge] = {run.name: folder for run, folder, _ in done}
        loaded = [_as_published(load(run.name, from_folder(folder)), made, study) for run, folder, made in done]
        reports[judge] = collect(loaded)
    rows = agreement({judge: judged(report.claims) for judge, report in reports.items()})
    if len(reports) > 1:
        reports = side_by_side(rows, reports, folders)
    for judge, report in reports.items():
        build(report, folders[judge])
        print(f"\n{judge}: {summary(report)}")
        for problem in report.problems:
            print(f"  note: {problem}")
        print(f"Page: {folders[judge]}/index.html")
        if judge == study.judges[0]:  # in MLflow a model has the scores of one judge
            publish_study(runs[judge], folders[judge])
    if len(reports) > 1:
        write_judges(rows, Path(study.out))


def _as_published(run: Any, made: dict[str, Any], study: Any) -> Any:
    """A run with the record of its making, and without what is not its own: the repository's toy world, which no run of
    a study does, and where this machine has its copy of the data (`--data`), the preset's data wherever it lies."""
    from tr_align.experiments.study import preset

    path = preset(study)["data"]["path"]
    params = run.params.model_copy(update={"data": run.params.data.model_copy(update={"path": path})})
    return replace(run, params=params, toy=None, made=made)


def _records(runner: Any, study: Any) -> None:
    from tr_align.reports import search
    from tr_align.scratch import write_atomically

    out, judge = Path(study.out), study.judges[0]
    searched = [runner.folder(run, judge) for run in study.runs if not run.report and runner.done(run, judge)]
    out.mkdir(parents=True, exist_ok=True)
    if searched:
        found = search.rows(searched)
        write_atomically(out / "search.json", json.dumps(found, indent=1) + "\n")
        write_atomically(out / "search.md", search.markdown(found))
        print(f"\n{search.markdown(found)}")
    records = [
        {"judge": judge, **runner.record(run, judge)}
        for judge in study.judges
        for run in study.runs
        if runner.done(run, judge)
    ]
    write_atomically(out / "runs.json", json.dumps(records, indent=1) + "\n")
    hours = sum(record["seconds"] for record in records) / 3600
    print(f"{len(records)} of {len(study.judges) * len(study.runs)} runs are done, in {hours:.1f} hours of all jobs")
