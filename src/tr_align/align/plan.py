"""Which examples every optimizer step sees, fixed before the first: so the reference can be scored ahead."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tr_align.align.batches import Example
from tr_align.errors import UserError


@dataclass(frozen=True)
class Plan:
    """`order` holds example indices: step by step, in each step process by process, `batch` of them each."""

    order: tuple[int, ...]
    batch: int
    processes: int

    @property
    def steps(self) -> int:
        return len(self.order) // (self.batch * self.processes)

    def rows(self, step: int, process: int) -> list[int]:
        """The examples of a process in an optimizer step, which count from 1."""
        start = ((step - 1) * self.processes + process) * self.batch
        return list(self.order[start : start + self.batch])

    def window(self, first: int, last: int, process: int) -> list[int]:
        """The examples a process meets in the steps `first` to `last`, each once, in ascending order."""
        steps = range(first, min(last, self.steps) + 1)
        return sorted({row for step in steps for row in self.rows(step, process)})


def plan_blocks(count: int, block: int, batch: int, steps: int, processes: int, seed: int) -> Plan:
    """Epochs of shuffled blocks of consecutive examples, one after the other, cut to length.

    Args:
        count: examples there are. block: how many always stay together and in order (a group of KTO; 1 otherwise);
            a last, incomplete block is never used. batch: examples a process sees in a step, a multiple of `block`.
    Raises:
        UserError: there are fewer examples than one step needs.
    """
    if count < batch * processes:
        raise UserError(
            f"align.batch_size: an optimizer step takes {batch * processes} examples, but the preferences split has "
            f"only {count}; lower it (or align.gradient_accumulation), or raise data.splits.preferences"
        )
    order: list[int] = []
    epoch = 0
    while len(order) < steps * batch * processes:
        blocks = list(range(count // block))
        random.Random(f"{seed}/{epoch}").shuffle(blocks)
        order += [b * block + i for b in blocks for i in range(block)]
        epoch += 1
    return Plan(tuple(order[: steps * batch * processes]), batch, processes)


def unpaired_groups(
    desirable: Sequence[Example], undesirable: Sequence[Example], group: int, seed: int
) -> tuple[list[Example], list[bool], list[int]]:
    """KTO's examples: single replies, desirable and undesirable alternating, each with a mismatched reply.

    Each side is in a random order of its own. The mismatched reply of an example is the one before it in its group
    (for the first: the last), or, where that answers the same prompt, the next one back that does not; a group that
    drew one prompt only, as small ones do, exchanges a reply with another. (TRL's unpairing gives a thousand desirable
    rows and then a thousand undesirable ones, and must not shuffle them.)

    Args: examples with one reply each; `group`: how many share one estimate of the KL.
    Returns: examples with two replies (its own, the mismatched one), whether desirable, and the index of its source in
        `desirable` or `undesirable`; only whole groups.
    Raises:
        UserError: a group of one, or no way to have two prompts in each: nothing is mismatched there.
    """
    if group < 2:
        raise UserError("align.batch_size: KTO compares replies within a batch, so it needs at least two")
    orders = [list(range(len(side))) for side in (desirable, undesirable)]
    for offset, order in enumerate(orders):
        random.Random(f"{seed}/{offset}").shuffle(order)
    mixed = [
        (side[i], side is desirable, i)
        for pair in zip(*orders, strict=False)
        for side, i in zip((desirable, undesirable), pair, strict=True)
    ]
    groups = [mixed[start : start + group] for start in range(0, len(mixed) - group + 1, group)]
    for part in groups:
        if _one_prompt(part):
            _swap_a_reply(part, groups)
    examples, labels, sources = [], [], []
    for part in groups:
        for k, (example, label, source) in enumerate(part):
            before = (part[k - back][0] for back in range(1, group))
            other = next(other for other in before if other.prompt != example.prompt)
            examples.append(Example(example.prompt, (example.replies[0], other.replies[0])))
            labels.append(label)
            sources.append(source)
    return examples, labels, sources


_Group = list[tuple[Example, bool, int]]


def _one_prompt(group: _Group) -> bool:
    return len({example.prompt for example, _, _ in group}) == 1


def _swap_a_reply(group: _Group, groups: list[_Group]) -> None:
    """Exchange a group's last reply for another group's on the same side, so that both have replies to mismatch."""
    for other in groups:
        for k, row in enumerate(other):
            if other is group or row[1] != group[-1][1]:
                continue
            group[-1], other[k] = row, group[-1]
            if not _one_prompt(group) and not _one_prompt(other):
                return
            group[-1], other[k] = other[k], row
    raise UserError("KTO: a batch holds replies to one prompt only, so none is mismatched; use more prompts")
