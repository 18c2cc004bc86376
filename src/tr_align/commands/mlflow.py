"""`tr-align mlflow`: make MLflow's store anew from the files, and open it in the browser."""

from __future__ import annotations

import argparse
import io
import os
import re
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tr_align.commands.options import count
from tr_align.errors import UserError

EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)")
"""A DVC experiment among git's refs; others under refs/exps are DVC's own."""
HOST = "127.0.0.1"


def register(commands: Any) -> None:
    """Add `mlflow` and its two commands to the parser's."""
    parser = commands.add_parser("mlflow", help="MLflow's store: make it anew from the files, open it")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    rebuild = actions.add_parser(
        "rebuild",
        help="bring the store up to the files, or make it anew",
        description="Bring MLflow's store up to the files under reports/. What it holds already is not sent again; a "
        "store that is missing is made, one that is broken is moved aside first. With MLFLOW_TRACKING_URI set, the "
        "store there is filled.",
    )
    rebuild.add_argument("--experiments", action="store_true", help="the DVC experiments too, from their git commits")
    rebuild.set_defaults(run=run_rebuild)
    ui = actions.add_parser(
        "ui",
        help="open the store in the browser",
        description="Bring the store up to the files under reports/, start MLflow's server on it and print the "
        "addresses of the table of runs and of the charts. With a server in MLFLOW_TRACKING_URI, only print those.",
    )
    ui.add_argument("--port", type=count, default=5000, help="default: 5000")
    ui.set_defaults(run=run_ui)


def run_rebuild(options: argparse.Namespace) -> None:
    """Fill the store from the files.

    Raises:
        UserError: there is no report yet, params.yaml is wrong, or the store cannot be reached.
    """
    from tr_align import tracking
    from tr_align.config import load_params

    with _user_errors():
        params = load_params()
        _make_room()
        _send(params, Path("."), tracking.dvc_tags())
        if options.experiments:
            _send_experiments()


def run_ui(options: argparse.Namespace) -> None:
    """Bring the store up to the files, print where to look, and serve it there until the user stops it.

    Raises:
        UserError: the store is broken or away, the port is taken, or params.yaml is wrong.
    """
    from tr_align.config import load_params
    from tr_align.tracking import dvc_tags, store, views

    with _user_errors():
        uri, server = store.address(), f"http://{HOST}:{options.port}"
        serving = not store.is_server(uri)
        if serving:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((HOST, options.port))
                except OSError as error:
                    raise UserError(
                        f"port {options.port} cannot be used ({error.strerror}); choose another: "
                        f"`make ui PORT={options.port + 1}`"
                    ) from error
        else:
            server = store.without_password(uri).rstrip("/")
        params = load_params()
        if Path("reports/score/sft.json").exists():
            # What DVC took from a cache, and did not run here, is there as well.
            _send(params, Path("."), dvc_tags())
        else:
            print("There is no report yet; `make repro` makes it. Trainings show up here as they go on.")
        tracker = store.Tracker(params.mlflow.experiment)
        views.save_views(tracker)
        for what, address in views.links(server, tracker).items():
            print(f"{what}:\n  {address}")
    if not serving:
        return
    print("Ready in some seconds; Ctrl-C ends it.", flush=True)
    # The address by the environment: other users can read a command line, and it may hold a password.
    quiet = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", HOST, "--port", str(options.port)]
    os.execve(sys.executable, command, os.environ | quiet)


def _make_room() -> None:
    """Move a local store that MLflow cannot use out of the way."""
    from tr_align.tracking import repair, store

    uri = store.address()
    if not store.is_sqlite(uri):
        return
    path = Path(uri.removeprefix("sqlite:///"))
    with store.lock():
        reason = repair.flaw(path)
        if reason is not None:
            aside = repair.move_aside(path)
            print(
                f"{path.name} {reason}. It is now {aside.name}, a new one is made from the files. A server that has it "
                "open (`make ui`) has to be started again.",
                file=sys.stderr,
            )


def _send(params: Any, root: Path, tags: dict[str, str]) -> None:
    """Send the files under `root`, and say what came of it."""
    from tr_align.reports.publish import send

    missing = send(params, root, tags)
    runs = len(params.methods) - sum(note.startswith("no scores") for note in missing)
    print(
        "; ".join(
            [f"{tags['dvc.exp_name']}: {runs} runs in the MLflow experiment {params.mlflow.experiment}", *missing]
        )
    )


def _send_experiments() -> None:
    """Send what git holds of each DVC experiment; say which ones it holds too little of."""
    from tr_align.config import load_params

    lines = _git("for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").decode().splitlines()
    found = [(match[1], line.split()[1]) for line in lines if (match := EXPERIMENT.fullmatch(line.split()[0]))]
    if not found:
        print("There are no DVC experiments here; `dvc exp pull` brings those of a remote.")
    for name, commit in found:
        with tempfile.TemporaryDirectory() as folder:
            try:
                with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "params.yaml", "reports"))) as archive:
                    archive.extractall(folder, filter="data")
                tags = {"dvc.exp_name": name, "dvc.baseline_rev": _git("rev-parse", f"{commit}^").decode().strip()}
                _send(load_params(Path(folder) / "params.yaml"), Path(folder), tags)
            except UserError as error:
                print(f"{name}: left out: {str(error).replace(folder + os.sep, '')}", file=sys.stderr)


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise UserError(f"git {arguments[0]}: {said.decode(errors='replace').strip() or error}") from error


@contextmanager
def _user_errors() -> Iterator[None]:
    """MLflow's errors in the user's words, without the password that an address may hold."""
    from tr_align.tracking import store

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        where = store.without_password(store.address())
        if store.is_sqlite(where):
            todo = "`make mlflow` moves a broken store aside and makes it anew"
        else:
            todo = "see whether it runs, and whether MLFLOW_TRACKING_URI is right"
        raise UserError(
            f"MLflow at {where}: {type(error).__name__}: {store.without_password(error)}; {todo}"
        ) from error
