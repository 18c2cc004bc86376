"""The layout of a pass, worked out by hand, and what every split into passes has to keep."""

from __future__ import annotations

import random

import pytest
import torch

from tr_align.align.batches import Example, collate, split_passes

# The second reply of the first example has one token, which is scored but never fed.
FIRST = Example((10, 11, 12), ((20, 21, 22), (30,)))
SECOND = Example((40,), ((50, 51), (60, 61, 62)))


def test_cost_counts_the_positions_fed() -> None:
    # 3 + (3 - 1) + (1 - 1) and 1 + (2 - 1) + (3 - 1)
    assert (FIRST.cost, SECOND.cost) == (5, 4)


def test_shared_layout_by_hand() -> None:
    """Positions in the row:

    0  1  2 | 3  4 |  | 5 | 6 | 7  8
    10 11 12| 20 21|  | 40| 50| 60 61    the last tokens 22, 30, 51, 62 are nowhere
    0  1  2 | 3  4 |  | 0 | 1 | 1  2     positions go on from the prompt in each reply

    A reply's first token is predicted by its prompt's last position (2; 5), the others by the token before.
    """
    batch = collate([FIRST, SECOND], shared=True)
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 40, 50, 60, 61]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 1, 2]]
    assert batch.attention_mask is None
    assert batch.segments == [(3, (2, 0)), (1, (1, 2))]
    assert batch.predictors.tolist() == [2, 3, 4, 2, 5, 6, 5, 7, 8]
    assert batch.labels.tolist() == [20, 21, 22, 30, 50, 51, 60, 61, 62]
    assert batch.owners.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3]
    assert batch.shape == (2, 2)
    assert batch.input_ids.shape[1] == FIRST.cost + SECOND.cost


def test_padded_layout_by_hand() -> None:
    """A row a reply, each with its prompt; rows are 5 wide, so row r begins at the flat position 5 r."""
    batch = collate([FIRST, SECOND], shared=False)
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21], [10, 11, 12, 0, 0], [40, 50, 0, 0, 0], [40, 60, 61, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 0], [0, 1, 0, 0, 0], [0, 1, 2, 0, 0]]
    assert batch.attention_mask is not None
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]]
    assert batch.segments is None
    assert batch.predictors.tolist() == [2, 3, 4, 5 + 2, 10, 11, 15, 16, 17]
    assert batch.labels.tolist() == [20, 21, 22, 30, 50, 51, 60, 61, 62]
    assert batch.owners.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3]
    assert batch.shape == (2, 2)


@pytest.mark.parametrize("shared", [True, False])
def test_single_replies_and_three_replies(shared: bool) -> None:
    single = collate([Example((1, 2), ((3, 4),)), Example((5,), ((6,),))], shared)
    assert single.shape == (2, 1)
    assert single.owners.tolist() == [0, 0, 1]
    triple = collate([Example((1,), ((2, 3), (4,), (5, 6)))], shared)
    assert triple.shape == (1, 3)
    assert triple.owners.tolist() == [0, 0, 1, 2, 2]
    if shared:
        assert triple.input_ids.tolist() == [[1, 2, 5]]
        assert triple.predictors.tolist() == [0, 1, 0, 0, 2]


@pytest.mark.parametrize("shared", [True, False])
def test_to_moves_every_tensor_and_keeps_the_rest(shared: bool) -> None:
    batch = collate([FIRST, SECOND], shared)
    moved = batch.to(torch.device("meta"))
    tensors = [moved.input_ids, moved.position_ids, moved.predictors, moved.labels, moved.owners, moved.attention_mask]
    assert {tensor.device.type for tensor in tensors if tensor is not None} == {"meta"}
    assert (moved.shape, moved.segments) == (batch.shape, batch.segments)


def cases() -> list[tuple[list[int], int]]:
    """Random costs, among them equal ones and ones over the budget."""
    rng = random.Random(0)
    drawn = []
    for _ in range(400):
        highest = rng.choice([3, 10, 30, 70])
        drawn.append(([rng.randint(1, highest) for _ in range(rng.randint(1, 14))], rng.randint(5, 60)))
    return drawn


def test_every_split_keeps_its_promises() -> None:
    for costs, most in cases():
        passes = split_passes(costs, most)
        order = [i for part in passes for i in part]
        assert sorted(order) == list(range(len(costs)))  # each once
        assert [costs[i] for i in order] == sorted(costs)  # shortest first
        for part in passes:
            assert part
            assert sum(costs[i] for i in part) <= most or len(part) == 1, (costs, most, passes)
        assert split_passes(costs, most) == passes


def test_exactly_as_many_passes_as_asked_for() -> None:
    """Processes that share a model meet in every pass: the one that needs most tells the others its number, and one
    pass more or less anywhere would leave them waiting for each other for ever."""
    # A case that cost one pass too many when the budget was checked after the split into 7.
    hard = ([4, 67, 27, 10, 9, 27, 50, 28, 9, 16, 58, 8, 19], 56)
    for costs, most in [hard, *cases()]:
        own = len(split_passes(costs, most))
        for asked in range(1, len(costs) + 1):
            passes = split_passes(costs, most, asked)
            assert len(passes) == max(own, asked), (costs, most, asked)
            order = [i for part in passes for i in part]
            assert sorted(order) == list(range(len(costs)))
            assert [costs[i] for i in order] == sorted(costs)
            assert all(part and (len(part) == 1 or sum(costs[i] for i in part) <= most) for part in passes)


def test_splits_by_hand() -> None:
    # In order 1, 1, 2, 2 | 2, 4: two passes of 6.
    assert split_passes([2, 4, 1, 2, 2, 1], 6) == [[2, 5, 0, 3], [4, 1]]
    assert split_passes([5, 5], 100) == [[0, 1]]
    assert split_passes([5, 5], 100, at_least=2) == [[0], [1]]
    # 24 positions might go into three passes of 10, but 6 | 6 | 6 + 6 do not.
    assert split_passes([6, 6, 6, 6], 10) == [[0], [1], [2], [3]]
    # Two passes of three do; for more the larger ones are halved.
    assert list(map(len, split_passes([2] * 6, 6, at_least=3))) == [2, 1, 3]
    assert list(map(len, split_passes([2] * 6, 6, at_least=4))) == [2, 1, 2, 1]
    assert split_passes([50, 3], 10) == [[1], [0]]  # longer than a pass may be: alone


def test_more_passes_than_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="2 examples cannot be split into 3 passes"):
        split_passes([1, 1], 10, at_least=3)
    with pytest.raises(ValueError, match="0 examples"):
        split_passes([], 10)
