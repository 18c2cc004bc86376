"""MLflow shows what the files say: one run a model, every number once, and no training lost to a broken store."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tr_align import tracking
from tr_align.config import METHODS, Params, load_params
from tr_align.settings import AXES, PREFERENCE
from tr_align.tracking import Model, views
from tr_align.tracking import live as live_module
from tr_align.tracking import store as stores
from tr_align.tracking.identity import run_tags
from tr_align.tracking.tables import reply_table

ROOT = Path(__file__).parents[1]


def settings(experiment: str = "test", **sections: dict[str, Any]) -> Params:
    """params.yaml with an experiment of the test's own and some values changed, `align={"learning_rate": 1.0}`."""
    params = load_params(ROOT / "params.yaml")
    changed = {name: getattr(params, name).model_copy(update=values) for name, values in sections.items()}
    changed["mlflow"] = params.mlflow.model_copy(update={"experiment": experiment})
    return params.model_copy(update=changed)


def files(quality: float = 6.0) -> dict[str, Model]:
    """Training logs, curves and final numbers of two methods, as the stages' files hold them."""
    final = {"kl": 7.5, "hc": quality, "hc_ci": [5, 7], "detail": 5.5, "win_rate_vs_sft": 0.6, "step": 5}
    final["win_rate_vs_sft_ci"] = [0.5, 0.75]
    return {
        name: Model(
            curve=[
                {"step": step, "kl": 1.5 * step, "kl_lo": step, "kl_hi": 2 * step}
                | {"hc": quality, "hc_lo": 5, "hc_hi": 7}
                for step in (2, 5)
            ],
            final=final | ({"win_rate_vs_base": None, "win_rate_vs_base_ci": None} if name == "dpo" else {}),
            training=[{"step": step, "loss": 1 / step, "margin": 0.5 * step} for step in range(1, 6)],
        )
        for name in ("dpo", "tr_dpo_soft")
    }


def publish(params: Params, models: dict[str, Model], artifacts: dict[Path, str] | None = None, **tags: str) -> None:
    tracking.publish(params, models, artifacts or {}, {"dvc.exp_name": "workspace"} | tags)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as MLflow makes it: it takes seconds, so the tests copy this one."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(folder))
        tracking.Tracker("unused")
    return folder / "mlflow.db"


