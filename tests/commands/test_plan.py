"""`tr-align plan` from its options to the table or JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tr_align.commands import plan
from tr_align.errors import UserError
from tr_align.planning import cells

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> None:
    top = argparse.ArgumentParser()
    plan.register(top.add_subparsers(required=True))
    options = top.parse_args(["plan", *arguments])
    options.run(options)


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_preset_is_planned_as_a_whole(capsys: pytest.CaptureFixture[str]) -> None:
    run("--preset", "smoke", "--gpu-hour-usd", "3", "--mfu", "0.5", "--gpu", "a100-40gb")
    out = capsys.readouterr().out
    assert out.startswith("random:two-layer: ") and "20 of 20 cells to run" in out
    assert "50% of the a100-40gb's peak" in out and "at $3.00 an hour" in out
    run("--params", "presets/smoke.yaml", "--json")
    read = json.loads(capsys.readouterr().out)
    assert read["params"] == "presets/smoke.yaml" and len(read["cells"]) == read["of"] == 20


def test_of_params_yaml_only_what_dvc_would_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("dvc.yaml", "src", "presets"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "params.yaml").write_text((ROOT / "presets" / "smoke.yaml").read_text())
    (tmp_path / "data" / "prepared").mkdir(parents=True)
    means = {"mean_tokens": {"prompt": 30.0, "chosen": 10.0, "rejected": 20.0}}
    (tmp_path / "data" / "prepared" / "stats.json").write_text(json.dumps({"splits": {"preferences": means}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cells, "pending", lambda: ["align@dpo", "generate@dpo"])
    run("--json")
    read = json.loads(capsys.readouterr().out)
    assert read["cells"] == ["align@dpo", "generate@dpo"] and set(read["work"]) == set(read["cells"])
    assert read["lengths"] == {"prompt": 30.0, "reply": 15.0, "sampled": 6.0, "measured": True}
    run("--json", "--all")
    assert len(json.loads(capsys.readouterr().out)["cells"]) == 20
    # Data that has to be prepared again is of other lengths.
    monkeypatch.setattr(cells, "pending", lambda: ["prepare"])
    run("--json")
    assert not json.loads(capsys.readouterr().out)["lengths"]["measured"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "smok"], "there is no preset 'smok'; did you mean 'smoke'"),
        (["--preset", "smoke", "--gpu", "h10"], "--gpu: 'h10' is not known; did you mean 'h100'"),
        (["--preset", "smoke", "--mfu", "0"], "--mfu: is 0; it has to be a share"),
        (["--preset", "smoke", "--mfu", "35"], "--mfu: is 35"),
        (["--preset", "smoke", "--gpu-hour-usd", "0"], "--gpu-hour-usd: is 0"),
        (["--preset", "smoke", "--sweep"], r"presets/smoke\.yaml: has no sweep; add"),
        (["--params", "nowhere.yaml"], r"nowhere\.yaml: there is no such file"),
    ],
)
def test_mistakes(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)
