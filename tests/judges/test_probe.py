"""The embedded judge: its arithmetic by hand, what it may see, and how good the real one is on real replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tr_align import models
from tr_align.config import load_params
from tr_align.data import anthropic_hh
from tr_align.data.prepare import prepare
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError
from tr_align.generation import encode_prompt
from tr_align.judges import probe
from tr_align.judges.base import Duel, Reply
from tr_align.metrics.win_rate import outcome
from tr_align.settings import AXES, PREFERENCE, Probe
from tr_align.stats import mean_ci

ROOT = Path(__file__).parents[2]
HELPFUL = ROOT.parent / "shared" / "data" / "anthropic-hh" / "helpful-base" / "test.jsonl.gz"
SETTINGS = Probe(model=models.RANDOM, layer=1, held_out=0.25, regularisation=1.0, batch_size=3)
Texts = Sequence[tuple[list[Message], str]]


def asked(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


class Table:
    """In place of a model: the vector that a function names for a prompt's text and a reply; keeps what was read."""

    def __init__(self, vector: Callable[[str, str], Sequence[float]]) -> None:
        self.vector = vector
        self.read: list[tuple[str, str]] = []

    def __call__(self, replies: Texts, title: str = "") -> np.ndarray[Any, Any]:
        read = [(prompt[-1].content, text) for prompt, text in replies]
        self.read += read
        return np.array([self.vector(*both) for both in read], dtype=np.float32)


# One axis, by hand


def test_an_axis_by_hand() -> None:
    """The second feature says nothing: it rises in two pairs as much as it falls in the other two."""
    flawed = np.array([[0, 5], [1, 3], [-1, 4], [0, 2]], np.float32)
    good = flawed + np.array([[1, 1], [3, 1], [1, -1], [3, -1]], np.float32)
    axis = probe.fit_axis(good, flawed, regularisation=1.0)
    # First feature: good ones average 2, flawed ones 0. So the middle is 1, half the gap 1, and the score x - 1.
    assert axis.score(np.array([[2, 0], [0, 0], [1, 9], [5, -9]], np.float32)) == pytest.approx([1, -1, 0, 4], abs=1e-4)
    assert axis.score(good).mean() == pytest.approx(1, abs=1e-5)
    assert axis.score(flawed).mean() == pytest.approx(-1, abs=1e-5)


def test_an_axis_points_from_flawed_to_good_also_downwards() -> None:
    flawed = np.array([[4.0, 0], [5, 1], [6, 0]], np.float32)
    axis = probe.fit_axis(flawed - np.array([[2, 0], [4, 0], [3, 1]], np.float32), flawed, regularisation=0.1)
    assert axis.half_gap > 0
    assert axis.score(np.array([[0, 0]], np.float32)) > axis.score(np.array([[9, 0]], np.float32))


def test_the_unit_of_a_feature_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    flawed = rng.normal(size=(40, 2)).astype(np.float32)
    good = flawed + rng.normal(0.7, 1, size=(40, 2)).astype(np.float32)
    unit = np.array([1, 200], np.float32)
    plain, rescaled = (probe.fit_axis(good * scale, flawed * scale, 0.01) for scale in (np.ones(2, np.float32), unit))
    assert rescaled.score(good * unit) == pytest.approx(plain.score(good), abs=1e-3)


def test_regularisation_shrinks_the_weight_and_not_the_scores() -> None:
    rng = np.random.default_rng(1)
    flawed = np.zeros((60, 2), np.float32)
    good = rng.normal([3, 1], 1, (60, 2)).astype(np.float32)
    weak, strong = probe.fit_axis(good, flawed, 1e-4), probe.fit_axis(good, flawed, 10.0)
    assert 0 < np.linalg.norm(weak.weight) < 0.1 * np.linalg.norm(strong.weight)
    assert weak.score(good).mean() == pytest.approx(strong.score(good).mean(), abs=1e-4)


def test_points_are_bounded_and_keep_the_order() -> None:
    assert probe.points(np.array([0.0])) == pytest.approx([5.5])
    assert probe.points(np.array([1.0, -1.0])) == pytest.approx([1 + 9 / (1 + np.exp(-2)), 1 + 9 / (1 + np.exp(2))])
    values = probe.points(np.linspace(-6, 6, 101))
    assert (np.diff(values) > 0).all() and values.min() > 1 and values.max() < 10
    assert probe.points(np.array([-300.0, 300.0])) == pytest.approx([1, 10])


