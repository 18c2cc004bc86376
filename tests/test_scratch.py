"""Unfinished work: folders by settings and inputs, files that are whole or absent, rows up to a torn line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tr_align import scratch


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def test_a_folder_is_made_under_the_repositorys_root(root: Path) -> None:
    folder = scratch.folder("sft", {"steps": 3}, [])
    assert folder.is_dir()
    assert folder.parent == root / ".scratch" / "sft"
    assert scratch.folder("sft", {"steps": 3}, []) == folder


HOLD = "from tr_align import scratch; print(scratch.folder('sft', {}, []), flush=True); import sys; sys.stdin.read()"


def test_a_second_process_waits_for_the_first_also_if_that_is_killed(root: Path) -> None:
    """Two workers of a queue that train the same SFT model would write each other's files."""
    start = lambda: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = start()
    folder = first.stdout.readline()  # type: ignore[union-attr]
    second = start()
    assert second.stderr.readline() == "sft runs with these settings already: waiting for it to end\n"  # type: ignore[union-attr]
    assert second.poll() is None

    first.kill()

    assert second.stdout.readline() == folder  # type: ignore[union-attr]
    second.communicate("")
    first.communicate()
    assert second.returncode == 0


def test_processes_of_one_training_do_not_wait_for_each_other(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        folder = first.stdout.readline()  # type: ignore[union-attr]
        monkeypatch.setenv("RANK", "1")
        assert str(scratch.folder("sft", {}, [])) == folder.strip()
        first.communicate("")


def test_without_dvc_the_root_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_ROOT")
    assert scratch.root() == Path(".")


def test_other_settings_inputs_or_stages_have_other_folders(root: Path) -> None:
    one, two = root / "one", root / "two"
    one.write_text("1")
    two.write_text("2")
    cases = [
        ("sft", {"a": 1, "b": 2}, []),
        ("sft", {"a": 1, "b": 3}, []),
        ("sft", {"a": 1, "b": 2}, [one]),
        ("sft", {"a": 1, "b": 2}, [two]),
        ("sft", {"a": 1, "b": 2}, [one, two]),
        ("sft", {"a": 1, "b": 2}, [two, one]),
        ("align", {"a": 1, "b": 2}, []),
    ]
    assert len({scratch.folder(*case) for case in cases}) == len(cases)
    # The order of settings and the name of a file say nothing, its contents do.
    before = scratch.folder("sft", {"b": 2, "a": 1}, [one])
    assert before == scratch.folder("sft", {"a": 1, "b": 2}, [one])
    one.rename(root / "moved")
    assert scratch.folder("sft", {"a": 1, "b": 2}, [root / "moved"]) == before
    (root / "moved").write_text("3")
    assert scratch.folder("sft", {"a": 1, "b": 2}, [root / "moved"]) != before


def test_the_hash_is_that_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    # The first test vector of FIPS 180.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert scratch.file_hash(tmp_path / "file") == expected == hashlib.sha256(b"abc").hexdigest()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    scratch.write_atomically(path, "old é")
    assert path.read_bytes() == "old é".encode()
    with monkeypatch.context() as patch:

        def killed(source: Path, target: Path) -> None:
            assert Path(source).read_text() == "new"  # all of it is there before it takes the place
            assert Path(target).read_text(encoding="utf-8") == "old é"
            raise KeyboardInterrupt

        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            scratch.write_atomically(path, "new")
    assert path.read_text(encoding="utf-8") == "old é"
    scratch.write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


ROWS = [{"n": 1, "text": "é\u2028\n"}, {"n": 2, "text": "茶"}]


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    scratch.write_rows(path, ROWS)
    assert scratch.read_rows(path) == ROWS
    assert path.read_bytes().count(b"\n") == 2
    scratch.write_rows(path, [])
    assert scratch.read_rows(path) == []
    assert scratch.read_rows(tmp_path / "none.jsonl") == []


def test_a_file_cut_anywhere_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    """Every length the file can have after a kill, within a letter of two or three bytes, too."""
    path = tmp_path / "rows.jsonl"
    scratch.write_rows(path, ROWS)
    content = path.read_bytes()
    first = len(json.dumps(ROWS[0], ensure_ascii=False).encode())
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        # A row is whole with its closing brace; the line break may be missing.
        expected = (size >= first) + (size >= len(content) - 1)
        assert scratch.read_rows(path) == ROWS[:expected], size
