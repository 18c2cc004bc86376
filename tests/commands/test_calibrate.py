"""`tr-align calibrate` from its options to the card."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tr_align import models
from tr_align.commands import calibrate
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError
from tr_align.judges import probe, reward
from tr_align.judges.base import Duel, Rating, Reply, Verdict
from tr_align.settings import AXES, Probe, RewardModel


class Knows:
    """A judge that prefers what starts with "good"; it keeps the prompts that it was asked about."""

    unit = "points, 1 to 10"
    axes = AXES

    def __init__(self) -> None:
        self.prompts: list[list[Message]] = []

    def rate(self, replies: Sequence[Reply]) -> list[Rating]:
        self.prompts += [reply.prompt for reply in replies]
        return [Rating(r.id, dict.fromkeys(AXES, 9.0 if r.text.startswith("good") else 1.0)) for r in replies]

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]:
        return [
            Verdict(duel.id, "first" if duel.first.startswith("good") and "b" not in duel.first else "second")
            for duel in duels
        ]


def run(*arguments: str) -> None:
    top = argparse.ArgumentParser()
    calibrate.register(top.add_subparsers(required=True))
    options = top.parse_args(["calibrate", *arguments])
    options.run(options)


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Knows:
    """In place of the endpoint that the options name."""
    made = Knows()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate, "judge_from", lambda options: made)
    rows = [{"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def read(path: str) -> Any:
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_a_card_is_printed_and_written(judge: Knows, capsys: pytest.CaptureFixture[str]) -> None:
    run("--pairs", "own.jsonl", "--model", "m", "--n", "12", "--out", "card.json")
    printed = capsys.readouterr().out
    assert printed.startswith("Measured on 12 labelled pairs of 12 prompts (own.jsonl).")
    assert "preference" in printed and "Replies that give it orders" in printed
    card = read("card.json")
    assert (card["n_pairs"], card["label_source"], card["seed"], card["resamples"]) == (12, "own.jsonl", 0, 2000)
    assert card["agreement"]["value"] == 1.0
    assert len(judge.prompts) == 2 * 12 + 4 * 12
    # As in the pipeline, an empty system message comes first.
    assert judge.prompts[0][0] == Message(role="system", content="")


def test_without_out_nothing_is_written(judge: Knows) -> None:
    before = sorted(Path().rglob("*"))
    run("--pairs", "own.jsonl", "--model", "m")
    assert sorted(Path().rglob("*")) == before
    assert len({prompt[-1].content for prompt in judge.prompts}) == 20


def test_the_seed_chooses_the_pairs(judge: Knows) -> None:
    chosen = []
    for seed in ("0", "1", "0"):
        judge.prompts.clear()
        run("--pairs", "own.jsonl", "--model", "m", "--n", "5", "--seed", seed)
        chosen.append([prompt[-1].content for prompt in judge.prompts[:5]])
    assert chosen[0] == chosen[2] != chosen[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], r"either --model NAME .* or --judge FOLDER"),
        (["--model", "m", "--judge", "models/judge"], r"either --model NAME .* or --judge FOLDER"),
        (["--model", "m", "--out", "no/where/card.json"], r"--out: there is no folder no/where"),
        (["--judge", "no/where"], r"--judge: no/where holds no judge; .*judge_fit"),
    ],
)
def test_wrong_options_cost_nothing(judge: Knows, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run("--pairs", "own.jsonl", *arguments)
    assert judge.prompts == []


@pytest.mark.parametrize("arguments", [["--n", "1"], ["--n", "many"], ["--seed", "-1"]])
def test_numbers_out_of_range(judge: Knows, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--pairs", "own.jsonl", "--model", "m", *arguments)
    assert arguments[0] in capsys.readouterr().err


def test_a_file_that_is_missing_or_too_small(judge: Knows) -> None:
    with pytest.raises(UserError, match=r"--pairs: there is no file none\.jsonl"):
        run("--pairs", "none.jsonl", "--model", "m")
    Path("one.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "good", "rejected": "bad"}) + "\n")
    with pytest.raises(UserError, match=r"--pairs\): has 1 labelled pairs"):
        run("--pairs", "one.jsonl", "--model", "m")
    assert judge.prompts == []


def test_a_fitted_judge_is_not_measured_on_its_own_split(judge: Knows) -> None:
    split = Path("data/prepared/judge.jsonl")
    split.parent.mkdir(parents=True)
    split.write_text(Path("own.jsonl").read_text())
    with pytest.raises(UserError, match=r"fitted the judge, .*dvc repro calibrate"):
        run("--pairs", "data/../data/prepared/judge.jsonl", "--judge", "models/judge")
    # An endpoint has not seen it.
    run("--pairs", "data/prepared/judge.jsonl", "--model", "m")
    assert judge.prompts


def test_a_stored_probe(judge: Knows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "has_bf16", lambda: False)
    settings = Probe(model=models.RANDOM, layer=1, held_out=0.25, regularisation=1.0, batch_size=8)
    pairs = [
        Pair(prompt=[Message(role="user", content=f"p{i}")], chosen=f"good {i}", rejected=f"{axis} {i}", axis=axis)
        for axis in AXES
        for i in range(12)
    ]
    features = probe.base_features(settings.model, settings)
    probes, _ = probe.fit(pairs, features, settings)
    probe.save(Path("stored"), features, probes)
    run("--pairs", "own.jsonl", "--judge", "stored", "--out", "card.json")
    card = read("card.json")
    assert card["agreement"]["n"] == 20 and card["bias"]["consistent"] == 1.0
    assert judge.prompts == []


def test_a_stored_reward_model(judge: Knows) -> None:
    model, tokenizer = reward.untrained(RewardModel(model=models.RANDOM))
    models.save(model, tokenizer, "stored")
    Path("stored/reward.json").write_text('{"middle": 0.0, "half_gap": 1.0}')
    run("--pairs", "own.jsonl", "--judge", "stored", "--n", "4", "--out", "card.json")
    # It is untrained, so what it prefers says nothing; but it does so in either order.
    assert read("card.json")["agreement"]["n"] == 4 and read("card.json")["bias"]["consistent"] == 1.0
    assert judge.prompts == []