# Fitting, on vectors that the tests choose


def made_up(prompts: int = 12, axes: Sequence[str] = AXES) -> list[Pair]:
    """A judge split as `prepare` orders it: rounds, so that a prompt's pairs are far apart."""
    return [
        Pair(prompt=asked(f"q{number}"), chosen=f"good {number}", rejected=f"{axis} {number}", axis=axis)
        for axis in axes
        for number in range(prompts)
    ]


HELD = {f"q{number}" for number in range(3)}
"""A quarter of the twelve prompts, the first of the split."""


def vectors(prompt: str, text: str) -> list[float]:
    """Feature 0 is 1 for a good reply to its own prompt; each other feature is noise that the texts determine."""
    kind, number = text.split()
    on_topic = number == prompt.removeprefix("q")
    noise = np.random.default_rng([*text.encode(), *prompt.encode()]).normal(0, 0.2, 3)
    return [float(kind == "good" and on_topic) * 2 - 1 + noise[0], noise[1], noise[2]]


def test_the_first_prompts_of_the_split_are_held_out() -> None:
    """A quarter of twelve prompts, however many pairs each has; of ten, 2.5 is rounded to the even 2."""
    ids = [pair.prompt_id for pair in made_up()]
    assert probe.held_out_prompts(made_up(), SETTINGS) == set(ids[:3])
    assert probe.held_out_prompts(made_up(prompts=10), SETTINGS) == set(ids[:2])
    assert probe.held_out_prompts(list(reversed(made_up())), SETTINGS) == set(ids[9:12])


def test_held_out_prompts_do_not_enter_the_fit() -> None:
    def poisoned(prompt: str, text: str) -> Sequence[float]:
        return [-50.0, 70.0, 90.0] if prompt in HELD and text.startswith("good") else vectors(prompt, text)

    clean, measured = probe.fit(made_up(), Table(vectors), SETTINGS)
    other, spoiled = probe.fit(made_up(), Table(poisoned), SETTINGS)
    for axis in AXES:
        assert np.array_equal(clean[axis].weight, other[axis].weight)
        assert (clean[axis].middle, clean[axis].half_gap) == (other[axis].middle, other[axis].half_gap)
    assert {row["accuracy"] for row in measured.values()} == {1.0}
    assert spoiled["coherence"]["right"] != measured["coherence"]["right"]


def test_only_held_out_prompts_are_measured() -> None:
    """Two of the nine prompts of the fit have it the wrong way round, so that the probes err."""

    def partly_wrong(prompt: str, text: str) -> Sequence[float]:
        row = vectors(prompt, text)
        return [-row[0], *row[1:]] if prompt in ("q7", "q8") else row

    probes, accuracy = probe.fit(made_up(), Table(partly_wrong), SETTINGS)
    for axis in AXES:
        good, bad = (
            probes[axis].score(np.array([partly_wrong(f"q{n}", f"{kind} {n}") for n in range(3)], np.float32))
            for kind in ("good", axis)
        )
        assert accuracy[axis]["right"] == (good > bad).astype(float).tolist()
    assert {axis: row["n"] for axis, row in accuracy.items()} == dict.fromkeys(AXES, 3) | {"off_topic": 6}


def test_accuracies_by_hand() -> None:
    """Held-out prompt 0 has a flaw in detail that looks better than its good reply; prompt 1 one that looks equal."""

    def tricky(prompt: str, text: str) -> Sequence[float]:
        if text == "detail 0":
            return [9.0, 0.0, 0.0]
        return vectors("q1", "good 1") if (prompt, text) == ("q1", "detail 1") else vectors(prompt, text)

    _, accuracy = probe.fit(made_up(), Table(tricky), SETTINGS)
    assert accuracy["detail"]["right"] == [0.0, 0.0, 1.0]
    assert accuracy["detail"]["accuracy"] == pytest.approx(1 / 3)
    assert [accuracy[axis]["accuracy"] for axis in AXES if axis != "detail"] == [1.0] * 4
    summary = probe.summary(accuracy, resamples=200, seed=0)
    shown = summary["detail"]
    assert (shown["accuracy"], shown["n"]) == (pytest.approx(1 / 3), 3)
    assert shown["ci"][0] == 0.0 and 1 / 3 < shown["ci"][1] <= 1
    # Three right of three: p^3 = 0.025 at the lower end, p = 0.29.
    assert summary["coherence"] == {"accuracy": 1.0, "ci": [pytest.approx(0.025 ** (1 / 3)), 1.0], "n": 3}


