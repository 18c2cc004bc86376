from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from tr_align.data.embedded import load_requests
from tr_align.data.embedded import pairs as embedded_pairs
from tr_align.data.prepare import SPLITS, interleave, prepare, write
from tr_align.data.schema import Demonstration, Message, Pair, read_demonstrations, read_pairs
from tr_align.errors import UserError
from tr_align.settings import AXES, Data, SftData, Splits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # where stages run: the embedded data is found from there


def settings(source: str = "embedded", path: Path | None = None, **changes: Any) -> Data:
    values: dict[str, Any] = {
        "system_prompt": None,
        "splits": Splits(sft=20, preferences=30, judge=40, evaluation=25),
        "max_prompt_tokens": 500,
        "max_reply_tokens": 500,
        "max_dropped": 0.1,
        **changes,
    }
    return Data(source=source, path=None if path is None else str(path), **values)  # type: ignore[arg-type]


def save(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(number: int, chosen: str = "yes", rejected: str = "no") -> dict[str, str]:
    return {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected}


def prompts(pairs: list[Pair]) -> set[str]:
    return {pair.prompt_id for pair in pairs}


SMALL = Splits(sft=2, preferences=3, judge=4, evaluation=2)


def test_embedded_splits_have_the_asked_sizes(tokenizer: Any) -> None:
    splits, stats = prepare(settings(), 0, tokenizer)
    assert list(splits) == list(SPLITS)
    assert {name: len(prompts(pairs)) for name, pairs in splits.items()} == {
        "sft": 20, "preferences": 30, "judge": 40, "evaluation": 25,
    }  # fmt: skip
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "sft": 20, "preferences": 150, "judge": 200, "evaluation": 25,
    }  # fmt: skip
    for name in ("preferences", "judge"):
        axes: dict[str, set[str | None]] = {}
        for pair in splits[name]:
            axes.setdefault(pair.prompt_id, set()).add(pair.axis)
        assert all(found == set(AXES) for found in axes.values())
    requests = len(load_requests())
    assert (stats["rows_read"], stats["rows_kept"], stats["unique_prompts"]) == (5 * requests, 5 * requests, requests)


@pytest.mark.parametrize("source", ["embedded", "files"])
def test_no_prompt_is_in_two_splits(tmp_path: Path, tokenizer: Any, source: str) -> None:
    # Two pairs a prompt, and prompts that are also in the embedded data.
    asked = [request.prompt for request in load_requests()[:300]]
    path = save(tmp_path / "a.jsonl", [{**row(n, chosen=c), "prompt": p} for n, p in enumerate(asked) for c in "ab"])
    splits, stats = prepare(settings(source, path), 0, tokenizer)
    for one, other in itertools.combinations(splits.values(), 2):
        assert not prompts(one) & prompts(other)
    assert (stats["dropped"].get("in_judge_split", 0) > 0) == (source == "files")
    if source == "files":
        assert stats["unique_prompts"] == 300 - stats["dropped"]["in_judge_split"] / 2


def test_neighbours_come_from_different_prompts(tokenizer: Any) -> None:
    splits, _ = prepare(settings(), 0, tokenizer)
    pairs = splits["preferences"]
    assert len(prompts(pairs[:30])) == 30
    assert all(one.prompt_id != other.prompt_id for one, other in itertools.pairwise(pairs))
    assert len({pair.axis for pair in pairs[:30]}) == len(AXES)


def test_the_result_depends_on_the_seed_and_not_on_the_order_of_rows(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(n % 40, chosen=f"yes {n}") for n in range(100)] + [row(3), row(3)]
    data = settings("files", save(tmp_path / "a.jsonl", rows), splits=SMALL)
    first, stats = prepare(data, 0, tokenizer)
    assert prepare(data, 0, tokenizer) == (first, stats)
    random.Random(1).shuffle(rows)
    save(tmp_path / "a.jsonl", rows)
    assert prepare(data, 0, tokenizer) == (first, stats)
    other, _ = prepare(data, 1, tokenizer)
    assert all(prompts(other[name]) != prompts(first[name]) for name in SPLITS)


