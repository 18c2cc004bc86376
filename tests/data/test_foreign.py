"""Texts of another kind: the shipped ones, the formats of a user's own, and every mistake in one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tr_align.data import foreign
from tr_align.errors import UserError
from tr_align.settings import Ood

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / Ood().texts


def jsonl(folder: Path, *rows: Any, name: str = "own.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(row + "\n" if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return path


def test_the_shipped_texts() -> None:
    """Short, different, of many kinds, and the kinds take turns: few prompts meet many of them."""
    rows = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    texts = foreign.read(SHIPPED)
    assert texts == [row["text"] for row in rows]
    assert len(set(texts)) == len(texts) == 108
    assert all(15 <= len(text.split()) <= 60 for text in texts)
    kinds = [row["kind"] for row in rows]
    assert set(Counter(kinds).values()) == {4}
    assert all(len(set(kinds[start : start + 27])) == 27 for start in (0, 27, 54, 81))


def test_their_card_counts_them() -> None:
    card = (SHIPPED.parent / "README.md").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in SHIPPED.read_text(encoding="utf-8").splitlines()]
    mean = round(sum(len(row["text"].split()) for row in rows) / len(rows))
    assert card.startswith("# Foreign texts\n\n108 short passages")
    assert f"27 kinds, four texts of each, {mean} words on average." in card
    listed = " ".join(card.partition("on average.")[2].partition("##")[0].split())
    assert listed == ", ".join(sorted({row["kind"] for row in rows}, key=str.lower))


def test_every_format_and_no_other_column(tmp_path: Path) -> None:
    texts = ["one, two", 'a "quoted"\nline', "NA"]
    rows = [{"id": place, "text": text} for place, text in enumerate(texts)]
    jsonl(tmp_path, *rows)
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "own.csv", index=False)
    frame.to_parquet(tmp_path / "own.parquet")
    for ending in ("jsonl", "csv", "parquet"):
        assert foreign.read(tmp_path / f"own.{ending}") == texts
    assert foreign.read(str(tmp_path / "own.jsonl")) == texts


GOOD = {"text": "a"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, "{torn", GOOD], r"own\.jsonl, row 2: is no JSON object with text; put the line right or delete it$"),
        ([GOOD, [1], GOOD], r"row 2: is no JSON object"),
        ([GOOD, {"txt": "a"}], r"row 2: has no text; name the column text, or put another file in ood\.texts$"),
        ([GOOD, {"text": None}], r"row 2: has no text"),
        ([{"text": ["a"]}, GOOD], r"row 1: text has to be text, is list; put it right or delete the row$"),
        ([GOOD, GOOD, {"text": " \n\t"}], r"row 3: text is empty; fill it in or delete the row$"),
        ([GOOD, {"text": "a\ud800"}], r"row 2: text is not valid Unicode \(position 1\); put it right$"),
        ([GOOD], r"own\.jsonl: has 1 texts, and ood\.texts needs 2 at least, one a prompt; add some$"),
        ([], r"own\.jsonl: is empty; it needs rows with a column text$"),
        (["", ""], r"has 0 texts"),
    ],
    ids=["torn", "no object", "no text", "null", "a list", "blank", "half a character", "one", "no byte", "no row"],
)
def test_a_row_that_is_no_text(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        foreign.read(jsonl(tmp_path, *rows))


def test_a_file_that_is_not_there_or_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^ood\.texts: there is no file .*nowhere\.jsonl; give one with a column text"):
        foreign.read(tmp_path / "nowhere.jsonl")
    with pytest.raises(UserError, match=r"^ood\.texts: there is no file"):
        foreign.read(tmp_path)
    with pytest.raises(UserError, match=r"own\.txt: unknown ending; ood\.texts takes \.jsonl"):
        foreign.read(jsonl(tmp_path, GOOD, name="own.txt"))
    (tmp_path / "own.csv").write_text("words\na\nb\n")
    with pytest.raises(UserError, match=r"own\.csv: has no column 'text'; it has words\. Rename or add it"):
        foreign.read(tmp_path / "own.csv")
