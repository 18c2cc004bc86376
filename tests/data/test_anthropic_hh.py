from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tr_align.data.anthropic_hh import load
from tr_align.data.schema import Message
from tr_align.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "anthropic-hh"

ASK = "\n\nHuman: Is tea good cold?\n\nAssistant:"


def save(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def row(chosen: str, rejected: str) -> dict[str, str]:
    return {"chosen": chosen, "rejected": rejected}


def chat(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]  # type: ignore[arg-type]


def test_a_row_becomes_a_pair(tmp_path: Path) -> None:
    loaded = load(save(tmp_path / "a.jsonl", row(ASK + " Yes, with lemon.", ASK + " No.")), None)
    [(where, pair)] = loaded.pairs
    assert where == f"{tmp_path / 'a.jsonl'}:1"
    assert pair.prompt == chat(("user", "Is tea good cold?"))
    assert (pair.chosen, pair.rejected, pair.axis) == ("Yes, with lemon.", "No.", None)
    assert (loaded.rows, loaded.merged_turns) == (1, 0)


def test_turns_before_the_last_reply_stay_turns(tmp_path: Path) -> None:
    start = ASK + " Yes.\n\nHuman: And milk?\n\nAssistant:"
    [(_, pair)] = load(save(tmp_path / "a.jsonl", row(start + " Sure.", start + " Never.")), "Be kind.").pairs
    assert pair.prompt == chat(
        ("system", "Be kind."), ("user", "Is tea good cold?"), ("assistant", "Yes."), ("user", "And milk?")
    )
    assert (pair.chosen, pair.rejected) == ("Sure.", "Never.")


def test_speakers_names_inside_a_text_are_text(tmp_path: Path) -> None:
    inside = "\n\nHuman: Complete this:\nHuman: hello\nand  Assistant: hi\n\nHumans are odd.\n\nAssistant:"
    reply = " I can.  Human: thanks!\nAssistant: bye"
    [(_, pair)] = load(save(tmp_path / "a.jsonl", row(inside + reply, inside + " No.")), None).pairs
    assert pair.prompt == chat(("user", "Complete this:\nHuman: hello\nand  Assistant: hi\n\nHumans are odd."))
    assert pair.chosen == "I can.  Human: thanks!\nAssistant: bye"


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (row(ASK + " Yes.", "\n\nHuman: Is tea bad?\n\nAssistant: No."), "prompts_differ", "before the last reply"),
        # The last reply of one side is two turns: its prompt is longer than the other's.
        (row(ASK + " Yes.", ASK + " No.\n\nAssistant: Never."), "prompts_differ", "before the last reply"),
        (row(ASK + " A.\n\nAssistant: B.", ASK + " A.\n\nAssistant: C."), "unparsable", "two turns of the assistant"),
        (row(ASK + " Yes.", ASK + " No.\n\nHuman: Why?"), "unparsable", "rejected: does not end with"),
        (row("\n\nAssistant: Hi.", ASK + " No."), "unparsable", "chosen: does not begin with"),
        (row("Yes.", ASK + " No."), "unparsable", "chosen: does not begin with"),
        (row("", ASK + " No."), "unparsable", "chosen: does not begin with"),
        ({"chosen": ASK + " Yes."}, "unparsable", "rejected: has to be a transcript"),
        ({"chosen": ASK, "rejected": 3}, "unparsable", "rejected: has to be a transcript, is int"),
        ("[]", "unparsable", "chosen: has to be a transcript"),
        ("{", "unparsable", "chosen: has to be a transcript"),
        (row(ASK + " \ud800", ASK + " No."), "unparsable", "chosen: is not valid Unicode"),
    ],
)
def test_what_is_no_preference_is_dropped_with_a_reason(tmp_path: Path, bad: Any, reason: str, detail: str) -> None:
    path = save(tmp_path / "a.jsonl", row(ASK + " Yes.", ASK + " No."), bad)
    loaded = load(path, None)
    [dropped] = loaded.dropped
    assert (dropped.reason, dropped.where) == (reason, f"{path}:2")
    assert detail in dropped.detail
    assert len(loaded.pairs) == 1


def test_an_empty_last_reply_is_kept_for_prepare_to_count(tmp_path: Path) -> None:
    [(_, pair)] = load(save(tmp_path / "a.jsonl", row(ASK, ASK + " No.")), None).pairs
    assert pair.chosen == ""


