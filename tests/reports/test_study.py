"""Runs sorted into cells, and the curves that a cell and its base are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tr_align.reports.runs import Run, from_folder, load
from tr_align.reports.study import pairing, study

from .run_folder import LUCK, Made, hc, kl, made_run, write

CELLS = ("cell", "name", "method", "loss", "update", "alpha", "every", "tau")


def made_runs(root: Path, *mades: Made) -> list[Run]:
    return [made_run(root, f"run {place}", made) for place, made in enumerate(mades)]


def beta(value: float, seed: int = 0, **more: Any) -> Made:
    return Made(settings={"beta.dpo": value, "seed": seed}, **more)


def settings(**changed: Any) -> Made:
    return Made(
        methods=("dpo", "tr_dpo_soft", "tr_dpo_hard"), settings={f"ref_update.{key}": changed[key] for key in changed}
    )


def values(array: Any) -> list[list[float]]:
    return [[round(float(value), 6) for value in row] for row in array]


def test_one_run_has_a_cell_a_method(tmp_path: Path) -> None:
    found = study(made_runs(tmp_path, Made(methods=("ipo", "tr_dpo_hard", "dpo", "tr_dpo_soft"))))
    assert [tuple(row[key] for key in CELLS) for row in found.cells.values()] == [
        ("sft", "SFT", "sft", None, "none", None, None, None),
        ("dpo", "DPO", "dpo", "dpo", "none", None, None, None),
        ("tr_dpo_soft", "TR-DPO soft", "tr_dpo_soft", "dpo", "soft", 0.6, 2, None),
        ("tr_dpo_hard", "TR-DPO hard", "tr_dpo_hard", "dpo", "hard", None, None, 2),
        ("ipo", "IPO", "ipo", "ipo", "none", None, None, None),
    ]
    assert all(tuple(row) == CELLS for row in found.cells.values())
    assert list(found.cells) == [row["cell"] for row in found.cells.values()]
    assert set(found.trained) == {
        ("sft", None),
        ("dpo", 0.05),
        ("tr_dpo_soft", 0.05),
        ("tr_dpo_hard", 0.05),
        ("ipo", 0.01),
    }
    assert all(list(by_seed) == [0] for by_seed in found.trained.values())
    assert found.cell_of == {("run 0", cell): cell for cell in found.cells}
    assert found.seeds == [0]
    assert found.problems == []
    assert [found.base(cell) for cell in found.cells] == [None, None, "dpo", "dpo", None]


def test_settings_are_named_where_a_method_has_several(tmp_path: Path) -> None:
    runs = made_runs(
        tmp_path,
        settings(alpha=0.6, every=2, tau=4),
        settings(alpha=0.125, every=3, tau=4),
        settings(alpha=0.6, every=1, tau=4),
    )
    found = study(runs)
    assert [(row["cell"], row["name"]) for row in found.cells.values()] == [
        ("sft", "SFT"),
        ("dpo", "DPO"),
        ("tr_dpo_soft-a0.125-e3", "TR-DPO soft α=0.125, every 3"),
        ("tr_dpo_soft-a0.6-e1", "TR-DPO soft α=0.6, every 1"),
        ("tr_dpo_soft-a0.6-e2", "TR-DPO soft α=0.6, every 2"),
        ("tr_dpo_hard", "TR-DPO hard"),
    ]
    assert found.cells["tr_dpo_soft-a0.6-e1"] == {
        "cell": "tr_dpo_soft-a0.6-e1",
        "name": "TR-DPO soft α=0.6, every 1",
        "method": "tr_dpo_soft",
        "loss": "dpo",
        "update": "soft",
        "alpha": 0.6,
        "every": 1,
        "tau": None,
    }
    assert found.cell_of["run 1", "tr_dpo_soft"] == "tr_dpo_soft-a0.125-e3"
    assert found.cell_of["run 1", "tr_dpo_hard"] == "tr_dpo_hard"
    assert found.trained["tr_dpo_soft-a0.125-e3", 0.05][0] is runs[1].models["tr_dpo_soft"]
    assert found.base("tr_dpo_soft-a0.6-e1") == "dpo"
    assert found.betas("tr_dpo_soft-a0.6-e1") == [0.05]


def test_taus_come_in_order_of_size(tmp_path: Path) -> None:
    found = study(made_runs(tmp_path, settings(tau=10), settings(tau=9)))
    hard = [(row["cell"], row["name"], row["tau"]) for row in found.cells.values() if row["update"] == "hard"]
    assert hard == [("tr_dpo_hard-t9", "TR-DPO hard τ=9", 9), ("tr_dpo_hard-t10", "TR-DPO hard τ=10", 10)]
    assert [row["cell"] for row in found.cells.values() if row["update"] == "soft"] == ["tr_dpo_soft"]


def test_of_the_same_training_in_two_runs_the_first_counts(tmp_path: Path) -> None:
    """A sweep over alpha trains DPO once; both runs hold it."""
    runs = made_runs(tmp_path, settings(alpha=0.6), settings(alpha=0.3))
    found = study(runs)
    assert found.trained["dpo", 0.05] == {0: runs[0].models["dpo"]}
    assert found.trained["dpo", 0.05][0] is runs[0].models["dpo"]
    assert found.trained["sft", None][0] is runs[0].models["sft"]
    assert found.trained["tr_dpo_soft-a0.3-e2", 0.05][0] is runs[1].models["tr_dpo_soft"]
    assert found.problems == []


def test_other_seeds_and_betas_are_kept_apart(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 3), beta(0.02, 3), beta(0.1, 1), beta(0.02, 1))
    found = study(runs)
    assert found.seeds == [1, 3]
    assert found.betas("dpo") == found.by_loss("dpo") == [0.02, 0.1]
    assert found.betas("sft") == []
    assert found.by_loss("ipo") == []
    assert found.trained["tr_dpo_soft", 0.02] == {3: runs[1].models["tr_dpo_soft"], 1: runs[3].models["tr_dpo_soft"]}
    assert found.problems == []


@pytest.mark.parametrize(
    ("first", "others", "main"),
    [(0.1, (0.02, 0.5), 0.1), (0.5, (0.02, 0.1), 0.5)],
)
def test_the_main_beta_is_the_first_runs(tmp_path: Path, first: float, others: Sequence[float], main: float) -> None:
    found = study(made_runs(tmp_path, *map(beta, (first, *others))))
    assert found.main_beta("dpo") == found.main_beta("tr_dpo_soft") == main


def test_the_main_beta_of_a_cell_that_the_first_run_has_not_is_its_middle_one(tmp_path: Path) -> None:
    others = [beta(value) for value in (0.3, 0.01, 0.2)]
    found = study(made_runs(tmp_path, beta(0.5, methods=("dpo",)), *others))
    assert found.main_beta("tr_dpo_soft") == 0.2
    assert found.main_beta("dpo") == 0.5
    two = study(made_runs(tmp_path / "two", beta(0.5, methods=("dpo",)), beta(0.3), beta(0.01)))
    assert two.main_beta("tr_dpo_soft") == 0.3


def test_the_first_runs_beta_is_the_one_of_the_cells_own_loss(tmp_path: Path) -> None:
    both = ("dpo", "ipo")
    first = Made(methods=both, settings={"beta.dpo": 0.5, "beta.ipo": 0.3})
    found = study(made_runs(tmp_path, first, Made(methods=both, settings={"beta.dpo": 0.3, "beta.ipo": 0.5})))
    assert (found.main_beta("dpo"), found.main_beta("ipo")) == (0.5, 0.3)
    assert found.by_loss("ipo") == [0.3, 0.5]


# Curves.


def test_with_one_beta_the_curve_follows_the_training(tmp_path: Path) -> None:
    """SFT, step 2 and step 4, on the four prompts that all policies answered."""
    found = pairing(study(made_runs(tmp_path, Made())), "tr_dpo_soft", "dpo")
    assert (found.seeds, found.along, found.beta, found.n_prompts) == ([0], "steps", 0.05, 4)
    (ours,), (theirs,) = found.method, found.base
    assert list(ours.prompts) == list(theirs.prompts) == ["p0", "p1", "p2", "p3"]
    assert values(ours.kl) == [[0.0] * 4, [6.0] * 4, [8.0] * 4]
    assert values(theirs.kl) == [[0.0] * 4, [2.0] * 4, [4.0] * 4]
    assert values(ours.quality) == values([[height + luck for luck in LUCK[:4]] for height in (5.0, 8.0, 9.5)])
    assert values(theirs.quality) == values([[height + luck for luck in LUCK[:4]] for height in (5.0, 6.0, 6.0)])


def test_steps_count_as_numbers(tmp_path: Path) -> None:
    def nats(method: str, step: int, prompt: int) -> float:
        return float(step)

    made = Made(steps=(9, 10), kl=nats, hc=lambda method, step, prompt: 5.0)
    found = pairing(study(made_runs(tmp_path, made)), "tr_dpo_soft", "dpo")
    assert values(found.method[0].kl) == [[0.0] * 4, [9.0] * 4, [10.0] * 4]


def test_with_several_betas_the_curve_is_of_trained_models(tmp_path: Path) -> None:
    """SFT, then the last step of each beta in order of size, on all six prompts."""

    def further(by: float) -> Any:
        return lambda method, step, prompt: by + kl(method, step, prompt) if step else 0.0

    runs = made_runs(tmp_path, beta(0.1, kl=further(1)), beta(0.5, kl=further(2)), beta(0.02, kl=further(3)))
    found = pairing(study(runs), "tr_dpo_soft", "dpo")
    assert (found.seeds, found.along, found.beta, found.n_prompts) == ([0], "beta", None, 6)
    assert values(found.method[0].kl) == [[0.0] * 6, [11.0] * 6, [9.0] * 6, [10.0] * 6]
    assert values(found.base[0].kl) == [[0.0] * 6, [7.0] * 6, [5.0] * 6, [6.0] * 6]
    assert values(found.method[0].quality) == values(
        [[height + luck for luck in LUCK] for height in (5.0, 9.5, 9.5, 9.5)]
    )


def test_only_betas_that_both_have_count(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1), beta(0.5), beta(0.02, methods=("dpo",)))
    found = pairing(study(runs), "tr_dpo_soft", "dpo")
    assert found.along == "beta"
    assert len(found.base[0].kl) == len(found.method[0].kl) == 3
    alone = pairing(study(runs[1:]), "tr_dpo_soft", "dpo")
    assert (alone.along, alone.beta) == ("steps", 0.5)


def test_seeds_that_lack_one_of_the_betas_are_left_out(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 0), beta(0.5, 0), beta(0.1, 1), beta(0.1, 2), beta(0.5, 2))
    found = pairing(study(runs), "tr_dpo_soft", "dpo")
    assert (found.seeds, found.along) == ([0, 2], "beta")
    assert len(found.method) == len(found.base) == 2


def test_where_no_seed_has_all_betas_the_curve_follows_the_training(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 0), beta(0.5, 1), beta(0.1, 2))
    found = pairing(study(runs), "tr_dpo_soft", "dpo")
    assert (found.seeds, found.along, found.beta) == ([0, 2], "steps", 0.1)


def test_the_beta_of_the_steps_is_one_that_both_have(tmp_path: Path) -> None:
    """The first run's 0.5 has no base: of the shared 0.1, 0.2 and 0.3 that no seed has all of, the middle one."""
    runs = made_runs(tmp_path, beta(0.5, 0), beta(0.1, 0), beta(0.2, 1), beta(0.3, 2))
    del runs[0].models["dpo"]
    found = pairing(study(runs), "tr_dpo_soft", "dpo")
    assert (found.seeds, found.along, found.beta) == ([1], "steps", 0.2)