def test_the_judge_split_is_the_same_whatever_the_rest(tmp_path: Path, tokenizer: Any) -> None:
    judge = prepare(settings(), 0, tokenizer)[0]["judge"]
    path = save(tmp_path / "a.jsonl", [row(n) for n in range(100)])
    assert prepare(settings("files", path), 0, tokenizer)[0]["judge"] == judge
    limits = {"max_prompt_tokens": 20, "max_reply_tokens": 70}
    assert prepare(settings(**limits), 0, tokenizer)[0]["judge"] == judge
    sizes = Splits(sft=1, preferences=2, judge=40, evaluation=2)
    assert prepare(settings(splits=sizes), 0, tokenizer)[0]["judge"] == judge
    asked = [pair.prompt[-1].content for pair in judge]
    with_system = prepare(settings(system_prompt="Be brief."), 0, tokenizer)[0]["judge"]
    assert {pair.prompt[-1].content for pair in with_system} == set(asked)
    assert prepare(settings(), 1, tokenizer)[0]["judge"] != judge


def test_the_token_limits_spare_the_judge_split(tokenizer: Any) -> None:
    splits, stats = prepare(settings(max_reply_tokens=70), 0, tokenizer)
    judge = prompts(splits["judge"])
    long = [
        pair.prompt_id
        for pair in embedded_pairs(load_requests(), None, 0)
        if max(len(pair.chosen.split()), len(pair.rejected.split())) > 70
    ]
    assert any(prompt in judge for prompt in long)
    assert stats["dropped"] == {"reply_too_long": sum(prompt not in judge for prompt in long)}


def test_a_source_of_ones_own_spends_no_prompt_on_the_judge(tmp_path: Path, tokenizer: Any) -> None:
    data = settings("files", save(tmp_path / "a.jsonl", [row(n) for n in range(7)]), splits=SMALL)
    splits, _ = prepare(data, 0, tokenizer)
    assert {name: len(pairs) for name, pairs in splits.items()} == {
        "sft": 2, "preferences": 3, "judge": 20, "evaluation": 2,
    }  # fmt: skip
    assert {pair.axis for pair in splits["judge"]} == set(AXES)
    no_judge = SMALL.model_copy(update={"judge": 0})
    splits, stats = prepare(data.model_copy(update={"splits": no_judge}), 0, tokenizer)
    assert splits["judge"] == []
    assert stats["splits"]["judge"] == {"prompts": 0, "pairs": 0}


def test_a_judge_split_of_the_source_takes_prompts_of_its_own(tmp_path: Path, tokenizer: Any) -> None:
    """Eleven prompts are dealt as 2, 3, 4 and 2, and the judge gets both pairs of each of its four.

    A prompt that the embedded data has too is one like all others, and so is what the token limits drop.
    """
    asked = [load_requests()[0].prompt, *(f"question {n}" for n in range(10))]
    rows = [{**row(n, chosen=chosen), "prompt": text} for n, text in enumerate(asked) for chosen in "ab"]
    rows.append(row(50, chosen="long " * 600))
    data = settings("files", save(tmp_path / "a.jsonl", rows), splits=SMALL, judge="source")
    splits, stats = prepare(data, 0, tokenizer)
    assert {name: len(prompts(found)) for name, found in splits.items()} == {
        "sft": 2, "preferences": 3, "judge": 4, "evaluation": 2,
    }  # fmt: skip
    assert len(set().union(*map(prompts, splits.values()))) == 11
    assert len(splits["judge"]) == 8 and {pair.axis for pair in splits["judge"]} == {None}
    assert len(prompts(splits["judge"][:4])) == 4  # in rounds, as the preferences are
    assert stats["dropped"] == {"reply_too_long": 1}
    assert (stats["splits"]["judge"]["prompts"], stats["splits"]["judge"]["pairs"]) == (4, 8)
    assert "careful_share" not in stats["splits"]["judge"]  # of human preferences nobody counted it
    other, _ = prepare(data, 1, tokenizer)
    assert prompts(other["judge"]) != prompts(splits["judge"])


