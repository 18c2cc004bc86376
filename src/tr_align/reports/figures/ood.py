"""How likely fixed texts become along training: the pairs', SFT's own, replies to other prompts, foreign texts."""

from __future__ import annotations

from tr_align.reports.common import count_text, listed, number
from tr_align.reports.figure import Figure
from tr_align.reports.figures import words
from tr_align.reports.figures.along import Measure, most_rows, panels
from tr_align.reports.figures.frame import Quantity, figure, known, tidy, with_ends
from tr_align.reports.figures.look import losses
from tr_align.reports.results import CELL, Report
from tr_align.reports.theme import Layout, Spec

KINDS = {
    "chosen": "chosen",
    "rejected": "rejected",
    "sft": "SFT's samples",
    "mismatched": "mismatched",
    "foreign": "foreign",
}
MEASURES = ("change", "per_token", "change_per_reply", "per_reply")
ABOUT = {
    "chosen": "held-out chosen replies",
    "rejected": "rejected ones",
    "sft": "the SFT model's own samples",
    "mismatched": "replies to other prompts (mismatched)",
    "foreign": "texts of another kind (foreign)",
}
COLUMNS = (*CELL, "beta", "seeds", "step", "kind", *with_ends(*MEASURES), "n")


def ood(report: Report) -> Figure | None:
    """What each kind of text has gained or lost since SFT, in log-probability per token; a row of panels a kind."""
    measured = [row for row in tidy(report.ood, COLUMNS) if row["kind"] in KINDS and known(row, "change")]
    rows = most_rows([row for row in measured if row["method"] != "sft"])
    if not rows:
        return None
    kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    measures = [
        Measure(
            Quantity("change", KINDS[kind], 2, "change"),
            only=f"datum.kind === '{kind}'",
            rows=[row for row in rows if row["kind"] == kind],
        )
        for kind in kinds
    ]

    def draw(layout: Layout) -> Spec:
        return panels(rows, measures, layout)

    named = listed([ABOUT[kind] for kind in kinds])
    counts = [row["n"] for row in rows if row["n"] is not None]
    caption = [
        "What texts that stay the same have gained or lost since SFT in log-probability per token (nats), along the"
        f" optimizer steps: {named}. What all of them lose is probability that went to texts that are none of them.",
        f"{words.betas_by_loss(rows)}; {count_text(counts)} texts of each kind; {words.seeds(report, rows)};"
        f" bands: {words.intervals(report, rows)}."
        if counts
        else "",
    ]
    alternative = ["Lines with bands along the optimizer steps, small panels by kind of text and loss."]
    for kind in kinds:
        own = [row for row in rows if row["kind"] == kind]
        first, last = (
            {row["cell"]: row for row in sorted(own, key=lambda row: sign * row["step"])} for sign in (-1, 1)
        )
        texts = [
            f"{row['name']} {number(first[cell]['per_token'], 2)} to {number(row['per_token'], 2)}"
            for cell, row in last.items()
        ]
        alternative.append(f"{KINDS[kind]}, log-probability per token from first to last step: {'; '.join(texts)}.")
    title, one = "Log-probability of fixed texts, change since SFT", len(losses(rows)) == 1
    return figure("ood", title, [text for text in caption if text], alternative, rows, report, draw, one)