def test_each_seed_has_its_own_start_and_its_own_prompts(tmp_path: Path) -> None:
    def better(method: str, step: int, prompt: int) -> float | None:
        found = hc(method, step, prompt)
        return None if found is None else found + 1

    runs = made_runs(
        tmp_path,
        beta(0.1, 5, prompts=(0, 1, 2, 3, 5), curve=(0, 2, 3)),
        beta(0.1, 4, hc=better, prompts=(1, 0, 2), curve=(0, 1, 2)),
    )
    found = pairing(study(runs), "tr_dpo_soft", "dpo")
    assert found.seeds == [4, 5]
    assert [list(curve.prompts) for curve in found.method] == [["p0", "p1", "p2"], ["p0", "p2", "p3"]]
    assert values(found.method[0].quality)[0] == values([[6.0 + luck for luck in LUCK[:3]]])[0]
    assert values(found.base[1].quality)[0] == values([[5.0 + LUCK[place] for place in (0, 2, 3)]])[0]
    assert found.n_prompts == 3


def test_n_prompts_is_that_of_the_seed_with_the_fewest(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 0, curve=(0, 1, 2)), beta(0.1, 1, curve=(0, 1)))
    assert pairing(study(runs), "tr_dpo_soft", "dpo").n_prompts == 2


