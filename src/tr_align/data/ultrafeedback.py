"""UltraFeedback as pairs of whole chats with their scores.

The layout of HuggingFaceH4/ultrafeedback_binarized (Zephyr, arXiv 2310.16944), and that of the sets whose replies are
a model's own, such as princeton-nlp/llama3-ultrafeedback (SimPO's Instruct setting, arXiv 2405.14734).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tr_align.data import files, rows
from tr_align.data.hub import Published
from tr_align.data.loaded import BadRow, Loaded
from tr_align.data.schema import Pair

HUB = Published("HuggingFaceH4/ultrafeedback_binarized", splits=("train_prefs", "train"))


def load(
    path: str | Path | None,
    system_prompt: str | None,
    revision: str | None = None,
    subsets: Sequence[str] | None = None,
) -> Loaded[Pair]:
    """Read pairs from the hub, a file, or a folder, as :func:`tr_align.data.rows.open_rows`.

    Rows that are no preference are left out with a reason: those of :func:`tr_align.data.files.load`, or `tie` (both
    replies have the same score, which is no fault).

    Raises:
        UserError: the source cannot be read or holds no row.
    """
    return rows.load(HUB, path, revision, subsets, lambda row: to_pair(row, system_prompt), "UltraFeedback pairs")


def to_pair(row: Any, system_prompt: str | None) -> Pair:
    """One row as a pair.

    Scores are `score_chosen` and `score_rejected`, or `all_rm_scores` of all replies, of which chosen and rejected are
    the best and the worst.

    Raises:
        BadRow: the row is no preference, for one of the reasons that :func:`load` lists.
    """
    if isinstance(row, dict):
        scores = row.get("all_rm_scores") or [row.get("score_chosen"), row.get("score_rejected")]
        if None not in scores and max(scores) == min(scores):
            raise BadRow("tie", f"score_chosen, score_rejected: are both {scores[0]:g}", fault=False)
    return files.to_pair(row, system_prompt)
