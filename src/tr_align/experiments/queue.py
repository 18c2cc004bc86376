"""DVC's queue of experiments: what is done, what waits, what failed, and the workers that run it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tr_align.config import Params, read_params
from tr_align.errors import UserError
from tr_align.experiments.grid import CODE, PARAMS, Experiment, git, same

State = Literal["queued", "running", "failed", "done"]
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")


@dataclass(frozen=True)
class Finished:
    """An experiment that DVC keeps: its name and its commit."""

    name: str
    revision: str


class Queue:
    """The queue of the repository in the working directory.

    Entries are DVC's :class:`dvc.repo.experiments.queue.base.QueueEntry`: a name, and `stash_rev`, the commit with the
    code and the settings that are run.
    """

    def __init__(self, repo: Any) -> None:
        self.celery = repo.experiments.celery_queue
        self._read: dict[str, Params | None] = {}

    def finished(self) -> list[Finished]:
        """All experiments that DVC keeps, also those of other commits."""
        listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps") or ""
        pairs = (line.split() for line in listed.splitlines())
        return [Finished(match[1], sha) for ref, sha in pairs if (match := EXPERIMENT.fullmatch(ref))]

    def entries(self) -> dict[str, tuple[State, Any]]:
        """State and entry of what is or was in the queue, by `stash_rev`."""
        found: dict[str, tuple[State, Any]] = {}
        # In the order in which an entry moves, so that one that moves meanwhile is seen in its newer state.
        for entry in list(self.celery.iter_queued()):
            found[entry.stash_rev] = ("queued", entry)
        for entry in list(self.celery.iter_active()):
            found[entry.stash_rev] = ("running", entry)
        for entry, result in list(self.celery.iter_done()):
            found[entry.stash_rev] = ("done" if result and result.exp_hash and result.ref_info else "failed", entry)
        return found

    def is_of(self, revision: str, experiment: Experiment) -> bool:
        """Whether a commit has these settings, and the code of the workspace."""
        if revision not in self._read:
            self._read[revision] = self._current(revision)
        params = self._read[revision]
        return params is not None and same(params) == same(experiment.params)

    def _current(self, revision: str) -> Params | None:
        """Settings of a commit with the workspace's code."""
        if git("diff", "--quiet", revision, "--", *CODE, refused=(1,)) is None:
            return None
        text = git("show", f"{revision}:{PARAMS}", refused=(128,))
        try:
            return None if text is None else read_params(text, revision)
        except UserError:  # of a time with other settings
            return None

    def put(self, experiment: Experiment, name: str, copied: Iterable[str], keep_going: bool) -> None:
        """Queue an experiment under a name, with the workspace as it is.

        Raises:
            UserError: DVC refuses it.
        """
        command = ["dvc", "exp", "run", "--queue", "-n", name]
        for override in experiment.overrides:
            command += ["-S", override]
        for path in copied:
            command += ["-C", path]
        command += ["--keep-going"] if keep_going else []
        # A session of its own: DVC takes the workspace's changes away and puts them back, and Ctrl-C must not come
        # in between.
        done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
        if done.returncode:
            raise UserError(f"{name}: could not be queued: {done.stderr.strip() or done.stdout.strip()}")

    def put_again(self, entry: Any, copied: Sequence[str]) -> None:
        """Queue a failed experiment once more, with the code and the settings it had, not those of the workspace."""
        from dvc.repo.experiments.queue.tasks import run_exp

        self.celery.remove([entry.stash_rev])
        stash = self.celery.stash
        message = stash.format_message(entry.head_rev, entry.baseline_rev, entry.name, entry.branch)
        self.celery.scm.set_ref(stash.ref, entry.stash_rev, message=f"commit: {message}")
        task = run_exp.s(entry.asdict(), copy_paths=list(copied) or None, message=None)
        self.celery.celery.signature(task).delay()

    def forget(self, entry: Any) -> None:
        """Take a failed experiment out of the queue; its log stays."""
        self.celery.remove([entry.stash_rev])

    def start(self, jobs: int) -> None:
        """See that `jobs` workers run; they end by themselves when nothing waits."""
        if self.workers() < jobs:
            self.celery.start_workers(jobs)

    def workers(self) -> int:
        """How many workers run; DVC's own count leaves out those that do not answer within a second."""
        return sum(map(_is_worker, Path(self.celery.wdir).glob("dvc-exp-worker-*.pid")))

    def give_up(self, entry: Any) -> None:
        """Count an experiment as failed whose worker is gone, killed or lost with a restart of the machine."""
        for process in self.processes(entry):
            process.kill()
        info = self.celery.proc.get(entry.stash_rev)
        if info is not None:  # or DVC would kill whatever has that process number now
            info.returncode = -1
            self.celery.proc[entry.stash_rev] = info
        self.celery.kill([entry.stash_rev], force=True)

    def close(self) -> None:
        """Let the workers end after what they are at."""
        self.celery.shutdown()

    def processes(self, entry: Any) -> list[Any]:
        """Those of an experiment that runs, as :func:`family`."""
        info = self.celery.proc.get(entry.stash_rev)
        return family(info.pid, entry.stash_rev) if info is not None else []

    def log(self, entry: Any) -> Path:
        """What an experiment printed."""
        return Path(self.celery.pid_dir, entry.stash_rev, f"{entry.stash_rev}.out")


def add_to_git(repo: Any) -> None:
    """Add DVC's lock file and the small results it leaves to Git: what Git does not know, an experiment would redo."""
    results = [out.fs_path for stage in repo.index.stages for out in stage.outs if not out.use_cache]
    if paths := [path for path in ("dvc.lock", *results) if Path(path).exists()]:
        git("add", "--", *paths)


def family(number: int, word: str) -> list[Any]:
    """A process and after it all that it started, as :class:`psutil.Process`; none where its command has no `word`:
    process numbers are given out again."""
    import psutil

    try:
        process = psutil.Process(number)
        return [process, *process.children(recursive=True)] if word in " ".join(process.cmdline()) else []
    except psutil.Error:
        return []


def _is_worker(pid_file: Path) -> bool:
    try:
        return bool(family(int(pid_file.read_text(encoding="utf-8")), "queue-worker"))
    except (OSError, ValueError):
        return False
