"""Runs of a study in folders of their own, with DVC's cache shared; their policies are deleted when they are scored.

`runs/JUDGE/NAME` is a clone of the repository at the workspace's commit. DVC decides there what is to do: a study that
was stopped goes on, and a change of the code repeats what depends on it and no more. A policy takes a quarter of a
gigabyte at this scale and a report needs none: replies, judgements and log-probabilities stay.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from tr_align.errors import UserError
from tr_align.experiments.grid import git
from tr_align.experiments.study import JudgeName, Study, StudyRun, settings
from tr_align.scratch import write_atomically

RUNS = Path("runs")
RECORD = "run.json"
"""Beside a run's reports: its commit, machine, dates and hours; of a run that was stopped, its seconds so far alone."""


class Runner:
    """Does the runs of a study, several at a time; :meth:`stop` ends what runs.

    Args:
        root: the workspace, a Git repository with DVC. environment: of the stages.
        data: takes the place of the preset's `data.path`. keep_weights: whether policies stay.
    """

    def __init__(
        self, study: Study, root: Path, environment: Mapping[str, str], data: str | None, keep_weights: bool
    ) -> None:
        self.study, self.root, self.environment = study, root, dict(environment)
        self.data, self.keep_weights = data, keep_weights
        self.stopped = False
        self._guard = threading.Lock()
        self._seeds: dict[str, threading.Lock] = {}
        self._running: set[subprocess.Popen[bytes]] = set()

    @cached_property
    def revision(self) -> str:
        """The commit that is run."""
        return (git("rev-parse", "HEAD") or "").strip()

    def folder(self, run: StudyRun, judge: JudgeName) -> Path:
        """Where a run lies."""
        return self.root / RUNS / judge / run.name

    def done(self, run: StudyRun, judge: JudgeName) -> bool:
        """Whether a run has been finished, be it with older code."""
        return "finished" in _read(self.folder(run, judge))

    def record(self, run: StudyRun, judge: JudgeName) -> dict[str, Any]:
        """A run's commit, machine, date and seconds, as published."""
        return {key: value for key, value in _read(self.folder(run, judge)).items() if key != "lock"}

    def do(self, run: StudyRun, judge: JudgeName) -> float:
        """Bring a run up to date; the seconds it took.

        Raises:
            UserError: a stage failed, or it was stopped; the log is named. What did not need that stage was run.
        """
        began, folder = time.monotonic(), self.folder(run, judge)
        try:
            self._do(folder, run, judge)
        except BaseException:
            _add(folder, time.monotonic() - began)  # so that a run's hours have those before it was stopped
            raise
        seconds = time.monotonic() - began
        self._note(folder, run, seconds)
        return seconds

    def _do(self, folder: Path, run: StudyRun, judge: JudgeName) -> None:
        values = settings(self.study, run, judge, self.data)
        methods = list(values["methods"])
        measured = ["ood"] if run.report else []
        first = self.folder(run, self.study.judges[0])
        if folder != first and not self.done(run, self.study.judges[0]):
            raise UserError(f"{run.name}: {first} is not done, so there is nothing that {judge} could judge")
        self._clone(folder)
        if folder != first and not self.done(run, judge):
            self._take_over(folder, first)
        (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        with self._first(values):
            self._dvc(folder, "repro", "score_sft", *(f"{stage}_sft" for stage in measured))
        stages = ["score", *measured]
        if self.done(run, judge):
            targets = [f"{stage}@{name}" for name in methods for stage in stages]
            self._dvc(folder, "repro", "--allow-missing", "--keep-going", *targets)
            self._discard(folder, methods)
        else:
            self._one_by_one(folder, {name: str(method["base"]) for name, method in values["methods"].items()}, stages)

    def _one_by_one(self, folder: Path, bases: Mapping[str, str], stages: Sequence[str]) -> None:
        """Do a run's methods, base methods first. DVC, given all of them, would train all before it scores one, and
        keep as many policies.

        Args: `bases`: the base of each method. `stages`: to be done of each, with what they need.
        """
        failed: list[str] = []
        for name in sorted(bases, key=lambda name: bases[name] != "sft"):
            if bases[name] in failed:  # DVC would try it once more
                failed.append(name)
                continue
            try:
                self._dvc(folder, "repro", "--allow-missing", *(f"{stage}@{name}" for stage in stages))
                self._discard(folder, [name])
            except UserError:
                if self.stopped:
                    raise
                failed.append(name)
        if failed:
            log = folder.with_name(f"{folder.name}.log")
            raise UserError(f"{folder.name}: {', '.join(failed)}: a stage failed; its log is {log}")

    def _discard(self, folder: Path, methods: Sequence[str]) -> None:
        if not self.keep_weights:
            discard(folder, methods, self.root)

    def stop(self) -> None:
        """End the stages that run, by SIGTERM to all of them: a training writes a checkpoint first."""
        self.stopped = True
        with self._guard:
            for process in self._running:
                with suppress(ProcessLookupError):  # it has ended just now; the others must still be told
                    os.killpg(process.pid, signal.SIGTERM)

    def _clone(self, folder: Path) -> None:
        """A clone at the workspace's commit, with DVC's record of what was run there."""
        new = not (folder / ".git").is_dir()
        if new:
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            git("clone", "--quiet", "--no-checkout", str(self.root), str(folder))
        lock = folder / "dvc.lock"
        kept = lock.read_bytes() if lock.exists() and not new else None
        if new or git("-C", str(folder), "rev-parse", "HEAD") != self.revision + "\n":
            git("-C", str(folder), "fetch", "--quiet", str(self.root), self.revision)
            git("-C", str(folder), "checkout", "--quiet", "--force", "--detach", self.revision)
        if kept is not None:
            lock.write_bytes(kept)
        cache = self.root / ".dvc" / "cache"
        (folder / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {cache}\n", encoding="utf-8")

    def _take_over(self, folder: Path, first: Path) -> None:
        """What there is of a run that another judge has judged, its policies having gone, and DVC's record of it."""
        shutil.copyfile(first / "dvc.lock", folder / "dvc.lock")
        shutil.copyfile(first / "params.yaml", folder / "params.yaml")
        self._dvc(folder, "checkout", "--quiet", "--allow-missing")

    @contextmanager
    def _first(self, values: Mapping[str, Any]) -> Iterator[None]:
        """One of the runs at a time that have SFT model and judge in common: the others find them in DVC's cache."""
        own = {"methods", "align", "ref_update", "beta", "dpo", "ipo", "kto"}
        key = json.dumps({name: part for name, part in values.items() if name not in own}, sort_keys=True)
        with self._guard:
            lock = self._seeds.setdefault(key, threading.Lock())
        with lock:
            yield

    def _dvc(self, folder: Path, *arguments: str) -> None:
        log = folder.with_name(f"{folder.name}.log")
        with log.open("ab") as output, self._guard:
            if self.stopped:
                raise UserError(f"{folder.name}: stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", "dvc", *arguments],
                cwd=folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to all of it reaches its stages too
            )
            self._running.add(process)
        status = process.wait()
        with self._guard:
            self._running.discard(process)
        if status:
            raise UserError(f"{folder.name}: {'stopped' if self.stopped else 'a stage failed'}; its log is {log}")

    def _note(self, folder: Path, run: StudyRun, seconds: float) -> None:
        """Add up a run's hours over all times it was worked on; a look that found nothing to do is left out."""
        lock = (folder / "dvc.lock").read_text(encoding="utf-8")
        if _read(folder).get("lock") == lock:
            return
        record = {
            "name": run.name,
            "why": run.why,
            "set": run.set,
            "revision": self.revision,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "lock": lock,
        }
        _add(folder, seconds, record)


def _add(folder: Path, seconds: float, more: Mapping[str, Any] | None = None) -> None:
    """Add seconds, and what else is known, to a run's record."""
    if folder.is_dir():
        record = _read(folder) | dict(more or {})
        record["seconds"] = round(record.get("seconds", 0.0) + seconds, 1)
        write_atomically(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _read(folder: Path) -> dict[str, Any]:
    """A run's record; empty where it was never worked on."""
    with suppress(FileNotFoundError):
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return record
    return {}


def discard(folder: Path, methods: Sequence[str], root: Path) -> None:
    """Delete the policies of these methods from a run's folder and from DVC's cache.

    The SFT model and the judge stay: other runs have them in common.
    """
    stages = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    for name in methods:
        shutil.rmtree(folder / "models" / name, ignore_errors=True)
        for out in stages.get(f"align@{name}", {}).get("outs", []):
            if out["path"] != f"models/{name}":
                continue
            listing = _object(root, out["md5"])
            if not listing.exists():
                continue
            for entry in json.loads(listing.read_text(encoding="utf-8")):
                if entry["relpath"].endswith(".safetensors"):
                    _object(root, entry["md5"]).unlink(missing_ok=True)
            listing.unlink()


def _object(root: Path, md5: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def machine() -> str:
    """The hardware in words."""
    import psutil
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    cores = f"{psutil.cpu_count(logical=False) or psutil.cpu_count()} cores of {_processor()}"
    return ", ".join([*gpus, cores, f"{psutil.virtual_memory().total / 1e9:.0f} GB", f"torch {torch.__version__}"])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