def test_replies_to_other_prompts_come_from_the_same_side() -> None:
    table = Table(vectors)
    _, accuracy = probe.fit(made_up(), table, SETTINGS)
    foreign = [(prompt, text) for prompt, text in table.read if prompt.removeprefix("q") != text.split()[1]]
    for prompt, text in foreign:
        kind, number = text.split()
        assert kind == "good"
        assert (prompt in HELD) == (f"q{number}" in HELD)
    # Three other replies a prompt, where the side has as many: 9 x 3, and 3 x 2 among the three held-out prompts.
    assert len([prompt for prompt, _ in foreign if prompt not in HELD]) == 27
    assert len([prompt for prompt, _ in foreign if prompt in HELD]) == 6 == accuracy["off_topic"]["n"]
    assert len(set(table.read)) == len(table.read)


def test_only_helpfulness_learns_from_replies_to_other_prompts() -> None:
    """Feature 1 alone marks them: no written flaw shows in it."""

    def marked(prompt: str, text: str) -> Sequence[float]:
        kind, number = text.split()
        first, _, noise = vectors(f"q{number}", text)
        return [first, float(kind == "good" and number != prompt.removeprefix("q")), noise]

    probes, accuracy = probe.fit(made_up(), Table(marked), SETTINGS)
    assert probes["helpfulness"].weight[1] < 0
    assert all(probes[axis].weight[1] == 0 for axis in AXES if axis != "helpfulness")
    assert accuracy["off_topic"]["accuracy"] == 1.0


@pytest.mark.parametrize("missing", AXES)
def test_a_split_without_an_axis(missing: str) -> None:
    pairs = made_up(axes=[axis for axis in AXES if axis != missing])
    with pytest.raises(UserError, match=rf"0 pairs for {missing}; raise data\.splits\.judge"):
        probe.fit(pairs, Table(vectors), SETTINGS)


def test_a_split_too_small_to_measure() -> None:
    with pytest.raises(UserError, match=r"1 pairs for coherence; raise data\.splits\.judge"):
        probe.fit(made_up(prompts=4), Table(vectors), SETTINGS)


# One axis, fitted on preferences


def preferences(prompts: int = 12) -> list[Pair]:
    """A judge split of human preferences: nobody says what is wrong with the rejected reply."""
    return [
        Pair(prompt=asked(f"q{number}"), chosen=f"good {number}", rejected=f"poor {number}")
        for number in range(prompts)
    ]


def test_preferences_give_one_probe_of_the_chosen_against_the_rejected_replies() -> None:
    """It is what `fit_axis` makes of the nine prompts that are not held out, and of nothing else."""
    probes, accuracy = probe.fit(preferences(), Table(vectors), SETTINGS)
    good, poor = (
        np.array([vectors(f"q{n}", f"{kind} {n}") for n in range(3, 12)], np.float32) for kind in ("good", "poor")
    )
    expected = probe.fit_axis(good, poor, SETTINGS.regularisation, preferences=True)
    # +1 is two standard deviations above the average of all replies, chosen or not.
    raw = np.concatenate([good, poor]) @ expected.weight
    assert expected.middle == pytest.approx(raw.mean()) and expected.half_gap == pytest.approx(2 * raw.std())
    assert list(probes) == [PREFERENCE] == ["preference"]
    assert np.array_equal(probes[PREFERENCE].weight, expected.weight)
    assert (probes[PREFERENCE].middle, probes[PREFERENCE].half_gap) == (expected.middle, expected.half_gap)
    assert {axis: row["n"] for axis, row in accuracy.items()} == {"preference": 3, "off_topic": 6}


