"""The tree, its reward, and who covers what."""

from __future__ import annotations

import math

import numpy as np
import torch

from tr_align.settings import ToyMdp
from tr_align.toy.world import make_worlds, tree_rewards

SMALL = ToyMdp(seeds=3, depth=3, demonstrations=12, pairs=4)


def test_a_reward_is_the_sum_over_its_edges() -> None:
    """Two levels: 1, 2, 3 at the root; 0, 10, 20 after a0, nothing after a1 and a2.

    Sums 1, 11, 21, 2, 2, 2, 3, 3, 3: mean 48 / 9 = 16 / 3; squares 1 + 121 + 441 + 12 + 27 = 602, so the variance is
    602 / 9 - 256 / 9 = 346 / 9.
    """
    after = np.array([[0.0, 10.0, 20.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = tree_rewards([np.array([[1.0, 2.0, 3.0]]), after])
    expected = (np.array([1, 11, 21, 2, 2, 2, 3, 3, 3]) - 16 / 3) / math.sqrt(346 / 9)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_four_classes_share_out_the_tree() -> None:
    worlds = make_worlds(SMALL)
    counts = {name: mask.sum(1).tolist() for name, mask in worlds.classes.items()}
    assert counts == {"chosen": [4] * 3, "rejected": [4] * 3, "other": [4] * 3, "ood": [27 - 12] * 3}
    assert torch.stack(list(worlds.classes.values())).sum(0).eq(1).all()
    known = worlds.mask(worlds.demonstrations)
    assert known.gather(1, worlds.chosen).all() and known.gather(1, worlds.rejected).all()


def test_the_chosen_one_of_each_pair_is_the_better_one() -> None:
    worlds = make_worlds(ToyMdp(seed=5))
    assert (worlds.rewards.gather(1, worlds.chosen) > worlds.rewards.gather(1, worlds.rejected)).all()
    assert torch.allclose(worlds.rewards.mean(1), torch.zeros(20, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(worlds.rewards.std(1, correction=0), torch.ones(20, dtype=torch.float64))


def test_demonstrations_are_the_better_part_of_the_tree() -> None:
    """Drawn in proportion to exp(reward): the mean over 200 worlds is far from that of an even draw, which is 0."""
    worlds = make_worlds(SMALL.model_copy(update={"seed": 1, "seeds": 200}))
    means = worlds.rewards.gather(1, worlds.demonstrations).mean(1)
    assert 0.4 < means.mean() < 0.7  # three quarters of the worlds' best dozen would be 0.76
    assert means.mean() > 20 * means.std() / math.sqrt(200)


def test_a_world_does_not_depend_on_how_many_there_are() -> None:
    three, two = (make_worlds(SMALL.model_copy(update={"seed": 7, "seeds": count})) for count in (3, 2))
    for name in ("rewards", "demonstrations", "chosen", "rejected"):
        assert torch.equal(getattr(three, name)[:2], getattr(two, name))
    assert not torch.equal(three.rewards[0], three.rewards[1])
    assert not torch.equal(three.rewards, make_worlds(SMALL.model_copy(update={"seed": 8})).rewards)