@pytest.fixture
def store(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of the test's own; `DVC_ROOT` points there."""
    shutil.copyfile(filled, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(live_module, "FLUSH_SECONDS", -1.0)  # every row is sent at once
    return tmp_path


def runs(params: Params) -> list[Any]:
    tracker = tracking.Tracker(params.mlflow.experiment)
    return list(tracker.client.search_runs([tracker.experiment]))


def points(params: Params, run: Any, metric: str) -> list[tuple[int, float]]:
    """Everything that was ever logged of a metric, in order of its steps."""
    client = tracking.Tracker(params.mlflow.experiment).client
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def by_method(found: list[Any]) -> dict[str, Any]:
    """Current runs of models by method; more than one of a method is an error."""
    current = [run for run in found if run.data.tags["current"] == "yes" and "method" in run.data.params]
    assert len({run.data.params["method"] for run in current}) == len(current)
    return {run.data.params["method"]: run for run in current}


# Names and keys


def test_names_of_all_methods_differ_and_say_what_was_varied() -> None:
    params = settings()
    names = {tracking.run_name(name, params) for name in METHODS}
    assert len(names) == 9
    assert tracking.run_name("tr_dpo_soft", params) == "tr_dpo_soft α=0.6 τ=2 β=0.05 s0"
    assert tracking.run_name("tr_ipo_hard", params) == "tr_ipo_hard τ=3 β=0.01 s0"
    assert tracking.run_name("kto", params) == "kto β=0.05 s0"


def test_keys_differ_between_methods_and_are_the_same_in_every_process() -> None:
    params = settings()
    assert len({tracking.run_key(name, params) for name in METHODS}) == 9
    script = (
        "from tr_align import tracking; from tr_align.config import load_params; "
        f"print(tracking.run_key('dpo', load_params({str(ROOT / 'params.yaml')!r})))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert printed.stdout.strip() == tracking.run_key("dpo", params)


SOFT = {name for name, method in METHODS.items() if method.update == "soft"}
HARD = {name for name, method in METHODS.items() if method.update == "hard"}


@pytest.mark.parametrize(
    ("section", "values", "expected"),
    [
        ("ref_update", {"alpha": 0.8}, SOFT),
        ("ref_update", {"every": 3}, SOFT),
        ("ref_update", {"tau": 4}, HARD),
        ("beta", {"dpo": 0.1}, {"dpo", "tr_dpo_soft", "tr_dpo_hard"}),
        ("dpo", {"label_smoothing": 0.1}, {"dpo", "tr_dpo_soft", "tr_dpo_hard"}),
        ("ipo", {"length_average": True}, {"ipo", "tr_ipo_soft", "tr_ipo_hard"}),
        ("align", {"learning_rate": 1e-6}, set(METHODS)),
        ("align", {"steps": 10}, set(METHODS)),
        ("sft", {"learning_rate": 1e-6}, set(METHODS)),
        ("model", {"name": "random:two-layer"}, set(METHODS)),
        ("data", {"path": "elsewhere"}, set(METHODS)),
        ("align", {"checkpoint_minutes": 1.0}, set()),
        ("generate", {"max_new_tokens": 8}, set()),
        ("score", {"bootstrap": 100}, set()),
    ],
)
def test_a_key_changes_with_what_makes_the_model(section: str, values: dict[str, Any], expected: set[str]) -> None:
    before, after = settings(), settings(**{section: values})
    assert {name for name in METHODS if tracking.run_key(name, before) != tracking.run_key(name, after)} == expected


def test_a_key_changes_with_the_seed() -> None:
    before = settings()
    after = before.model_copy(update={"seed": 1})
    assert all(tracking.run_key(name, before) != tracking.run_key(name, after) for name in METHODS)


def test_all_methods_are_points_on_the_same_numeric_axes() -> None:
    """MLflow's parallel coordinates drop runs that have text where most have numbers, and the other way round."""
    params = settings(align={"steps": 9, "evaluate_at": [1.0]})
    axes = {}
    for name in METHODS:
        values = tracking.settings(name, params)
        axes[name] = (values["alpha"], values["tau"])
        assert all(isinstance(values[axis], (int, float)) for axis in ("alpha", "tau", "beta", "seed")), name
    expected = {"none": (0, 9), "soft": (0.6, 2), "hard": (1, 3)}
    assert axes == {name: expected[method.update] for name, method in METHODS.items()}


def test_sorted_by_the_tag_order_each_base_method_has_its_tr_methods_below_it() -> None:
    params = settings()
    ordered = sorted(METHODS, key=lambda name: run_tags(name, params)["order"])
    assert ordered[:4] == ["dpo", "tr_dpo_soft", "tr_dpo_hard", "ipo"] and ordered[-1] == "tr_kto_hard"


# What the files hold reaches an empty store, once


def test_publish_fills_an_empty_store_and_a_second_time_adds_nothing(store: Path) -> None:
    params, models = settings(), files()
    (store / "figures").mkdir()
    artifacts = {store / "table.md": "", store / "figures" / "plot.svg": "figures"}
    for path in artifacts:
        path.write_text("numbers")
    publish(params, models, artifacts, **{"dvc.stage": "report"})
    first = by_method(runs(params))
    assert set(first) == {"dpo", "tr_dpo_soft"}
    for name, run in first.items():
        assert run.data.tags["restored"] == "yes" and run.data.tags["dvc.stage"] == "report"
        assert run.data.tags["exp.workspace"] == "yes" and run.data.tags["judge"] == "probe"
        assert run.info.status == "FINISHED"
        assert points(params, run, "kl") == [(2, 3.0), (5, 7.5)]
        assert points(params, run, "hc") == [(2, 6.0), (5, 6.0)]
        assert points(params, run, "loss") == [(step, 1 / step) for step in range(1, 6)]
        assert points(params, run, "win_rate_vs_sft") == [(5, 0.6)]
        assert points(params, run, "win_rate_vs_sft_lo") == [(5, 0.5)]
        assert points(params, run, "win_rate_vs_sft_hi") == [(5, 0.75)]
        assert points(params, run, "win_rate_vs_base") == []
        assert run.info.run_name == tracking.run_name(name, params)
    common = {"loss": "dpo", "beta": "0.05", "seed": "0"}
    soft = common | {"method": "tr_dpo_soft", "update": "soft", "alpha": "0.6", "tau": "2"}
    base = common | {"method": "dpo", "update": "none", "alpha": "0", "tau": "9"}
    for name, expected in (("tr_dpo_soft", soft), ("dpo", base)):
        assert expected.items() <= first[name].data.params.items()
        assert (expected | {"dvc.exp_name": "workspace"}).items() <= first[name].data.tags.items()

    time.sleep(0.01)
    publish(params, models, artifacts)
    second = runs(params)
    assert len(second) == 3  # the comparison is the same as well
    for name, run in by_method(second).items():
        assert run.info.run_id == first[name].info.run_id
        assert run.info.end_time == first[name].info.end_time
        for metric in run.data.metrics:
            steps = [step for step, _ in points(params, run, metric)]
            assert len(steps) == len(set(steps)), metric
    # The comparison's files lie beside the store, wherever the process ran.
    (comparison,) = [run for run in second if run.info.run_name == "comparison"]
    kept = store / "mlartifacts" / comparison.info.run_id / "artifacts"
    assert (kept / "table.md").read_text() == (kept / "figures" / "plot.svg").read_text() == "numbers"

    (store / "table.md").write_text("other numbers")
    publish(params, models, artifacts)
    states = {run.data.tags["current"] for run in runs(params) if run.info.run_name == "comparison"}
    assert states == {"superseded", "yes"}


@pytest.mark.parametrize("what", ["hc", "detail"])
def test_other_scores_make_a_new_run(store: Path, what: str) -> None:
    """Another judge changes the ratings and not the KL."""
    params, models = settings(), files()
    publish(params, models)
    old = by_method(runs(params))["dpo"]
    curve, final = [dict(row) for row in models["dpo"].curve], dict(models["dpo"].final)
    if what == "hc":
        curve[0]["hc"] = 6.25
    else:
        final["detail"] = 4.0
    models["dpo"] = Model(curve, final, models["dpo"].training)
    publish(params, models)
    found = runs(params)
    assert sum("method" in run.data.params for run in found) == 3
    new = by_method(found)["dpo"]
    assert new.info.run_id != old.info.run_id
    (superseded,) = [run for run in found if run.info.run_id == old.info.run_id]
    assert superseded.data.tags["current"] == "superseded" and "exp.workspace" not in superseded.data.tags
    assert points(params, old, "hc") == [(2, 6.0), (5, 6.0)]
    assert points(params, old, "detail") == [(5, 5.5)]
    assert points(params, new, what)[0] == {"hc": (2, 6.25), "detail": (5, 4.0)}[what]
    assert points(params, new, "loss") == [(step, 1 / step) for step in range(1, 6)]


def test_runs_of_other_settings_stay_and_a_tag_tells_the_experiments_apart(store: Path) -> None:
    before, after = settings(), settings(ref_update={"alpha": 0.8})
    publish(before, files())
    publish(after, files(), **{"dvc.exp_name": "bold-cat"})

    def part(name: str) -> set[tuple[str, str]]:
        tracker = tracking.Tracker(before.mlflow.experiment)
        found = tracker.runs(f"tags.`exp.{name}` = 'yes' and tags.current = 'yes' and params.method LIKE '%'")
        return {(run.data.params["method"], run.data.params["alpha"]) for run in found}

    assert part("workspace") == {("dpo", "0"), ("tr_dpo_soft", "0.6")}
    assert part("bold-cat") == {("dpo", "0"), ("tr_dpo_soft", "0.8")}  # the base method's run is one of both
    soft = [run for run in runs(before) if run.data.params.get("method") == "tr_dpo_soft"]
    assert {(run.data.tags["dvc.exp_name"], run.data.tags["current"]) for run in soft} == {
        ("workspace", "yes"),
        ("bold-cat", "yes"),
    }
    # `dvc repro` with the other setting: the workspace is another set of runs now, and the first is still there.
    publish(after, files())
    assert part("workspace") == part("bold-cat")
    assert sum("method" in run.data.params for run in runs(before)) == 3


def test_a_name_that_mlflow_would_not_take_as_a_tag(store: Path) -> None:
    publish(settings(), files(), **{"dvc.exp_name": "a@b{c}'`"})
    assert all(run.data.tags["exp.a_b_c___"] == "yes" for run in runs(settings()))


def test_publish_fills_in_what_a_killed_publish_left_out(store: Path) -> None:
    params, models = settings(), files()
    tracker = tracking.Tracker(params.mlflow.experiment)
    run_id = tracker.create(tracking.run_key("dpo", params), "x", tracking.settings("dpo", params), {})
    tracker.log(run_id, models["dpo"].training[:2])
    tracker.log(run_id, models["dpo"].curve)
    publish(params, models)
    run = by_method(runs(params))["dpo"]
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert [step for step, _ in points(params, run, "loss")] == [1, 2, 3, 4, 5]
    assert points(params, run, "detail") == [(5, 5.5)]
    assert points(params, run, "kl") == [(2, 3.0), (5, 7.5)]


def test_a_run_that_another_process_writes_to_is_left_to_it(store: Path) -> None:
    """Two queued experiments train the same cell: neither goes on in the other's run, nor finishes it."""
    params = settings()
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        live = tracking.LiveRun("dpo", params, {})
        started = psutil.Process(other.pid).create_time()
        owner = f"{socket.gethostname()}:{other.pid}:{started:.0f}"
        live.tracker.client.set_tag(live.run_id, stores.PROCESS, owner)  # type: ignore[union-attr]
        live.load.finish()
        publish(params, files())
        mine = by_method(runs(params))["dpo"]
        assert mine.info.run_id != live.run_id and mine.info.status == "FINISHED"
        (theirs,) = [run for run in runs(params) if run.info.run_id == live.run_id]
        assert theirs.info.status == "RUNNING" and points(params, theirs, "loss") == []
        assert stores.is_written_elsewhere(theirs)
    finally:
        other.kill()
        other.wait()
    assert not stores.is_written_elsewhere(theirs)


# The table of replies


def test_the_table_of_replies_is_light_and_says_how_each_was_judged() -> None:
    prompt = [{"role": "system", "content": ""}, {"role": "user", "content": "Why?"}]
    replies = [
        {"step": step, "prompt_id": f"p{n}", "prompt": prompt, "reply": f"{n}\n<b>", "tokens": 3, "kl": 0.123}
        for step in (2, 5)
        for n in range(60)
    ]
    axes = dict.fromkeys(AXES, 6.0)
    judgements: list[dict[str, Any]] = [
        {"kind": "rating", "step": 5, "prompt_id": f"p{n}", "axes": axes if n else axes | {"detail": None}}
        for n in range(60)
    ]
    verdicts = {"p0": ("first", "second"), "p1": ("second", "first"), "p2": ("first", "first"), "p3": ("first", None)}
    judgements += [
        {"kind": "duel", "against": "sft", "prompt_id": name, "shown": shown, "preference": verdict}
        for name, pair in verdicts.items()
        for shown, verdict in zip(("first", "second"), pair, strict=True)
    ]
    table = reply_table(replies, judgements)
    assert table["columns"] == ["prompt", "reply", "vs_sft", "vs_base", "hc", *AXES, "kl", "tokens"]
    assert len(table["data"]) == 50
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["vs_sft"] for row in rows[:5]] == ["win", "lose", "tie", "missing", ""]
    assert rows[0]["hc"] is None and rows[0]["detail"] is None and rows[1]["hc"] == 6.0
    assert rows[1]["prompt"] == "Why?" and rows[1]["reply"] == "1\n<b>" and rows[1]["kl"] == 0.12
    json.dumps(table, allow_nan=False)


@pytest.mark.parametrize("axes", [AXES, (PREFERENCE,)], ids=["five", "one"])
def test_the_view_of_the_runs_has_a_column_for_each_axis_that_hc_is_the_mean_of(
    axes: tuple[str, ...], store: Path
) -> None:
    made = {}
    for name, model in files().items():
        final = {key: value for key, value in model.final.items() if key != "detail"}
        made[name] = replace(model, final=final | dict.fromkeys(axes, 5.5))
    params = settings()
    publish(params, made)
    tracker = tracking.Tracker(params.mlflow.experiment)
    tags = tracker.client.get_experiment(tracker.experiment).tags
    columns = json.loads(json.loads(tags[views.PREFIX + views.TABLE])["state"])["selectedColumns"]
    shown = [name.removeprefix("metrics.`").rstrip("`") for name in columns if name.startswith("metrics.")]
    assert shown == ["kl", "hc", "win_rate_vs_sft", "win_rate_vs_base", *(axes if axes == AXES else ())]


def test_the_table_of_a_judge_of_one_axis_has_it_once() -> None:
    row = {"step": 5, "prompt_id": "p", "prompt": [{"role": "user", "content": "Why?"}], "reply": "So.", "tokens": 3}
    judgements = [{"kind": "rating", "step": 5, "prompt_id": "p", "axes": {PREFERENCE: 6.25}}]
    table = reply_table([row | {"kl": 1.0}], judgements)
    assert table["columns"] == ["prompt", "reply", "vs_sft", "vs_base", "hc", "kl", "tokens"]
    assert table["data"] == [["Why?", "So.", "", "", 6.25, 1.0, 3]]


def test_replies_are_kept_with_the_run_once_and_anew_when_they_change(store: Path) -> None:
    params, models = settings(), files()

    def table(reply: str) -> dict[str, Any]:
        return {"columns": ["prompt", "reply"], "data": [["Why?", reply]]}

    publish(params, models)
    run = by_method(runs(params))["dpo"]
    assert "mlflow.loggedArtifacts" not in run.data.tags
    folder = store / "mlartifacts" / run.info.run_id / "artifacts"
    for reply in ("So.", "So.", "Because."):
        publish(params, models | {"dpo": replace(models["dpo"], replies=table(reply))})
        assert json.loads((folder / "replies.json").read_text()) == table(reply)
    tags = by_method(runs(params))["dpo"].data.tags
    assert json.loads(tags["mlflow.loggedArtifacts"]) == [{"path": "replies.json", "type": "table"}]


# A training in progress


def test_a_killed_training_goes_on_in_its_run(store: Path) -> None:
    params = settings()
    killed = tracking.LiveRun("dpo", params, {"dvc.stage": "align@dpo"})
    for step in (1, 2, 3):
        killed.log({"step": step, "loss": 1.0 / step})
    (run,) = runs(params)
    assert run.info.status == "RUNNING" and run.data.tags["dvc.stage"] == "align@dpo"
    again = tracking.LiveRun("dpo", params, {})
    for step in (2, 3, 4, 5):  # its checkpoint was from step 1
        again.log({"step": step, "loss": 1.0 / step})
    again.finish()
    (run,) = runs(params)
    assert run.info.status == "FINISHED"
    assert points(params, run, "loss") == [(step, 1.0 / step) for step in range(1, 6)]

    # `report` adds the scores to that run.
    publish(params, files())
    model = by_method(runs(params))["dpo"]
    assert model.info.run_id == run.info.run_id
    assert "restored" not in model.data.tags
    assert points(params, model, "kl") == [(2, 3.0), (5, 7.5)]

    # Training the same once more is another run.
    tracking.LiveRun("dpo", params, {}).finish()
    states = sorted(run.data.tags["current"] for run in runs(params) if run.data.params.get("method") == "dpo")
    assert states == ["superseded", "yes"]


def test_rows_wait_for_the_next_sending(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = settings()
    monkeypatch.setattr(live_module, "FLUSH_SECONDS", 1e9)
    live = tracking.LiveRun("dpo", params, {})
    live.log({"step": 1, "loss": 1.0})
    (run,) = runs(params)
    assert points(params, run, "loss") == []
    live.finish()
    assert points(params, run, "loss") == [(1, 1.0)]


def test_a_training_shorter_than_a_sample_has_the_load_of_the_machine_all_the_same(store: Path) -> None:
    params = settings()
    live = tracking.LiveRun("dpo", params, {})
    live.log({"step": 1, "loss": 1.0})
    live.finish()
    (run,) = runs(params)
    for metric in ("cpu_utilization_percentage", "system_memory_usage_megabytes"):
        assert len(points(params, run, f"system/{metric}")) == 1
    # What the machine did is no result: `report` finds the run as it is, and no step is there twice.
    publish(params, files())
    assert by_method(runs(params))["dpo"].info.run_id == run.info.run_id


def test_a_longer_training_is_sampled_as_it_goes_on_and_goes_on_counting_after_a_kill(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "SAMPLE_SECONDS", 0.3)
    params = settings()
    for so_far in (0, 3):
        live = tracking.LiveRun("dpo", params, {})
        deadline = time.monotonic() + 20
        while len(sampled := points(params, runs(params)[0], "system/cpu_utilization_percentage")) < so_far + 3:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        live.load.finish()  # as a kill would end its thread
    steps = [step for step, _ in sampled]
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("kind", ["garbage", "folder"])
def test_a_broken_store_costs_no_training(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    if kind == "garbage":
        (tmp_path / "mlflow.db").write_bytes(b"this is no database\n" * 100)
    else:
        (tmp_path / "mlflow.db").mkdir()
    start = time.monotonic()
    live = tracking.LiveRun("dpo", settings(), {})
    live.log({"step": 1, "loss": 1.0})
    live.finish()
    assert time.monotonic() - start < 20  # MLflow by itself tries for a minute and a half
    said = capsys.readouterr().err
    assert said.count("MLflow records no more of this run") == 1
    assert "`make mlflow` rebuilds MLflow from the files" in said


@pytest.mark.parametrize("table", ["metrics", "runs"])
def test_a_store_that_breaks_during_the_training(store: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    live = tracking.LiveRun("dpo", settings(), {})
    live.log({"step": 1, "loss": 1.0})
    assert "MLflow records no more" not in capsys.readouterr().err
    with sqlite3.connect(store / "mlflow.db") as connection:
        connection.execute(f"DROP TABLE {table}")
    if table == "metrics":
        live.log({"step": 2, "loss": 1.0})
        live.log({"step": 3, "loss": 1.0})
    live.finish()
    assert capsys.readouterr().err.count("MLflow records no more of this run") == 1


# Several processes, and what leaves the machine


def _open(folder: str, barrier: Any, answers: Any) -> None:
    os.environ["DVC_ROOT"] = folder
    import mlflow  # noqa: F401

    barrier.wait()
    try:
        answers.put(tracking.Tracker("shared").experiment)
    except Exception as error:
        answers.put(repr(error))


def test_two_processes_make_one_store(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.Queue()
    processes = [context.Process(target=_open, args=(str(tmp_path), barrier, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert got[0] == got[1] and got[0].isdigit()
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM experiments WHERE name != 'Default'")]
    assert names == ["shared"]


@pytest.mark.parametrize("first", ["from tr_align.runtime import prepare_process; prepare_process()", ""])
def test_mlflow_reports_nothing_about_its_use(first: str) -> None:
    """Also where only the tracking module is imported. MLflow is quiet in CI, so the check pretends to be elsewhere."""
    script = (
        f"{first}\nfrom tr_align import tracking\nimport mlflow\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "from mlflow.telemetry import utils\n"
        "utils._IS_IN_CI_ENV_OR_TESTING = False\n"
        "print(utils.is_telemetry_disabled(), get_telemetry_client())"
    )
    hidden = ("CI", "GITHUB_ACTIONS", "PYTEST_CURRENT_TEST", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert printed.stdout.split() == ["True", "None"]