def test_missing_ratings_stay_missing(tmp_path: Path) -> None:
    made = Made(hc=lambda method, step, prompt: None if (method, step, prompt) == ("dpo", 2, 1) else 5.0)
    quality = pairing(study(made_runs(tmp_path, made)), "tr_dpo_soft", "dpo").base[0].quality
    assert np.isnan(quality).sum() == 1
    assert np.isnan(quality[1, 1])


def test_a_cell_by_itself_is_one_curve_a_seed(tmp_path: Path) -> None:
    """SFT and the three betas, of which the base has one more."""
    runs = made_runs(tmp_path, *(beta(value, seed) for seed in (0, 1) for value in (0.1, 0.5)))
    runs += [made_run(tmp_path, f"more {seed}", beta(0.02, seed, methods=("dpo",))) for seed in (0, 1)]
    found = pairing(study(runs), "dpo", "dpo")
    assert found.seeds == [0, 1]
    assert [curve.kl.shape for curve in found.method] == [(4, 6), (4, 6)]
    assert len(found.base) == 2


# What cannot be paired, and what is missing.


def test_no_beta_in_common(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1), beta(0.2))
    del runs[0].models["dpo"]
    del runs[1].models["tr_dpo_soft"]
    with pytest.raises(ValueError, match=r"^they were trained with no beta in common$"):
        pairing(study(runs), "tr_dpo_soft", "dpo")


