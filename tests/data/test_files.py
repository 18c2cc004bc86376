from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tr_align.data.files import load
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


TEXT = {"prompt": "Tea?", "chosen": "Yes.", "rejected": "No."}
CHAT = {
    "prompt": [user("Hi"), assistant("Hello"), user("Tea?")],
    "chosen": [assistant("Yes.")],
    "rejected": [assistant("No.")],
}
WHOLE = {
    "chosen": [user("Tea?"), assistant("Yes.")],
    "rejected": [user("Tea?"), assistant("No.")],
}
TEA = Pair(prompt=[Message(role="user", content="Tea?")], chosen="Yes.", rejected="No.")
HI_TEA = TEA.model_copy(
    update={
        "prompt": [
            Message(role="user", content="Hi"),
            Message(role="assistant", content="Hello"),
            Message(role="user", content="Tea?"),
        ]
    }
)


def jsonl(path: Path, *rows: Any) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def csv(path: Path, *rows: dict[str, Any]) -> Path:
    cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()} for row in rows]
    pd.DataFrame(cells).to_csv(path, index=False)
    return path


def parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pd.DataFrame(list(rows)).to_parquet(path)
    return path


def read(path: Path, system_prompt: str | None = None) -> list[Pair]:
    loaded = load(path, system_prompt)
    assert loaded.dropped == []
    return [pair for _, pair in loaded.pairs]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL", "a.csv", "a.parquet"])
@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (TEXT, TEA),
        (CHAT, HI_TEA),
        (WHOLE, TEA),
        ({**WHOLE, "prompt": "Tea?"}, TEA),
        ({"prompt": "Tea?", "chosen": CHAT["chosen"], "rejected": CHAT["rejected"]}, TEA),
        ({"prompt": CHAT["prompt"], "chosen": "Yes.", "rejected": "No."}, HI_TEA),
        (
            {
                "prompt": CHAT["prompt"],
                "chosen": CHAT["prompt"] + CHAT["chosen"],
                "rejected": CHAT["prompt"] + CHAT["rejected"],
            },
            HI_TEA,
        ),
    ],
    ids=["text", "chat", "whole", "whole-with-text-prompt", "text-prompt", "text-replies", "whole-with-chat-prompt"],
)
def test_every_format_takes_every_form(tmp_path: Path, name: str, row: dict[str, Any], expected: Pair) -> None:
    write = {".csv": csv, ".parquet": parquet}.get(Path(name).suffix, jsonl)
    assert read(write(tmp_path / name, row, row)) == [expected, expected]


def test_the_system_prompt_is_put_first_unless_the_row_has_one(tmp_path: Path) -> None:
    own = {**TEXT, "prompt": [{"role": "system", "content": "Mine."}, user("Tea?")]}
    with_none, with_own = read(jsonl(tmp_path / "a.jsonl", TEXT, own), "Ours.")
    assert [m.content for m in with_none.prompt] == ["Ours.", "Tea?"]
    assert [m.content for m in with_own.prompt] == ["Mine.", "Tea?"]
    assert [m.content for m in read(jsonl(tmp_path / "a.jsonl", TEXT), "")[0].prompt] == ["", "Tea?"]


def test_csv_cells_stay_the_text_they_are(tmp_path: Path) -> None:
    row = {"prompt": "[1] or [2]?", "chosen": "NA", "rejected": '["null"]'}
    [pair] = read(csv(tmp_path / "a.csv", row))
    assert (pair.prompt[0].content, pair.chosen, pair.rejected) == ("[1] or [2]?", "NA", '["null"]')


def test_other_columns_and_message_keys_are_ignored(tmp_path: Path) -> None:
    row = {**TEXT, "chosen": [{**assistant("Yes."), "name": None}], "score": 3}
    assert read(jsonl(tmp_path / "a.jsonl", row)) == [TEA]
    assert read(parquet(tmp_path / "a.parquet", row)) == [TEA]


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\ufeff" + json.dumps(TEXT) + "\n\n" + json.dumps(TEXT) + "\n", encoding="utf-8")
    assert [where for where, _ in load(path, None).pairs] == [f"{path}:1", f"{path}:3"]


