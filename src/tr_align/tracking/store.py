"""MLflow's store: where it is, and runs in it that are found by their key."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from tr_align import scratch

if TYPE_CHECKING:
    from mlflow import MlflowClient

USUAL = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "PGCONNECT_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Environment variables and what they are unless the user has set them: a server that is away costs a stage half a
minute (with MLflow's own settings it may be a quarter of an hour), and not every run prints its address."""
LOCK_SECONDS = 120.0
PROCESS = "process"
"""Tag: which process writes to a run, so that a killed training is told from one that goes on beside this."""


def database() -> Path:
    """The local store, beside the repository's files also from DVC's temporary copies."""
    return scratch.root().resolve() / "mlflow.db"


def address() -> str:
    """The store's URI: `MLFLOW_TRACKING_URI` where that is set, else the local database."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if not uri:
        return f"sqlite:///{database()}"
    if uri.startswith("sqlite:///"):  # a relative path would be another file in each of DVC's temporary copies
        return f"sqlite:///{scratch.root().resolve() / uri.removeprefix('sqlite:///')}"
    return uri


def without_password(text: object) -> str:
    """The text without the user names and passwords of the addresses in it."""
    return re.sub(r"(\w://)[^/\s]*@", r"\1", str(text))


def is_server(uri: str) -> bool:
    """Whether a server of MLflow answers there, which then decides where artifacts go."""
    return not re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri)


def is_sqlite(uri: str) -> bool:
    return uri.startswith("sqlite")


def _home() -> Path:
    """The folder of a SQLite database, which is the same for all who write to it, else the repository's."""
    uri = address()
    folder = Path(uri.removeprefix("sqlite:///")).parent
    return folder if is_sqlite(uri) and folder.is_dir() else scratch.root().resolve()


def lock() -> FileLock:
    """Held while a run is looked for and made, and while a new database is filled; one at a time on this machine."""
    return FileLock(_home() / ".scratch" / "mlflow.lock", timeout=LOCK_SECONDS)


class Tracker:
    """The runs of one MLflow experiment. A new experiment in a database of ours keeps artifacts in `mlartifacts/`.

    Raises:
        Exception: what the store is broken by, or that it cannot be reached (within half a minute).
    """

    def __init__(self, experiment: str) -> None:
        for variable, value in USUAL.items():
            os.environ.setdefault(variable, value)
        self.uri = _with_password_apart(address())
        self.lock = lock()
        # The first client of a new database fills it; two that do so at once break it.
        with self.lock:
            _see_that_it_opens(self.uri)
            from mlflow import MlflowClient

            self.client: MlflowClient = MlflowClient(self.uri)
            self.experiment = self._experiment(experiment)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            # Where artifacts go is said, because they would go to the folder that the process happens to run in.
            local = (_home() / "mlartifacts").as_uri()
            try:
                return str(self.client.create_experiment(name, None if is_server(self.uri) else local))
            except MlflowException:  # another machine was quicker
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def runs(self, condition: str) -> list[Any]:
        """The runs for which an MLflow filter holds, newest first."""
        found: list[Any] = []
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], condition, order_by=["attributes.start_time DESC"], page_token=token
            )
            found += page
            token = page.token
            if not token:
                return found

    def find(self, key: str) -> Any | None:
        """The current run of a key, or None."""
        runs = self.runs(f"tags.run_key = '{key}' and tags.current = 'yes'")
        return runs[0] if runs else None

    def create(self, key: str, name: str, values: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """A new current run of a key, written by this process; older ones stay, marked as superseded."""
        from mlflow.entities import Param

        tags = {"run_key": key, "current": "yes", PROCESS: this_process(), **tags}
        run_id = str(self.client.create_run(self.experiment, run_name=name, tags=tags).info.run_id)
        self.client.log_batch(run_id, params=[Param(setting, str(value)) for setting, value in values.items()])
        # The new one first: a kill in between leaves two, of which the newest counts, and not none. The newest of all,
        # for processes on two machines, which no lock holds apart, have to agree on which it is.
        for run in self.runs(f"tags.run_key = '{key}' and tags.current = 'yes'")[1:]:
            self.client.set_tag(run.info.run_id, "current", "superseded")
        return run_id

    def log(self, run_id: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Log rows of numbers, each with its integer `step`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(name, float(value), now, int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name != "step" and isinstance(value, (int, float))
        ]
        for start in range(0, len(metrics), 900):  # MLflow takes at most 1,000 in one call
            self.client.log_batch(run_id, metrics=metrics[start : start + 900])

    def history(self, run: Any, metric: str) -> dict[int, float]:
        """A metric's last value at each step; `run` as it was found."""
        if metric not in run.data.metrics:
            return {}
        return {point.step: point.value for point in self.client.get_metric_history(run.info.run_id, metric)}

    def finish(self, run_id: str) -> None:
        self.client.set_terminated(run_id, "FINISHED")


def this_process() -> str:
    """This machine's name, the process's number, and when it was started: numbers are given out again."""
    import psutil

    return f"{socket.gethostname()}:{os.getpid()}:{psutil.Process().create_time():.0f}"


def is_written_elsewhere(run: Any) -> bool:
    """Whether another process is at work on a run, or was on another machine, where one cannot look."""
    import psutil

    owner = run.data.tags.get(PROCESS, "").split(":")
    if run.info.status != "RUNNING" or len(owner) != 3:
        return False
    host, number, started = owner
    if host != socket.gethostname():
        return True
    try:
        # A second or two, because a clock that is set moves the time of every start.
        alive = abs(psutil.Process(int(number)).create_time() - float(started)) < 3
    except (psutil.Error, ValueError):
        return False
    return alive and int(number) != os.getpid()


def _with_password_apart(uri: str) -> str:
    """A server's address without user name and password, which go where MLflow looks for them and prints them not."""
    parts = urlsplit(uri)
    if is_server(uri) and parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password or "")
        return without_password(uri)
    return uri


def _see_that_it_opens(uri: str) -> None:
    """Fail at once on a database that cannot be opened: MLflow would try for a minute and a half."""
    if is_sqlite(uri):
        with closing(sqlite3.connect(uri.removeprefix("sqlite:///"), timeout=60)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    elif not is_server(uri):
        import sqlalchemy

        engine = sqlalchemy.create_engine(uri)
        engine.connect().close()
        engine.dispose()
