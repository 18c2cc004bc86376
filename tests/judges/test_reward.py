"""The reward model: TRL's loss and the ratings by hand, where a reward is read, and what the fit may see."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MambaConfig

from tr_align import models
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError
from tr_align.generation import encode_prompt
from tr_align.judges import probe, reward
from tr_align.judges.base import Duel, Reply, hc
from tr_align.settings import PREFERENCE, RewardModel

SETTINGS = RewardModel(model=models.RANDOM, learning_rate=0.01, batch_size=4, epochs=2, warmup_steps=0)
Texts = Sequence[tuple[list[Message], str]]


def asked(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def made_up(prompts: int = 16, each: int = 1) -> list[Pair]:
    """A judge split in rounds, as `prepare` orders it: a word tells the replies apart, in either the longer one."""
    tail = ["", ", and a few more words"]
    return [
        Pair(
            prompt=asked(f"q{n}"),
            chosen=f"yes {n}{tail[n % 2]}",
            rejected=f"no {n}.{j}{tail[1 - n % 2]}",
            axis="detail" if j else None,
        )
        for j in range(each)
        for n in range(prompts)
    ]


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that expected values do not depend on what the hardware can do."""
    monkeypatch.setattr(reward, "has_bf16", lambda: False)


# The scale and the judge, on rewards that the tests choose


def test_the_scale_by_hand() -> None:
    """The five rewards average 0; their squares 4, 4, 1, 1, 0 average 2: +1 is two standard deviations, 2 sqrt(2)."""
    scale = reward.scale_of(np.array([2.0, 1.0]), np.array([-2.0, -1.0, 0.0]))
    assert scale.middle == 0 and scale.half_gap == pytest.approx(2 * 2**0.5)
    assert scale.score(np.array([2**1.5, -(2**1.5), 0.0])).tolist() == pytest.approx([1, -1, 0])


@pytest.mark.parametrize("chosen", [[1.0, 1.0], [0.5], [float("nan"), 3.0]])
def test_a_model_that_learned_nothing_is_no_judge(chosen: list[float]) -> None:
    with pytest.raises(UserError, match=r"judge\.reward: .* the\s?rejected ones 1: it has learned nothing; .*epochs"):
        reward.scale_of(np.array(chosen), np.array([0.0, 2.0]))


class Known:
    """In place of a model: the reward that a table names for a reply; keeps what was read."""

    def __init__(self, rewards: dict[str, float] | Callable[[str, str], float]) -> None:
        self.reward = (lambda prompt, text: rewards[text]) if isinstance(rewards, dict) else rewards
        self.read: list[tuple[str, str]] = []

    def __call__(self, replies: Texts, title: str = "") -> np.ndarray[Any, Any]:
        read = [(prompt[-1].content, text) for prompt, text in replies]
        self.read += read
        return np.array([self.reward(*both) for both in read], np.float32)


def judge_of(read: Known) -> reward.RewardJudge:
    return reward.RewardJudge(read, reward.Scale(middle=1.0, half_gap=2.0))  # type: ignore[arg-type]


REWARDS = {"bad": -1.0, "fair": 1.0, "fine": 1.0, "hardly better": float(np.nextafter(np.float32(1), np.float32(2)))}


def test_ratings_by_hand_in_the_order_of_the_replies() -> None:
    """(-1 - 1) / 2 = -1 and (1 - 1) / 2 = 0 on the scale: 1 + 9 / (1 + e^2) = 2.07 and the middle of 1 to 10."""
    judge = judge_of(Known(REWARDS))
    assert judge.axes == (PREFERENCE,)
    ratings = judge.rate([Reply("a", asked("q"), "bad"), Reply("b", asked("q"), "fair")])
    assert [rating.id for rating in ratings] == ["a", "b"]
    assert [rating.axes for rating in ratings] == [
        {"preference": pytest.approx(1 + 9 / (1 + np.exp(2)))},
        {"preference": pytest.approx(5.5)},
    ]
    assert [rating.raw for rating in ratings] == [{"reward": -1.0}, {"reward": 1.0}]
    assert hc(ratings[1].axes) == pytest.approx(5.5)
    json.dumps([rating.axes | rating.raw for rating in ratings])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("fair", "bad", "first"),
        ("bad", "fair", "second"),
        ("fair", "fine", "tie"),
        ("hardly better", "fair", "first"),
        ("fair", "fair", "tie"),
    ],
)
def test_the_higher_reward_wins_in_either_order(first: str, second: str, expected: str) -> None:
    judge = judge_of(Known(REWARDS))
    there, back = judge.prefer([Duel("there", asked("q"), first, second), Duel("back", asked("q"), second, first)])
    assert (there.id, back.id) == ("there", "back")
    assert there.preference == expected
    assert back.preference == {"first": "second", "second": "first", "tie": "tie"}[expected]
    assert there.raw == {"first": REWARDS[first], "second": REWARDS[second]}


