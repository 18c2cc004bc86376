"""Two saved views of MLflow's runs page, the table and the charts. They lie in the store: tags of the experiment."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from tr_align.settings import AXES
from tr_align.tracking.store import Tracker

PREFIX = "mlflow.sharedViewState."
"""Of the tags in which MLflow's own "Save view" keeps a view."""
TABLE, CHARTS = "tr-align-table", "tr-align-charts"
MODELS = "tags.current = 'yes' and params.method LIKE '%'"
KNOBS = ("alpha", "tau", "beta")
WIDTHS = {f"params.`{name}`": 72 for name in ("loss", "update", *KNOBS, "seed")} | {
    f"metrics.`win_rate_vs_{other}`": 135 for other in ("sft", "base")
}
"""In pixels, where the usual 100 are too many or too few."""


def save_views(tracker: Tracker) -> None:
    """Write both views, unless they are there as they should be. Views that users saved have other names."""
    experiment = tracker.client.get_experiment(tracker.experiment)
    measured = {metric for run in tracker.runs(MODELS) for metric in run.data.metrics}
    for view, (name, state) in _views([axis for axis in AXES if axis in measured]).items():
        text = json.dumps(state)
        old = experiment.tags.get(PREFIX + view)
        if old is None or json.loads(old)["state"] != text:
            now = int(time.time() * 1000)
            value = json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": text})
            tracker.client.set_experiment_tag(tracker.experiment, PREFIX + view, value)


def links(server: str, tracker: Tracker) -> dict[str, str]:
    """Addresses to open, by what they show. `server`: where MLflow answers, e.g. http://127.0.0.1:5000."""
    runs = f"{server}/#/experiments/{tracker.experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    found = {
        "table of runs": f"{runs}{TABLE}&compareRunsMode=TABLE",
        "charts (HC against KL, knobs)": f"{runs}{CHARTS}&compareRunsMode=CHART",
    }
    comparisons = tracker.runs("tags.current = 'yes' and tags.content LIKE '%'")
    if comparisons:
        run_id = comparisons[0].info.run_id
        page = "/index.html" if any(f.path == "index.html" for f in tracker.client.list_artifacts(run_id)) else ""
        run = f"{server}/#/experiments/{tracker.experiment}/runs/{run_id}"
        found["figures and report"] = f"{run}/artifacts{page}?workflowType=machine_learning"
    return found


def _views(axes: Sequence[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """By id: the name in MLflow's list of views, and the state of the page. `axes`: that have a column."""
    metrics = ("kl", "hc", "win_rate_vs_sft", "win_rate_vs_base", *axes)
    columns = [f"params.`{name}`" for name in ("loss", "update", *KNOBS)] + [f"metrics.`{name}`" for name in metrics]
    columns += ["params.`seed`", "tags.`dvc.exp_name`"]
    common = {
        "searchFilter": MODELS,
        "orderByKey": "tags.`order`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": WIDTHS,
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": None,
        "hideEmptyCharts": True,
    }
    # By id: the title, and how many charts stand side by side.
    sections = {"quality": ("HC against KL", 2), "knobs": ("Knobs", 1), "training": ("Training", 2)}
    axis = {"type": "METRIC"}
    cards = [
        _card("quality", "hc-kl", "SCATTER", "HC against KL, trained models")
        | {"xaxis": axis | {"key": "kl"}, "yaxis": axis | {"key": "hc"}},
        _card("quality", "hc-over-kl", "LINE", "HC over KL, along the training") | _line("hc", "kl"),
        _card("knobs", "parallel", "PARALLEL", "alpha, tau and beta, and the KL and HC they came to")
        | {"selectedParams": list(KNOBS), "selectedMetrics": ["kl", "hc"], "showAllRuns": True},
        _card("training", "margin", "LINE", "reward margin") | _line("margin"),
        _card("training", "ref_from_sft", "LINE", "how far the reference is from the SFT model")
        | _line("ref_from_sft"),
    ]
    charts = common | {
        "compareRunCharts": cards,
        "compareRunSections": [
            {"uuid": key, "name": title, "columns": columns, "display": True, "isReordered": True, "isGenerated": False}
            for key, (title, columns) in sections.items()
        ],
        "isAccordionReordered": True,
    }
    return {TABLE: ("1 Runs: knobs and results", common), CHARTS: ("2 Charts: HC against KL", charts)}


def _card(section: str, uuid: str, kind: str, title: str) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "type": kind,
        "displayName": title,
        "runsCountToCompare": 100,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
    }


def _line(metric: str, over: str = "") -> dict[str, Any]:
    """Of a metric over the steps, or over another metric."""
    return {
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "xAxisKey": "metric" if over else "step",
        "selectedXAxisMetricKey": over,
        "useGlobalXaxisKey": False,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalLineSmoothing": True,
        "displayPoints": True,
    }
