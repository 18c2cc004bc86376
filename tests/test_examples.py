"""The cluster scripts, without a cluster: Slurm's variables are set, `dvc`, `scontrol` and `ray` are stand-ins."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tr_align import launch

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
BATCH = sorted((EXAMPLES / "slurm").glob("*.sbatch"))
SCRIPTS = [EXAMPLES / "cell.sh", *BATCH]

GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]

RECORD = """#!/bin/sh
printf '%s\\t' "$(basename "$0")" "$PWD" "$@" >> "$CALLS"
echo >> "$CALLS"
"""

STAGE = """
trap 'sleep 0.7; echo saved >> "$CALLS"; exit 143' TERM
echo started >> "$CALLS"
while true; do sleep 0.05; done
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed repository with the examples; whoever calls the stand-ins is written to `calls` beside it."""
    folder, programs = tmp_path / "repository", tmp_path / "programs"
    shutil.copytree(EXAMPLES, folder / "examples")
    (folder / "params.yaml").write_text("seed: 0\n")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n")
    (folder / "cells.txt").write_text("first seed=1\nsecond ref_update.alpha=0.8 seed=2\n")
    for command in (["init", "-q", "."], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    (folder / ".dvc" / "config.local").write_text("[core]\n")
    programs.mkdir()
    for name in ("dvc", "scontrol"):
        (programs / name).write_text(RECORD)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("CLONES", str(tmp_path / "clones"))
    for name, value in {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(name, value)
    return folder


def calls(repository: Path) -> list[list[str]]:
    path = repository.parent / "calls"
    return [line.rstrip("\t").split("\t") for line in path.read_text().splitlines()] if path.exists() else []


def head(repository: Path) -> str:
    return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository, text=True).strip()


def batch(repository: Path, *command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", *command], cwd=repository, start_new_session=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_shell_understands_it(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script)], check=True)


@pytest.mark.parametrize("script", BATCH, ids=lambda path: path.name)
def test_slurm_reads_its_options(script: Path) -> None:
    """Options after the first command are ignored; a job that comes back appends to its log."""
    lines = script.read_text(encoding="utf-8").splitlines()
    commands = [number for number, line in enumerate(lines) if line and not line.startswith("#")]
    options = {number: line.removeprefix("#SBATCH ") for number, line in enumerate(lines) if line.startswith("#SBATCH")}
    assert max(options) < commands[0]
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@120"} <= set(options.values())


def test_a_task_runs_its_line_in_a_clone_of_the_commit(repository: Path) -> None:
    commit = head(repository)
    (repository / "params.yaml").write_text("seed: 5\n")  # changed since it was submitted: no part of it
    subprocess.run([*GIT, "commit", "-qam", "later"], cwd=repository, check=True)
    clone = repository.parent / "clones" / "7" / "second"
    for _ in range(2):  # the second time as after a requeue, with what the first try left
        assert batch(repository, "examples/slurm/array.sbatch", "cells.txt", commit).wait(timeout=20) == 0
        assert (clone / "params.yaml").read_text() == "seed: 0\n"
        (clone / "params.yaml").write_text("seed: 2\n")
        (clone / "kept").touch()
    assert head(clone) == commit
    assert (clone / ".dvc" / "config.local").read_text() == "[core]\n"
    run = "exp run --pull --allow-missing --name second -S ref_update.alpha=0.8 -S seed=2"
    push = "exp push --force --run-cache origin second"
    pulled, *others = calls(repository)
    assert pulled == ["dvc", f"{clone}.new", "pull", "prepare"]
    assert others == [["dvc", str(clone), *command.split()] for command in (run, push)] * 2
    assert (clone / "kept").exists()
    assert not clone.with_name("first").exists()


def test_a_second_try_waits_for_what_is_left_of_the_first(repository: Path) -> None:
    """The task's own process was killed, but not the run it had started."""
    clone = repository.parent / "clones" / "cell"
    dvc = repository.parent / "programs" / "dvc"
    dvc.write_text('#!/bin/sh\necho in >> "$CALLS"\nsleep 1\necho out >> "$CALLS"\n')
    tries = []
    for _ in range(2):
        tries.append(batch(repository, "examples/cell.sh", str(repository), head(repository), str(clone), "cell"))
        while ["in"] not in calls(repository):
            time.sleep(0.05)
    tries[0].kill()
    assert tries[1].wait(timeout=20) == 0
    # `dvc pull` of the first try, then the whole second.
    assert calls(repository) == [["in"], ["out"]] * 4


def test_a_failed_experiment_is_not_pushed(repository: Path) -> None:
    dvc = repository.parent / "programs" / "dvc"
    dvc.write_text(RECORD + '[ "$1" = pull ] || exit 3\n')
    assert batch(repository, "examples/slurm/array.sbatch", "cells.txt", head(repository)).wait(timeout=20) == 3
    assert [call[2:4] for call in calls(repository)] == [["pull", "prepare"], ["exp", "run"]]


