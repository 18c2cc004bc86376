"""`tr-align sweep` with DVC's real queue and workers, on a pipeline of two stages that take no time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tr_align import cli
from tr_align.errors import UserError

ROOT = Path(__file__).parents[2]
PIPELINE = """\
stages:
  sft:
    cmd: sh pipeline/stage.sh
    params: [seed, data.path]
    outs: [sft.txt]
    deps: [pipeline/stage.sh]
  align:
    cmd: sh pipeline/stage.sh
    params: [ref_update.alpha]
    deps: [sft.txt, pipeline/stage.sh]
    outs: [align.txt]
"""
# Says in which stage of which experiment it is; the files fail-ALPHA, once-ALPHA and hang-ALPHA make it misbehave.
STAGE = """\
alpha=$(sed -n 's/^  alpha: \\([0-9.]*\\).*/\\1/p' params.yaml)
echo "$DVC_STAGE ${DVC_EXP_NAME:-workspace}" >> "$DVC_ROOT/ran.log"
path=$(sed -n 's/^  path: \\(mine[^ ]*\\).*/\\1/p' params.yaml)
if [ -n "$path" ] && [ ! -e "$path" ]; then echo "there is no $path"; exit 1; fi
if [ "$DVC_STAGE" = align ]; then
  while [ -e "$DVC_ROOT/hang-$alpha" ]; do sleep 0.1; done
  if [ -e "$DVC_ROOT/once-$alpha" ]; then rm "$DVC_ROOT/once-$alpha"; kill -9 $$; fi
  if [ -e "$DVC_ROOT/fail-$alpha" ]; then echo "something is wrong with $alpha"; exit 1; fi
fi
echo "version 1 $alpha" > "$DVC_STAGE.txt"
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "pipeline").mkdir(parents=True)
    (folder / "pipeline" / "stage.sh").write_text(STAGE)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text((ROOT / "presets" / "smoke.yaml").read_text())
    (folder / ".gitignore").write_text("/mine\n/ran.log\n/hang-*\n/once-*\n/fail-*\n/.scratch\n/sft.txt\n/align.txt\n")
    for command in (
        "git init -q",
        "git config user.name test",
        "git config user.email test@example.org",
        f"{Path(sys.executable).with_name('dvc')} init -q",
        "git add -A",
        "git commit -qm start",
    ):
        subprocess.run(command.split(), cwd=folder, check=True)
    return folder


