"""Which experiments a sweep consists of, what they share, and what is known of them, without running any."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from tr_align.config import METHODS, load_params
from tr_align.errors import UserError
from tr_align.experiments import grid
from tr_align.experiments.grid import Experiment, Stages, planned

ROOT = Path(__file__).parents[1]
Edit = Callable[..., None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """A folder with the smoke preset as params.yaml, and a function that changes lines of it."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "presets" / "smoke.yaml").read_text(encoding="utf-8")

    def change(**lines: str) -> None:
        written = text
        for old, new in lines.items():
            line = next(line for line in text.splitlines() if line.strip().startswith(f"{old}:"))
            written = written.replace(line, new, 1)
        (tmp_path / "params.yaml").write_text(written, encoding="utf-8")

    change()
    return change


@pytest.fixture(scope="module")
def stages() -> Stages:
    """Those of the real dvc.yaml and params.yaml."""
    with Repo(str(ROOT)) as repo:
        return Stages.of_workspace(repo)


def sweep(*given: str) -> list[Experiment]:
    return planned(load_params(), given)[0]


def test_the_section_changes_one_setting_at_a_time(edit: Edit) -> None:
    edit(ref_update="sweep: {ref_update.alpha: [0.3, 0.6, 1.0], ref_update.every: [3], beta.ipo: [0.1]}\nref_update:")
    experiments, with_base = planned(load_params(), [])
    assert [experiment.name for experiment in experiments] == ["alpha-0.3", "alpha-1.0", "every-3", "beta.ipo-0.1"]
    assert with_base  # alpha 0.6, every 2: the workspace
    settings = [(e.params.ref_update.alpha, e.params.ref_update.every, e.params.beta.ipo) for e in experiments]
    assert settings == [(0.3, 2, 0.01), (1.0, 2, 0.01), (0.6, 3, 0.01), (0.6, 2, 0.1)]
    assert experiments[0].overrides == ("ref_update.alpha=0.3",)


def test_options_take_the_place_of_the_section_and_are_read_as_dvc_reads_them(edit: Edit) -> None:
    edit(ref_update="sweep: {ref_update.every: [3]}\nref_update:")
    experiments, with_base = planned(load_params(), ["ref_update.alpha=range(0.1,0.5,0.1)"])
    assert [experiment.name for experiment in experiments] == ["alpha-0.1", "alpha-0.2", "alpha-0.3", "alpha-0.4"]
    assert [experiment.params.ref_update.alpha for experiment in experiments] == [0.1, 0.2, 0.3, 0.4]
    assert not with_base


def test_several_options_make_every_combination_without_the_workspaces_own(edit: Edit) -> None:
    experiments, with_base = planned(load_params(), ["seed=0,1", "ref_update.alpha=0.3,0.6"])
    assert with_base
    made = {(experiment.params.seed, experiment.params.ref_update.alpha) for experiment in experiments}
    assert made == {(0, 0.3), (1, 0.3), (1, 0.6)} and len(experiments) == 3
    assert "alpha-0.3_seed-1" in {e.name for e in experiments} | {
        "_".join(sorted(e.name.split("_"))) for e in experiments
    }


def test_one_value_written_twice_is_one_experiment(edit: Edit) -> None:
    experiments, with_base = planned(load_params(), ["ref_update.alpha=0.3,0.30"])
    assert [experiment.name for experiment in experiments] == ["alpha-0.3"]
    assert not with_base


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("align.lora: [{rank: 4, scale: 8}]", "align", {"lora": {"rank": 4, "scale": 8}}),
        ("align.evaluate_at: [[0.25, 1.0]]", "align", {"evaluate_at": [0.25, 1.0]}),
        ("align.gradient_checkpointing: [true]", "align", {"gradient_checkpointing": True}),
        ('data.system_prompt: ["say \\"yes\\", {a: b}"]', "data", {"system_prompt": 'say "yes", {a: b}'}),
        ("data.system_prompt: [null]", "data", {"system_prompt": None}),
        ("align.learning_rate: [1.0e-6]", "align", {"learning_rate": 1e-6}),
    ],
)
def test_any_value_of_the_section_arrives_as_it_is(edit: Edit, section: str, key: str, value: object) -> None:
    edit(ref_update=f"sweep: {{{section}}}\nref_update:")
    (experiment,) = sweep()
    assert isinstance(value, dict)
    arrived = experiment.params.model_dump()[key]
    assert {name: arrived[name] for name in value} == value
    assert subprocess.run(["git", "check-ref-format", f"refs/exps/{experiment.name}"]).returncode == 0


def test_a_list_of_further_runs_makes_no_other_run(edit: Edit) -> None:
    before = grid.same(load_params())
    edit(ref_update="sweep: {ref_update.every: [3]}\nref_update:")
    assert grid.same(load_params()) == before


