"""Make the pictures of docs/mlflow.md: MLflow in a real browser, on a store rebuilt from the files under reports/.

python docs/img/mlflow.py     # at the root of the repository; needs chromium and playwright
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
SEEN_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"


def shoot(page: Page, address: str, ready: str, name: str, height: int) -> None:
    """One picture of one view, once what `ready` selects is drawn."""
    page.set_viewport_size({"width": 1500, "height": height})
    page.goto(address)
    page.locator(ready).first.wait_for(timeout=60_000)
    time.sleep(3)  # columns are put in order and charts are drawn after the first showing
    page.screenshot(path=str(FOLDER / name))


def wait_for(port: str) -> None:
    """Until the server takes connections."""
    for _ in range(200):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        time.sleep(0.2)


def main() -> None:
    with tempfile.TemporaryDirectory() as clone, sync_playwright() as playwright:
        shutil.copytree("reports", Path(clone) / "reports")
        shutil.copyfile("params.yaml", Path(clone) / "params.yaml")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        command = [sys.executable, "-u", "-m", "tr_align.cli", "mlflow", "ui", "--port", port]
        environment = {
            key: value for key, value in os.environ.items() if key not in ("DVC_ROOT", "MLFLOW_TRACKING_URI")
        }
        pipe = subprocess.PIPE
        server = subprocess.Popen(
            command, cwd=clone, env=environment, stdout=pipe, stderr=subprocess.DEVNULL, text=True
        )
        assert server.stdout is not None
        try:
            printed = ""
            while "Ready" not in printed:
                printed += server.stdout.readline()
            table, charts = re.findall(r"http\S+", printed)[:2]
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--headless=new", "--no-sandbox"])
            page = browser.new_page()
            page.add_init_script(SEEN_ASSISTANT)
            wait_for(port)
            shoot(page, table, ".ag-row >> text=tr_kto_hard", "mlflow-runs.png", 660)
            shoot(page, charts, ".parcoords text.label", "mlflow-kl-hc.png", 1200)
        finally:
            server.terminate()
            server.wait()


main()