def test_no_seed_in_common(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 0), beta(0.1, 1))
    del runs[0].models["dpo"]
    del runs[1].models["tr_dpo_soft"]
    with pytest.raises(ValueError, match=r"^no seed was trained with both$"):
        pairing(study(runs), "tr_dpo_soft", "dpo")


def test_no_prompt_in_common(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 8))
    runs[0].models["dpo"].answers[2].clear()
    with pytest.raises(ValueError, match=r"^no seed has a prompt that was answered and measured at every point$"):
        pairing(study(runs), "tr_dpo_soft", "dpo")


def test_what_a_run_lacks_is_said_with_its_name_where_there_are_several(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / "likelihoods" / "dpo.jsonl").unlink()
    run = load("first", from_folder(tmp_path / "a"))
    sentence = "likelihoods/dpo.jsonl is missing: no OOD log-probabilities of DPO"
    assert study([run]).problems == [sentence]
    other = made_run(tmp_path, "other", Made(settings={"seed": 1}))
    assert study([run, other]).problems == [f"first: {sentence}"]


def test_a_cell_that_lacks_seeds_is_named(tmp_path: Path) -> None:
    runs = made_runs(tmp_path, beta(0.1, 0), beta(0.1, 1, methods=("dpo",)), beta(0.1, 2))
    assert study(runs).problems == ["TR-DPO soft at β = 0.1 lacks seed 1: its numbers are over 2 of 3 seeds"]
    del runs[2].models["tr_dpo_soft"]
    assert study(runs).problems == ["TR-DPO soft at β = 0.1 lacks seeds 1, 2: its numbers are over 1 of 3 seeds"]


