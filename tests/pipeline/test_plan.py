"""What DVC would run after a change, read from the real dvc.yaml and params.yaml."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from ruamel.yaml import YAML

from tr_align.config import METHODS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def dependencies() -> dict[str, list[str]]:
    """The parameters each stage depends on, as DVC resolves them."""
    with Repo(str(ROOT)) as repo:
        return {
            stage.addressing: [key for dep in stage.deps if hasattr(dep, "params") for key in dep.params]
            for stage in repo.index.stages
        }


def _reads(keys: list[str], changed: str) -> bool:
    return any(changed == key or changed.startswith(key + ".") for key in keys)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("ref_update.alpha", {"tr_dpo_soft", "tr_ipo_soft", "tr_kto_soft"}),
        ("ref_update.every", {"tr_dpo_soft", "tr_ipo_soft", "tr_kto_soft"}),
        ("ref_update.tau", {"tr_dpo_hard", "tr_ipo_hard", "tr_kto_hard"}),
        ("beta.dpo", {"dpo", "tr_dpo_soft", "tr_dpo_hard"}),
        ("kto.desirable_weight", {"kto", "tr_kto_soft", "tr_kto_hard"}),
        ("ipo.length_average", {"ipo", "tr_ipo_soft", "tr_ipo_hard"}),
        ("align.learning_rate", set(METHODS)),
        ("generate.temperature", set()),
        ("judge.name", set()),
    ],
)
def test_a_setting_retrains_its_methods_and_no_other(
    changed: str, expected: set[str], dependencies: dict[str, list[str]]
) -> None:
    retrained = {stage for stage, keys in dependencies.items() if stage.startswith("align@") and _reads(keys, changed)}
    assert retrained == {f"align@{name}" for name in expected}
    if changed.startswith(("ref_update.", "beta.")):
        others = {s for s, keys in dependencies.items() if not s.startswith("align@") and _reads(keys, changed)}
        assert others <= {"report"}


def test_no_training_depends_on_the_judge_the_reports_or_the_prompts_of_others(
    dependencies: dict[str, list[str]],
) -> None:
    with Repo(str(ROOT)) as repo:
        for stage in repo.index.stages:
            if stage.addressing.startswith("align@"):
                files = " ".join(dep.def_path for dep in stage.deps)
                assert "judge" not in files and "reports" not in files and "evaluation" not in files


def test_dvc_runs_exactly_the_soft_methods_after_a_change_of_alpha(tmp_path: Path) -> None:
    """DVC's own plan: a copy of the real pipeline whose commands only write their outputs."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        body = stage.get("do", stage)
        outs = [out if isinstance(out, str) else next(iter(out)) for out in body.get("outs", [])]
        outs += [next(iter(out)) for kind in ("metrics", "plots") for out in body.get(kind, [])]
        folders = {
            "data/prepared": ["preferences.jsonl", "sft.jsonl", "judge.jsonl", "evaluation.jsonl"],
            "models/judge": ["accuracy.json"],
        }
        files = [f"{out}/{name}" for out in outs for name in folders.get(out, [])]
        files += [out for out in outs if out not in folders]
        body["cmd"] = " && ".join(f"mkdir -p $(dirname {file}) && cp params.yaml {file}" for file in files)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    # Outputs that are copies of params.yaml differ after any change, so what is skipped was skipped for its inputs.
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for folder in ("src", "pipeline", "data/embedded", "data/foreign"):
        (tmp_path / folder).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / folder).symlink_to(ROOT / folder)
    run = lambda *command: subprocess.run(  # noqa: E731
        [str(Path(sys.executable).with_name("dvc")), *command],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"DVC_NO_ANALYTICS": "1"},
    )
    run("init", "--no-scm", "-q")
    run("repro")
    editor = YAML()
    params = editor.load(tmp_path / "params.yaml")
    params["ref_update"]["alpha"] = 0.8
    editor.dump(params, tmp_path / "params.yaml")
    printed = run("repro").stdout

    ran = [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]
    trained = [stage for stage in ran if stage.startswith("align@")]
    assert sorted(trained) == ["align@tr_dpo_soft", "align@tr_ipo_soft", "align@tr_kto_soft"]
    assert not {"prepare", "sft", "judge_fit", "generate_sft"} & set(ran)
    followed = {stage.split("@")[1] for stage in ran if "@" in stage}
    assert followed == {"tr_dpo_soft", "tr_ipo_soft", "tr_kto_soft"}
