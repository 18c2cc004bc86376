"""The main figure as a DVC plot template, for `dvc plots show` and `dvc plots diff`.

`python -m tr_align.reports.dvc_plots` writes it again after a change of the figure; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path

from tr_align.reports.common import Context, update_labels
from tr_align.reports.figures import kl_vs_hc_spec
from tr_align.reports.theme import Spec

PATH = Path(".dvc/plots/kl_vs_hc.json")


def dvc_template(context: Context | None = None) -> Spec:
    """The figure of :func:`tr_align.reports.figures.kl_vs_hc` with DVC's anchors where rows and fields go.

    Args:
        context: names alpha, tau and the unit. The committed template goes without: it shows several
            revisions at once, which may differ in them.
    """
    return kl_vs_hc_spec(
        data="<DVC_METRIC_DATA>",
        title={"text": "<DVC_METRIC_TITLE>"},
        y_title="HC score, mean of five axes" + (f" ({context['hc_unit']})" if context else ""),
        labels=update_labels(context),
        x_field="<DVC_METRIC_X>",
        y_field="<DVC_METRIC_Y>",
        revisions=True,
    )


def template_text() -> str:
    """The committed file, to the byte."""
    return json.dumps(dvc_template(), indent=2) + "\n"


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(template_text(), encoding="utf-8")
