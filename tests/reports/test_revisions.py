"""Runs that are read from Git and DVC's cache, in a small real repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tr_align.errors import UserError
from tr_align.reports.runs import experiments, from_revision, load

from .run_folder import write

ALL = ("dpo", "tr_dpo_soft")


STAGE = {
    "cmd": f"{sys.executable} make.py",
    "params": ["seed", "methods"],
    "deps": ["make.py"],
    "outs": [
        *(f"{folder}/{name}.jsonl" for folder in ("generations", "judgements") for name in ("sft", *ALL)),
        *({f"reports/train/{name}.jsonl": {"cache": False}} for name in ALL),
    ],
}
COPY = "import shutil; shutil.copytree('made', '.', dirs_exist_ok=True, ignore=shutil.ignore_patterns('params.yaml'))\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("repository")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "DVC_"))}
    environment |= {
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(root.with_name("site")),
        "DVC_GLOBAL_CONFIG_DIR": str(root.with_name("global")),
    }

    def call(*command: str) -> None:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    write(root / "made")
    shutil.move(root / "made" / "params.yaml", root / "params.yaml")
    (root / "make.py").write_text(COPY)
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"all": STAGE}}))
    call("git", "init", "-q")
    call("git", "config", "user.email", "a@example.org")
    call("git", "config", "user.name", "a")
    dvc = (sys.executable, "-m", "dvc")
    call(*dvc, "init", "-q")
    call(*dvc, "repro", "-q")
    call("git", "add", "-A")
    call("git", "commit", "-qm", "a run")
    call("git", "tag", "finished")
    call(*dvc, "exp", "run", "-q", "--name", "seed-one", "-S", "seed=1")
    call("git", "checkout", "-q", ".")
    for path in ("generations", "judgements"):  # what lies in the workspace does not count
        shutil.rmtree(root / path)
    old = {name: os.environ.get(name) for name in environment if name.startswith("DVC_")}
    os.environ |= {name: environment[name] for name in old}
    yield root
    for name, value in old.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture
def inside(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(repository)
    return repository


def test_a_revision_is_read_from_git_and_dvcs_cache(inside: Path) -> None:
    run = load("finished", from_revision("finished"))
    assert list(run.models) == ["sft", *ALL]
    assert run.params.seed == 0
    assert run.models["dpo"].answers[4]["p0"]["text"] == "dpo at 4 says 0"
    assert len(run.models["dpo"].log) == 4  # in Git, not in the cache
    assert run.problems == []


def test_experiments_are_listed_and_read_by_name(inside: Path) -> None:
    assert experiments() == ["seed-one"]
    run = load("seed-one", from_revision("seed-one"))
    assert run.params.seed == 1
    assert list(run.models) == ["sft", *ALL]


def test_a_revision_that_is_none(inside: Path) -> None:
    with pytest.raises(UserError, match=r"^nonsense: is no revision or experiment of this repository"):
        from_revision("nonsense")


def test_a_file_that_is_not_in_the_cache_is_a_problem_and_no_crash(
    inside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(inside, copy, symlinks=True)
    lock = yaml.safe_load((copy / "dvc.lock").read_text())
    digests = {out["path"]: out["md5"] for out in lock["stages"]["all"]["outs"]}
    md5 = digests["judgements/tr_dpo_soft.jsonl"]
    (copy / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).unlink()
    monkeypatch.chdir(copy)
    read = from_revision("HEAD")
    assert read("judgements/tr_dpo_soft.jsonl") is None
    assert read("no/such/file") is None
    run = load("HEAD", read)
    assert list(run.models) == ["sft", "dpo"]
    assert "judgements/tr_dpo_soft.jsonl is missing: TR-DPO soft is left out (its stage did not finish)" in run.problems


def test_outside_of_any_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^HEAD: is no revision"):
        from_revision("HEAD")
    with pytest.raises(UserError, match=r"^the experiments cannot be listed: "):
        experiments()