LONG = [user("Tea?"), assistant("Yes."), user("Why?"), assistant("Taste.")]


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        ({"prompt": "Tea?", "chosen": "Yes."}, "missing_field", "rejected: is missing"),
        ({**TEXT, "chosen": None}, "missing_field", "chosen: is missing"),
        ({"chosen": "Yes.", "rejected": "No."}, "missing_field", "prompt: is missing"),
        ({"chosen": [assistant("A")], "rejected": [assistant("B")]}, "missing_field", "prompt: is missing"),
        ({**TEXT, "prompt": 3}, "wrong_type", "prompt: has to be text or a list of messages, is int"),
        ({**TEXT, "rejected": {"role": "user"}}, "wrong_type", "rejected: has to be text or a list of messages"),
        ({**TEXT, "prompt": []}, "wrong_type", "prompt: has no messages"),
        ({**TEXT, "prompt": ["Tea?"]}, "wrong_type", "prompt[0]: has to be a message"),
        ({**TEXT, "prompt": [user("Hi"), {"role": "user"}]}, "wrong_type", "prompt[1]: has to be a message"),
        ({**TEXT, "prompt": [{"role": "human", "content": "Hi"}]}, "wrong_type", "prompt[0].role: has to be one of"),
        ({**TEXT, "chosen": [user("Yes.")]}, "wrong_type", "chosen: has to end with an assistant message"),
        ({**TEXT, "chosen": "\ud800"}, "wrong_type", "chosen: is not valid Unicode"),
        ({**TEXT, "prompt": [user("Hi"), assistant("Hello")]}, "no_user_turn", "ends with assistant"),
        ({**TEXT, "prompt": [{"role": "system", "content": "Hi"}]}, "no_user_turn", "ends with system"),
        ({**CHAT, "chosen": LONG}, "prompts_differ", "chosen: is neither one message nor"),
        ({"chosen": LONG, "rejected": WHOLE["rejected"]}, "prompts_differ", "differ in the last message only"),
        ({"chosen": [user("A"), assistant("B")], "rejected": WHOLE["rejected"]}, "prompts_differ", "last message only"),
        ("[1]", "unparsable", "is not a JSON object"),
        ("{", "unparsable", "is not a JSON object"),
    ],
)
def test_a_faulty_row_is_dropped_with_its_place_and_key(tmp_path: Path, bad: Any, reason: str, detail: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", TEXT, bad)
    loaded = load(path, None)
    [dropped] = loaded.dropped
    assert (dropped.reason, dropped.where) == (reason, f"{path}:2")
    assert detail in dropped.detail
    assert loaded.rows == 2


def test_rows_of_tables_are_numbered_without_the_header(tmp_path: Path) -> None:
    bad = {**TEXT, "prompt": [assistant("Hi")]}
    path = csv(tmp_path / "a.csv", TEXT, bad)
    assert load(path, None).dropped[0].where == f"{path}:2"
    path = parquet(tmp_path / "a.parquet", {**TEXT, "rejected": "No."}, {**TEXT, "rejected": None})
    assert (load(path, None).dropped[0].where, load(path, None).dropped[0].reason) == (f"{path}:2", "missing_field")


def test_no_path_no_file_and_unknown_endings_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path: is null"):
        load(None, None)
    with pytest.raises(UserError, match=r"a\.jsonl: there is no such file; put the right one in data\.path"):
        load(tmp_path / "a.jsonl", None)
    with pytest.raises(UserError, match=r"there is no such file"):
        load(tmp_path, None)
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"a\.xlsx: unknown ending; data\.path takes \.jsonl"):
        load(tmp_path / "a.xlsx", None)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("")
    with pytest.raises(UserError, match="is empty"):
        load(tmp_path / name, None)


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n\n")
    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\n")
    jsonl(tmp_path / "a.jsonl.gz")
    pd.DataFrame(columns=["prompt", "chosen", "rejected"]).to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.csv", "a.jsonl.gz", "a.parquet"):
        with pytest.raises(UserError, match="is empty"):
            load(tmp_path / name, None)


@pytest.mark.parametrize(("name", "write"), [("a.csv", csv), ("a.parquet", parquet)])
def test_a_missing_column_is_an_error(tmp_path: Path, name: str, write: Any) -> None:
    with pytest.raises(UserError, match=r"has no column 'rejected'; it has prompt, chosen"):
        load(write(tmp_path / name, {"prompt": "Tea?", "chosen": "Yes."}), None)


def test_files_that_are_not_what_they_are_called_are_errors(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.jsonl.gz"):
        (tmp_path / name).write_text("just text")
        with pytest.raises(UserError, match=rf"{name}: cannot be read"):
            load(tmp_path / name, None)
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "a.jsonl", None)
    (tmp_path / "a.csv").write_text('prompt,chosen,rejected\n"a,b\n')
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "a.csv", None)