def test_accuracies_of_preferences_by_hand() -> None:
    """The rejected reply to held-out prompt 1 looks best of all, and so does prompt 2's good reply under prompt 0."""

    def tricky(prompt: str, text: str) -> Sequence[float]:
        if (prompt, text) in (("q1", "poor 1"), ("q0", "good 2")):
            return [9.0, 0.0, 0.0]
        return vectors(prompt, text)

    _, accuracy = probe.fit(preferences(), Table(tricky), SETTINGS)
    assert accuracy["preference"]["right"] == [1.0, 0.0, 1.0]
    assert accuracy["preference"]["accuracy"] == pytest.approx(2 / 3)
    # Prompts 0, 1, 2 against the next reply but one: 1, 2, 0, and against the next but two: 2, 0, 1.
    assert accuracy["off_topic"]["right"] == [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    assert list(probe.summary(accuracy, resamples=200, seed=0)) == ["preference", "off_topic"]


@pytest.mark.parametrize("named", [1, 11])
def test_a_split_of_which_some_pairs_name_an_axis(named: int) -> None:
    pairs = [*made_up(axes=["detail"])[:named], *preferences()[named:]]
    with pytest.raises(
        UserError, match=rf"{named} of its 12 pairs name the axis .* fitted on one kind, .* data\.judge"
    ):
        probe.fit(pairs, Table(vectors), SETTINGS)


def test_an_empty_split() -> None:
    with pytest.raises(UserError, match=r"^the judge split has no pairs; raise data\.splits\.judge$"):
        probe.fit([], Table(vectors), SETTINGS)


def test_too_few_preferences_to_measure() -> None:
    with pytest.raises(UserError, match=r"1 pairs for preference; raise data\.splits\.judge"):
        probe.fit(preferences(prompts=4), Table(vectors), SETTINGS)


def test_a_judge_of_preferences_rates_and_prefers_by_its_axis() -> None:
    judge = probe.ProbeJudge(Table(quality), {PREFERENCE: probe.Axis(np.array([1.0, 0.0], np.float32), 0.0, 1.0)})  # type: ignore[arg-type]
    assert judge.axes == (PREFERENCE,)
    great, fair = judge.rate([Reply("a", asked("q"), "great"), Reply("b", asked("q"), "fair")])
    assert great.axes == {PREFERENCE: pytest.approx(1 + 9 / (1 + np.exp(-4)))} and fair.axes == {PREFERENCE: 5.5}
    assert (great.raw, fair.raw) == ({PREFERENCE: 2.0}, {PREFERENCE: 0.0})
    duels = [
        Duel("1", asked("q"), "great", "fair"),
        Duel("2", asked("q"), "bad", "fair"),
        Duel("3", asked("q"), "fair", "fine"),
    ]
    assert [verdict.preference for verdict in judge.prefer(duels)] == ["first", "second", "tie"]


@pytest.mark.parametrize(("pairs", "axes"), [(preferences(), (PREFERENCE,)), (made_up(), AXES)], ids=["one", "five"])
def test_a_stored_judge_keeps_its_axes(pairs: list[Pair], axes: tuple[str, ...], tmp_path: Path) -> None:
    read = probe.base_features(models.RANDOM, SETTINGS)
    probes, _ = probe.fit(pairs, read, SETTINGS)
    probe.save(tmp_path, read, probes)
    stored = probe.load(tmp_path, SETTINGS)
    assert stored.axes == axes
    assert tuple(stored.rate([Reply("a", asked("q0"), "good 0")])[0].axes) == axes
    for axis in axes:
        assert np.array_equal(stored.probes[axis].weight, probes[axis].weight)


# The judge, on vectors that the tests choose


def judge_of(table: Table) -> probe.ProbeJudge:
    """Scores: helpfulness is the first feature, every other axis its opposite."""
    weights = {axis: [1.0 if axis == "helpfulness" else -1.0, 0.0] for axis in AXES}
    return probe.ProbeJudge(table, {axis: probe.Axis(np.array(w, np.float32), 0.0, 1.0) for axis, w in weights.items()})  # type: ignore[arg-type]


def quality(prompt: str, text: str) -> Sequence[float]:
    return [{"bad": -1.0, "fair": 0.0, "fine": 0.0, "great": 2.0}[text], 7.0]


def test_ratings_are_points_of_each_axis_in_the_order_of_the_replies() -> None:
    ratings = judge_of(Table(quality)).rate([Reply("a", asked("q"), "great"), Reply("b", asked("q"), "fair")])
    assert [rating.id for rating in ratings] == ["a", "b"]
    assert list(ratings[0].axes) == list(AXES)
    high, low = 1 + 9 / (1 + np.exp(-4)), 1 + 9 / (1 + np.exp(4))
    for axis in AXES:
        assert ratings[0].axes[axis] == pytest.approx(high if axis == "helpfulness" else low)
        assert ratings[1].axes[axis] == pytest.approx(5.5)
    assert (ratings[0].raw["helpfulness"], ratings[0].raw["detail"]) == (2.0, -2.0)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("great", "bad", "first"),
        ("bad", "great", "second"),
        ("fair", "bad", "first"),
        ("fair", "fine", "tie"),
        ("great", "great", "tie"),
    ],
)
def test_the_order_of_a_duel_does_not_matter(first: str, second: str, expected: str) -> None:
    judge = judge_of(Table(quality))
    there, back = judge.prefer([Duel("there", asked("q"), first, second), Duel("back", asked("q"), second, first)])
    assert (there.id, back.id) == ("there", "back")
    assert there.preference == expected
    assert back.preference == {"first": "second", "second": "first", "tie": "tie"}[expected]


