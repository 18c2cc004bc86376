"""A training's run, written while it goes on."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from tr_align.config import Params
from tr_align.tracking.identity import run_key, run_name, run_tags, settings
from tr_align.tracking.store import PROCESS, Tracker, is_written_elsewhere, this_process, without_password

FLUSH_SECONDS = 5.0
SAMPLE_SECONDS = 5.0
"""Between two samples of the machine's load; `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` says otherwise."""


class LiveRun:
    """A training's run: rows are sent every few seconds, and the load of the machine beside them.

    If MLflow fails, training goes on and says so once.
    """

    def __init__(self, name: str, params: Params, tags: Mapping[str, str]) -> None:
        self.pending: list[Mapping[str, Any]] = []
        self.sent = time.monotonic()
        self.logged = 0
        self.tracker: Tracker | None = None
        self.load: Any = None
        try:
            self.tracker = Tracker(params.mlflow.experiment)
            key = run_key(name, params)
            with self.tracker.lock:
                old = self.tracker.find(key)
                if old is not None and old.info.status == "RUNNING" and not is_written_elsewhere(old):
                    self.run_id = old.info.run_id  # a killed run goes on
                    self.tracker.client.set_tag(self.run_id, PROCESS, this_process())
                    self.logged = max(self.tracker.history(old, "loss"), default=0)
                else:
                    tags = run_tags(name, params) | dict(tags)
                    self.run_id = self.tracker.create(key, run_name(name, params), settings(name, params), tags)
            self.load = _watch_load(self.run_id, self.tracker.uri)
        except Exception as error:  # a view must not cost a training
            self._give_up(error)

    def log(self, row: Mapping[str, Any]) -> None:
        if row["step"] > self.logged:
            self.pending.append(row)
        if time.monotonic() - self.sent > FLUSH_SECONDS:
            self._send()

    def finish(self) -> None:
        self._send()
        try:
            if self.tracker is not None:
                _end_watch(self.load)
                self.tracker.finish(self.run_id)
        except Exception as error:  # as above
            self._give_up(error)

    def _send(self) -> None:
        try:
            if self.tracker is not None and self.pending:
                self.tracker.log(self.run_id, self.pending)
        except Exception as error:  # as above
            self._give_up(error)
        self.pending = []
        self.sent = time.monotonic()

    def _give_up(self, error: Exception) -> None:
        self.tracker = None
        print(
            f"MLflow records no more of this run ({type(error).__name__}: {without_password(error)}); "
            "the log file has it all, and `make mlflow` rebuilds MLflow from the files",
            file=sys.stderr,
        )


def _watch_load(run_id: str, uri: str) -> Any:
    """MLflow's monitor of processor, memory, disk, network and (with nvidia-ml-py) GPUs, in a thread of its own."""
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # It says when it starts and stops, and of a store that is away what LiveRun says already.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, SAMPLE_SECONDS, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    return monitor


def _end_watch(monitor: Any) -> None:
    """End it; the samples it was still waiting to send are sent, the only ones of a short training."""
    monitor.finish()
    if rest := monitor.aggregate_metrics():
        monitor.publish_metrics(rest)
        monitor.mlflow_logger.flush()
