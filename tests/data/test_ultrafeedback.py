from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tr_align.data.loaded import BadRow
from tr_align.data.schema import Message, Pair
from tr_align.data.ultrafeedback import load, to_pair
from tr_align.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ultrafeedback"
needs_rows = pytest.mark.skipif(not REAL.is_dir(), reason="the UltraFeedback rows are not beside the repository")


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"content": text, "role": ("user", "assistant")[n % 2]} for n, text in enumerate(texts)]


H4: dict[str, Any] = {
    "prompt": "Tea?",
    "prompt_id": "1",
    "chosen": chat("Tea?", "Yes."),
    "rejected": chat("Tea?", "No."),
    "messages": chat("Tea?", "Yes."),
    "score_chosen": 8.0,
    "score_rejected": 5.5,
}
ON_POLICY: dict[str, Any] = {
    "prompt_id": "1",
    "prompt": "Tea?",
    "all_generated_responses": ["No.", "Hm.", "Yes."],
    "all_rm_scores": [0.1, 0.1, 0.3],  # a tie among the others is none of the pair
    "chosen": chat("Tea?", "Yes."),
    "rejected": chat("Tea?", "No."),
}
TEA = Pair(prompt=[Message(role="user", content="Tea?")], chosen="Yes.", rejected="No.")


@pytest.mark.parametrize("row", [H4, ON_POLICY], ids=["h4", "on-policy"])
def test_a_row_becomes_a_pair(row: dict[str, Any]) -> None:
    assert to_pair(row, None) == TEA
    assert [message.role for message in to_pair(row, "").prompt] == ["system", "user"]


@pytest.mark.parametrize(
    "row",
    [
        {**H4, "score_rejected": 8.0},
        {**ON_POLICY, "all_rm_scores": [0.25, 0.25, 0.25]},
    ],
    ids=["h4", "on-policy"],
)
def test_equal_scores_are_a_tie_and_no_fault(row: dict[str, Any]) -> None:
    with pytest.raises(BadRow) as caught:
        to_pair(row, None)
    assert (caught.value.reason, caught.value.fault) == ("tie", False)


def test_rows_without_scores_are_pairs() -> None:
    assert to_pair({**H4, "score_chosen": None, "score_rejected": None}, None) == TEA
    assert to_pair({key: H4[key] for key in ("prompt", "chosen", "rejected")}, None) == TEA


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**H4, "rejected": None}, "missing_field"),
        ({**H4, "chosen": chat("Coffee?", "Yes.")}, "prompts_differ"),
        ({**H4, "chosen": 3}, "wrong_type"),
        (None, "unparsable"),
    ],
)
def test_what_is_no_pair_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_pair(row, None)
    assert (caught.value.reason, caught.value.fault) == (reason, True)


def test_a_copy_of_the_hubs_folder_is_read_as_there(tmp_path: Path) -> None:
    """Parquet files of six splits; the preferences for training are the default."""
    (tmp_path / "data").mkdir()
    for split in ("train", "train_prefs", "train_sft", "test_prefs"):
        rows = [{**H4, "prompt": split, "chosen": chat(split, "a"), "rejected": chat(split, "b")}] * 2
        pd.DataFrame(rows).to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    assert {pair.prompt[0].content for _, pair in load(tmp_path, None).pairs} == {"train_prefs"}
    loaded = load(tmp_path, None, subsets=["test_prefs"])
    assert [where.rpartition("/")[2] for where, _ in loaded.pairs] == [
        "test_prefs-00000-of-00001.parquet:1",
        "test_prefs-00000-of-00001.parquet:2",
    ]
    assert loaded.origin is None
    with pytest.raises(UserError, match=r"has no 'prefs'; it has test_prefs, train, train_prefs, train_sft"):
        load(tmp_path, None, subsets=["prefs"])


def test_the_train_split_where_there_are_no_others(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl.gz").write_bytes(gzip.compress(json.dumps(ON_POLICY).encode()))
    assert [where for where, _ in load(tmp_path, None).pairs] == [f"{tmp_path}/train.jsonl.gz:1"]


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(UserError, match="holds no rows"):
        load(tmp_path / "a.jsonl", None)


@needs_rows
def test_real_rows() -> None:
    """Counted by hand: 63 of 600 and 20 of 120 rows are ties; the genuine row is none."""
    for name, rows, ties in (("train_h4format.jsonl.gz", 600, 63), ("eval_h4format.jsonl.gz", 120, 20)):
        loaded = load(REAL / name, None)
        assert loaded.rows == rows
        assert Counter(row.reason for row in loaded.dropped) == {"tie": ties}
        assert all([message.role for message in pair.prompt] == ["user"] for _, pair in loaded.pairs)
    [(_, pair)] = load(REAL / "h4_schema_row.jsonl", None).pairs
    assert pair.prompt[0].content == "Which books are still banned in Canada?"
    assert pair.chosen.startswith("As a responsible") and pair.rejected.startswith("According to")


@needs_rows
def test_a_folder_without_known_splits_is_read_whole() -> None:
    assert load(REAL, None).rows == 721
    assert load(REAL, None, subsets=["eval_h4format"]).rows == 120