def test_a_preference_follows_helpfulness_and_not_the_other_four() -> None:
    judge = judge_of(Table(quality))
    (verdict,) = judge.prefer([Duel("d", asked("q"), "great", "bad")])
    assert verdict.preference == "first"
    ratings = judge.rate([Reply("1", asked("q"), "great"), Reply("2", asked("q"), "bad")])
    means = [np.mean([value for value in rating.axes.values() if value is not None]) for rating in ratings]
    assert means[0] < means[1]


def test_nothing_is_read_twice() -> None:
    table = Table(quality)
    judge = judge_of(table)
    judge.rate([Reply(str(n), asked(prompt), "great") for n, prompt in enumerate(["q", "q", "r"])])
    assert sorted(table.read) == [("q", "great"), ("r", "great")]
    duels = [Duel("1", asked("q"), "great", "bad"), Duel("2", asked("q"), "bad", "great")]
    judge.prefer(duels)
    judge.prefer(duels)
    assert sorted(table.read) == [("q", "bad"), ("q", "great"), ("r", "great")]


# Features of a small random model


def features(layer: int = 2) -> probe.Features:
    return probe.Features(models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM), layer, batch_size=3)


def test_features_are_means_over_the_reply_whatever_shares_the_batch() -> None:
    whole = models.load_model(models.RANDOM)
    tokenizer = models.load_tokenizer(models.RANDOM)
    replies = [
        (asked("Why?"), "Because."),
        (asked("A longer question, is it not?"), "Yes, and a longer answer too."),
        (asked("x"), "y"),
        (asked("Say nothing."), ""),
    ]
    expected = []
    for prompt, text in replies:
        head, tail = encode_prompt(tokenizer, prompt), tokenizer(text, add_special_tokens=False)["input_ids"]
        tail = tail or [tokenizer.eos_token_id]
        with torch.no_grad():
            states = whole.base_model(input_ids=torch.tensor([head + tail])).last_hidden_state[0]
        expected.append(states[len(head) :].mean(0).numpy())
    assert features()(replies) == pytest.approx(np.stack(expected), abs=1e-5)


def test_only_the_beginning_of_a_long_reply_is_read() -> None:
    longest = "a" * probe.MAX_REPLY_TOKENS  # a token a byte
    read = features()([(asked("q"), longest), (asked("q"), longest + "b" * 50), (asked("q"), longest[:-1] + "b")])
    assert read[0] == pytest.approx(read[1], abs=1e-5)
    assert abs(read[0] - read[2]).max() > 1e-4


def test_a_layer_beyond_the_model() -> None:
    with pytest.raises(UserError, match=r"judge\.probe\.layer: is 3, but the judge's model has only 2 layers"):
        features(layer=3)


def test_a_stored_judge_gives_the_same_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "has_bf16", lambda: False)
    pairs = made_up()
    read = probe.base_features(models.RANDOM, SETTINGS)
    with torch.no_grad():  # storing rounds to bfloat16; from here on there is nothing left to round
        for weight in read.model.parameters():
            weight.copy_(weight.bfloat16().float())
    probes, _ = probe.fit(pairs, read, SETTINGS)
    probe.save(tmp_path / "judge", read, probes)
    stored = probe.load(tmp_path / "judge", SETTINGS)
    assert len(stored.features.model.base_model.layers) == SETTINGS.layer == 1

    replies = [Reply(pair.rejected, pair.prompt, pair.rejected) for pair in pairs]
    replies.append(Reply("empty", asked("q0"), ""))
    ours, theirs = probe.ProbeJudge(read, probes).rate(replies), stored.rate(replies)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.id == other.id
        assert other.raw == pytest.approx(mine.raw, abs=1e-4)
        assert other.axes == pytest.approx(mine.axes, abs=1e-4)
    assert all(1 <= value <= 10 for value in theirs[-1].axes.values() if value is not None)
    assert len({rating.axes["detail"] for rating in theirs}) > 10


