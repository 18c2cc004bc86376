"""What a study's file says, and which settings each of its runs gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tr_align.config import Params
from tr_align.errors import UserError
from tr_align.experiments.study import Study, StudyRun, read_study, settings

ROOT = Path(__file__).parents[1]
SMOKE = str(ROOT / "presets" / "smoke.yaml")


def study(**changes: Any) -> Study:
    run = {"name": "a", "why": "w"}
    return Study.model_validate({"preset": SMOKE, "out": "o", "judges": ["probe"], "runs": [run]} | changes)


def params(of: Study, number: int = 0, judge: Any = "probe", data: str | None = None) -> Params:
    return Params.model_validate(settings(of, of.runs[number], judge, data))


def test_a_run_is_the_preset_with_its_own_settings() -> None:
    before = Params.model_validate(yaml.safe_load(Path(SMOKE).read_text()))
    made = params(study(runs=[{"name": "a", "why": "w", "set": {"seed": 3, "ref_update.alpha": 0.1}}]))
    assert (made.seed, made.ref_update.alpha) == (3, 0.1)
    assert made.align == before.align and made.methods == before.methods and made.judge == before.judge


def test_the_judge_and_a_copy_of_the_data_take_the_place_of_the_presets() -> None:
    made = params(study(), judge="openai", data="/somewhere")
    assert (made.judge.name, made.data.path) == ("openai", "/somewhere")


def test_a_method_without_its_base_has_no_duel_with_it() -> None:
    chosen = ["dpo", "tr_dpo_soft", "tr_kto_hard"]
    made = params(study(runs=[{"name": "a", "why": "w", "methods": chosen}]))
    assert {name: method.base for name, method in made.methods.items()} == {
        "dpo": "sft",
        "tr_dpo_soft": "dpo",
        "tr_kto_hard": "sft",
    }
    assert made.methods["tr_kto_hard"].update == "hard"


def test_learning_rates_that_were_searched_for_are_those_of_the_reported_runs_alone() -> None:
    runs = [{"name": "a", "why": "w"}, {"name": "search", "why": "w", "report": False}]
    of = study(runs=runs, learning_rates={"dpo": 1e-5, "kto": 3e-5})
    found, search = params(of, 0), params(of, 1)
    assert found.learning_rate("dpo") == 1e-5
    assert found.learning_rate("tr_dpo_soft") == found.align.learning_rate
    assert {search.learning_rate(name) for name in search.methods} == {search.align.learning_rate}


def test_the_presets_own_sweep_is_not_part_of_a_run(tmp_path: Path) -> None:
    preset = tmp_path / "p.yaml"
    preset.write_text(Path(SMOKE).read_text() + "\nsweep: {seed: [7]}\n")
    assert "sweep" not in settings(study(preset=str(preset)), study().runs[0], "probe", None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"judges": []}, "judges: "),
        ({"judges": ["probe", "probe"]}, "judges: probe is there twice"),
        ({"runs": [{"name": "a", "why": "w"}, {"name": "a", "why": "v"}]}, "runs: a is there twice"),
        ({"runs": [{"name": "../a", "why": "w"}]}, r"runs\.0\.name: "),
        ({"runs": [{"name": "a"}]}, r"runs\.0\.why: Field required"),
        ({"runs": [{"name": "a", "why": "w", "methods": []}]}, r"runs\.0\.methods: "),
        ({"learning_rates": {"dop": 1e-5}}, "learning_rates: there is no method dop"),
        ({"seeds": 3}, "seeds: Extra inputs"),
    ],
)
def test_a_file_that_is_no_study_is_refused_by_its_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = tmp_path / "s.yaml"
    right = {"preset": SMOKE, "out": "o", "judges": ["probe"], "runs": [{"name": "a", "why": "w"}]}
    path.write_text(yaml.safe_dump(right | changes))
    with pytest.raises(UserError, match=rf"s\.yaml: {message}"):
        read_study(path)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"set": {"ref_update.alpha": 2}}, "run a: ref_update.alpha: .*less than or equal to 1"),
        ({"set": {"ref_update.alhpa": 0.1}}, "run a: ref_update.alhpa: unknown key"),
        ({"set": {"refupdate.alpha": 0.1}}, r"a: set\.refupdate\.alpha: there is no such section"),
        ({"methods": ["dop"]}, "a: methods: there is no dop; there are dpo, "),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_run(run: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings(study(), StudyRun.model_validate({"name": "a", "why": "w"} | run), "probe", None)


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        read_study("nowhere.yaml")
    with pytest.raises(UserError, match=r"preset: nowhere\.yaml: cannot be read"):
        settings(study(preset="nowhere.yaml"), study().runs[0], "probe", None)


def test_every_run_of_the_projects_study_can_be_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    of = read_study("presets/studies/hh-smollm2-135m.yaml")
    made = [params(of, number, judge) for number in range(len(of.runs)) for judge in of.judges]
    # The search has a split of its own, all others share one.
    assert {p.split_seed for run, p in zip(of.runs, made[:: len(of.judges)], strict=True) if run.report} == {0}
    assert {p.split_seed for run, p in zip(of.runs, made[:: len(of.judges)], strict=True) if not run.report} == {100}
    # Soft intervals are compared at one lag.
    lags = {
        (1 - p.ref_update.alpha) ** (1 / p.ref_update.every)
        for run, p in zip(of.runs, made[:: len(of.judges)], strict=True)
        if run.name.startswith(("every", "main"))
    }
    assert max(lags) - min(lags) < 1e-4


def test_more_betas_are_a_study_of_their_own_around_the_same_main_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    first, more = (read_study(f"presets/studies/hh-smollm2-135m{end}.yaml") for end in ("", "-beta"))
    main = {run.name: run for run in first.runs if run.name.startswith("main")}
    assert {run.name: run for run in more.runs if run.name in main} == main
    found: dict[float, set[int]] = {}
    for number, run in enumerate(more.runs):
        p = params(more, number)
        found.setdefault(p.beta.dpo, set()).add(p.seed)
        assert run.name in main or list(p.methods) == ["dpo", "tr_dpo_soft", "tr_dpo_hard"]
    assert found == {0.01: {0, 1, 2}, 0.05: {0, 1, 2}, 0.2: {0, 1, 2}}
    assert [first.judges[0]] == more.judges and more.out == f"{first.out}-beta"