def test_a_judge_split_of_the_source_has_to_be_filled_by_it(tmp_path: Path, tokenizer: Any) -> None:
    data = settings("files", save(tmp_path / "a.jsonl", [row(n) for n in range(10)]), splits=SMALL, judge="source")
    with pytest.raises(UserError) as caught:
        prepare(data, 0, tokenizer)
    assert str(caught.value) == (
        "there are 10 usable prompts, and data.splits asks for 11: sft 2, preferences 3, judge 4, evaluation 2; "
        "lower data.splits.judge to 3"
    )
    assert len(prepare(data.model_copy(update={"judge": "embedded"}), 0, tokenizer)[0]["judge"]) == 20
    with pytest.raises(
        UserError, match=r"^data\.judge: 'source' is for preferences of another .*; make it 'embedded'$"
    ):
        prepare(settings(judge="source"), 0, tokenizer)


def test_what_is_too_long_for_the_other_splits_is_left_over_for_the_judge(tmp_path: Path, tokenizer: Any) -> None:
    """Seven prompts for the others; of the six with long pairs, the judge gets four.

    One more is not left over: it has a short pair too. And one is too long for the judge as well.
    """
    limit = settings().max_reply_tokens
    word = "long "
    each = len(tokenizer((word * 10).strip(), add_special_tokens=False)["input_ids"]) / 10
    long, endless = (word * int(times * limit / each) for times in (2, 5))
    rows = [row(n) for n in range(7)]
    rows += [row(n, chosen=long + kind) for n in range(20, 26) for kind in "ab"]
    rows += [row(0, chosen=long), row(30, chosen=endless)]
    data = settings("files", save(tmp_path / "a.jsonl", rows), splits=SMALL, judge="leftover")
    splits, stats = prepare(data, 0, tokenizer)
    assert {name: len(prompts(found)) for name, found in splits.items()} == {
        "sft": 2, "preferences": 3, "judge": 4, "evaluation": 2,
    }  # fmt: skip
    asked = {pair.prompt[-1].content for pair in splits["judge"]}
    assert asked < {row(n)["prompt"] for n in range(20, 26)} and len(splits["judge"]) == 8
    # Two prompts of two pairs that the judge did not need, the long pair of a short prompt, the endless one.
    assert stats["dropped"] == {"reply_too_long": 6} and stats["rows_kept"] == 15 and stats["rows_read"] == 21
    other, _ = prepare(data, 1, tokenizer)
    assert prompts(other["judge"]) != prompts(splits["judge"])
    with pytest.raises(
        UserError, match=r"asks for 7 prompts, and 6 are too long for the other splits but not more than 4"
    ):
        prepare(data.model_copy(update={"splits": data.splits.model_copy(update={"judge": 7})}), 0, tokenizer)


def test_sft_and_evaluation_take_one_pair_a_prompt(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(n, chosen=c) for n in range(7) for c in ("b", "a", "c")]
    splits, _ = prepare(settings("files", save(tmp_path / "a.jsonl", rows), splits=SMALL), 0, tokenizer)
    assert [row.completion for row in splits["sft"]] == [[Message(role="assistant", content="a")]] * 2
    assert [pair.chosen for pair in splits["evaluation"]] == ["a"] * 2
    assert len(splits["preferences"]) == 9


