"""Labelled pairs to measure a judge with: from the judge split, or from a file of the user's own."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tr_align.config import Params
from tr_align.data import files
from tr_align.data.schema import Pair, read_pairs
from tr_align.data.tables import FORMATS
from tr_align.errors import UserError
from tr_align.settings import Judge

PREPARED = Path("data/prepared")
JUDGE_SPLIT = PREPARED / "judge.jsonl"
LABELS = {
    "embedded": "answers written to be right or wrong",
    "anthropic_hh": "human preferences",
    "tldr": "human preferences",
    "ultrafeedback": "an AI judge's scores",
}
"""Who says which reply is better, by data.source; of `files` it is not known."""


def for_judge(params: Params) -> tuple[list[Pair], str]:
    """The pairs that `calibrate` of params.yaml names, at most `calibrate.pairs`, and whose labels they are.

    Of the judge split, those that :func:`unseen` leaves.

    Raises:
        UserError: the file is missing or cannot be read.
    """
    path = Path(params.calibrate.path)
    if path.parent == PREPARED:
        pairs, labels = read_pairs(path), params.data.source
        if path == JUDGE_SPLIT:
            pairs = unseen(pairs, params.judge)
            labels = labels if params.data.judge != "embedded" else "embedded"
        source = LABELS.get(labels, f"the labels of {params.data.path}")
    else:
        pairs, source = read(path, "calibrate.path", params.data.system_prompt), str(path)
    return choose(pairs, params.calibrate.pairs, params.seed), source


def unseen(pairs: Sequence[Pair], judge: Judge) -> list[Pair]:
    """Those pairs of the judge split that the judge was not fitted on: all of them, if it is an endpoint."""
    if judge.name == "openai":
        return list(pairs)
    from tr_align.judges.probe import held_out_prompts

    held_out = held_out_prompts(pairs, judge.reward if judge.name == "reward" else judge.probe)
    return [pair for pair in pairs if pair.prompt_id in held_out]


def read(path: str | Path, key: str, system_prompt: str | None) -> list[Pair]:
    """Pairs of a user's file, in any form that :mod:`tr_align.data.files` takes; rows that are no pair are reported.

    Args: `key` is the setting or option that named the file, for messages.
    Raises:
        UserError: the file is missing or cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}; give one with prompt, chosen and rejected ({FORMATS})")
    try:
        loaded = files.load(path, system_prompt)
    except UserError as error:
        raise UserError(str(error).replace("data.path", key)) from error
    reasons = [f"{row.where}: {row.detail}" for row in loaded.dropped]
    pairs = []
    for where, pair in loaded.pairs:
        if pair.chosen.split() == pair.rejected.split():
            reasons.append(f"{where}: chosen and rejected are equal")
        else:
            pairs.append(pair)
    if reasons:
        print(f"{key}: {len(reasons)} of {loaded.rows} rows are left out, e.g. {reasons[0]}", file=sys.stderr)
    return pairs


def choose(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """At most `count` pairs by a seeded shuffle; no prompt gives a second pair before every prompt gave one."""
    shuffled = list(pairs)
    random.Random(seed).shuffle(shuffled)
    seen: Counter[str] = Counter()
    rounds = []
    for pair in shuffled:
        rounds.append(seen[pair.prompt_id])
        seen[pair.prompt_id] += 1
    order = sorted(range(len(shuffled)), key=rounds.__getitem__)
    return [shuffled[index] for index in order[:count]]
