from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tr_align.data.loaded import BadRow
from tr_align.data.schema import Message, Pair
from tr_align.data.tldr import load, to_pair
from tr_align.errors import UserError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tldr"
needs_rows = pytest.mark.skipif(not REAL.is_dir(), reason="the TL;DR rows are not beside the repository")

RAW: dict[str, Any] = {
    "info": {"id": "t3_1", "post": "I fell.\n\nTwice.", "title": "Ouch", "subreddit": "bikes", "article": None},
    "summaries": [{"text": " fell twice", "policy": "ref", "note": None}, {"text": " fell", "policy": "sup4"}],
    "choice": 1,
    "batch": "batch3",
}
PROMPT = "SUBREDDIT: r/bikes\n\nTITLE: Ouch\n\nPOST: I fell.\n\nTwice.\n\nTL;DR:"


def asked(text: str, **replies: str) -> Pair:
    return Pair(prompt=[Message(role="user", content=text)], **replies)


def test_a_raw_comparison_becomes_a_pair() -> None:
    assert to_pair(RAW, None) == asked(PROMPT, chosen="fell", rejected="fell twice")
    other = to_pair({**RAW, "choice": 0}, "Be brief.")
    assert (other.chosen, other.rejected) == ("fell twice", "fell")
    assert [m.content for m in other.prompt] == ["Be brief.", PROMPT]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": PROMPT, "chosen": " fell", "rejected": " fell twice"},  # trl-lib/tldr-preference
        {  # trl-internal-testing/tldr-preference-trl-style
            **RAW,
            "prompt": PROMPT,
            "chosen": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "fell"}],
            "rejected": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "fell twice"}],
        },
        {  # the same without the raw columns
            "prompt": PROMPT,
            "chosen": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "fell"}],
            "rejected": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "fell twice"}],
        },
    ],
    ids=["trl", "trl-style", "chats"],
)
def test_trls_layouts_give_the_same_pair(row: dict[str, Any]) -> None:
    assert to_pair(row, None) == to_pair(RAW, None)


def test_carperais_cue_moves_from_the_replies_to_the_prompt() -> None:
    prompt = "SUBREDDIT: r/bikes\nTITLE: Ouch\nPOST: I fell."
    row = {"prompt": prompt + "\n", "chosen": "TL;DR: fell", "rejected": "TL;DR:  fell twice\n"}
    assert to_pair(row, None) == asked(prompt + "\nTL;DR:", chosen="fell", rejected="fell twice")


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RAW), **changes}


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        (changed(choice=2), "wrong_type", "choice: has to be 0 or 1, is 2"),
        (changed(choice=-1), "wrong_type", "choice: has to be 0 or 1"),
        (changed(choice=True), "wrong_type", "choice: has to be 0 or 1, is True"),
        (changed(choice=None), "wrong_type", "choice: has to be 0 or 1, is None"),
        (changed(summaries=RAW["summaries"][:1]), "wrong_type", "summaries: has to be a list of two"),
        (changed(summaries=["a", "b"]), "wrong_type", "summaries: has to be a list of two"),
        (changed(summaries=[{"text": 3}, {"text": "b"}]), "wrong_type", "summaries[0].text: has to be text, is int"),
        (changed(summaries=[{"text": "a"}, {}]), "missing_field", "summaries[1].text: is missing"),
        (changed(info=None), "wrong_type", "info: has to be an object"),
        (changed(info={"title": "x", "subreddit": "y"}), "missing_field", "info.post: is missing"),
        (changed(info={**RAW["info"], "title": "\ud800"}), "wrong_type", "info.title: is not valid Unicode"),
        ({"prompt": "x", "chosen": "y"}, "missing_field", "rejected: is missing"),
        (None, "unparsable", "is not a JSON object"),
    ],
)
def test_what_is_no_comparison_has_a_reason(row: Any, reason: str, detail: str) -> None:
    with pytest.raises(BadRow) as caught:
        to_pair(row, None)
    assert caught.value.reason == reason and detail in caught.value.detail and caught.value.fault


def test_a_news_article_is_left_out_without_fault() -> None:
    row = changed(info={"id": "1", "title": "News", "article": "It rained.", "post": None, "subreddit": None})
    with pytest.raises(BadRow, match="not_reddit") as caught:
        to_pair(row, None)
    assert not caught.value.fault


def test_splits_of_a_folder_are_told_by_their_names(tmp_path: Path) -> None:
    for name in ("data/train-00000-of-00001.jsonl", "data/validation-00000-of-00001.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        row = {"prompt": PROMPT, "chosen": name, "rejected": "b"}
        (tmp_path / name).write_text(json.dumps(row) + "\n")

    def chosen(*subsets: str) -> list[str]:
        return [pair.chosen for _, pair in load(tmp_path, None, subsets=subsets or None).pairs]

    assert chosen() == ["data/train-00000-of-00001.jsonl"]
    assert chosen("validation") == ["data/validation-00000-of-00001.jsonl"]
    assert len(chosen("train", "validation")) == 2
    with pytest.raises(UserError, match=r"^data\.subsets: .* has no 'test'; it has train, validation$"):
        chosen("test")


@needs_rows
def test_openais_own_rows() -> None:
    loaded = load(REAL / "raw_comparisons_rows.jsonl", None)
    assert (loaded.rows, len(loaded.pairs)) == (2, 2)
    for (_, pair), line in zip(loaded.pairs, (REAL / "raw_comparisons_rows.jsonl").open(encoding="utf-8"), strict=True):
        raw = json.loads(line)
        assert pair.chosen == raw["summaries"][raw["choice"]]["text"].strip()
        assert pair.rejected == raw["summaries"][1 - raw["choice"]]["text"].strip()
        assert pair.prompt[0].content.startswith(f"SUBREDDIT: r/{raw['info']['subreddit']}\n\nTITLE: ")
        assert pair.prompt[0].content.endswith("\n\nTL;DR:")


@needs_rows
def test_preprocessed_rows() -> None:
    """600 different posts; all summaries begin with two spaces in the file, and 17 of the rejected end with space."""
    loaded = load(REAL / "tldr_judged_600.jsonl.gz", "")
    assert (loaded.rows, loaded.dropped) == (600, [])
    assert len({pair.prompt_id for _, pair in loaded.pairs}) == 600
    for _, pair in loaded.pairs:
        assert pair.prompt[1].content.endswith("TL;DR:") and pair.prompt[1].content.count("TL;DR:") >= 1
        assert (pair.chosen, pair.rejected) == (pair.chosen.strip(), pair.rejected.strip())
        assert pair.chosen and pair.rejected