def test_every_reason_is_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        *[row(n) for n in range(10)],
        row(0),  # an exact duplicate
        row(0, rejected="never"),  # another pair of the same prompt
        {**row(20), "prompt": " \n"},
        row(21, chosen=" "),
        row(22, rejected=""),
        row(23, chosen="same", rejected=" same\n"),
        {"prompt": "no rejected", "chosen": "yes"},
        {**row(24), "prompt": [{"role": "assistant", "content": "hi"}]},
        # The template adds "<user>", "<end>" and "<assistant>": 3 tokens. 8 words are 11 tokens, 7 are 10.
        {**row(25), "prompt": "a b c d e f g h"},
        {**row(26), "prompt": "a b c d e f g"},
        row(27, chosen="a b c d e f"),
        row(28, rejected="a b c d e f"),
        row(29, rejected="a b c d e"),
    ]
    data = settings(
        "files",
        save(tmp_path / "a.jsonl", rows),
        splits=SMALL,
        max_prompt_tokens=10,
        max_reply_tokens=5,
        max_dropped=6 / 23,
    )
    _, stats = prepare(data, 0, tokenizer)
    assert stats["dropped"] == {
        "exact_duplicate": 1,
        "empty_prompt": 1,
        "empty_reply": 2,
        "chosen_equals_rejected": 1,
        "missing_field": 1,
        "no_user_turn": 1,
        "prompt_too_long": 1,
        "reply_too_long": 2,
    }
    assert (stats["rows_read"], stats["rows_kept"], stats["unique_prompts"]) == (23, 13, 12)
    with pytest.raises(UserError, match=r"6 of 23 rows \(26\.1%\)"):
        prepare(data.model_copy(update={"max_dropped": 6 / 23 - 0.001}), 0, tokenizer)


def test_too_many_faulty_rows_are_an_error_with_examples(tmp_path: Path, tokenizer: Any) -> None:
    rows = [*[row(n) for n in range(20)], *[{"prompt": "x", "chosen": "y"}] * 4, row(30, chosen=""), row(31, "a", "a")]
    path = save(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError) as caught:
        prepare(settings("files", path, splits=SMALL), 0, tokenizer)
    message = str(caught.value)
    assert "6 of 26 rows (23.1%) cannot be used, more than data.max_dropped (0.1)" in message
    assert "chosen_equals_rejected 1, empty_reply 1, missing_field 4" in message
    assert f"{path}:21: missing_field: rejected: is missing" in message
    assert f"{path}:25: empty_reply" in message
    assert message.count(f"{path}:") == 5


def test_duplicates_and_long_rows_are_no_fault(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(n) for n in range(7)] * 5 + [row(50, chosen="long " * 600)] * 5
    data = settings("files", save(tmp_path / "a.jsonl", rows), splits=SMALL, max_dropped=0)
    assert prepare(data, 0, tokenizer)[1]["dropped"] == {"exact_duplicate": 32, "reply_too_long": 1}


def test_splits_that_cannot_be_filled_are_an_error(tmp_path: Path, tokenizer: Any) -> None:
    path = save(tmp_path / "a.jsonl", [row(n) for n in range(6)])
    with pytest.raises(UserError) as caught:
        prepare(settings("files", path, splits=SMALL), 0, tokenizer)
    assert str(caught.value) == (
        "there are 6 usable prompts, and data.splits asks for 7: sft 2, preferences 3, evaluation 2; "
        "lower data.splits.preferences to 2"
    )
    with pytest.raises(UserError, match=r"asks for 75.*; lower them all$"):
        prepare(settings("files", path), 0, tokenizer)
    with pytest.raises(UserError, match=r"judge 40, evaluation 900; lower data\.splits\.evaluation to \d+$"):
        prepare(settings(splits=Splits(sft=20, preferences=30, judge=40, evaluation=900)), 0, tokenizer)
    with pytest.raises(UserError, match=r"raise the token limits, which dropped \d+ rows"):
        prepare(settings(max_reply_tokens=10), 0, tokenizer)
    with pytest.raises(UserError, match=r"data\.splits\.judge asks for 5000 prompts.*has \d+; lower"):
        prepare(settings(splits=Splits(sft=1, preferences=1, judge=5000, evaluation=2)), 0, tokenizer)


def test_exactly_enough_prompts_are_enough(tokenizer: Any) -> None:
    rest = len(load_requests()) - 100
    splits, _ = prepare(settings(splits=Splits(sft=30, preferences=rest, judge=40, evaluation=30)), 0, tokenizer)
    assert len(set().union(*map(prompts, splits.values()))) == rest + 100