def test_two_turns_of_one_speaker_in_the_prompt_are_merged_and_counted(tmp_path: Path) -> None:
    start = (
        "\n\nHuman: Hello\n\nHuman: Is tea good?\n\nAssistant: Yes.\n\nAssistant: Very.\n\nHuman: Why?\n\nAssistant:"
    )
    loaded = load(save(tmp_path / "a.jsonl", row(start + " Taste.", start + " No.")), None)
    assert loaded.pairs[0][1].prompt == chat(
        ("user", "Hello\n\nIs tea good?"), ("assistant", "Yes.\n\nVery."), ("user", "Why?")
    )
    assert loaded.merged_turns == 1


def test_a_folder_is_read_with_all_below_it_in_order(tmp_path: Path) -> None:
    for name in ("b/test.jsonl.gz", "a/x/train.jsonl.gz", "c.jsonl", "a/readme.txt"):
        save(tmp_path / name, row(ASK + f" {name}", ASK + " No."))
    assert [pair.chosen for _, pair in load(tmp_path, None).pairs] == [
        "a/x/train.jsonl.gz",
        "b/test.jsonl.gz",
        "c.jsonl",
    ]


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: there is no such file or folder.*data\.path"):
        load(tmp_path / "nowhere", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no \*\.jsonl\.gz, \*\.jsonl, \*\.parquet file; see data\.path"):
        load(tmp_path / "empty", None)
    with pytest.raises(UserError, match="holds no rows"):
        load(save(tmp_path / "blank.jsonl", ""), None)
    (tmp_path / "hollow.jsonl").write_text("")
    with pytest.raises(UserError, match=r"hollow\.jsonl: is empty"):
        load(tmp_path / "hollow.jsonl", None)
    with pytest.raises(UserError, match=r"hh\.csv: unknown ending; data\.path takes \.jsonl, \.jsonl\.gz, \.parquet"):
        load(save(tmp_path / "hh.csv", "a"), None)
    (tmp_path / "fake.jsonl.gz").write_bytes(b"not compressed")
    with pytest.raises(UserError, match=r"fake\.jsonl\.gz: cannot be read"):
        load(tmp_path / "fake.jsonl.gz", None)
    cut = gzip.compress(json.dumps(row(ASK + " Yes." * 999, ASK)).encode())[:40]
    (tmp_path / "cut.jsonl.gz").write_bytes(cut)
    with pytest.raises(UserError, match=r"cut\.jsonl\.gz: cannot be read"):
        load(tmp_path / "cut.jsonl.gz", None)


def test_subsets_are_folders(tmp_path: Path) -> None:
    for name in ("a/train.jsonl.gz", "a/deep/test.jsonl", "b/train.jsonl", "c.jsonl"):
        save(tmp_path / name, row(ASK + f" {name}", ASK + " No."))

    def chosen(*subsets: str) -> list[str]:
        return [pair.chosen for _, pair in load(tmp_path, None, subsets=subsets).pairs]

    assert chosen("a") == ["a/deep/test.jsonl", "a/train.jsonl.gz"]
    assert chosen("b", "a") == ["a/deep/test.jsonl", "a/train.jsonl.gz", "b/train.jsonl"]
    with pytest.raises(UserError, match=r"^data\.subsets: .* has no 'd'; it has a, b$"):
        chosen("a", "d")
    with pytest.raises(UserError, match=r"^data\.subsets: selects from a folder .*c\.jsonl is a file; make it null$"):
        load(tmp_path / "c.jsonl", None, subsets=["a"])


@pytest.mark.skipif(not REAL.is_dir(), reason="the original HH test files are not beside the repository")
def test_the_original_test_files() -> None:
    """Counts checked by hand against the files.

    In all 14 rows with differing prompts one side's last reply is two assistant turns, so that the other side's
    prompt is shorter. The two unparsable rows end with a question of the human.
    """
    loaded = load(REAL, "")
    assert loaded.rows == 5803
    assert Counter(dropped.reason for dropped in loaded.dropped) == {"prompts_differ": 14, "unparsable": 2}
    assert Counter(Path(d.where).parent.name for d in loaded.dropped if d.reason == "prompts_differ") == {
        "helpful-base": 9,
        "harmless-base": 5,
    }
    assert loaded.merged_turns == 10
    assert all(pair.prompt[0].role == "system" and pair.prompt[-1].role == "user" for _, pair in loaded.pairs)
    part = load(REAL, None, subsets=["harmless-base"])
    assert (part.rows, len(part.dropped)) == (2312, 5)
