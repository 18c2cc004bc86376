"""`tr-align preset`: a list, a copy, and no settings lost."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

import pytest

from tr_align.commands import preset
from tr_align.errors import UserError

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> None:
    top = argparse.ArgumentParser()
    preset.register(top.add_subparsers(required=True))
    options = top.parse_args(["preset", *arguments])
    options.run(options)


def git(*arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "presets", "presets")
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "all")
    return tmp_path


def change(old: str, new: str) -> str:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new))
    return Path("params.yaml").read_text()


def test_the_list_marks_the_current_one(capsys: pytest.CaptureFixture[str]) -> None:
    run()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(Path("presets").glob("*.yaml")))
    assert [line for line in lines if line.startswith("*")] == [lines[0]]
    assert lines[0].split()[:2] == ["*", "embedded"] and "a laptop, no GPU" in lines[0]
    assert all(len(line) < 150 and len(line.split()) > 4 for line in lines)
    change("alpha: 0.6", "alpha: 0.7")
    run()
    assert capsys.readouterr().out.splitlines()[-1] == "(params.yaml is none of them)"


def test_a_preset_is_copied_and_back(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("smoke", "hh-pythia-2.8b", "embedded"):
        run(name)
        assert Path("params.yaml").read_bytes() == (ROOT / "presets" / f"{name}.yaml").read_bytes()
        assert f"params.yaml is now {name}: " in capsys.readouterr().out
    Path("params.yaml").unlink()
    run("smoke")
    assert Path("params.yaml").exists()


def test_settings_that_are_nowhere_else_are_not_overwritten() -> None:
    text = change("\n  alpha: 0.6", "\n  alpha: 0.7")
    with pytest.raises(UserError, match=r"in no preset and not in git \(ref_update\.alpha\); commit it.*--force"):
        run("smoke")
    assert Path("params.yaml").read_text() == text
    git("commit", "-qam", "mine")
    run("smoke")  # git has them
    git("checkout", "-q", "params.yaml")
    change("alpha: 0.7", "alpha: 0.71")
    run("smoke", "--force")
    assert Path("params.yaml").read_bytes() == Path("presets/smoke.yaml").read_bytes()


def test_comments_are_settings_too_and_without_git_nothing_is_lost() -> None:
    change("# Every knob", "# My every knob")
    with pytest.raises(UserError, match=r"\(comments\)"):
        run("smoke")
    shutil.rmtree(".git")
    with pytest.raises(UserError, match="not in git; commit"):
        run("smoke")
    Path("params.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not in git"):
        run("smoke")


def test_a_typo_and_a_folder_that_is_no_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no preset 'hh-pythia-2\.8'; did you mean 'hh-pythia-2\.8b'\?"):
        run("hh-pythia-2.8")
    with pytest.raises(UserError, match="there is no preset 'qqqq'; there are embedded, hh-pythia-12b"):
        run("qqqq")
    Path("dvc.yaml").unlink()
    with pytest.raises(UserError, match="is no tr-align project"):
        run("smoke")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="is no tr-align project"):
        run()