@pytest.fixture
def start(repository: Path) -> Iterator[Start]:
    """Start a sweep; at the end of the test nothing of it is left."""
    # Without the virtual environment's folder, as in a shell where it is not active.
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != str(Path(sys.executable).parent))

    def sweep(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tr_align.cli", "sweep", *arguments],
            cwd=repository,
            env=os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    yield sweep
    for process in _processes(repository):
        process.kill()


def _processes(repository: Path) -> list[psutil.Process]:
    """Those that work in the repository or a copy of it."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(repository):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == status, printed
    return printed


def ran(repository: Path) -> Counter[str]:
    return Counter((repository / "ran.log").read_text().splitlines())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(repository: Path, line: str) -> bool:
    log = repository / "ran.log"
    return log.exists() and line in log.read_text()


def shown(repository: Path, experiment: str) -> str:
    """What the experiment's align stage wrote, from DVC's cache."""
    dvc = Path(sys.executable).with_name("dvc")
    command = [str(dvc), "get", ".", "align.txt", "--rev", experiment, "-o", f"{experiment}.txt", "-q", "-f"]
    subprocess.run(command, cwd=repository, check=True)
    return (repository / f"{experiment}.txt").read_text()


def test_common_stages_once_failures_again_and_done_ones_never(repository: Path, start: Start) -> None:
    (repository / "once-0.2").touch()
    (repository / "fail-0.3").touch()
    alphas = ("-j", "2", "-S", "ref_update.alpha=0.1,0.2,0.3")
    printed = ended(start(*alphas), status=1)
    assert ran(repository) == {
        "sft workspace": 1,
        "align alpha-0.1": 1,
        "align alpha-0.2": 2,
        "align alpha-0.3": 2,
    }
    assert printed.count("runs once more") == 2
    assert "[3/3] " in printed and " left\n" in printed
    assert "2 done, 1 failed" in printed
    (row,) = [line for line in printed.splitlines() if "dvc queue logs alpha-0.3" in line]
    log = Path(row.split("(the file ")[1].rstrip(")"))
    assert "something is wrong with 0.3" in log.read_text()
    assert "error: 1 of 3 experiments failed" in printed
    assert shown(repository, "alpha-0.2") == "version 1 0.2\n"
    assert not (repository / "align.txt").exists()  # the workspace's own alpha, 0.6, was not asked for

    (repository / "fail-0.3").unlink()
    (repository / "ran.log").unlink()
    printed = ended(start(*alphas))
    assert ran(repository) == {"align alpha-0.3": 1}
    assert printed.count("done already") == 2 and "failed before: again" in printed
    assert "3 done, 0 failed" in printed
    # One that is known under another name and in other words: nothing runs.
    printed = ended(start("-S", "ref_update.alpha=0.20"))
    assert ran(repository) == {"align alpha-0.3": 1} and "1 done, 0 failed" in printed


def test_stopped_it_leaves_nothing_running_and_goes_on(repository: Path, start: Start) -> None:
    (repository / "hang-0.4").touch()
    alphas = ("-S", "ref_update.alpha=0.4,0.5,0.6")
    first = start(*alphas)
    until(lambda: is_running(repository, "align alpha-0.4"))
    second = ended(start(*alphas), status=1)
    assert "a sweep runs here already" in second
    first.send_signal(signal.SIGTERM)
    assert "stopped; the same command goes on" in ended(first, status=128 + signal.SIGTERM)
    until(lambda: not _processes(repository))
    (repository / "hang-0.4").unlink()
    printed = ended(start(*alphas))
    assert "in the queue" in printed and "2 done, 0 failed" in printed
    # 0.6 is the workspace's own.
    assert ran(repository) == {
        "sft workspace": 1,
        "align workspace": 1,
        "align alpha-0.4": 2,
        "align alpha-0.5": 1,
    }


def test_what_is_queued_keeps_its_code_and_what_was_lost_runs_again(repository: Path, start: Start) -> None:
    for name in ("hang-0.7", "once-0.8"):
        (repository / name).touch()
    first = start("-S", "ref_update.alpha=0.7,0.8")
    until(lambda: is_running(repository, "align alpha-0.7"))
    script = repository / "pipeline" / "stage.sh"
    script.write_text(STAGE.replace("version 1", "version 2"))
    (repository / "hang-0.7").unlink()
    ended(first)
    assert shown(repository, "alpha-0.7") == "version 1 0.7\n"
    assert shown(repository, "alpha-0.8") == "version 1 0.8\n"  # also in its second attempt
    # The code is another one now, so it is another experiment. And as if the machine had lost its power:
    (repository / "hang-0.7").touch()
    (repository / "ran.log").unlink()
    ended_hard = start("-S", "ref_update.alpha=0.7")
    until(lambda: is_running(repository, "align alpha-0.7-2"))
    for process in _processes(repository):
        process.kill()
    ended_hard.wait()
    (repository / "hang-0.7").unlink()
    printed = ended(start("-S", "ref_update.alpha=0.7"))
    assert "1 done, 0 failed" in printed
    assert shown(repository, "alpha-0.7-2") == "version 2 0.7\n"
    assert ran(repository) == {"sft workspace": 1, "align alpha-0.7-2": 2}


def test_a_common_stage_that_fails_ends_it_before_anything_is_queued(repository: Path, start: Start) -> None:
    (repository / "fail-0.6").touch()
    printed = ended(start("-S", "ref_update.alpha=0.6,0.7"), status=1)
    assert "a stage that the experiments have in common failed" in printed
    assert ran(repository) == {"sft workspace": 1, "align workspace": 1}


def test_an_ignored_file_is_copied_where_it_is_read(repository: Path, start: Start) -> None:
    (repository / "mine").mkdir()
    (repository / "mine" / "rows.jsonl").write_text("{}\n")
    params = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(params.replace("  path: null", "  path: mine/rows.jsonl", 1))
    printed = ended(start("--keep-going", "--retries", "0", "-S", "seed=1"))
    assert "copied into every experiment, for it is not in git: mine (" in printed
    assert ran(repository) == {"sft seed-1": 1, "align seed-1": 1}  # nothing is common to both


def test_without_a_repository_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(ROOT / "presets" / "smoke.yaml", "params.yaml")
    subprocess.run(["git", "init", "-q"], check=True)
    options = cli.parser().parse_args(["sweep", "-S", "seed=1"])
    with pytest.raises(UserError, match=r"the experiments of this folder: .*dvc init"):
        options.run(options)


def test_a_dry_run_and_code_outside_git_run_nothing(repository: Path, start: Start) -> None:
    printed = ended(start("--dry-run", "-S", "ref_update.alpha=0.3,0.4"))
    assert "alpha-0.3" in printed and "the 1 stages that do not depend" in printed
    (repository / "pipeline" / "more.sh").touch()
    assert "pipeline/more.sh: not in git" in ended(start("-S", "ref_update.alpha=0.3"), status=1)
    assert not (repository / "ran.log").exists()
