"""A finished run of this repository's own pipeline, in Git and DVC, whose outputs were made up instead of trained."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from reports.run_folder import Made, write

from tr_align import models
from tr_align.config import load_params
from tr_align.reports import build, figures
from tr_align.reports.collect import collect
from tr_align.reports.runs import from_folder, load
from tr_align.scoring import score
from tr_align.scratch import read_rows, write_atomically

ROOT = Path(__file__).parents[2]
CARD = {"value": 0.87, "ci": [0.78, 0.95], "n": 100, "n_missing": 0}


def git(folder: Path, *command: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True).stdout


def dvc(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run DVC as a user would, without anything of this machine's own set-up of AWS."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    local = kept | {"DVC_NO_ANALYTICS": "1", "NO_PROXY": "127.0.0.1", "HOME": str(folder.parent)} | environment
    return subprocess.run(
        [sys.executable, "-m", "dvc", *command], cwd=folder, env=local, capture_output=True, text=True, timeout=120
    )


def policy(seed: int) -> torch.nn.Module:
    """A small model that differs with the seed."""
    model = models.load_model(models.RANDOM)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for weight in model.parameters():
            weight.data += 0.01 * torch.randn_like(weight)
    return model


def make_run(folder: Path) -> None:
    """Write every output of the pipeline, as the smoke preset has it."""
    measured = {"agreement": CARD, "agreement_rating": CARD, "verdict": "better than chance"}
    counts = {"n_pairs": 100, "n_prompts": 28, "label_source": "labels of a test"}
    write(folder, Made(calibration=None))
    card = json.dumps(measured | counts | {"verdict_rating": "better than chance"})
    params = load_params(folder / "params.yaml")
    tokenizer = models.load_tokenizer(models.RANDOM)
    for place, name in enumerate(("sft", "dpo/step-00002", "dpo/step-00004", "tr_dpo_soft/step-00002")):
        models.save(policy(place), tokenizer, folder / "models" / name)
    models.save(policy(9), tokenizer, folder / "models" / "tr_dpo_soft" / "step-00004")
    (folder / "models/judge").mkdir()
    (folder / "models/judge/probe.json").write_text("{}")
    (folder / "data/prepared").mkdir(parents=True)
    for name in ("sft", "preferences", "judge", "evaluation"):
        (folder / f"data/prepared/{name}.jsonl").write_text("{}\n")
    (folder / "models/judge/accuracy.json").write_text("{}")
    (folder / "judgements/calibration.jsonl").write_text("{}\n")
    (folder / "judgements/calibration.json").write_text("{}")
    (folder / "toy_mdp").mkdir()
    (folder / "toy_mdp/curves.jsonl").write_text("{}\n")
    (folder / "reports/toy_mdp.json").write_text("{}")
    (folder / "reports/train/sft.jsonl").write_text('{"step": 1}\n')
    shutil.copytree(folder / "reports/train", folder / "logs")
    (folder / "reports/score").mkdir()
    rows = {
        name: [read_rows(folder / kind / f"{name}.jsonl") for kind in ("generations", "judgements")] for name in NAMES
    }
    for name, (replies, judged) in rows.items():
        met = {} if name == "sft" else {"sft": rows["sft"][0]}
        if name == "tr_dpo_soft":
            met["base"] = rows["dpo"][0]
        (folder / f"reports/score/{name}.json").write_text(json.dumps(score(replies, judged, met, 100, params.seed)))
    build.build(collect([load("a test", from_folder(folder))]), folder / "reports")
    (folder / "reports/calibration.json").write_text(card)  # a part of one: the page would want all of it


NAMES = ("sft", "dpo", "tr_dpo_soft")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read it only: `workspace` is a copy."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    listed = git(ROOT, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith(("reports/", "tests/", "docs/", "benchmarks/", "dvc.lock")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        # Figures and page take seconds, and only their files matter here.
        patch.setattr(figures, "render", lambda figure, to: write_atomically(to / f"{figure.name}.png", figure.name))
        patch.setattr(build, "build_page", lambda report, drawn: "a page")
        (folder / "reports/figures").mkdir(parents=True)
        make_run(folder)
    git(folder, "init", "-q", ".")
    committed = dvc(folder, "commit", "-f")
    assert committed.returncode == 0, committed.stderr
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a finished run")
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished run, to be changed, as the current folder."""
    folder = tmp_path / "workspace"
    shutil.copytree(finished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


def change(folder: Path, key: str, value: object) -> None:
    """Change one setting of params.yaml."""
    raw = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    *sections, last = key.split(".")
    place = raw
    for section in sections:
        place = place[section]
    place[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
