"""Which labelled pairs measure the judge, and how a user's file is read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tr_align import labelled
from tr_align.config import Params, load_params
from tr_align.data.schema import Message, Pair, write_pairs
from tr_align.errors import UserError
from tr_align.judges.probe import held_out_prompts

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty repository with the folder of the prepared splits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "prepared").mkdir(parents=True)


def pairs(prompts: int, each: int = 1) -> list[Pair]:
    """In rounds, as the prepared splits have them."""
    return [
        Pair(prompt=[Message(role="user", content=f"q{i}")], chosen=f"good {i}", rejected=f"bad {j}", axis="detail")
        for j in range(each)
        for i in range(prompts)
    ]


def params(judge: str = "probe", source: str = "embedded", split: str = "embedded", **calibrate: Any) -> Params:
    made = load_params(ROOT / "params.yaml")
    return made.model_copy(
        update={
            "judge": made.judge.model_copy(update={"name": judge}),
            "data": made.data.model_copy(update={"source": source, "path": "mine.jsonl", "judge": split}),
            "calibrate": made.calibrate.model_copy(update=calibrate),
        }
    )


def test_the_probe_is_measured_on_the_prompts_that_its_fit_left_out() -> None:
    split = pairs(8, each=5)
    write_pairs("data/prepared/judge.jsonl", split)
    used, source = labelled.for_judge(params())
    held_out = held_out_prompts(split, params().judge.probe)
    assert {pair.prompt_id for pair in used} == held_out and len(held_out) == 2
    assert len(used) == 10 and used[0].axis == "detail"
    assert source == "answers written to be right or wrong"


def test_a_reward_model_is_measured_on_the_prompts_that_its_own_fit_left_out() -> None:
    """Half of eight, where the probe's settings would leave two."""
    split = pairs(8, each=5)
    write_pairs("data/prepared/judge.jsonl", split)
    made = params("reward")
    half = made.judge.model_copy(update={"reward": made.judge.reward.model_copy(update={"held_out": 0.5})})
    used, _ = labelled.for_judge(made.model_copy(update={"judge": half}))
    assert {pair.prompt_id for pair in used} == {pair.prompt_id for pair in split[:4]} and len(used) == 20


@pytest.mark.parametrize("source", ["embedded", "anthropic_hh", "tldr", "ultrafeedback", "files"])
def test_an_endpoint_is_measured_on_the_whole_judge_split(source: str) -> None:
    """It saw none of it; and the judge split is embedded data, whatever the policies learn from."""
    write_pairs("data/prepared/judge.jsonl", pairs(8, each=5))
    used, labels = labelled.for_judge(params("openai", source))
    assert len(used) == 40
    assert labels == "answers written to be right or wrong"


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        ("anthropic_hh", "human preferences"),
        ("tldr", "human preferences"),
        ("ultrafeedback", "an AI judge's scores"),
        ("files", "the labels of mine.jsonl"),
    ],
)
@pytest.mark.parametrize(("judge", "count"), [("probe", 2), ("openai", 8)])
def test_a_judge_split_of_the_source_has_the_labels_of_the_source(
    judge: str, count: int, source: str, labels: str
) -> None:
    """Of eight prompts the probe's fit leaves a quarter out."""
    write_pairs("data/prepared/judge.jsonl", pairs(8))
    used, found = labelled.for_judge(params(judge, source, split="source"))
    assert (len(used), found) == (count, labels)


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        ("embedded", "answers written to be right or wrong"),
        ("anthropic_hh", "human preferences"),
        ("tldr", "human preferences"),
        ("ultrafeedback", "an AI judge's scores"),
        ("files", "the labels of mine.jsonl"),
    ],
)
def test_another_prepared_split_is_used_whole(source: str, labels: str) -> None:
    write_pairs("data/prepared/evaluation.jsonl", pairs(8))
    used, found = labelled.for_judge(params(source=source, path="data/prepared/evaluation.jsonl"))
    assert (len(used), used[0].axis, found) == (8, "detail", labels)


def test_a_file_of_the_users_own_is_used_whole() -> None:
    rows = [{"prompt": f"q{i}", "chosen": "good", "rejected": "bad"} for i in range(8)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    used, source = labelled.for_judge(params(path="own.jsonl"))
    assert len(used) == 8 and source == "own.jsonl"
    # With the system message of the run, which the probe was fitted with.
    assert [message.role for message in used[0].prompt] == ["system", "user"]


def test_at_most_so_many_pairs_by_the_seed() -> None:
    write_pairs("data/prepared/judge.jsonl", pairs(40))
    one = labelled.for_judge(params("openai", pairs=9))[0]
    assert len(one) == 9
    other = params("openai", pairs=9).model_copy(update={"seed": 1})
    assert labelled.for_judge(other)[0] != one == labelled.for_judge(params("openai", pairs=9))[0]


def test_no_prompt_gives_a_second_pair_before_every_prompt_gave_one() -> None:
    chosen = labelled.choose(pairs(10, each=4), 23, seed=3)
    assert len(set(map(str, chosen))) == 23
    assert sorted(Counter(pair.prompt_id for pair in chosen).values()) == [2] * 7 + [3] * 3
    assert len({pair.prompt_id for pair in chosen[:10]}) == 10
    assert chosen[:10] != sorted(chosen[:10], key=lambda pair: pair.prompt[0].content)
    assert labelled.choose(pairs(3), 100, 0) != [] and len(labelled.choose(pairs(3), 100, 0)) == 3


def test_the_pairs_of_a_prompt_come_in_any_order() -> None:
    """Of five pairs a prompt, the one that comes first is drawn: over 30 prompts all five of them do."""
    firsts = Counter(pair.rejected for pair in labelled.choose(pairs(30, each=5), 30, seed=0))
    assert len(firsts) == 5


def test_rows_that_are_no_pair_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"prompt": "q", "chosen": "same", "rejected": " same"},
        {"prompt": "q", "chosen": "good"},
    ]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(labelled.read("own.jsonl", "--pairs", None)) == 1
    assert capsys.readouterr().err == "--pairs: 2 of 3 rows are left out, e.g. own.jsonl:3: rejected: is missing\n"


def test_a_good_file_is_read_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    chat = [{"role": "user", "content": "hi"}]
    Path("own.jsonl").write_text(json.dumps({"prompt": chat, "chosen": "good", "rejected": "bad"}) + "\n")
    (read,) = labelled.read("own.jsonl", "--pairs", None)
    assert read.prompt == [Message(role="user", content="hi")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, r"^--pairs: there is no file missing\.jsonl; give one with prompt, chosen"),
        ("own.txt", "x", r"own\.txt: unknown ending; --pairs takes"),
        ("own.jsonl", "", r"own\.jsonl: is empty"),
    ],
)
def test_messages_name_the_option(name: str, content: str | None, message: str) -> None:
    if content is not None:
        Path(name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        labelled.read(name, "--pairs", None)
    assert "data.path" not in str(caught.value)