def test_hh_transcripts_are_prepared_with_the_system_prompt(tmp_path: Path, tokenizer: Any) -> None:
    ask = "\n\nHuman: Question {}?\n\nAssistant: Well.\n\nHuman: So?\n\nAssistant:"
    rows = [{"chosen": ask.format(n) + " Yes.", "rejected": ask.format(n) + " No."} for n in range(10)]
    rows.append({"chosen": ask.format(1) + " Yes.", "rejected": ask.format(2) + " No."})
    data = settings("anthropic_hh", save(tmp_path / "a.jsonl", rows), splits=SMALL, system_prompt="")
    splits, stats = prepare(data, 0, tokenizer)
    assert [m.role for m in splits["sft"][0].prompt] == ["system", "user", "assistant", "user"]
    assert stats["dropped"] == {"prompts_differ": 1}
    assert stats["rows_with_merged_turns"] == 0
    with pytest.raises(UserError, match=r"1 of 11 rows .*prompts_differ 1"):
        prepare(data.model_copy(update={"max_dropped": 0.05}), 0, tokenizer)


def test_mean_tokens_and_the_careful_share(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(n, chosen="one two", rejected="one") for n in range(6)] + [row(6, chosen="one two", rejected="a b c")]
    one = SMALL.model_copy(update={"preferences": 3})
    _, stats = prepare(settings("files", save(tmp_path / "a.jsonl", rows), splits=one), 0, tokenizer)
    # "question 1" is two words, and the template adds three; to the reply it adds the "<end>" of its turn.
    assert stats["splits"]["sft"] == {"prompts": 2, "demonstrations": 2, "mean_tokens": {"prompt": 5, "completion": 3}}
    found = [stats["splits"][name]["mean_tokens"] for name in ("preferences", "evaluation")]
    assert all((means["prompt"], means["chosen"]) == (5, 2) for means in found)
    # The only reply of three words is in one of the three splits.
    assert sum(means["rejected"] * n for means, n in zip(found, (3, 2), strict=True)) in (5, pytest.approx(7, abs=0.02))
    assert "careful_share" not in stats["splits"]["sft"]
    requests = load_requests()
    everything = Splits(sft=1, preferences=len(requests) - 43, judge=40, evaluation=2)
    splits, stats = prepare(settings(splits=everything), 0, tokenizer)
    careful = {request.prompt for request in requests if request.careful}
    asked = {pair.prompt[-1].content for pair in splits["judge"]}
    assert stats["splits"]["judge"]["careful_share"] == round(len(asked & careful) / 40, 4)


def test_a_template_that_refuses_system_messages_is_explained(tokenizer: Any) -> None:
    class Strict:
        chat_template = "x"

        def apply_chat_template(self, messages: Any, **options: Any) -> str:
            from jinja2 import TemplateError

            raise TemplateError("System role not supported")

    with pytest.raises(UserError, match=r"System role not supported.*data\.system_prompt to null"):
        prepare(settings(system_prompt=""), 0, Strict())


def test_write_and_read_back(tmp_path: Path, tokenizer: Any) -> None:
    splits, stats = prepare(settings(system_prompt=""), 0, tokenizer)
    write(tmp_path / "new" / "folder", splits, stats)
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [*(f"{name}.jsonl" for name in SPLITS), "stats.json"]
    )
    assert read_demonstrations(folder / "sft.jsonl") == splits.pop("sft")
    assert {name: read_pairs(folder / f"{name}.jsonl") for name in splits} == splits
    text = (folder / "stats.json").read_text(encoding="utf-8")
    assert json.loads(text) == stats
    assert text == json.dumps(stats, indent=2, sort_keys=True) + "\n"


def test_line_separators_inside_a_text_survive_the_files(tmp_path: Path, tokenizer: Any) -> None:
    rows = [row(n, chosen="one\u2028two\x85three\r\nfour") for n in range(7)]
    splits, stats = prepare(settings("files", save(tmp_path / "a.jsonl", rows), splits=SMALL), 0, tokenizer)
    write(tmp_path, splits, stats)
    text = "one\u2028two\x85three\r\nfour"
    assert [row.completion[0].content for row in read_demonstrations(tmp_path / "sft.jsonl")] == [text] * 2
    assert [pair.chosen for pair in read_pairs(tmp_path / "evaluation.jsonl")] == [text] * 2


