"""A report on disk: numbers, figures, tables and the page."""

from __future__ import annotations

from pathlib import Path

from tr_align.reports import dvc_plots, figures, table
from tr_align.reports.collect import to_json
from tr_align.reports.page import build_page
from tr_align.reports.results import Report
from tr_align.scratch import write_atomically


def build(report: Report, folder: Path) -> None:
    """Write a report: metrics.json, kl_hc.json, claims.json, plots/, figures/, tables and index.html under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = figures.all_figures(report)
    files = {
        "metrics.json": to_json(table.metrics(report)),
        "claims.json": to_json(report.claims),
        "frontier.json": to_json({"differences": report.frontier, "peaks": report.peaks}),
        "table.md": f"{table.markdown(report)}\n{table.claims_markdown(report)}",
        "table.tex": f"{table.latex(report)}\n{table.claims_latex(report)}",
    }
    for name, text in files.items():
        write_atomically(folder / name, text)
    dvc_plots.write_data(drawn, folder)
    for figure in drawn:
        figures.render(figure, folder / "figures")
    write_atomically(folder / "index.html", build_page(report, drawn))


def summary(report: Report) -> str:
    """What a terminal shows of a report: the table, the verdict and the claims."""
    lines = [table.text(report), *report.context["verdict"], ""]
    toy = [claim["verdict"] for claim in report.claims if claim["kind"].startswith("toy_")]
    for claim in report.claims:
        if not claim["kind"].startswith("toy_"):
            lines.append(f"  {claim['verdict']:<13} {claim['claim']}: {claim['evidence']}")
    if toy:
        counts = ", ".join(f"{toy.count(kind)} {kind}" for kind in ("supported", "contradicted", "inconclusive"))
        lines.append(f"  {'toy world':<13} of {len(toy)} claims {counts} (docs/toy-mdp.md)")
    return "\n".join(lines)
