from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from tr_align.data import embedded
from tr_align.data.embedded import Flawed, Request, incoherent, load_requests, pairs, thin
from tr_align.errors import UserError
from tr_align.settings import AXES

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["One.", "No no no no.", "Two words.", "Boil it. Then rest it, covered.", "First, mix. " * 20]


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    return load_requests(ROOT / embedded.REQUESTS)


def test_the_committed_data_is_large_and_varied(requests: list[Request]) -> None:
    assert len(requests) >= 400
    assert len({request.kind for request in requests}) >= 20
    assert sum(request.careful for request in requests) >= 40


def test_every_good_reply_has_a_normal_length(requests: list[Request]) -> None:
    odd = [r.prompt for r in requests if not 30 <= len(r.good.split()) <= 90]
    assert odd == []


def test_no_reply_stands_twice(requests: list[Request]) -> None:
    replies = [text for r in requests for text in (r.good, *r.flawed.model_dump().values())]
    assert [text for text, count in Counter(replies).items() if count > 1] == []


def test_no_two_prompts_ask_nearly_the_same(requests: list[Request]) -> None:
    words = [set(re.findall(r"\w+", r.prompt.lower())) for r in requests]
    close = [
        (requests[i].prompt, requests[j].prompt)
        for i in range(len(words))
        for j in range(i)
        if len(words[i] & words[j]) > 0.6 * len(words[i] | words[j])
    ]
    assert close == []


def test_the_card_states_the_counts_of_the_file(requests: list[Request]) -> None:
    card = (ROOT / "data/embedded/README.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| ([a-z ,]+?) +\| +(\d+ \| +\d+) \|$", card, re.MULTILINE))
    stated = {kind: tuple(int(n) for n in numbers.split("|")) for kind, numbers in table.items()}
    assert stated.pop("all") == (len(requests), sum(r.careful for r in requests))
    kinds = Counter(r.kind for r in requests)
    careful = Counter(r.kind for r in requests if r.careful)
    assert stated == {kind: (kinds[kind], careful[kind]) for kind in kinds}


def test_every_request_gives_one_pair_for_each_axis(requests: list[Request]) -> None:
    made = pairs(requests, None, seed=0)
    axes: dict[str, list[str | None]] = {}
    for pair in made:
        axes.setdefault(pair.prompt[-1].content, []).append(pair.axis)
    assert len(axes) == len(requests)
    assert {tuple(sorted(a or "" for a in found)) for found in axes.values()} == {tuple(sorted(AXES))}


def test_pairs_take_each_reply_from_its_field() -> None:
    request = one("How long do eggs boil?")
    found = {pair.axis: pair for pair in pairs([request], "Be brief.", seed=0)}
    assert {pair.chosen for pair in found.values()} == {request.good}
    assert found["correctness"].rejected == "wrong"
    assert found["helpfulness"].rejected == "evasive"
    assert found["harmlessness"].rejected == "rude"
    assert sorted(found["coherence"].rejected.split()) != request.good.split()
    assert request.good.startswith(found["detail"].rejected.rstrip("."))
    assert [(m.role, m.content) for m in found["detail"].prompt] == [
        ("system", "Be brief."),
        ("user", "How long do eggs boil?"),
    ]


def test_the_system_message_is_there_only_when_asked_for() -> None:
    request = one("Why?")
    assert [m.role for m in pairs([request], None, 0)[0].prompt] == ["user"]
    assert [(m.role, m.content) for m in pairs([request], "", 0)[0].prompt] == [("system", ""), ("user", "Why?")]


def test_pairs_depend_on_the_seed_and_not_on_the_order(requests: list[Request]) -> None:
    few = requests[:40]
    assert pairs(few, "", 1) == pairs(list(reversed(few)), "", 1)
    assert pairs(few, "", 1) != pairs(few, "", 2)
    assert set(map(str, pairs(few[:20], "", 1))) < set(map(str, pairs(few, "", 1)))


def test_incoherent_replies_differ_from_the_good_ones(requests: list[Request]) -> None:
    for text in TEXTS + [r.good for r in requests]:
        for seed in range(6):
            assert incoherent(text, random.Random(seed)).split() != text.split()


def test_incoherent_replies_keep_the_words_and_roughly_the_length(requests: list[Request]) -> None:
    for request in requests:
        words = request.good.split()
        result = incoherent(request.good, random.Random(0)).split()
        assert set(result) <= set(words)
        assert len(words) <= len(result) <= len(words) + 5


def test_incoherence_has_several_ways(requests: list[Request]) -> None:
    text = requests[0].good
    results = [incoherent(text, random.Random(seed)).split() for seed in range(30)]
    shuffled = sum(sorted(result) == sorted(text.split()) for result in results)
    assert 0 < shuffled < 30  # the others repeat a fragment


def test_thin_replies_are_a_few_words_of_the_good_ones(requests: list[Request]) -> None:
    for request in requests:
        result = thin(request.good)
        assert result.endswith(".")
        assert 1 <= len(result.split()) <= embedded.THIN_WORDS < len(request.good.split()) / 2
        assert set(re.findall(r"\w+", result)) <= set(re.findall(r"\w+", request.good))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seven minutes. Then cool it in iced water and peel it.", "Seven minutes."),
        ("Boil it for seven minutes, then put it in iced water until it is quite cold.", "Boil it for seven minutes."),
        ("Boil it well because a raw egg may make a small child or an old man ill.", "Boil it well."),
        (
            'Write "I lost your cat, madam, on the long, long street in the rain by the sea".',
            "Write I lost your cat, madam.",
        ),
        ("a b c d e f g", "a b c."),
    ],
)
def test_thin_stops_where_a_sentence_or_a_clause_ends(text: str, expected: str) -> None:
    assert thin(text) == expected


def test_blank_and_tiny_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="blank"):
        incoherent("  ", random.Random(0))
    with pytest.raises(ValueError, match="fewer than three"):
        thin("Of course.")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{}"], "requests.jsonl:1: kind: Field required"),
        (["GOOD", "nonsense"], "requests.jsonl:2: Invalid JSON"),
        (["GOOD", "RUDE"], "requests.jsonl:2: flawed.harmlessness"),
        (["GOOD", "GOOD"], "requests.jsonl:2: prompt: is the same as in line 1"),
        ([], "is empty"),
    ],
)
def test_a_bad_data_file_is_named_with_its_line(tmp_path: Path, lines: list[str], message: str) -> None:
    good = one("Why?").model_dump()
    rude = {**one("Where?").model_dump(), "flawed": {"correctness": "a", "helpfulness": "b", "harmlessness": ""}}
    path = tmp_path / "requests.jsonl"
    text = "\n".join({"GOOD": json.dumps(good), "RUDE": json.dumps(rude)}.get(line, line) for line in lines)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)):
        load_requests(path)


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_requests(tmp_path / "requests.jsonl")


def one(prompt: str) -> Request:
    return Request(
        kind="cooking",
        careful=False,
        prompt=prompt,
        good="Boil the egg for seven minutes, then cool it. Put it in cold water at once and peel it there.",
        flawed=Flawed(correctness="wrong", helpfulness="evasive", harmlessness="rude"),
    )