@pytest.mark.parametrize("script", ["node", "nodes", "array"])
@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_stage_may_finish_its_checkpoint_and_the_job_comes_back(
    repository: Path, script: str, number: signal.Signals, requeued: bool
) -> None:
    """DVC itself ends at once; its stage takes 0.7 s to save. Only what was cancelled does not come back."""
    stage = repository.parent / "stage"
    stage.write_text(STAGE)
    (repository.parent / "programs" / "dvc").write_text(f"#!/bin/sh\nbash {stage} &\nwait\n")
    job = batch(repository, f"examples/slurm/{script}.sbatch", "cells.txt", head(repository))
    while ["started"] not in calls(repository):
        assert job.poll() is None
        time.sleep(0.05)
    os.kill(job.pid, number)  # as Slurm does with B: to the script alone
    assert job.wait(timeout=20) == 143
    told = [call for call in calls(repository) if "hostnames" not in call]
    requeue = [["scontrol", str(repository), "requeue", "8"]]
    assert told == [["started"], ["saved"], *(requeue if requeued else [])]


def test_a_stage_under_srun_is_told_through_slurm(repository: Path) -> None:
    """A SIGTERM would make srun kill its tasks: the job's steps are signalled, and srun itself is left alone."""
    programs = repository.parent / "programs"
    (programs / "scancel").write_text(RECORD)
    (programs / "scancel").chmod(0o755)
    shutil.copy(shutil.which("sleep") or "", programs / "srun")  # it ends when its tasks have, or by a SIGTERM
    (programs / "dvc").write_text('#!/bin/sh\necho started >> "$CALLS"\nsrun 2 && echo saved >> "$CALLS"\nexit 1\n')
    job = batch(repository, "examples/slurm/node.sbatch")
    while ["started"] not in calls(repository):
        time.sleep(0.05)
    time.sleep(0.3)  # until srun runs
    os.kill(job.pid, signal.SIGUSR1)
    assert job.wait(timeout=20) == 143
    names = [call[0] if len(call) == 1 else [call[0], *call[2:]] for call in calls(repository)]
    assert names == ["started", ["scancel", "--signal=TERM", "8"], "saved", ["scontrol", "requeue", "8"]]


def test_the_stages_that_are_named_are_reproduced(repository: Path) -> None:
    assert batch(repository, "examples/slurm/node.sbatch", "align@dpo", "score@dpo").wait(timeout=20) == 0
    assert calls(repository) == [["dvc", str(repository), "repro", "align@dpo", "score@dpo"]]
    (repository.parent / "programs" / "dvc").write_text("#!/bin/sh\nexit 5\n")
    assert batch(repository, "examples/slurm/node.sbatch").wait(timeout=20) == 5


def test_the_launcher_of_several_machines(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first machine's name reaches the stage; the example in the comment is a launch command, read as meant."""
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    programs = repository.parent / "programs"
    (programs / "scontrol").write_text('#!/bin/sh\n[ "$*" = "show hostnames n[1-2]" ] && printf "n1\\nn2\\n"\n')
    (programs / "dvc").write_text('#!/bin/sh\necho "$MASTER_ADDR" > "$CALLS"\n')
    assert batch(repository, "examples/slurm/nodes.sbatch").wait(timeout=20) == 0
    assert calls(repository) == [["n1"]]
    script = (EXAMPLES / "slurm" / "nodes.sbatch").read_text(encoding="utf-8")
    example = re.search(r"^#   launch:\n(#     .*\n)+", script, re.MULTILINE)
    assert example is not None
    text = "\n".join(line.removeprefix("#   ") for line in example.group().splitlines())
    monkeypatch.chdir(ROOT)
    command = yaml.safe_load(text)["launch"]["train"]
    assert launch.read(command, "launch.train") == launch.Launched(processes=16, machines=2, sharding="fsdp")


RAY = """
class exceptions:
    class RayError(Exception): pass
def init(): pass
def remote(**options):
    assert options == {"num_gpus": 1, "max_retries": 3, "retry_exceptions": True}
    def wrap(function):
        class Task:
            remote = staticmethod(lambda *arguments: (function, *map(repr, arguments)))
        return Task
    return wrap
def wait(tasks): return tasks[:1], tasks[1:]
def get(task):
    function, *arguments = task
    try:
        return function(*map(eval, arguments))
    except Exception as error:
        raise exceptions.RayError(str(error))
"""


@pytest.mark.parametrize("broken", [False, True])
def test_ray_runs_every_line_and_counts_failures(repository: Path, broken: bool) -> None:
    (repository.parent / "ray.py").write_text(RAY)
    if broken:
        (repository.parent / "programs" / "dvc").write_text(RECORD + 'case "$*" in *first*) exit 1;; esac\n')
    command = [sys.executable, "examples/ray/sweep.py", "cells.txt", "--clones", "../clones"]
    environment = os.environ | {"PYTHONPATH": str(repository.parent)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == (1 if broken else 0), done.stderr
    commit = head(repository)[:12]
    ran = [(Path(call[1]), call[2:]) for call in calls(repository) if call[2:4] == ["exp", "run"]]
    clones = repository.parent / "clones" / commit
    settings = {"first": ["seed=1"], "second": ["ref_update.alpha=0.8", "seed=2"]}
    assert [(folder, json.dumps(words[-2:])) for folder, words in ran] == [
        (clones / name, json.dumps(["-S", values[-1]])) for name, values in settings.items()
    ]
    assert "second: done" in done.stdout
    assert ("first: done" in done.stdout) != broken
    assert ("first: failed" in done.stderr) == broken