def test_nothing_is_read_twice() -> None:
    read = Known(REWARDS)
    judge = judge_of(read)
    judge.rate([Reply(str(n), asked(prompt), "fair") for n, prompt in enumerate(["q", "q", "r"])])
    assert sorted(read.read) == [("q", "fair"), ("r", "fair")]
    duels = [Duel("1", asked("q"), "fair", "bad"), Duel("2", asked("q"), "bad", "fair")]
    judge.prefer(duels)
    judge.prefer(duels)
    assert sorted(read.read) == [("q", "bad"), ("q", "fair"), ("r", "fair")]


# What the fit sees, and what measures it, with rewards that the tests choose


def fitted(
    monkeypatch: pytest.MonkeyPatch, folder: Path, pairs: list[Pair], rewards: Callable[[str, str], float]
) -> tuple[dict[str, Any], list[Pair], Known]:
    """The accuracies of a fit whose training is left out; the pairs that it would train on; the reader."""
    trained: list[Pair] = []

    def train(given: Sequence[Pair], settings: RewardModel, log: Path) -> tuple[Any, Any]:
        trained.extend(given)
        return reward.untrained(settings)

    read = Known(rewards)
    monkeypatch.setattr(reward, "train", train)
    monkeypatch.setattr(reward, "stored", lambda folder, batch_size: read)
    folder.mkdir(exist_ok=True)
    return reward.fit(pairs, SETTINGS, folder), trained, read


def test_the_held_out_prompts_measure_and_the_others_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sixteen prompts, the first four held out. Chosen replies get 5, rejected ones 1; held-out ones get otherwise."""
    held = {"q0", "q1", "q2", "q3"}

    def rewards(prompt: str, text: str) -> float:
        if prompt not in held:
            return 5.0 if text.startswith("yes") else 1.0
        # The first rejected reply to q0 gets more than the chosen one, the second to q1 as much.
        return {"no 0.0, and a few more words": 9.0, "no 1.1": 7.0}.get(text, 7.0 if text.startswith("yes") else -50.0)

    pairs = made_up(each=2)
    accuracy, trained, read = fitted(monkeypatch, tmp_path, pairs, rewards)
    assert trained == [pair for pair in pairs if pair.prompt[0].content not in held] and len(trained) == 24
    assert json.loads((tmp_path / "reward.json").read_text()) == {"middle": 3.0, "half_gap": 4.0}
    assert accuracy[PREFERENCE] == {"accuracy": 0.75, "n": 8, "right": [0, 1, 1, 1, 1, 0, 1, 1]}
    assert probe.summary(accuracy, 200, 0)[PREFERENCE]["n"] == 8
    assert len(set(read.read)) == len(read.read)


def test_replies_to_other_prompts_are_those_of_held_out_prompts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Four held-out prompts with the three other replies each; two of the twelve get more than the right one."""

    def rewards(prompt: str, text: str) -> float:
        number = text.removesuffix(", and a few more words").removeprefix("yes ")
        if prompt.removeprefix("q") == number:
            return 2.0
        return 3.0 if (prompt, number) in (("q0", "3"), ("q2", "1")) else 0.0

    accuracy, _, read = fitted(monkeypatch, tmp_path, made_up(), rewards)
    row = accuracy["off_topic"]
    assert (row["n"], sum(row["right"]), row["accuracy"]) == (12, 10, pytest.approx(10 / 12))
    foreign = {
        (prompt, text) for prompt, text in read.read if text.split()[1].strip(",") != prompt[1:] and "yes" in text
    }
    assert {prompt for prompt, _ in foreign} == {"q0", "q1", "q2", "q3"}
    assert {text.split()[1].strip(",") for _, text in foreign} == {"0", "1", "2", "3"}


