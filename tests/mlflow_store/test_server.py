"""The same against an MLflow server on PostgreSQL, with `MLFLOW_TRACKING_URI` alone; and against one that is away."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_store.record import final_point, free_port, mlflow_server, running, write_record
from tr_align import cli, tracking
from tr_align.config import METHODS, load_params
from tr_align.reports.publish import publish
from tr_align.tracking import store, views

SECRET = "pa55-word-of-the-test"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A new PostgreSQL database on this machine, from Debian's package; its URI."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install psycopg[binary]")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("there is no PostgreSQL; Debian's package is called postgresql")
    folder, port = tmp_path_factory.mktemp("postgres"), free_port()
    as_user: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root; pytest's folders are root's alone
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("there is no user postgres, and PostgreSQL does not run as root")
        folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    (folder / "password").write_text(SECRET)
    (folder / "password").chmod(0o644)
    data = str(folder / "data")
    first = ["-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync", "-E", "UTF8"]
    subprocess.run([*as_user, str(found[-1] / "initdb"), "-D", data, *first], check=True, capture_output=True, cwd="/")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    control = [*as_user, str(found[-1] / "pg_ctl"), "-D", data]
    start = [*control, "-w", "-o", options, "-l", str(folder / "log"), "start"]
    subprocess.run(start, check=True, stdout=subprocess.DEVNULL, cwd="/")
    try:
        yield f"postgresql://tester:{SECRET}@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
        if as_user:
            shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An MLflow server on it, and the folder where it keeps artifacts."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    command = mlflow_server("--artifacts-destination", str(folder / "kept"), port=port)
    with running(command, folder, f"http://127.0.0.1:{port}", MLFLOW_BACKEND_STORE_URI=postgres) as url:
        yield url, folder / "kept"


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(write_record(tmp_path / "clone"))
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "clone"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for variable, value in store.USUAL.items():
        monkeypatch.setenv(variable, value)
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):  # set by the code, unset afterwards
        monkeypatch.setenv(variable, "")
    return tmp_path / "clone"


def test_all_of_it_goes_to_the_server_and_nothing_beside(
    server: tuple[str, Path], clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url, kept = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url.replace("//", f"//someone:{SECRET}@"))
    params = load_params()
    live = tracking.LiveRun("tr_dpo_hard", params, tracking.dvc_tags())
    for step in range(1, 10):
        live.log({"step": step, "loss": 1 / step, "margin": 0.1 * step, "ref_from_sft": 0.0})
    live.finish()
    for _ in range(2):  # as `report` does, and once more
        publish(params, Path("reports"))
    assert cli.main(["mlflow", "ui"]) == 0
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed and "MLflow" not in printed.replace("MLflow experiment", "")
    assert f"{url}/#/experiments/" in printed

    tracker = tracking.Tracker(params.mlflow.experiment)
    runs = {run.data.params["method"]: run for run in tracker.runs("params.method LIKE '%'")}
    assert set(runs) == set(METHODS) and len(tracker.runs("")) == 10
    assert [name for name, run in runs.items() if "restored" not in run.data.tags] == ["tr_dpo_hard"]
    assert runs["tr_dpo_hard"].data.metrics["system/cpu_utilization_percentage"] >= 0
    for number, (name, run) in enumerate((name, runs[name]) for name in METHODS):
        assert (run.data.metrics["kl"], run.data.metrics["hc"]) == final_point(number)
        for metric, steps in (("kl", 4), ("hc", 4), ("loss", 9)):
            assert len(tracker.client.get_metric_history(run.info.run_id, metric)) == steps, (name, metric)
        assert run.info.artifact_uri.startswith("mlflow-artifacts:")
        assert SECRET not in str(run.to_dictionary())
    experiment = tracker.client.get_experiment(tracker.experiment)
    assert {views.PREFIX + views.TABLE, views.PREFIX + views.CHARTS} <= set(experiment.tags)
    assert len(list(kept.rglob("replies.json"))) == 9 and len(list(kept.rglob("kl_vs_hc.svg"))) == 1
    assert not (clone / "mlflow.db").exists() and not (clone / "mlartifacts").exists()


def test_the_database_itself_can_be_the_address(
    postgres: str, server: tuple[str, Path], clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no server says where artifacts go: they lie where a local store has them."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    params = load_params()
    params = params.model_copy(update={"mlflow": params.mlflow.model_copy(update={"experiment": "direct"})})
    publish(params, Path("reports"))
    tracker = tracking.Tracker("direct")
    assert len(tracker.runs("tags.current = 'yes'")) == 10
    assert len(list((clone / "mlartifacts").rglob("replies.json"))) == 9
    assert not (clone / "mlflow.db").exists()


@pytest.mark.parametrize("kind", ["nobody", "silent", "database", "wrong password"])
def test_a_server_that_is_away_costs_a_sentence_and_seconds(
    kind: str,
    request: pytest.FixtureRequest,
    clone: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # a tenth of ours, so that the test is short
    deaf = socket.socket()
    deaf.bind(("127.0.0.1", 0))
    port = deaf.getsockname()[1]
    if kind == "silent":  # connections are taken and nothing is ever said
        deaf.listen(50)
    address = {
        "nobody": f"http://someone:{SECRET}@127.0.0.1:{port}",
        "silent": f"http://someone:{SECRET}@127.0.0.1:{port}",
        "database": f"postgresql://tester:{SECRET}@127.0.0.1:{port}/postgres",
    }
    if kind == "wrong password":
        uri = request.getfixturevalue("postgres").replace(SECRET, SECRET + "-not")
    else:
        uri = address[kind]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    params = load_params()
    started = time.monotonic()
    live = tracking.LiveRun("dpo", params, {})
    live.log({"step": 1, "loss": 1.0})
    live.finish()
    publish(params, Path("reports"))
    assert time.monotonic() - started < 30
    printed = "".join(capfd.readouterr())
    assert printed.count("MLflow records no more of this run") == 1
    assert printed.count("MLflow does not show this run yet") == 1
    assert SECRET not in printed and "Traceback" not in printed
    assert cli.main(["mlflow", "rebuild"]) == 1
    said = capfd.readouterr().err
    assert "error: MLflow at" in said and "MLFLOW_TRACKING_URI" in said and SECRET not in said
    assert not (clone / "mlflow.db").exists()
    deaf.close()


def test_how_long_a_stage_waits_is_the_users_to_say(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os; from tr_align import tracking; tracking.Tracker('x'); "
        "print(os.environ['MLFLOW_HTTP_REQUEST_TIMEOUT'], os.environ['MLFLOW_HTTP_REQUEST_MAX_RETRIES'])"
    )
    environment = {key: value for key, value in os.environ.items() if key not in store.USUAL}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split() == ["77", "2"]