def test_interleaving_keeps_every_pair_of_uneven_groups() -> None:
    def pairs(name: str, count: int) -> list[Pair]:
        prompt = [Message(role="user", content=name)]
        return [Pair(prompt=prompt, chosen=str(n), rejected="x") for n in range(count)]

    groups = [(name, pairs(name, count)) for name, count in (("a", 3), ("b", 1), ("c", 2))]
    result = interleave(groups, 0)
    assert [pair.prompt[0].content for pair in result] == ["a", "b", "c", "a", "c", "a"]
    assert {(pair.prompt[0].content, pair.chosen) for pair in result} == {
        ("a", "0"), ("a", "1"), ("a", "2"), ("b", "0"), ("c", "0"), ("c", "1"),
    }  # fmt: skip


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def own_sft(tmp_path: Path, demonstrations: list[Any], **changes: Any) -> Data:
    """Seven prompts with preferences, of which all are used, and demonstrations."""
    pairs = save(tmp_path / "pairs.jsonl", [row(n) for n in range(7)])
    source = SftData(source="files", path=str(save(tmp_path / "sft.jsonl", demonstrations)))
    sizes = Splits(sft=3, preferences=4, judge=4, evaluation=3)
    return settings("files", pairs, **{"splits": sizes, "sft": source, **changes})


def test_demonstrations_of_their_own_leave_all_prompts_to_the_others(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{"prompt": f"ask {n}", "completion": "so"} for n in range(5)]
    splits, stats = prepare(own_sft(tmp_path, rows, system_prompt="Hm."), 0, tokenizer)
    assert {name: len(found) for name, found in splits.items()} == {
        "sft": 3, "preferences": 4, "judge": 20, "evaluation": 3,
    }  # fmt: skip
    assert all(isinstance(row, Demonstration) for row in splits["sft"])
    assert [message.role for message in splits["sft"][0].prompt] == ["system", "user"]
    assert stats["sft_data"] == {"source": "files", "rows_read": 5, "rows_kept": 5, "rows_shortened": 0, "dropped": {}}
    assert stats["splits"]["sft"]["demonstrations"] == 3
    again = prepare(own_sft(tmp_path, rows[::-1], system_prompt="Hm."), 0, tokenizer)
    assert again == (splits, stats)
    assert prepare(own_sft(tmp_path, rows, system_prompt="Hm."), 3, tokenizer)[0]["sft"] != splits["sft"]


def test_no_demonstration_answers_a_prompt_of_another_split(tmp_path: Path, tokenizer: Any) -> None:
    asked = load_requests()
    judged = prepare(settings(splits=SMALL), 0, tokenizer)[0]["judge"][0].prompt[-1].content
    rows = [
        *[{"prompt": f"ask {n}", "completion": "so"} for n in range(3)],
        {"prompt": "question 3", "completion": "yes"},
        {"messages": [{"role": "system", "content": "Mine."}, *turns(" question  4", "no", "why", "so")]},
        {"messages": turns("hello", "hi", "question 5", "no")},  # not the same prompt: that one has no history
        {"prompt": judged, "completion": "so"},
    ]
    assert any(request.prompt == judged for request in asked)
    sizes = Splits(sft=4, preferences=4, judge=4, evaluation=3)
    splits, stats = prepare(own_sft(tmp_path, rows, splits=sizes), 0, tokenizer)
    assert stats["sft_data"]["dropped"] == {"in_other_split": 3}
    assert sorted(row.prompt[0].content for row in splits["sft"]) == ["ask 0", "ask 1", "ask 2", "hello"]