@pytest.mark.parametrize(("prompts", "counts"), [(1, "1 pairs .* 0 prompts"), (4, "3 pairs .* 1 prompts")])
def test_a_split_that_is_too_small(prompts: int, counts: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{counts} to measure it; raise data\.splits\.judge"):
        reward.fit(made_up(prompts), SETTINGS, tmp_path)


# Where a reward is read


@torch.no_grad()
def by_hand(model: Any, tokenizer: Any, prompt: list[Message], text: str) -> float:
    """One text alone, without padding: the head on the state of the end-of-sequence token."""
    reply = tokenizer(text, add_special_tokens=False)["input_ids"][: probe.MAX_REPLY_TOKENS]
    ids = torch.tensor([encode_prompt(tokenizer, prompt) + reply + [tokenizer.eos_token_id]])
    state = model.base_model(input_ids=ids).last_hidden_state[0, -1]
    return float(state @ model.score.weight[0])


REPLIES: list[tuple[list[Message], str]] = [
    (asked("Why?"), "Because."),
    (asked("A longer question, is it not?"), "Yes, and a longer answer too."),
    (asked("x"), "it ends with the token that ends replies<|im_end|>"),
    (asked("x"), "<|im_end|> begins with it"),
    (asked("x"), "with padding in it<|pad|><|pad|>"),
    (asked("x"), "with the first token of the vocabulary" + "!" * 3),
    (asked("Say nothing."), ""),
]


@pytest.mark.parametrize("pad_is_end", [False, True])
def test_a_reward_does_not_depend_on_what_shares_the_batch(pad_is_end: bool) -> None:
    model, tokenizer = reward.untrained(SETTINGS)
    if pad_is_end:
        tokenizer.pad_token = tokenizer.eos_token
    expected = [by_hand(model, tokenizer, *reply) for reply in REPLIES]
    assert np.std(expected) > 0.01
    for batch_size in (1, 3, 7):
        assert reward.Rewards(model, tokenizer, batch_size)(REPLIES).tolist() == pytest.approx(expected, abs=1e-5)


def test_only_the_beginning_of_a_long_reply_is_read() -> None:
    model, tokenizer = reward.untrained(SETTINGS)
    longest = "a" * probe.MAX_REPLY_TOKENS  # a token a byte
    texts = [longest, longest + "b" * 50, longest[:-1] + "b"]
    read = reward.Rewards(model, tokenizer, 3)([(asked("q"), text) for text in texts])
    assert read[0] == pytest.approx(read[1], abs=1e-5) and read[0] == pytest.approx(
        by_hand(model, tokenizer, asked("q"), longest), abs=1e-5
    )
    assert abs(read[0] - read[2]) > 1e-4


# The model before and after its training


def test_the_language_model_with_a_head_of_the_seed() -> None:
    model, _ = reward.untrained(SETTINGS)
    causal = models.load_model(models.RANDOM)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        ours, theirs = (m.base_model(input_ids=ids).last_hidden_state for m in (model, causal))
    assert torch.equal(ours, theirs)
    assert model.score.weight.shape == (1, 32) and model.score.weight.dtype == torch.float32
    head = model.score.weight
    assert torch.equal(head, reward.untrained(SETTINGS)[0].score.weight)
    other = reward.untrained(SETTINGS.model_copy(update={"seed": 2}))[0]
    assert not torch.equal(head, other.score.weight)


@pytest.mark.parametrize("pad_is_end", [False, True])
def test_the_loss_of_a_step_by_hand(pad_is_end: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All pairs in one batch: the mean of -log sigmoid(r(chosen) - r(rejected)), before anything has moved."""
    plain = models.load_tokenizer

    def load(name: str, revision: str | None = None) -> Any:
        tokenizer = plain(name, revision)
        if pad_is_end:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    monkeypatch.setattr(models, "load_tokenizer", load)
    pairs = [
        Pair(prompt=prompt, chosen=text, rejected="another text" * (n + 1))
        for n, (prompt, text) in enumerate(REPLIES)
        if text
    ]
    model, tokenizer = reward.untrained(SETTINGS)
    margins = np.array(
        [by_hand(model, tokenizer, p.prompt, p.chosen) - by_hand(model, tokenizer, p.prompt, p.rejected) for p in pairs]
    )
    reward.train(pairs, SETTINGS.model_copy(update={"batch_size": 8, "epochs": 1}), tmp_path / "log.jsonl")
    (row,) = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert row["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), abs=1e-5)
    assert row["margin"] == pytest.approx(margins.mean(), abs=1e-5)
    assert row["accuracy"] == pytest.approx((margins > 0).mean())
    assert abs(margins).min() > 1e-3  # else the loss would be log 2 whatever is read


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    """Nine pairs in batches of four are three steps an epoch."""
    pairs = made_up(9)
    first, again, other = (
        reward.train(pairs, SETTINGS.model_copy(update={"seed": seed}), tmp_path / "log.jsonl")[0].state_dict()
        for seed in (1, 1, 2)
    )
    assert len(log(tmp_path)) == 2 * 3
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["score.weight"], other["score.weight"])
    start = reward.untrained(SETTINGS)[0].state_dict()
    assert all(not torch.equal(first[name], start[name]) for name in first)  # all of it was trained


def test_a_step_in_parts_is_the_step_as_a_whole(tmp_path: Path) -> None:
    """Three steps of four pairs and one of two, an epoch: in memory four at a time, or two."""
    steps = {}
    for size, parts in ((4, 1), (2, 2)):
        settings = SETTINGS.model_copy(update={"batch_size": size, "gradient_accumulation": parts})
        model, _ = reward.train(made_up(14), settings, tmp_path / "log.jsonl")
        steps[size] = log(tmp_path), model.state_dict()
    (whole, trained), (in_parts, same) = steps.values()
    assert len(whole) == 2 * 4
    for column in ("loss", "accuracy", "margin", "grad_norm"):
        assert [row[column] for row in in_parts] == pytest.approx([row[column] for row in whole], rel=1e-3), column
    assert torch.allclose(trained["score.weight"], same["score.weight"], atol=1e-4)


def test_the_learning_rate_rises_and_falls(tmp_path: Path) -> None:
    """Warm-up over two of eight steps, then down to 0 after the last: 0, 1/2, 1, 5/6, 4/6 ... of 0.01."""
    reward.train(made_up(16), SETTINGS.model_copy(update={"warmup_steps": 2}), tmp_path / "log.jsonl")
    shares = [row["learning_rate"] / 0.01 for row in log(tmp_path)]
    assert shares == pytest.approx([0, 1 / 2, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_a_stored_judge_is_what_was_measured(tmp_path: Path) -> None:
    """A word tells chosen from rejected, so held-out pairs are right; what is stored is read again as it was."""
    pairs = made_up(24)
    accuracy = reward.fit(pairs, SETTINGS.model_copy(update={"epochs": 8}), tmp_path)
    assert (accuracy[PREFERENCE]["accuracy"], accuracy[PREFERENCE]["n"]) == (1.0, 6)
    assert log(tmp_path)[-1]["loss"] < 0.1 < log(tmp_path)[0]["loss"]
    assert not [file.name for file in tmp_path.rglob("*") if file.suffix in (".bin", ".pt", ".pth")]
    judge = reward.load(tmp_path, 5)
    assert judge.read.model.config.num_labels == 1
    rest = pairs[6:]
    good = [rating.raw["reward"] for rating in judge.rate([Reply("", pair.prompt, pair.chosen) for pair in rest])]
    bad = [rating.raw["reward"] for rating in judge.rate([Reply("", pair.prompt, pair.rejected) for pair in rest])]
    scores = judge.scale.score(np.array([good, bad]))  # two standard deviations are one
    assert scores.mean() == pytest.approx(0, abs=1e-4) and scores.std() == pytest.approx(0.5, abs=1e-4)
    assert scores[0].min() > scores[1].max()
    verdicts = judge.prefer([Duel("", pair.prompt, pair.rejected, pair.chosen) for pair in pairs[:6]])
    assert [verdict.preference for verdict in verdicts] == ["second"] * 6
    expected = by_hand(judge.read.model, judge.read.tokenizer, rest[0].prompt, rest[0].chosen)
    assert good[0] == pytest.approx(expected, abs=1e-5)


# What cannot be a reward model


def test_a_model_that_is_not_there() -> None:
    settings = SETTINGS.model_copy(update={"model": "./nowhere"})
    for look in (reward.check, reward.untrained):
        with pytest.raises(UserError, match=r"^judge\.reward\.model: there is no folder"):
            look(settings)
    reward.check(SETTINGS)


def test_an_architecture_without_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tr_align.planning.architectures.config_of", lambda name, revision: MambaConfig())
    with pytest.raises(UserError, match=r"judge\.reward\.model: transformers makes no classifier .*mamba"):
        reward.check(SETTINGS)
