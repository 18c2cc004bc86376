"""A judge's biases by hand, at their extremes, and with duels that share a prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tr_align.metrics.bias import bias, pairs_of

Row = dict[str, Any]


def duel(first: str | None, second: str | None, length_a: int, length_b: int, **more: str) -> Row:
    return {"first": first, "second": second, "length_a": length_a, "length_b": length_b, **more}


def exact(value: float, n: int) -> Any:
    """Clopper & Pearson's interval of a share of all n (1), so that p^n = 0.025 at its lower end, or of none (0)."""
    end = 0.025 ** (1 / n)
    return pytest.approx([end, 1.0] if value else [0.0, 1 - end])


def test_by_hand() -> None:
    found = bias(
        [
            # verdicts with a shown first and second, lengths; what the first one shown got, what the longer one got
            duel("first", "second", 5, 3),  # a both times; 1 and 0, so 1/2; a has 1
            duel("first", "first", 2, 4),  # the position; 1 and 1, so 1; each has 1/2
            duel("second", "first", 2, 4),  # b both times; 0 and 1, so 1/2; b has 1
            duel("tie", "tie", 3, 3),  # 1/2; neither is longer
            duel("second", "tie", 9, 1),  # not the same; 0 and 1/2, so 1/4; a has (0 + 1/2) / 2 = 1/4
            duel(None, "first", 9, 1),
            duel("first", None, 9, 1),
        ],
        200,
        0,
    )
    numbers = {key: value for key, value in found.items() if not key.endswith("_ci")}
    assert numbers == pytest.approx(
        {
            "n": 5,
            "n_missing": 2,
            "n_longer": 4,
            "consistent": 3 / 5,
            "first_shown": (0.5 + 1 + 0.5 + 0.5 + 0.25) / 5,
            "longer": (1 + 0.5 + 1 + 0.25) / 4,
        }
    )
    for name in ("consistent", "first_shown", "longer"):
        low, high = found[f"{name}_ci"]
        assert 0 <= low < found[name] < high <= 1
    assert len(found) == 9


def test_which_of_the_two_is_a_does_not_matter() -> None:
    """With b for a, the reply shown first is the other one and so are the two orders."""
    duels = [duel("first", "tie", 5, 3), duel("second", "second", 2, 4), duel("first", "second", 7, 8)]
    swapped = [duel(row["second"], row["first"], row["length_b"], row["length_a"]) for row in duels]
    assert bias(duels, 200, 0) == bias(swapped, 200, 0)


@pytest.mark.parametrize(("verdict", "first_shown"), [("first", 1.0), ("second", 0.0)])
def test_a_judge_that_follows_the_position(verdict: str, first_shown: float) -> None:
    found = bias([duel(verdict, verdict, length, 5) for length in range(10)], 200, 0)
    assert (found["first_shown"], found["first_shown_ci"]) == (first_shown, exact(first_shown, 10))
    assert (found["consistent"], found["consistent_ci"]) == (0.0, exact(0, 10))
    assert (found["longer"], found["n_longer"]) == (0.5, 9)


def test_a_judge_that_follows_the_length() -> None:
    longer_is_a = duel("first", "second", 7, 5)
    longer_is_b = duel("second", "first", 4, 5)
    found = bias([longer_is_a, longer_is_b] * 5, 200, 0)
    assert (found["longer"], found["longer_ci"], found["n_longer"]) == (1.0, exact(1, 10), 10)
    assert (found["consistent"], found["first_shown"]) == (1.0, 0.5)


def test_the_interval_covers_what_the_judge_does() -> None:
    """A judge that follows the position three times in ten and is fair otherwise: 0.3 + 0.7 / 2 = 0.65 go first."""
    generator = np.random.default_rng(0)
    duels = [
        duel("first", "first", 1, 1)
        if generator.random() < 0.3
        else duel(*(("first", "second") if generator.random() < 0.5 else ("second", "first")), 1, 1)
        for _ in range(400)
    ]
    low, high = bias(duels, 1000, 0)["first_shown_ci"]
    # 0, 0.5 and 1 with 0.65 on average: the standard deviation is 0.5 sqrt(.3 * .7), over sqrt 400 that is 0.0115.
    assert low < 0.65 < high
    assert high - low == pytest.approx(2 * 1.96 * 0.0115, rel=0.15)


def test_nothing_to_average() -> None:
    nothing = {"n": 0, "n_missing": 1, "n_longer": 0}
    nothing |= dict.fromkeys(("consistent", "first_shown", "longer"))
    nothing |= dict.fromkeys(("consistent_ci", "first_shown_ci", "longer_ci"))
    assert bias([duel(None, None, 1, 2)], 100, 0) == nothing
    assert bias([], 100, 0) == nothing | {"n_missing": 0}
    found = bias([duel("first", "second", 3, 3)], 100, 0)
    assert (found["consistent"], found["longer"], found["longer_ci"], found["n_longer"]) == (1.0, None, None, 0)


def test_duels_about_one_prompt_are_drawn_together() -> None:
    """Two prompts, fifty duels each, all alike: half of the resamples have one prompt twice, and the ends are 0 and 1.

    As a hundred independent pairs they would seem to say 0.5 -+ 0.1.
    """
    verdicts = {"p": ("first", "second"), "q": ("first", "first")}
    duels = [duel(*verdicts[prompt], 1, 1, prompt_id=prompt) for prompt in ("p", "q") for _ in range(50)]
    assert bias(duels, 500, 0)["consistent_ci"] == [0.0, 1.0]
    alone = [{key: value for key, value in row.items() if key != "prompt_id"} for row in duels]
    low, high = bias(alone, 500, 0)["consistent_ci"]
    assert 0.35 < low < 0.45 < 0.55 < high < 0.65
    # Fifty times the same of each of two prompts, and of neither anything else, is twice the same.
    assert bias([duel("first", "second", 2, 1, prompt_id=p) for p in "pq" * 50], 100, 0)["longer_ci"] == exact(1, 2)


def reply(step: int, prompt: str, text: str) -> Row:
    return {"step": step, "prompt_id": prompt, "reply": text}


def verdict(against: str, prompt: str, shown: str, preference: str | None) -> Row:
    return {"kind": "duel", "against": against, "prompt_id": prompt, "shown": shown, "preference": preference}


def test_pairs_of_a_judges_rows() -> None:
    """The trained models' replies count, in the order of the policy's; words are what white space separates."""
    replies = [reply(2, "a", "an early reply"), reply(4, "b", "two  words"), reply(4, "a", "one-word")]
    sft = [reply(0, "a", ""), reply(0, "b", "a\nb c.")]
    rows = [
        verdict("sft", "a", "second", "tie"),
        {"kind": "rating", "step": 4, "prompt_id": "a", "axes": {}},
        verdict("base", "a", "first", "second"),
        verdict("sft", "a", "first", "first"),
        verdict("sft", "b", "first", None),
        verdict("sft", "b", "second", "second"),
    ]
    assert pairs_of(rows, replies, sft, "sft") == [
        duel(None, "second", 2, 3, prompt_id="b"),
        duel("first", "tie", 1, 0, prompt_id="a"),
    ]
    assert pairs_of(rows, replies, [], "nobody") == []
    with pytest.raises(KeyError):
        pairs_of(rows, replies, sft, "base")  # the second order is missing
    with pytest.raises(KeyError):
        pairs_of(rows, replies, sft[1:], "sft")  # the opponent's reply to a is missing
