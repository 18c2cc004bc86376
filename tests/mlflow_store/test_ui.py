"""What a user sees in a real browser: `make ui` opens nine runs that line up, and their KL against their HC."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_store.record import final_point, free_port, running, write_record
from tr_align import tracking
from tr_align.config import METHODS, load_params

SEEN_ASSISTANT = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
"""MLflow opens a panel over the right of the page on the first visit."""
NAMES = {
    f"{name} {knobs}".strip()
    for name in METHODS
    for knobs in [
        {"none": "", "soft": "α=0.6 τ=2 ", "hard": "τ=3 "}[METHODS[name].update]
        + f"β={0.01 if METHODS[name].loss == 'ipo' else 0.05} s0"
    ]
}


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """`tr-align mlflow ui` in a clone where nothing was ever run; the addresses that it prints, by what they show."""
    folder = write_record(tmp_path_factory.mktemp("ui"))
    port = free_port()
    command = [sys.executable, "-m", "tr_align.cli", "mlflow", "ui", "--port", str(port)]
    path = os.pathsep.join(sys.path)
    with running(command, folder, f"http://127.0.0.1:{port}", PYTHONPATH=path) as url:
        printed = (folder / f"server-{port}.log").read_text()
        links = dict(re.findall(r"^(\S.*):\n  (http\S+)$", printed, re.MULTILINE))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DVC_ROOT", str(folder))
            tracker = tracking.Tracker(load_params(folder / "params.yaml").mlflow.experiment)
        runs = tracker.runs("params.method LIKE '%'")
        compared = {"runs": [run.info.run_id for run in runs], "experiments": [tracker.experiment]}
        query = urllib.parse.urlencode({key: json.dumps(value) for key, value in compared.items()})
        (soft,) = [run for run in runs if run.data.params["method"] == "tr_dpo_soft"]
        links["compare"] = f"{url}/#/compare-runs?{query}"
        links["replies"] = f"{url}/#/experiments/{tracker.experiment}/runs/{soft.info.run_id}/artifacts/replies.json"
        yield links


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1600, "height": 1300})
    page.set_default_timeout(30_000)
    page.add_init_script(SEEN_ASSISTANT)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert not errors


def plot(page: Any, heading: str) -> list[dict[str, Any]]:
    """What the chart under a heading was drawn from: the traces that Plotly keeps with its element."""
    page.wait_for_function(
        """heading => [...document.querySelectorAll('.js-plotly-plot')].some(plot =>
          plot.closest('[data-testid="experiment-view-compare-runs-card"]')?.innerText.startsWith(heading)
          && plot.querySelector('.points path, .lines path'))""",
        arg=heading,
    )
    traces: list[dict[str, Any]] = page.evaluate(
        """heading => [...document.querySelectorAll('.js-plotly-plot')].find(plot =>
          plot.closest('[data-testid="experiment-view-compare-runs-card"]')?.innerText.startsWith(heading))
          .data.map(trace => ({name: trace.name, x: [...trace.x ?? []], y: [...trace.y ?? []], mode: trace.mode}))""",
        heading,
    )
    return traces


def test_the_table_has_nine_runs_with_their_knobs_and_numbers_base_above_tr(ui: dict[str, str], page: Any) -> None:
    page.goto(ui["table of runs"])
    page.wait_for_selector(".ag-row >> text=tr_kto_hard")
    # From left to right, once the page has put them in the order of the view.
    expected = ["loss", "update", "alpha", "tau", "beta", "kl", "hc", "win_rate_vs_sft", "win_rate_vs_base"]
    page.wait_for_function(
        """expected => {
          const cells = [...document.querySelectorAll('.ag-header-cell')].filter(cell => cell.innerText.trim())
          cells.sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)
          const names = cells.map(cell => cell.innerText.trim())
          return names.slice(2, 2 + expected.length).join() === expected.join()
        }""",
        arg=expected,
    )
    links = page.locator(".ag-row a[href*='/runs/']")
    names = [link.inner_text().strip() for link in links.all()]
    assert set(names) == NAMES and len(names) == 9
    top = sorted((link.bounding_box()["y"], link.inner_text().split()[0]) for link in links.all())
    assert [name for _, name in top][:6] == ["dpo", "tr_dpo_soft", "tr_dpo_hard", "ipo", "tr_ipo_soft", "tr_ipo_hard"]

    def column(name: str) -> list[str]:
        cells = page.locator(f".ag-row .ag-cell[col-id='{name}']").all()
        return [text for _, text in sorted((cell.bounding_box()["y"], cell.inner_text()) for cell in cells)]

    assert column("params.`alpha`")[:3] == ["0", "0.6", "1"] and column("params.`tau`")[:3] == ["9", "2", "3"]
    kl, hc = final_point(0)
    assert float(column("metrics.`kl`")[0]) == kl and float(column("metrics.`hc`")[0]) == pytest.approx(hc)


def test_the_charts_show_hc_against_kl_for_nine_runs_and_the_knobs_that_led_there(
    ui: dict[str, str], page: Any
) -> None:
    page.goto(ui["charts (HC against KL, knobs)"])
    scatter = plot(page, "kl vs. hc")
    points = {(x, y) for trace in scatter for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert points == {final_point(number) for number in range(9)}
    drawn = page.locator(".js-plotly-plot").first.locator(".points path.point")
    assert drawn.count() == 9 and all(path.is_visible() for path in drawn.all())
    lines = {trace["name"]: trace for trace in plot(page, "hc")}  # a line and its points are two traces
    assert set(lines) == NAMES
    for trace in lines.values():  # from the SFT model's point to the trained model's
        assert (trace["x"][0], trace["y"][0]) == (0.0, 6.0) and len(trace["x"]) == 4
    assert {(trace["x"][-1], trace["y"][-1]) for trace in lines.values()} == points
    axes = page.locator(".parcoords text.label")
    axes.first.wait_for()
    assert axes.all_text_contents() == ["alpha", "tau", "beta", "kl", "hc"]


def test_the_compare_page_takes_kl_and_hc_as_axes_for_nine_runs(ui: dict[str, str], page: Any) -> None:
    page.goto(ui["compare"])
    page.get_by_text("Comparing 9 Runs").wait_for()
    page.get_by_role("tab", name="Scatter Plot").click()
    for axis, metric in (("x", "kl"), ("y", "hc")):
        page.locator(f"#{axis}-axis-selector").click()
        page.get_by_role("option", name=metric, exact=True).click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.js-plotly-plot')].some(p => p.layout?.xaxis?.title?.text === 'kl')"
    )
    trace = page.evaluate(
        """() => [...document.querySelectorAll('.js-plotly-plot')].map(p => ({x: p.data[0].x, y: p.data[0].y,
          axes: [p.layout?.xaxis?.title?.text, p.layout?.yaxis?.title?.text]})).find(p => p.axes[0] === 'kl')"""
    )
    assert trace["axes"] == ["kl", "hc"]
    points = set(zip(map(float, trace["x"]), map(float, trace["y"]), strict=True))
    assert points == {final_point(number) for number in range(9)}


def test_the_replies_are_a_table_and_markup_in_them_is_text(ui: dict[str, str], page: Any) -> None:
    page.goto(ui["replies"])
    page.get_by_text("Answer 0 of tr_dpo_soft <img src=x").first.wait_for()
    assert page.get_by_text("vs_sft").count() and page.get_by_text("win", exact=True).count()
    assert page.title() != "owned"
