"""One line a stage: how many there are, and minutes by hand from what is known of their durations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tr_align import progress

SOURCE = Path(progress.__file__).parents[1]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(progress, "EXPECTED", {"prepare": 60, "align": 120, "report": 30})
    return tmp_path


def plan(monkeypatch: pytest.MonkeyPatch, *stages: str) -> None:
    monkeypatch.setenv(progress.PLAN, json.dumps(stages))


def test_without_a_plan_only_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.PLAN, raising=False)
    assert progress.heading("sft") == "── sft"
    plan(monkeypatch, "prepare")
    assert progress.heading("sft") == "── sft"


def test_the_first_run_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 + 2 x 120 + 30 = 330 s are expected: 5.5 minutes, rounded to the even 6; `align@dpo` is known as `align`."""
    plan(monkeypatch, "align@dpo", "align@kto", "prepare", "report")
    assert progress.heading("prepare") == "── [1 of 4] prepare, about 6 min left"


def test_the_sessions_pace_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as slow as expected so far: 2 x (120 + 120 + 30) s = 9 min; then 3 times: (180 + 360) / (60 + 120)."""
    plan(monkeypatch, "align@dpo", "align@kto", "prepare", "report")
    progress._remember("prepare", 120)
    assert progress.heading("align@dpo") == "── [2 of 4] align@dpo, about 9 min left"
    progress._remember("align@dpo", 420)
    # (120 + 420) / (60 + 120) = 3; 3 x (120 + 30) s = 7.5 min, rounded to the even 8.
    assert progress.heading("align@kto") == "── [3 of 4] align@kto, about 8 min left"


def test_the_next_session_knows_this_machines_durations(monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, "align@dpo", "prepare", "report")
    for stage, seconds in (("prepare", 120), ("align@dpo", 600), ("report", 60)):
        progress._remember(stage, seconds)
    progress.start_session()
    # 120 + 600 + 60 = 780 s = 13 min.
    assert progress.heading("prepare") == "── [1 of 3] prepare, about 13 min left"
    # As fast as last time: nothing but what is left, 660 s = 11 min.
    progress._remember("prepare", 120)
    assert progress.heading("align@dpo") == "── [2 of 3] align@dpo, about 11 min left"


def test_the_last_minute_is_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, "xyz")
    assert progress.heading("xyz") == "── [1 of 1] xyz, about 1 min left"  # 10 s, for a stage nobody knows


def test_a_broken_file_of_durations_is_as_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(monkeypatch, "prepare", "report")
    (root / ".scratch").mkdir()
    for name in ("session.json", "expected.json", "durations.json"):
        (root / ".scratch" / name).write_text('{"prepare": ')
    assert progress.heading("prepare") == "── [1 of 2] prepare, about 2 min left"  # 90 s, rounded to the even 2


def stage(root: Path, body: str) -> subprocess.CompletedProcess[str]:
    """A stage in a process of its own, as DVC starts it."""
    script = f"""
import atexit
from tr_align.errors import UserError
from tr_align.progress import run_stage

def main():
    {body}

atexit.register(lambda: print("tidied up"))
run_stage(main)
"""
    environment = {name: value for name, value in os.environ.items() if name != progress.PLAN}
    environment |= {"PYTHONPATH": str(SOURCE), "DVC_ROOT": str(root), "DVC_STAGE": "align@dpo"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)


def test_a_stage_has_a_heading_and_is_remembered(root: Path) -> None:
    done = stage(root, "print('work')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "work\ntidied up\n", "── align@dpo\n")
    for name in ("session.json", "durations.json"):
        durations = json.loads((root / ".scratch" / name).read_text())
        assert list(durations) == ["align@dpo"]
        assert 0 <= durations["align@dpo"] < 60


def test_a_users_mistake_is_told_without_a_traceback(root: Path) -> None:
    failed = stage(root, "raise UserError('data.path: is null')")
    assert failed.returncode == 1
    assert failed.stderr == "── align@dpo\n\nerror: data.path: is null\n\n"
    assert not (root / ".scratch").exists()


def test_a_defect_keeps_its_traceback(root: Path) -> None:
    failed = stage(root, "raise ValueError('ours')")
    assert failed.returncode == 1
    assert "Traceback" in failed.stderr
    assert not (root / ".scratch").exists()
