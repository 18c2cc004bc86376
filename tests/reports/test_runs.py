"""Reading finished runs: what is missing or torn is named, and what cannot be compared is left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from tr_align.errors import UserError
from tr_align.reports.runs import comparable, flat, from_folder, load
from tr_align.settings import AXES

from .run_folder import FLIPPED, HALF, LOSE, TIE, UNREAD, WIN, Made, made_run, write

ALL = ("dpo", "tr_dpo_soft")


def test_a_whole_run_has_all_models_and_no_problems(tmp_path: Path) -> None:
    run = made_run(tmp_path, made=Made(calibration={"verdict": "better than chance"}))
    assert run.name == "workspace"
    assert list(run.models) == list(run.replies) == list(run.judgements) == ["sft", *ALL]
    assert run.problems == []
    assert run.judge_accuracy is not None and run.judge_accuracy["off_topic"]["n"] == 32
    assert run.calibration == {"verdict": "better than chance"}
    soft = run.models["tr_dpo_soft"]
    assert sorted(soft.answers) == [2, 4]
    assert soft.last == 4
    assert list(soft.answers[2]) == ["p0", "p1", "p2", "p3"]
    assert list(soft.answers[4]) == ["p0", "p1", "p2", "p3", "p4", "p5"]
    answer = soft.answers[4]["p1"]
    assert (answer["kl"], answer["words"], answer["text"]) == (8.0, 5, "tr_dpo_soft at 4 says 1")
    assert answer["hc"] == pytest.approx(9.5 - 0.3)
    assert answer["axes"]["coherence"] == pytest.approx(9.5 - 0.3 - 0.2)
    assert answer["prompt"][1] == {"role": "user", "content": "Question 1?"}
    assert [row["step"] for row in soft.log] == [1, 2, 3, 4]
    assert len(soft.likelihoods) == 2 * 4 * 5
    start = run.models["sft"]
    assert (sorted(start.answers), start.outcomes, start.log, len(start.likelihoods)) == ([0], {}, [], 4 * 5)


def test_methods_come_in_the_papers_order(tmp_path: Path) -> None:
    run = made_run(tmp_path, made=Made(methods=("tr_dpo_hard", "ipo", "tr_dpo_soft", "dpo")))
    assert list(run.models) == ["sft", "dpo", "tr_dpo_soft", "tr_dpo_hard", "ipo"]


def test_duels_are_read_in_both_orders(tmp_path: Path) -> None:
    """Both orders agree, tie, follow the position, or are half a tie: 1, 0, 0.5, 0.5, (1 + 0.5) / 2, unread."""
    verdicts = [WIN, LOSE, TIE, FLIPPED, HALF, UNREAD]
    made = Made(duel=lambda method, against, prompt: verdicts[prompt] if against == "base" else WIN)
    run = made_run(tmp_path, made=made)
    soft = run.models["tr_dpo_soft"].outcomes
    assert list(soft) == ["sft", "base"]
    assert [row["outcome"] for row in soft["base"].values()][:5] == [1.0, 0.0, 0.5, 0.5, 0.75]
    assert math.isnan(soft["base"]["p5"]["outcome"])
    assert (soft["base"]["p4"]["first"], soft["base"]["p4"]["second"]) == ("first", "tie")
    assert {row["outcome"] for row in soft["sft"].values()} == {1.0}
    assert list(run.models["dpo"].outcomes) == ["sft"]


def test_a_rating_that_lacks_an_axis_has_no_hc(tmp_path: Path) -> None:
    made = Made(hc=lambda method, step, prompt: None if (method, prompt) == ("dpo", 2) else 7.0)
    answers = made_run(tmp_path, made=made).models["dpo"].answers[4]
    assert math.isnan(answers["p2"]["hc"])
    assert answers["p2"]["axes"]["harmlessness"] is None
    assert answers["p1"]["hc"] == pytest.approx(7.0)


@pytest.mark.parametrize("folder", ["generations", "judgements"])
def test_a_method_without_its_file_is_left_out_and_named(tmp_path: Path, folder: str) -> None:
    write(tmp_path)
    (tmp_path / folder / "tr_dpo_soft.jsonl").unlink()
    run = load("here", from_folder(tmp_path))
    assert list(run.models) == list(run.replies) == list(run.judgements) == ["sft", "dpo"]
    expected = f"{folder}/tr_dpo_soft.jsonl is missing: TR-DPO soft is left out (its stage did not finish)"
    assert run.problems == [expected]


def torn_in_json(text: bytes) -> bytes:
    return text[:-20]


def torn_in_a_character(text: bytes) -> bytes:
    return text.rstrip()[:-20] + "ü".encode()[:1]


@pytest.mark.parametrize("tear", [torn_in_json, torn_in_a_character])
@pytest.mark.parametrize("folder", ["generations", "judgements"])
def test_a_torn_file_leaves_its_method_out(tmp_path: Path, folder: str, tear: Any) -> None:
    write(tmp_path)
    file = tmp_path / folder / "dpo.jsonl"
    file.write_bytes(tear(file.read_bytes()))
    run = load("here", from_folder(tmp_path))
    assert list(run.models) == ["sft", "tr_dpo_soft"]
    assert run.problems == [f"{folder}/dpo.jsonl is torn: DPO is left out; run its stage again"]
    # Nothing to meet: the base's replies are not there.
    assert list(run.models["tr_dpo_soft"].outcomes) == ["sft"]


@pytest.mark.parametrize("folder", ["generations", "judgements"])
def test_an_empty_file_leaves_its_method_out_and_says_so(tmp_path: Path, folder: str) -> None:
    write(tmp_path)
    (tmp_path / folder / "tr_dpo_soft.jsonl").write_text("")
    run = load("here", from_folder(tmp_path))
    assert list(run.models) == ["sft", "dpo"]
    assert run.problems == [f"{folder}/tr_dpo_soft.jsonl is empty: TR-DPO soft is left out; run its stage again"]


def test_text_with_line_separators_is_one_row(tmp_path: Path) -> None:
    """U+2028 ends a line for `splitlines`, and stands in replies."""
    run = made_run(tmp_path, made=Made(text=lambda method, step, prompt: "two\u2028parts\u0085here"))
    assert run.problems == []
    assert run.models["dpo"].answers[4]["p0"]["text"] == "two\u2028parts\u0085here"


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def one_duel(row: dict[str, Any]) -> bool:
    return row["kind"] == "duel" and row["against"] == "base" and row["prompt_id"] == "p3" and row["shown"] == "first"


def one_rating(row: dict[str, Any]) -> bool:
    return bool(row["kind"] == "rating" and row["prompt_id"] == "p3" and row["step"] == 2)


@pytest.mark.parametrize("drop", [one_duel, one_rating])
def test_replies_and_judgements_that_do_not_belong_together(tmp_path: Path, drop: Any) -> None:
    write(tmp_path)
    file = tmp_path / "judgements" / "tr_dpo_soft.jsonl"
    keep(file, [row for row in rows_of(file) if not drop(row)])
    run = load("here", from_folder(tmp_path))
    assert list(run.models) == list(run.replies) == list(run.judgements) == ["sft", "dpo"]
    (problem,) = run.problems
    assert problem.startswith("TR-DPO soft: its replies and ratings do not belong together (KeyError: ")
    assert "'p3'" in problem
    assert problem.endswith("run `dvc repro judge@tr_dpo_soft` again")


def test_a_method_that_never_met_anyone_has_no_outcomes(tmp_path: Path) -> None:
    run = made_run(tmp_path, made=Made(duel=lambda method, against, prompt: None))
    assert {against: list(rows) for against, rows in run.models["tr_dpo_soft"].outcomes.items()} == {
        "sft": [],
        "base": [],
    }
    assert list(run.models) == ["sft", *ALL]


@pytest.mark.parametrize("folder", ["generations", "judgements"])
@pytest.mark.parametrize("how", ["missing", "torn", "empty"])
def test_without_the_sft_model_the_user_is_told_what_is_missing(tmp_path: Path, folder: str, how: str) -> None:
    write(tmp_path)
    (tmp_path / folder / "dpo.jsonl").unlink()  # is not what the user has to know
    file = tmp_path / folder / "sft.jsonl"
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(torn_in_json(file.read_bytes()) if how == "torn" else b"")
    message = rf"^elsewhere: {folder}/sft\.jsonl is {how}: SFT is left out.*; without the SFT model there is nothing"
    with pytest.raises(UserError, match=message):
        load("elsewhere", from_folder(tmp_path))


def test_an_sft_model_whose_ratings_are_of_other_replies(tmp_path: Path) -> None:
    write(tmp_path)
    file = tmp_path / "judgements" / "sft.jsonl"
    keep(file, rows_of(file)[1:])
    with pytest.raises(UserError, match=r"^here: SFT: its replies and ratings do not belong .*judge@sft` again$"):
        load("here", from_folder(tmp_path))


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^there: has no params\.yaml; give the folder of a run, or a revision"):
        load("there", from_folder(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("align.steps", 0, r"^there: params\.yaml: align\.steps: .*greater than or equal to 1"),
        ("align.stepps", 3, r"did you mean 'steps'"),
        ("methods", {}, r"methods: is empty"),
    ],
)
def test_bad_params_name_the_run_and_the_key(tmp_path: Path, key: str, value: Any, message: str) -> None:
    write(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(Made(settings={key: value}).params()), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load("there", from_folder(tmp_path))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("reports/train/dpo.jsonl", "reports/train/dpo.jsonl is missing: no training curve of DPO"),
        ("likelihoods/dpo.jsonl", "likelihoods/dpo.jsonl is missing: no OOD log-probabilities of DPO"),
        ("likelihoods/sft.jsonl", "likelihoods/sft.jsonl is missing: no OOD log-probabilities of SFT"),
    ],
)
def test_what_only_some_figures_need_may_be_missing(tmp_path: Path, path: str, problem: str) -> None:
    write(tmp_path)
    (tmp_path / path).unlink()
    run = load("here", from_folder(tmp_path))
    assert list(run.models) == ["sft", *ALL]
    assert run.problems == [problem]
    model = run.models[Path(path).stem]
    assert (model.log if "train" in path else model.likelihoods) == []


@pytest.mark.parametrize("path", ["reports/train/dpo.jsonl", "likelihoods/dpo.jsonl"])
def test_a_torn_log_costs_its_figure_and_not_the_method(tmp_path: Path, path: str) -> None:
    write(tmp_path)
    file = tmp_path / path
    file.write_bytes(torn_in_json(file.read_bytes()))
    run = load("here", from_folder(tmp_path))
    assert list(run.models) == ["sft", *ALL]
    (problem,) = run.problems
    assert problem.startswith(f"{path} is torn: no ")
    assert problem.endswith(" of DPO")


@pytest.mark.parametrize("path", ["reports/judge.json", "reports/calibration.json"])
def test_a_judge_that_was_not_measured_and_a_torn_card(tmp_path: Path, path: str) -> None:
    write(tmp_path, Made(calibration={"verdict": "better"}))
    attribute = "judge_accuracy" if "judge.json" in path else "calibration"
    assert getattr(load("here", from_folder(tmp_path)), attribute)
    (tmp_path / path).write_text("{}\n")  # as `judge_fit` leaves it of an endpoint
    assert getattr(load("here", from_folder(tmp_path)), attribute) is None
    (tmp_path / path).write_text('{"coherence": {"acc')
    run = load("here", from_folder(tmp_path))
    assert getattr(run, attribute) is None
    assert run.problems == [f"{path} is torn: what it says of the judge is left out"]
    (tmp_path / path).unlink()
    run = load("here", from_folder(tmp_path))
    assert (getattr(run, attribute), run.problems) == (None, [])


def test_a_folder_is_read_where_it_lies(tmp_path: Path) -> None:
    read = from_folder(str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("größer", encoding="utf-8")
    assert read("a/b.txt") == "größer"
    assert read("a") is None
    assert read("c") is None


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 7},
        {"beta.dpo": 0.2, "beta.ipo": 0.3},
        {"ref_update.alpha": 0.9, "ref_update.every": 1, "ref_update.tau": 3},
        {"align.learning_rate": 0.5},
        {"judge.max_usd": 5.0},
        {"align.max_tokens": 512},
        {"align.checkpoint_minutes": 1},
        {"judge.openai.model": "another", "judge.openai.prompts.rate": "mine.txt"},
        {"mlflow.experiment": "mine", "mlflow.trace_judge": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_runs_may_differ_in_what_a_report_sorts_by_or_what_changes_nothing(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    runs = [made_run(tmp_path, "first"), made_run(tmp_path, "second", Made(settings=settings, methods=("dpo",)))]
    assert comparable(runs) == (runs, [])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"align.max_grad_norm": 0.5}, "align.max_grad_norm"),
        ({"align.max_grad_norm": 0.5, "align.batch_size": 4}, "align.batch_size, align.max_grad_norm"),
        ({"align.lora": {"rank": 2, "scale": 4}}, "align.lora.rank, align.lora.scale"),
        ({"model.name": "another"}, "model.name"),
        ({"data.splits.sft": 9}, "data.splits.sft"),
        ({"judge.probe.layer": 1}, "judge.probe.layer"),
        ({"dpo.label_smoothing": 0.1}, "dpo.label_smoothing"),
        ({"score.bootstrap": 300}, "score.bootstrap"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_differs_in_anything_else_is_left_out_and_named(
    tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    first, odd, last = (
        made_run(tmp_path, name, Made(settings=changed))
        for name, changed in (("first", {}), ("odd", settings), ("last", {"seed": 3}))
    )
    kept, problems = comparable([first, odd, last])
    assert [run.name for run in kept] == ["first", "last"]
    assert problems == [
        f"odd is left out: it differs from first in {named}, so a difference between their methods would mean nothing"
    ]
    # It is held against the first, whichever that is.
    assert [run.name for run in comparable([odd, first, last])[0]] == ["odd"]


def test_another_judge_or_another_model_of_it_is_not_comparable(tmp_path: Path) -> None:
    endpoint = {"judge.name": "openai"}
    probe = made_run(tmp_path, "probe")
    asked = made_run(tmp_path, "asked", Made(settings=endpoint))
    other = made_run(tmp_path, "other", Made(settings=endpoint | {"judge.openai.model": "gpt-x"}))
    faster = {"judge.probe.layer": 1, "judge.openai.concurrency": 2, "judge.openai.timeout_seconds": 5.0}
    faster |= {"judge.openai.max_retries": 1, "judge.openai.batch": True, "judge.openai.prices": "mine.yaml"}
    same = made_run(tmp_path, "same", Made(settings=endpoint | faster | {"judge.openai.api_key_env": "MY_KEY"}))
    kept, problems = comparable([asked, other, same, probe])
    assert [run.name for run in kept] == ["asked", "same"]
    assert "in judge.openai.model," in problems[0]
    assert "judge.name" in problems[1]


def test_settings_by_their_whole_name() -> None:
    assert flat({"a": 1, "b": {"c": {"d": [1, 2]}, "e": None}}) == {"a": 1, "b.c.d": [1, 2], "b.e": None}


def test_the_made_up_ratings_have_the_mean_that_was_asked_for(tmp_path: Path) -> None:
    rated = made_run(tmp_path).models["sft"].answers[0]["p0"]["axes"]
    assert list(rated) == list(AXES)
    assert sum(rated.values()) / 5 == pytest.approx(5.6)
