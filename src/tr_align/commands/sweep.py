"""`tr-align sweep`: many experiments, their common stages once, on several workers; killed, it goes on."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tr_align.commands.options import count, natural
from tr_align.commands.stopped import leave_if, stop_signals
from tr_align.errors import UserError

POLL_SECONDS = 1.0
LOOK_FOR_WORKERS_SECONDS = 30.0


def register(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sweep",
        help="many experiments: alphas, taus, betas, seeds",
        description="Run the experiments of params.yaml's section sweep, or of -S, through DVC's queue: the stages "
        "that they have in common once, then each experiment on one of the workers. What is done already, by its "
        "settings and code, is not run again; stop it and start it again, and it goes on.",
        epilog="example: tr-align sweep --jobs 2 -S 'ref_update.alpha=0.1,0.3,0.9'",
    )
    parser.add_argument(
        "-S",
        "--set-param",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="as of `dvc exp run --queue`, in place of the section sweep; several keys: every combination",
    )
    parser.add_argument("-j", "--jobs", type=count, default=1, metavar="N", help="experiments at a time (default: 1)")
    parser.add_argument(
        "--retries", type=natural, default=1, metavar="R", help="so often is a failed one run again (default: 1)"
    )
    parser.add_argument(
        "-k", "--keep-going", action="store_true", help="when a method fails, its experiment goes on with the others"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would run")
    parser.set_defaults(run=run)


@dataclass
class Cell:
    """An experiment, and how far it is: new, or what DVC's queue says of its entry there."""

    experiment: Any
    name: str
    entry: Any = None
    state: str = "new"
    attempts: int = 0
    started: float | None = None
    seconds: float = 0.0


def run(options: argparse.Namespace) -> None:
    """Run what is not done yet and say how it went.

    Raises:
        UserError: there is nothing to run, or a stage of the workspace, or an experiment in all its attempts, failed.
        SystemExit: it was stopped.
    """
    from tr_align.config import load_params
    from tr_align.experiments import grid
    from tr_align.experiments.queue import Queue, add_to_git

    # Workers and stages call `dvc` and `python` by name.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    base = load_params()
    experiments, with_base = grid.planned(base, options.set_param)
    if missing := grid.not_in_git():
        raise UserError(f"{', '.join(missing)}: not in git, so experiments would run without; git add what they need")
    with _only_one(), stop_signals() as stopped, _repository() as repo:
        queue = Queue(repo)
        stages = grid.Stages.of_workspace(repo)
        shared = stages.shared(base, experiments)
        copied = grid.copied_paths(experiments, base, stages)
        cells = _found(queue, experiments)
        _announce(cells, shared, with_base, copied)
        if options.dry_run:
            return
        if any(cell.state in ("new", "failed") for cell in cells):
            _run_shared([] if with_base else shared, with_base, options.keep_going, stopped)
            add_to_git(repo)
            _queue(queue, cells, copied, options.keep_going, stopped)
        _watch(queue, cells, options, copied, stopped)
    _conclude(queue, cells)


def _found(queue: Any, experiments: Sequence[Any]) -> list[Cell]:
    """Each experiment with what DVC knows of it already."""
    from tr_align.experiments.grid import unused

    finished, entries = queue.finished(), queue.entries()
    taken = {done.name for done in finished} | {entry.name for _, entry in entries.values()}
    cells = []
    for experiment in experiments:
        cell = Cell(experiment, experiment.name)
        done = next((done for done in finished if queue.is_of(done.revision, experiment)), None)
        known = [(state, entry) for rev, (state, entry) in entries.items() if queue.is_of(rev, experiment)]
        if done is not None:
            cell.name, cell.state = done.name, "done"
        elif waiting := [(state, entry) for state, entry in known if state in ("queued", "running")]:
            cell.state, cell.entry = waiting[0]
            cell.name = cell.entry.name
        elif failed := [entry for state, entry in known if state == "failed"]:
            cell.state, cell.entry, cell.name = "failed", failed[-1], failed[-1].name
        else:
            cell.name = unused(experiment.name, taken)
        taken.add(cell.name)
        cells.append(cell)
    return cells


def _announce(cells: Sequence[Cell], shared: Sequence[str], with_base: bool, copied: Sequence[str]) -> None:
    words = {"done": "done already", "queued": "in the queue", "running": "running", "failed": "failed before: again"}
    for cell in cells:
        print(f"  {cell.name:<24} {' '.join(cell.experiment.overrides):<40} {words.get(cell.state, '')}".rstrip())
    if with_base:
        print("first, in the workspace: the run of params.yaml as it is, which belongs to the sweep")
    elif shared:
        print(f"first, in the workspace: the {len(shared)} stages that do not depend on what is varied")
    for path in copied:
        print(f"copied into every experiment, for it is not in git: {path} (an absolute path would need no copies)")
    sys.stdout.flush()


def _run_shared(targets: Sequence[str], everything: bool, keep_going: bool, stopped: list[int]) -> None:
    if not targets and not everything:
        return
    from tr_align.experiments.queue import family

    command = ["dvc", "repro", *targets, *(["--keep-going"] if keep_going else [])]
    process = subprocess.Popen(command, start_new_session=True)
    end = _Ending()
    while process.poll() is None:
        if stopped:
            end(family(process.pid, "repro"), stopped)
        time.sleep(0.1)
    leave_if(stopped)
    if process.returncode:
        raise UserError("a stage that the experiments have in common failed, see above; nothing was queued")


