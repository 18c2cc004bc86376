"""Which cells the figures of a panel a loss have room for: a sweep can have a dozen settings of one method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tr_align.reports.common import listed
from tr_align.reports.results import Report, Row

MOST = 5
"""Cells in a panel: a base method, and two settings of each of its two updates."""


def with_room(report: Report) -> tuple[Report, list[str]]:
    """A report whose panels can be read, and a sentence for captions about what was left out, if anything.

    Of a loss with more than :data:`MOST` cells only those of the main settings stay (`context["main"]`).
    """
    by_loss: dict[str, set[str]] = {}
    for row in report.points:
        if row["loss"]:
            by_loss.setdefault(row["loss"], set()).add(row["cell"])
    main = set(report.context["main"])
    gone = {loss: cells - main for loss, cells in by_loss.items() if len(cells) > MOST and cells - main}
    if not gone:
        return report, []
    left_out = set.union(*gone.values())

    def kept(rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if row["cell"] not in left_out]

    roomy = replace(
        report,
        points=kept(report.points),
        wins=kept(report.wins),
        frontier=kept(report.frontier),
        training=kept(report.training),
        ood=kept(report.ood),
    )
    counts = listed([f"{len(cells)} other settings of TR-{loss.upper()}" for loss, cells in gone.items()])
    return roomy, [f"The tables also have {counts}, for which there is no room here."]
