"""The figures of a report, each from one definition in three sizes, and their files."""

from __future__ import annotations

from tr_align.reports.figure import Figure
from tr_align.reports.figures import frontier, ood, quality, toy, toy_grid, toy_kl, training, updates, wins
from tr_align.reports.figures.rendering import SUFFIXES, render
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
    return [figure for make in IN_ORDER if (figure := make(report)) is not None]
