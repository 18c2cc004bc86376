from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tr_align.data.demonstrations import from_tldr, load, to_demonstration
from tr_align.data.loaded import BadRow
from tr_align.data.schema import Demonstration, Message, read_demonstrations, write_demonstrations
from tr_align.errors import UserError
from tr_align.settings import SftData

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def made(prompt: list[str], completion: list[str]) -> Demonstration:
    return Demonstration(
        prompt=[Message(role="user", content=text) for text in prompt],
        completion=[Message(role=("assistant", "user")[n % 2], content=t) for n, t in enumerate(completion)],  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "Tea?", "completion": "Yes."}, made(["Tea?"], ["Yes."])),
        ({"prompt": chat("Tea?"), "completion": [{"role": "assistant", "content": "Yes."}]}, made(["Tea?"], ["Yes."])),
        ({"messages": chat("Tea?", "Yes.")}, made(["Tea?"], ["Yes."])),
        # UltraChat: its prompt is the first turn once more.
        (
            {"prompt": "Tea?", "prompt_id": "1", "messages": chat("Tea?", "Yes.", "Why?", "Taste.")},
            made(["Tea?"], ["Yes.", "Why?", "Taste."]),
        ),
    ],
    ids=["text", "chats", "messages", "ultrachat"],
)
def test_a_row_becomes_a_demonstration(row: dict[str, Any], expected: Demonstration) -> None:
    assert to_demonstration(row, None) == expected
    assert to_demonstration(row, "Hm.").prompt == [Message(role="system", content="Hm."), *expected.prompt]


def test_a_system_message_and_a_history_belong_to_the_prompt() -> None:
    system = {"role": "system", "content": "Mine."}
    found = to_demonstration({"messages": [system, *chat("Tea?", "Yes.")]}, "Ours.")
    assert [message.content for message in found.prompt] == ["Mine.", "Tea?"]
    found = to_demonstration({"prompt": chat("Hi", "Hello", "Tea?"), "completion": "Yes."}, None)
    assert ([m.content for m in found.prompt], [m.content for m in found.completion]) == (
        ["Hi", "Hello", "Tea?"],
        ["Yes."],
    )


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (None, "unparsable", "is not a JSON object with prompt and completion, or messages"),
        ({"prompt": "x"}, "missing_field", "completion: is missing"),
        ({"completion": "x"}, "missing_field", "prompt: is missing"),
        ({"messages": "x"}, "wrong_type", "messages: has to be a list of messages, is text"),
        ({"messages": []}, "wrong_type", "messages: has no messages"),
        ({"messages": [{"role": "human", "content": "x"}]}, "wrong_type", "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no_user_turn", "has no user turn"),
        ({"prompt": [{"role": "system", "content": "x"}], "completion": "y"}, "no_user_turn", "ends with system"),
        ({"messages": chat("x")}, "no_reply", "has nothing"),
        ({"messages": chat("x", "y", "z")}, "no_reply", "has assistant, user"),
        ({"messages": [*chat("x", "y"), *chat("x", "y")[1:]]}, "no_reply", "has assistant, assistant"),
        ({"prompt": "x", "completion": chat("y")}, "no_reply", "has user"),
    ],
)
def test_what_is_no_demonstration_has_a_reason(row: Any, reason: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_demonstration(row, None)
    assert caught.value.reason == reason and detail in caught.value.detail


PROMPT = "SUBREDDIT: r/bikes\n\nTITLE: Ouch\n\nPOST: I fell.\n\nTL;DR:"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "completion": " fell"},  # trl-lib/tldr
        {"prompt": PROMPT, "label": "fell"},  # CarperAI/openai_summarize_tldr
        {"id": "1", "subreddit": "bikes", "title": "Ouch", "post": "I fell.", "summary": "fell"},  # OpenAI
        {"prompt": PROMPT, "messages": chat(PROMPT, "fell"), "summary": "fell", "post": "I fell."},  # TRL's SFT set
    ],
    ids=["trl", "carperai", "openai", "messages"],
)
def test_every_layout_of_tldr_gives_the_same(row: dict[str, Any]) -> None:
    assert from_tldr(row, None) == made([PROMPT], ["fell"])
    assert from_tldr(row, "Hm.").prompt[0] == Message(role="system", content="Hm.")