def _queue(queue: Any, cells: Sequence[Cell], copied: Sequence[str], keep_going: bool, stopped: list[int]) -> None:
    for cell in cells:
        if cell.state == "failed":  # before: the workspace has the same code and settings, and newer common stages
            queue.forget(cell.entry)
        if cell.state in ("new", "failed"):
            queue.put(cell.experiment, cell.name, copied, keep_going)
            leave_if(stopped)
    entries = {entry.name: (state, entry) for state, entry in queue.entries().values()}
    for cell in cells:
        if cell.state in ("new", "failed"):
            cell.state, cell.entry = entries[cell.name]


def _watch(
    queue: Any, cells: Sequence[Cell], options: argparse.Namespace, copied: Sequence[str], stopped: list[int]
) -> None:
    """Keep the workers at work until every experiment is done or has failed for good; a line for each."""
    began = time.monotonic()
    looked = -LOOK_FOR_WORKERS_SECONDS
    todo = [cell for cell in cells if cell.state in ("queued", "running")]
    open_cells = list(todo)
    while open_cells:
        if time.monotonic() - looked > LOOK_FOR_WORKERS_SECONDS:
            looked = time.monotonic()
            _see_to_workers(queue, open_cells, options.jobs)
        time.sleep(POLL_SECONDS)
        entries = queue.entries()
        for cell in list(open_cells):
            now = time.monotonic()
            cell.state = entries.get(cell.entry.stash_rev, ("removed", None))[0]  # by `dvc queue remove`, meanwhile
            if cell.state == "running" and cell.started is None:
                cell.started = now
            if cell.state in ("queued", "running"):
                continue
            if cell.state == "done" and cell.name not in {done.name for done in queue.finished()}:
                cell.state = "failed"  # it ran, but DVC could not bring its results here
            cell.seconds, cell.started = now - (cell.started or now), None
            if cell.state == "failed" and cell.attempts < options.retries and not stopped:
                cell.attempts += 1
                print(f"{cell.name}: failed after {_time(cell.seconds)}, runs once more", flush=True)
                queue.put_again(cell.entry, copied)
                queue.start(options.jobs)
                continue
            open_cells.remove(cell)
            _progress(cell, len(todo) - len(open_cells), len(todo), now - began)
        if stopped:
            _stop(queue, open_cells, stopped)
            leave_if(stopped)


def _see_to_workers(queue: Any, cells: Sequence[Cell], jobs: int) -> None:
    """Start workers that are missing; what runs without any was lost with its worker and counts as failed."""
    if not queue.workers():
        running = {rev for rev, (state, _) in queue.entries().items() if state == "running"}
        for cell in cells:
            if cell.entry.stash_rev in running:
                queue.give_up(cell.entry)
    queue.start(jobs)


def _progress(cell: Cell, number: int, total: int, seconds: float) -> None:
    left = f", about {_time(seconds / number * (total - number))} left" if number < total else ""
    print(f"[{number}/{total}] {cell.name} {cell.state} after {_time(cell.seconds)}{left}", flush=True)


def _stop(queue: Any, cells: Sequence[Cell], stopped: list[int]) -> None:
    queue.close()
    end = _Ending()
    ours = {cell.entry.stash_rev for cell in cells}
    while queue.workers():
        running = {rev for rev, (state, _) in queue.entries().items() if state == "running"}
        if running and not running & ours:  # somebody else's experiments, which may end in peace
            return
        for cell in cells:
            end(queue.processes(cell.entry), stopped)
        time.sleep(POLL_SECONDS)


class _Ending:
    """Ask stages once to end, by SIGTERM, at which a training writes a checkpoint; a second signal kills them."""

    def __init__(self) -> None:
        self.asked: set[Any] = set()

    def __call__(self, processes: Sequence[Any], stopped: list[int]) -> None:
        """`processes`: DVC's own, which notes how its stage ended, and after it those of the stage."""
        import psutil

        for process in processes[1:]:
            try:
                if len(stopped) > 1:
                    process.kill()
                elif process not in self.asked:
                    self.asked.add(process)
                    process.terminate()
            except psutil.Error:
                continue


def _conclude(queue: Any, cells: Sequence[Cell]) -> None:
    failed = [cell for cell in cells if cell.state != "done"]
    print(f"\n{len(cells) - len(failed)} done, {len(failed)} failed")
    for cell in cells:
        where = f"dvc queue logs {cell.name}   (the file {queue.log(cell.entry)})" if cell.state == "failed" else ""
        print(f"  {cell.name:<24} {cell.state:<8} {where}".rstrip())
    print("\nTable: make compare   Report with its curves: tr-align report --experiments   MLflow: make ui")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(cells)} experiments failed; the same command runs them again, no others"
        )


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def _repository() -> Iterator[Any]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo()
    except DvcException as error:
        raise UserError(
            f"the experiments of this folder: {error}; git init and dvc init make it a repository"
        ) from error
    with repo:
        yield repo


@contextmanager
def _only_one() -> Iterator[None]:
    """No second sweep at the same time: it would queue the same experiments."""
    from filelock import FileLock, Timeout

    Path(".scratch").mkdir(exist_ok=True)
    try:
        with FileLock(".scratch/sweep.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError("a sweep runs here already; wait for it or stop it") from error
