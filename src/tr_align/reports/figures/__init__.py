"""The figures of a report, each from one definition in three sizes, and their files."""

from __future__ import annotations

from dataclasses import replace

from tr_align.reports.figure import Figure
from tr_align.reports.figures import frontier, ood, quality, toy, toy_grid, toy_kl, training, updates, wins
from tr_align.reports.figures.rendering import SUFFIXES, render
from tr_align.reports.figures.room import with_room
from tr_align.reports.results import Report

__all__ = ["SUFFIXES", "all_figures", "render"]

IN_ORDER = (
    quality.kl_vs_hc,
    frontier.frontier,
    updates.updates,
    wins.win_tie_lose,
    quality.kl_vs_axes,
    quality.diversity,
    quality.length,
    training.training,
    ood.ood,
    toy.toy_mass,
    toy.toy_logps,
    toy_kl.toy_kl,
    toy.toy_curvature,
    toy_grid.toy_grid,
)


def all_figures(report: Report) -> list[Figure]:
    """In the order of the page; a figure without data is left out."""
    roomy, left_out = with_room(report)
    figures = []
    for make in IN_ORDER:
        whole = make is updates.updates  # it is there for the other settings
        figure = make(report if whole else roomy)
        if figure is not None:
            more = [] if whole or figure.about == "toy" else left_out
            figures.append(replace(figure, caption=" ".join([figure.caption, *more])))
    return figures
