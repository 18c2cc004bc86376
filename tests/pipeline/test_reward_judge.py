"""The stages judge_fit, judge and calibrate with `judge.name: reward`, on the smoke preset's model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tr_align import models
from tr_align.data.schema import Message, Pair, write_pairs
from tr_align.settings import AXES

ROOT = Path(__file__).parents[2]
FIRST, LAST = "Certainly, here is", "No."


def stage(folder: Path, *command: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_ROOT": str(folder)}
    script = [sys.executable, str(ROOT / "pipeline" / command[0]), *command[1:]]
    done = subprocess.run(script, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def replies(path: Path, text: str, prompts: list[list[Message]], ids: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    made = [
        {"step": 4, "prompt_id": name, "prompt": [m.model_dump() for m in prompt], "reply": f"{text} {name}"}
        for prompt, name in zip(prompts, ids, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")


def test_fitted_then_asked_then_calibrated(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text(encoding="utf-8"))
    params["judge"]["name"] = "reward"
    params["judge"]["reward"] = {"model": models.RANDOM, "learning_rate": 0.01, "epochs": 4, "warmup_steps": 0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    prompts = [[Message(role="user", content=f"Question {n}?")] for n in range(24)]
    pairs = [
        Pair(prompt=prompt, chosen=f"{FIRST} {n}", rejected=f"{LAST} {axis} {n}", axis=axis)
        for axis in AXES[:2]
        for n, prompt in enumerate(prompts)
    ]
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    write_pairs(tmp_path / "data" / "prepared" / "judge.jsonl", pairs)

    printed = stage(tmp_path, "judge_fit.py")
    assert "preference" in printed and "off_topic" in printed
    accuracy = json.loads((tmp_path / "models" / "judge" / "accuracy.json").read_text())
    # A quarter of 24 prompts is held out: two pairs each, and three other replies each.
    assert {name: row["n"] for name, row in accuracy.items()} == {"preference": 12, "off_topic": 18}
    assert accuracy["preference"]["accuracy"] == 1.0
    assert len(rows(tmp_path / "models" / "judge" / "log.jsonl")) == 4 * 5  # 36 pairs in batches of eight

    ids = [f"p{n}" for n in range(4)]
    replies(tmp_path / "generations" / "dpo.jsonl", FIRST, prompts[:4], ids)
    replies(tmp_path / "generations" / "sft.jsonl", LAST, prompts[:4], ids)
    stage(tmp_path, "judge.py", "dpo")
    judged = rows(tmp_path / "judgements" / "dpo.jsonl")
    ratings = [row for row in judged if row["kind"] == "rating"]
    assert [list(row["axes"]) for row in ratings] == [["preference"]] * 4
    assert all(5.5 < row["axes"]["preference"] < 10 for row in ratings)
    assert [row["preference"] for row in judged if row["kind"] == "duel"] == ["first", "second"] * 4

    assert "preference" in stage(tmp_path, "calibrate.py")
    card = json.loads((tmp_path / "judgements" / "calibration.json").read_text())
    assert (card["n_pairs"], card["agreement"]["value"], card["bias"]["consistent"]) == (8, 1.0, 1.0)
