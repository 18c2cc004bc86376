"""Examples and the batches they are computed in: one row of tokens, each prompt once, no padding.

An example is a prompt with the replies scored after it: chosen and rejected, or KTO's reply and its mismatched
one. The prompt is computed once for all of them: positions restart after it, and a reply sees the prompt and
itself (`attention.py`). A reply's last token is scored but never fed: nothing follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt (at least one) and of the replies to it (at least one each)."""

    prompt: tuple[int, ...]
    replies: tuple[tuple[int, ...], ...]

    @property
    def cost(self) -> int:
        """Positions the model computes for it."""
        return len(self.prompt) + sum(len(reply) - 1 for reply in self.replies)


@dataclass
class Batch:
    """What the model computes in one pass, and where in it the replies' tokens are predicted.

    `input_ids`, `position_ids` have shape (rows, length): one row of everything, or, for models that cannot share
    prompts, a padded row a reply. `attention_mask`, same shape, only where there is padding. `segments`: one (length
    of the prompt, lengths of the fed replies) an example, where prompts are shared.
    `predictors`, `labels`, `owners` have shape (T,), T scored tokens: the flat position whose state predicts the
    token, its id, and the flat index of its reply in `shape` = (examples, replies an example).
    """

    input_ids: Tensor
    position_ids: Tensor
    attention_mask: Tensor | None
    segments: list[tuple[int, tuple[int, ...]]] | None
    predictors: Tensor
    labels: Tensor
    owners: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), Tensor)}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def collate(examples: Sequence[Example], shared: bool) -> Batch:
    """Lay examples with equally many replies out for one pass of the model.

    Args: `shared`: each prompt once, no padding; else every reply has its own right-padded row with its prompt.
    """
    shape = (len(examples), len(examples[0].replies))
    rows: list[list[int]] = [[]]
    positions: list[list[int]] = [[]]
    predictors: list[tuple[int, int]] = []
    labels: list[int] = []
    owners: list[int] = []
    for i, example in enumerate(examples):
        length = len(example.prompt)
        for j, reply in enumerate(example.replies):
            if j == 0 or not shared:
                if not shared and rows[-1]:
                    rows.append([])
                    positions.append([])
                rows[-1] += example.prompt
                positions[-1] += range(length)
                last_of_prompt = len(rows[-1]) - 1
            start = len(rows[-1])
            rows[-1] += reply[:-1]
            positions[-1] += range(length, length + len(reply) - 1)
            row = len(rows) - 1
            predictors += [(row, last_of_prompt), *((row, p) for p in range(start, start + len(reply) - 1))]
            labels += reply
            owners += [i * shape[1] + j] * len(reply)
    width = max(len(row) for row in rows)
    mask = None if shared else torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return Batch(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in rows]),
        position_ids=torch.tensor([row + [0] * (width - len(row)) for row in positions]),
        attention_mask=mask,
        segments=[(len(e.prompt), tuple(len(r) - 1 for r in e.replies)) for e in examples] if shared else None,
        predictors=torch.tensor([row * width + position for row, position in predictors]),
        labels=torch.tensor(labels),
        owners=torch.tensor(owners),
        shape=shape,
    )


def split_passes(costs: Sequence[int], max_tokens: int, at_least: int = 1) -> list[list[int]]:
    """Split a batch into passes of at most `max_tokens` positions, similar lengths together, equally full.

    The sum of the passes' gradients is the batch's gradient, so for losses that do not mix examples only memory
    and speed depend on it. An example that is longer alone is a pass of its own.

    Args: positions an example needs; `at_least` so many passes (all processes need the same number).
    Returns: indices into `costs`, each once, shortest first; exactly `at_least` passes where fewer would do.
    Raises:
        ValueError: more passes asked for than there are examples.
    """
    if at_least > len(costs):
        raise ValueError(f"{len(costs)} examples cannot be split into {at_least} passes")
    order = sorted(range(len(costs)), key=lambda i: (costs[i], i))
    ordered = [costs[i] for i in order]

    def total(part: list[int]) -> int:
        return sum(ordered[k] for k in part)

    count = max(1, min(len(costs), -(-sum(costs) // max_tokens)))
    passes = _evenly(ordered, count)
    while any(total(part) > max_tokens and len(part) > 1 for part in passes):
        count += 1
        passes = _evenly(ordered, count)
    while len(passes) < at_least:
        largest = max((part for part in passes if len(part) > 1), key=total)
        k = passes.index(largest)
        halves = _evenly([ordered[k] for k in largest], 2)
        passes[k : k + 1] = [[largest[i] for i in half] for half in halves]
    return [[order[k] for k in part] for part in passes]


def _evenly(costs: list[int], count: int) -> list[list[int]]:
    """Consecutive indices in `count` non-empty parts of about the same total."""
    parts: list[list[int]] = []
    rest, k = sum(costs), 0
    for left in range(count, 0, -1):
        goal, total = rest / left, 0
        part: list[int] = []
        while k < len(costs) - (left - 1) and (not part or left == 1 or total + costs[k] / 2 <= goal):
            part.append(k)
            total += costs[k]
            k += 1
        parts.append(part)
        rest -= total
    return parts