def test_a_later_turn_counts_as_a_prompt(tmp_path: Path, tokenizer: Any) -> None:
    history = turns("hello", "hi", "and now?")
    pairs = [
        {"prompt": [*history[:2], {"role": "user", "content": f"q{n}"}], "chosen": "a", "rejected": "b"}
        for n in range(7)
    ]
    rows = [{"messages": turns("hello", "hi", f"q{n}", "so")} for n in range(6, 10)]
    data = own_sft(tmp_path, rows)
    save(tmp_path / "pairs.jsonl", pairs)
    _, stats = prepare(data, 0, tokenizer)
    assert stats["sft_data"]["dropped"] == {"in_other_split": 1}


def test_demonstrations_are_checked_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        *[{"prompt": f"ask {n}", "completion": "so"} for n in range(3)],
        {"prompt": "ask 0", "completion": "so"},
        {"prompt": "ask 0", "completion": "otherwise"},
        {"prompt": " ", "completion": "so"},
        {"messages": turns("x", "y", "z", " ")},
        {"prompt": "no completion"},
        # The template adds three words to the prompt, "<end>" to its own turn, and three to each turn that follows.
        {"prompt": "a b c d e f g h", "completion": "so"},
        {"prompt": "a b c d e f g", "completion": "so"},
        {"messages": turns("u", "a", "b", "c d")},
        {"messages": turns("v", "a", "b", "c")},
        {"prompt": "one reply", "completion": "a b c d e f g h"},
    ]
    limits = {"max_prompt_tokens": 10, "max_reply_tokens": 8}
    data = own_sft(tmp_path, rows, max_dropped=3 / 13, **limits)
    _, stats = prepare(data, 0, tokenizer)
    assert stats["sft_data"]["dropped"] == {
        "exact_duplicate": 1, "empty_prompt": 1, "empty_reply": 1, "missing_field": 1,
        "prompt_too_long": 1, "completion_too_long": 1,
    }  # fmt: skip
    assert (stats["sft_data"]["rows_read"], stats["sft_data"]["rows_kept"]) == (13, 7)
    # The conversation of which only the first reply fits.
    assert stats["sft_data"]["rows_shortened"] == 1
    splits, _ = prepare(data.model_copy(update={"splits": data.splits.model_copy(update={"sft": 7})}), 0, tokenizer)
    kept = {row.prompt[-1].content: [message.content for message in row.completion] for row in splits["sft"]}
    assert (kept["u"], kept["v"]) == (["a"], ["a", "b", "c"])
    with pytest.raises(UserError, match=r"3 of 13 rows \(23\.1%\).*empty_prompt 1, empty_reply 1, missing_field 1"):
        prepare(data.model_copy(update={"max_dropped": 0.2}), 0, tokenizer)
    sizes = data.splits.model_copy(update={"sft": 8})
    with pytest.raises(UserError) as caught:
        prepare(data.model_copy(update={"splits": sizes}), 0, tokenizer)
    assert str(caught.value) == (
        "data.splits.sft: asks for 8 demonstrations, and data.sft has 7 that can be used; lower it to 7, "
        "or raise the token limits, which dropped 2 rows"
    )


def test_ties_are_counted_and_are_no_fault(tmp_path: Path, tokenizer: Any) -> None:
    rows = [{**row(n), "score_chosen": 2.0, "score_rejected": 1.0} for n in range(7)]
    rows += [{**row(n), "score_chosen": 2.0, "score_rejected": 2.0} for n in range(7, 14)]
    data = settings("ultrafeedback", save(tmp_path / "a.jsonl", rows), splits=SMALL, max_dropped=0)
    _, stats = prepare(data, 0, tokenizer)
    assert stats["dropped"] == {"tie": 7}
    assert (stats["rows_read"], stats["rows_kept"]) == (14, 7)


def test_settings_that_would_do_nothing_are_refused(tmp_path: Path, tokenizer: Any) -> None:
    for key, value in (("revision", "main"), ("subsets", ["a"])):
        with pytest.raises(UserError, match=rf"^data\.{key}: is set, but data\.source 'embedded' has none"):
            prepare(settings(**{key: value}), 0, tokenizer)
    data = own_sft(tmp_path, [], sft=SftData(source="files", path="x", revision="main"))
    with pytest.raises(UserError, match=r"^data\.sft\.revision: is set"):
        prepare(data, 0, tokenizer)