def test_what_is_no_summary_has_a_reason() -> None:
    for row, reason in (
        ({"post": "x", "title": "y", "subreddit": "z"}, "missing_field"),
        ({"prompt": "x"}, "missing_field"),
        ({"label": "x"}, "missing_field"),
        ({"messages": chat("a", "b", "c", "d")}, "no_reply"),
        (3, "unparsable"),
    ):
        with pytest.raises(BadRow) as caught:
            from_tldr(row, None)
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_files_of_ones_own(tmp_path: Path, name: str) -> None:
    rows = [{"prompt": "Tea?", "completion": "Yes.", "extra": 1}, {"prompt": "Milk?", "completion": "No.", "extra": 2}]
    path = tmp_path / name
    if name.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        getattr(pd.DataFrame(rows), {"a.csv": "to_csv", "a.parquet": "to_parquet"}[name])(path)
    loaded = load(SftData(source="files", path=str(path)), None)
    assert [row for _, row in loaded.pairs] == [made(["Tea?"], ["Yes."]), made(["Milk?"], ["No."])]


def test_messages_in_a_table(tmp_path: Path) -> None:
    pd.DataFrame([{"messages": chat("Tea?", "Yes.", "Why?", "Taste.")}]).to_parquet(tmp_path / "a.parquet")
    [(_, row)] = load(SftData(source="files", path=str(tmp_path / "a.parquet")), None).pairs
    assert row == made(["Tea?"], ["Yes.", "Why?", "Taste."])


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.sft\.path: is null, but data\.sft\.source is 'files'"):
        load(SftData(source="files"), None)
    with pytest.raises(UserError, match=r"there is no such file; put the right one in data\.sft\.path"):
        load(SftData(source="files", path=str(tmp_path / "a.jsonl")), None)
    with pytest.raises(UserError, match=r"there is no such file or folder; put the right one in data\.sft\.path"):
        load(SftData(source="ultrachat", path=str(tmp_path / "a.jsonl")), None)
    pd.DataFrame([{"prompt": "x", "answer": "y"}]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match=r"has no column 'completion'; it has prompt, answer"):
        load(SftData(source="files", path=str(tmp_path / "a.csv")), None)
    (tmp_path / "b.jsonl").write_text("\n")
    with pytest.raises(UserError, match="is empty; it needs rows with prompt and completion, or messages"):
        load(SftData(source="files", path=str(tmp_path / "b.jsonl")), None)


def test_demonstrations_survive_their_file(tmp_path: Path) -> None:
    rows = [made(["one\u2028two\x85"], ["a\r\nb", "c", "d"]), made(["ü"], [""])]
    write_demonstrations(tmp_path / "a.jsonl", rows)
    assert read_demonstrations(tmp_path / "a.jsonl") == rows
    with (tmp_path / "a.jsonl").open("a", encoding="utf-8") as file:
        wrong = {"prompt": chat("x"), "completion": chat("y", "z")}
        file.write(json.dumps(wrong) + "\n")
    with pytest.raises(UserError, match=r"a\.jsonl:3: is not a demonstration .*begin and to end with a message of the"):
        read_demonstrations(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"there is no such file; run `dvc repro prepare` first"):
        read_demonstrations(tmp_path / "b.jsonl")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not beside the repository")
def test_real_chats() -> None:
    """UltraFeedback's `messages` have UltraChat's layout; an empty reply is left for prepare to count."""
    path = SHARED / "ultrafeedback" / "train_h4format.jsonl.gz"
    loaded = load(SftData(source="ultrachat", path=str(path)), None)
    assert (len(loaded.pairs), loaded.dropped) == (600, [])
    assert all([m.role for m in row.prompt] == ["user"] for _, row in loaded.pairs)