def test_a_trust_region_cell_without_its_base_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a")
    (tmp_path / "a" / "generations" / "dpo.jsonl").unlink()
    found = study([load("first", from_folder(tmp_path / "a"))])
    assert found.base("tr_dpo_soft") is None
    assert found.problems == [
        "generations/dpo.jsonl is missing: DPO is left out (its stage did not finish)",
        "TR-DPO soft cannot be compared: its base DPO is not in this report",
    ]


# Learning rates, which are tuned method by method; and the main cells of a sweep.


def lr(rate: float, **settings: Any) -> dict[str, Any]:
    return {"align.learning_rate": rate} | {name.replace("__", "."): value for name, value in settings.items()}


def test_methods_may_have_learning_rates_of_their_own(tmp_path: Path) -> None:
    runs = made_runs(
        tmp_path,
        Made(methods=("dpo",), settings=lr(1e-4)),
        Made(methods=("dpo",), settings=lr(1e-4, seed=1)),
        Made(methods=("ipo",), settings=lr(3e-5)),
        Made(methods=("ipo",), settings=lr(3e-5, seed=1)),
    )
    found = study(runs)
    assert found.problems == []
    assert found.learning_rates == {
        "dpo": {(0.05, 0): 1e-4, (0.05, 1): 1e-4},
        "ipo": {(0.01, 0): 3e-5, (0.01, 1): 3e-5},
    }


def test_one_training_with_two_learning_rates_is_a_problem(tmp_path: Path) -> None:
    """The first counts."""
    mades = [Made(methods=("dpo",), settings=lr(rate), hc=lambda *_: 5.0) for rate in (1e-4, 3e-5)]
    runs = made_runs(tmp_path, *mades)
    found = study(runs)
    assert found.problems == [
        "DPO at β = 0.05 with seed 0 was trained with learning rates 0.0001 and 3e-05: only the first, 0.0001, counts; "
        f"{runs[1].name} has the other"
    ]
    assert found.trained["dpo", 0.05][0] is runs[0].models["dpo"]
    assert found.learning_rates == {"dpo": {(0.05, 0): 1e-4}}


def test_a_cell_with_several_learning_rates_is_named(tmp_path: Path) -> None:
    changed = [lr(1e-4), lr(3e-5, seed=1), lr(3e-5, beta__dpo=0.1), lr(1e-4, beta__dpo=0.1, seed=1)]
    mades = [Made(methods=("dpo",), settings=each) for each in changed]
    (problem,) = study(made_runs(tmp_path, *mades)).problems
    assert problem == (
        "DPO was trained with different learning rates (3e-05 at β = 0.05, seed 1, β = 0.1, seed 0; 0.0001 at β = "
        "0.05, seed 0, β = 0.1, seed 1): its means over them are of different trainings"
    )


def test_main_cells(tmp_path: Path) -> None:
    """Soft ones have the first run's alpha and every; where a method has one setting it is main, whosever it is."""
    knobs = [(0.6, 2), (0.6, 1), (0.2, 2)]
    mades = [
        Made(
            methods=("dpo", "tr_dpo_soft", *(("tr_dpo_hard",) if place else ())),
            settings={"ref_update.alpha": alpha, "ref_update.every": every, "ref_update.tau": 4},
        )
        for place, (alpha, every) in enumerate(knobs)
    ]
    mades[0].settings["ref_update.tau"] = 2
    found = study(made_runs(tmp_path, *mades))
    assert {cell: found.is_main(cell) for cell in found.cells} == {
        "sft": True,
        "dpo": True,
        "tr_dpo_soft-a0.2-e2": False,
        "tr_dpo_soft-a0.6-e1": False,
        "tr_dpo_soft-a0.6-e2": True,
        "tr_dpo_hard": True,
    }