def test_names_that_would_be_the_same_get_a_number(edit: Edit) -> None:
    edit(ref_update='sweep: {data.system_prompt: ["a b", "a-b"]}\nref_update:')
    assert [experiment.name for experiment in sweep()] == ["data.system_prompt-a-b", "data.system_prompt-a-b-2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ref_update.alhpa=0.3"], "-S ref_update.alhpa=0.3: .*alhpa.*; write a setting as in ref_update.alpha"),
        (["ref_update.alpha=0.3,1.5"], "-S ref_update.alpha=1.5: ref_update.alpha: .*less than or equal to 1"),
        (["ref_update.alpha=[0.3"], "-S ref_update.alpha=\\[0.3: cannot be read"),
        (["other.yaml:alpha=1"], "-S: other.yaml: settings are in params.yaml only"),
        (["ref_update.alpha=0.6"], "every value is that of params.yaml itself"),
        ([], "params.yaml: has no section sweep; write one"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_does(edit: Edit, given: list[str], message: str) -> None:
    before = Path("params.yaml").read_bytes()
    with pytest.raises(UserError, match=message):
        planned(load_params(), given)
    assert Path("params.yaml").read_bytes() == before


def test_a_change_of_alpha_leaves_all_but_the_soft_methods_to_the_workspace(stages: Stages) -> None:
    touched = stages.touched({"ref_update.alpha"})
    soft = {name for name in METHODS if name.endswith("_soft")}
    assert touched == {f"{s}@{m}" for s in ("align", "generate", "ood", "judge", "score") for m in soft} | {"report"}


def test_a_section_and_its_settings_are_the_same_to_a_stage(stages: Stages) -> None:
    assert "sft" in stages.touched({"sft.learning_rate"}) and "prepare" in stages.touched({"data.sft"})
    assert "sft" not in stages.touched({"generate.top_p"})
    assert stages.touched({"data.source"}) == set(stages.settings) - {"toy_mdp"}  # prepare, and what follows from it


def test_a_setting_of_a_judge_that_is_not_in_use_touches_nothing(stages: Stages) -> None:
    assert "judge_fit" in stages.touched({"judge.probe.layer"})
    assert stages.touched({"judge.reward.epochs"}) == {"report"}  # which lists all settings


def test_shared_is_what_any_experiment_leaves_alone(edit: Edit, stages: Stages) -> None:
    base = load_params()
    alpha, seed = sweep("ref_update.alpha=0.3"), sweep("seed=1")
    assert stages.shared(base, seed) == ["toy_mdp"]  # a world of its own
    assert set(stages.shared(base, alpha + seed)) == set(stages.settings) - stages.touched({"ref_update.alpha"})
    both = stages.shared(base, alpha + sweep("beta.dpo=0.1"))
    assert {"sft", "align@dpo", "align@tr_ipo_soft", "align@tr_ipo_hard"} <= set(both) and "report" not in both


def test_a_new_section_counts_as_a_change_of_it(edit: Edit) -> None:
    (experiment,) = sweep("align.lora={rank: 4, scale: 8}")
    assert {"align.lora.rank", "align.lora.scale"} <= grid.changed_keys(load_params(), experiment.params)


@pytest.fixture
def repository(edit: Edit, tmp_path: Path) -> Path:
    for command in (["init", "-q"], ["config", "user.name", "t"], ["config", "user.email", "t@example.org"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "known.py").write_text("")
    (tmp_path / ".gitignore").write_text("/mine\n/big\n")
    subprocess.run(["git", "add", "-A"], check=True)
    subprocess.run(["git", "commit", "-qm", "start"], check=True)
    return tmp_path


def test_files_that_git_does_not_hold_are_copied_where_a_stage_reads_them(repository: Path, edit: Edit) -> None:
    (repository / "mine").mkdir()
    (repository / "mine" / "rows.jsonl").write_text("{}\n")
    (repository / "src" / "rows.jsonl").write_text("{}\n")
    (repository / "models").mkdir()
    made = Stages({"prepare": ["data", "seed"], "align": ["ref_update.alpha"]}, [("align", "prepare")], ["models"])

    def copied(path: str, *given: str) -> list[str]:
        edit(path=f"  path: {path}")
        return grid.copied_paths(sweep(*given), load_params(), made)

    assert copied("mine/rows.jsonl", "seed=1") == ["mine"]  # a folder that a copy would not have
    assert copied("src/rows.jsonl", "seed=1") == ["src/rows.jsonl"]
    assert copied("mine/rows.jsonl", "ref_update.alpha=0.3") == []  # prepare does not run again
    assert copied(str(repository / "mine" / "rows.jsonl"), "seed=1") == []
    assert copied("params.yaml", "seed=1") == []  # in git
    assert copied("models", "seed=1") == []  # made by a stage
    assert copied("nowhere.jsonl", "seed=1") == []  # the stage says so


def test_code_that_is_not_in_git_is_named(repository: Path) -> None:
    assert grid.not_in_git() == []
    (repository / "src" / "new module.py").write_text("")
    (repository / "notes.txt").write_text("")
    assert grid.not_in_git() == ["src/new module.py"]


def test_without_git_it_says_what_is_missing(edit: Edit) -> None:
    with pytest.raises(UserError, match="experiments need a Git repository with a commit"):
        grid.git("for-each-ref")