# The real judge


@pytest.fixture(scope="module")
def real() -> tuple[probe.ProbeJudge, dict[str, Any], Any]:
    """Fitted as the stage `judge_fit` does it; its accuracies; its tokenizer. Takes a minute or two of a CPU."""
    params = load_params(ROOT / "params.yaml")
    settings = params.judge.probe
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)  # where the embedded requests are found
        splits, _ = prepare(params.data, params.seed, models.load_tokenizer(params.model.name))
    read = probe.base_features(settings.model, settings)
    probes, accuracy = probe.fit(splits["judge"], read, settings)
    return probe.ProbeJudge(read, probes), accuracy, read.tokenizer


@pytest.fixture(scope="module")
def people(real: tuple[probe.ProbeJudge, dict[str, Any], Any]) -> list[Pair]:
    """The first 150 rows of Anthropic-HH's helpful-base test set that are short enough, of one turn or several."""
    if not HELPFUL.exists():
        pytest.skip(f"the Anthropic-HH file {HELPFUL.relative_to(ROOT.parent)} is not beside the repository")
    tokenizer = real[2]
    rows = []
    for _, pair in anthropic_hh.load(HELPFUL, "").pairs:
        if len(encode_prompt(tokenizer, pair.prompt)) <= 300 and len(tokenizer(pair.chosen)["input_ids"]) <= 300:
            rows.append(pair)
        if len(rows) == 150:
            break
    assert len(rows) == 150
    assert sum(len(pair.prompt) > 2 for pair in rows) > 50  # an empty system message, and more than one turn
    return rows


def test_presets_have_the_same_judge() -> None:
    assert load_params(ROOT / "params.yaml").judge == load_params(ROOT / "presets" / "embedded.yaml").judge


def test_the_real_judge_tells_written_flaws(real: tuple[probe.ProbeJudge, dict[str, Any], Any]) -> None:
    _, accuracy, _ = real
    print({axis: round(row["accuracy"], 3) for axis, row in accuracy.items()})
    assert all(accuracy[axis]["n"] == 28 for axis in AXES)
    # Measured: correctness 0.96, replies to other prompts 0.92, the other four 1.00.
    assert all(accuracy[axis]["accuracy"] > 0.8 for axis in (*AXES, "off_topic"))


def test_the_real_judge_on_real_replies(
    real: tuple[probe.ProbeJudge, dict[str, Any], Any], people: list[Pair], record_property: Callable[[str, Any], None]
) -> None:
    """The reply to a question wins against the one to another question; people's choices are weaker evidence."""
    judge, _, _ = real
    others = {
        "another prompt's reply": [people[(i + 1) % len(people)].chosen for i in range(len(people))],
        "the reply people rejected": [pair.rejected for pair in people],
    }
    rates = {}
    for name, replies in others.items():
        duels = []
        for i, (pair, other) in enumerate(zip(people, replies, strict=True)):
            duels.append(Duel(f"{i}/first", pair.prompt, pair.chosen, other))
            duels.append(Duel(f"{i}/second", pair.prompt, other, pair.chosen))
        verdicts = [verdict.preference for verdict in judge.prefer(duels)]
        outcomes = [outcome(*both) for both in zip(verdicts[0::2], verdicts[1::2], strict=True)]
        swapped = {"first": "second", "second": "first", "tie": "tie"}
        assert all(back == swapped[str(there)] for there, back in zip(verdicts[0::2], verdicts[1::2], strict=True))
        mean, (low, high) = mean_ci(np.array(outcomes), 2000, 0)
        rates[name] = mean, low
        record_property(f"right against {name}", f"{mean:.3f} [{low:.3f}, {high:.3f}] of {len(people)}")
        print(f"right against {name}: {mean:.3f} [{low:.3f}, {high:.3f}] of {len(people)}")
    # Measured on the same rows with both replies short: 0.90 and 0.62.
    assert rates["another prompt's reply"][0] >= 0.85
    assert rates["the reply people rejected"][0] > 0.5 and rates["the reply people rejected"][1] > 0.5
