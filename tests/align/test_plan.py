"""The order of the data: every example once an epoch, KTO's groups together, mismatched replies."""

from __future__ import annotations

from collections import Counter

import pytest

from tr_align.align.batches import Example
from tr_align.align.plan import Plan, plan_blocks, unpaired_groups
from tr_align.errors import UserError


def test_rows_and_windows_by_hand() -> None:
    """Three steps of two processes with two examples each: step by step, in each step process by process."""
    plan = Plan(order=(7, 3, 5, 1, 0, 2, 4, 6, 3, 1, 7, 5), batch=2, processes=2)
    assert plan.steps == 3
    assert [plan.rows(step, 0) for step in (1, 2, 3)] == [[7, 3], [0, 2], [3, 1]]
    assert [plan.rows(step, 1) for step in (1, 2, 3)] == [[5, 1], [4, 6], [7, 5]]
    assert plan.window(1, 1, 0) == [3, 7]
    assert plan.window(1, 3, 0) == [0, 1, 2, 3, 7]  # 3 is met twice and scored once
    assert plan.window(2, 3, 1) == [4, 5, 6, 7]
    assert plan.window(3, 99, 1) == [5, 7]  # cut at the last step
    assert plan.window(4, 99, 1) == []


@pytest.mark.parametrize(("count", "block", "batch", "processes"), [(12, 1, 3, 1), (12, 3, 3, 2), (12, 2, 4, 3)])
def test_every_example_once_an_epoch(count: int, block: int, batch: int, processes: int) -> None:
    plan = plan_blocks(count, block, batch, steps=3 * count // (batch * processes), processes=processes, seed=1)
    epochs = [plan.order[start : start + count] for start in range(0, len(plan.order), count)]
    assert len(epochs) == 3
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    if count // block > 4:
        assert len(set(epochs)) == 3  # each in an order of its own


def test_blocks_stay_together_in_order_and_an_incomplete_one_is_never_used() -> None:
    plan = plan_blocks(count=14, block=4, batch=8, steps=9, processes=1, seed=0)
    assert set(plan.order) == set(range(12))  # 12 and 13 make no block
    starts = [plan.order[k] for k in range(0, len(plan.order), 4)]
    assert all(start % 4 == 0 for start in starts)
    for k, start in zip(range(0, len(plan.order), 4), starts, strict=True):
        assert plan.order[k : k + 4] == tuple(range(start, start + 4))
    assert len({tuple(starts[k : k + 3]) for k in range(0, len(starts), 3)}) > 1  # epochs are shuffled anew
    assert Counter(starts) == {0: 6, 4: 6, 8: 6}


def test_the_plan_is_cut_to_the_steps_even_within_an_epoch() -> None:
    plan = plan_blocks(count=10, block=1, batch=4, steps=4, processes=1, seed=0)
    assert len(plan.order) == 16 and plan.steps == 4
    assert sorted(plan.order[:10]) == list(range(10))
    assert len(set(plan.order[10:])) == 6
    longer = plan_blocks(count=10, block=1, batch=4, steps=9, processes=1, seed=0)
    assert longer.order[:16] == plan.order  # more steps do not change the first ones


def test_the_seed_decides() -> None:
    orders = [plan_blocks(20, 1, 4, 5, 1, seed).order for seed in (3, 3, 4)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != tuple(range(20))


def test_every_process_has_its_share_of_a_step() -> None:
    """The same examples in the same step, however many processes share them."""
    one = plan_blocks(24, 2, 12, steps=4, processes=1, seed=5)
    three = plan_blocks(24, 2, 4, steps=4, processes=3, seed=5)
    for step in range(1, 5):
        parts = [three.rows(step, process) for process in range(3)]
        assert [len(part) for part in parts] == [4, 4, 4]
        assert [row for part in parts for row in part] == one.rows(step, 0)
        whole = {row for process in range(3) for row in three.window(step, step + 1, process)}
        assert whole == set(one.window(step, step + 1, 0))


def test_fewer_examples_than_a_step_takes_are_refused() -> None:
    plan_blocks(8, 1, 4, 1, 2, 0)
    with pytest.raises(UserError, match=r"align\.batch_size.* 8 examples.*only 7"):
        plan_blocks(7, 1, 4, 1, 2, 0)


def side(first: int, prompts: list[int]) -> list[Example]:
    """Single replies: the i-th is (first + i,), to the prompt given."""
    return [Example((prompt,), ((first + i,),)) for i, prompt in enumerate(prompts)]


def test_groups_alternate_and_take_every_reply_once() -> None:
    good, bad = side(100, list(range(12))), side(200, list(range(12)))
    examples, labels, sources = unpaired_groups(good, bad, group=4, seed=0)

    assert labels == [True, False] * 12
    replies = [example.replies[0][0] for example in examples]
    assert sorted(replies[0::2]) == list(range(100, 112))
    assert sorted(replies[1::2]) == list(range(200, 212))
    for example, label, source in zip(examples, labels, sources, strict=True):
        own = (good if label else bad)[source]
        assert example.prompt == own.prompt and example.replies[0] == own.replies[0]
    # Each side in an order of its own, neither the data's nor the other's.
    assert sources[0::2] != sorted(sources[0::2])
    assert sources[0::2] != sources[1::2]
    assert unpaired_groups(good, bad, 4, 0) == (examples, labels, sources)
    assert unpaired_groups(good, bad, 4, 1)[2] != sources


def test_where_prompts_differ_the_mismatched_reply_is_that_of_trl() -> None:
    """TRL rotates within a batch: `[replies[-1], *replies[:-1]]`."""
    good, bad = side(100, list(range(12))), side(200, list(range(12, 24)))  # no prompt twice
    examples, *_ = unpaired_groups(good, bad, group=6, seed=3)
    for start in range(0, 24, 6):
        replies = [example.replies[0] for example in examples[start : start + 6]]
        assert [example.replies[1] for example in examples[start : start + 6]] == [replies[-1], *replies[:-1]]


@pytest.mark.parametrize("group", [2, 3, 4, 5])
def test_the_mismatched_reply_is_of_another_prompt_though_neighbours_share_one(group: int) -> None:
    """Prompts come up to six times, so TRL's rotation alone would often call a matched reply mismatched."""
    prompts = [0, 0, 0, 1, 1, 1, 2, 2, 3, 4]
    good, bad = side(100, prompts), side(200, prompts)
    prompt_of = {reply.replies[0][0]: reply.prompt for reply in [*good, *bad]}
    checked = rotated_would_fail = 0
    for seed in range(40):
        examples, *_ = unpaired_groups(good, bad, group, seed)
        assert len(examples) == 20 // group * group  # only whole groups
        for start in range(0, len(examples), group):
            part = examples[start : start + group]
            for k, example in enumerate(part):
                assert prompt_of[example.replies[1][0]] != example.prompt
                # The nearest one before it, round the group, that fits.
                before = [part[k - back].replies[0] for back in range(1, group)]
                nearest = next(reply for reply in before if prompt_of[reply[0]] != example.prompt)
                assert example.replies[1] == nearest
                rotated_would_fail += prompt_of[before[0][0]] == example.prompt
                checked += 1
    assert checked > 600
    assert rotated_would_fail > 50 or group == 2  # of two only one is left


def test_groups_of_two_that_draw_one_prompt_exchange_a_reply() -> None:
    """A chosen and a rejected reply to the same prompt meet in 63 % of all shuffles, however many prompts there are."""
    good, bad = side(100, list(range(8))), side(200, list(range(8)))
    for seed in range(50):
        examples, labels, sources = unpaired_groups(good, bad, 2, seed)
        assert labels == [True, False] * 8
        assert sorted(sources[0::2]) == sorted(sources[1::2]) == list(range(8))
        for first, second in zip(examples[0::2], examples[1::2], strict=True):
            assert first.prompt != second.prompt
            assert first.replies == second.replies[::-1]


def test_uneven_sides_use_as_many_as_the_shorter_has() -> None:
    examples, labels, _ = unpaired_groups(side(100, list(range(9))), side(200, list(range(5))), group=2, seed=0)
    assert len(examples) == 10 and labels == [True, False] * 5


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"align\.batch_size.*at least two"):
        unpaired_groups(side(100, [0, 1]), side(200, [0, 1]), group=1, seed=0)


def test_a_group_of_one_prompt_is_refused() -> None:
    with pytest.raises(UserError, match="one prompt only"):
        unpaired_groups(side(100, [7, 7]), side(200, [7, 7]), group=4, seed=0)
    with pytest.raises(UserError, match="one prompt only"):  # an exchange with another such group helps neither
        unpaired_groups(side(100, [7, 7]), side(200, [7, 7]), group=2, seed=0)
