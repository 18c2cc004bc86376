"""Files as the pipeline leaves them, of nine methods on a small curve; and MLflow servers to send them to."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tr_align.config import METHODS
from tr_align.settings import AXES

ROOT = Path(__file__).parents[2]
STEPS = (3, 6, 9)
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "NO_PROXY": "127.0.0.1"}


def final_point(number: int) -> tuple[float, float]:
    """KL and HC of a method's trained model, by its place among the nine: no two have the same."""
    return 6.0 + 0.5 * number, 7.0 + 0.05 * ((4 * number) % 9)


def write_record(folder: Path, replies: bool = True) -> Path:
    """params.yaml, reports/ and, unless DVC would not have them, generations/ and judgements/."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    for name in ("reports/score", "reports/train", "reports/figures"):
        (folder / name).mkdir(parents=True)
    sft = {"curve": [_point(0, 0.0, 6.0)], "final": {"step": 0, "kl": 0.0, "hc": 6.0}}
    (folder / "reports/score/sft.json").write_text(json.dumps(sft))
    for number, name in enumerate(METHODS):
        kl, hc = final_point(number)
        curve = [_point(step, kl * step / 9, 6.0 + (hc - 6.0) * step / 9) for step in STEPS]
        final = {key: value for key, value in curve[-1].items() if not key.endswith(("_lo", "_hi"))}
        final |= {"win_rate_vs_sft": 0.75, "win_rate_vs_sft_ci": [0.7, 0.8], "n_missing": 0}
        final["win_rate_vs_base"] = None if METHODS[name].update == "none" else 0.5
        (folder / f"reports/score/{name}.json").write_text(json.dumps({"curve": curve, "final": final}))
        log = [{"step": step, "loss": 1 / step, "margin": 0.1 * step, "ref_from_sft": 0.0} for step in range(1, 10)]
        (folder / f"reports/train/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    (folder / "reports/table.md").write_text("| method | hc |\n")
    (folder / "reports/figures/kl_vs_hc.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    if replies:
        for name in ("sft", *METHODS):
            _write_replies(folder, name)
    return folder


def _point(step: int, kl: float, hc: float) -> dict[str, Any]:
    numbers = {"kl": kl, "hc": hc} | dict.fromkeys(AXES, hc)
    bounds = {f"{k}_{side}": v + by for k, v in numbers.items() for side, by in (("lo", -0.1), ("hi", 0.1))}
    return {"step": step, "n_prompts": 20, **numbers, **bounds}


def _write_replies(folder: Path, name: str) -> None:
    replies, judgements = [], []
    for n in range(4):
        prompt = [{"role": "user", "content": f"Question {n}?"}]
        row = {"step": 9, "prompt_id": f"p{n}", "prompt": prompt, "tokens": 5, "kl": 1.5}
        replies.append(row | {"reply": f"Answer {n} of {name} <img src=x onerror=document.title='owned'>"})
        judgements.append({"kind": "rating", "step": 9, "prompt_id": f"p{n}", "axes": dict.fromkeys(AXES, 7.0)})
        for shown in ("first", "second"):
            duel = {"kind": "duel", "against": "sft", "prompt_id": f"p{n}", "shown": shown, "preference": shown}
            judgements.append(duel)
    for kind, rows in (("generations", replies), ("judgements", judgements)):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def running(command: list[str], folder: Path, url: str, **variables: str) -> Iterator[str]:
    """A server as a process of its own, from when it answers at `url` until the block is left."""
    log = folder / f"server-{url.rpartition(':')[2]}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | QUIET | variables, stdout=file, stderr=file, start_new_session=True
        )
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        else:
            raise AssertionError(log.read_text()[-3000:])
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=20)


def mlflow_server(*arguments: str, port: int) -> list[str]:
    """The command line of an MLflow server that is up in a few seconds."""
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "server", *address, *arguments]
