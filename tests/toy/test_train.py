"""The trainings, against a plain loop over one run written out by hand; and what has to coincide."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from tr_align.config import METHODS
from tr_align.errors import UserError
from tr_align.settings import Beta, Loss, RefUpdate, ToyGrid, ToyMdp
from tr_align.toy.policy import Policy, all_logps, new_policy, pretrain, trajectory_logps
from tr_align.toy.train import Cell, Record, _check, cells_of, train
from tr_align.toy.world import Worlds, make_worlds

STEPS = 12
SETTINGS = ToyMdp(
    seeds=3,
    depth=3,
    demonstrations=12,
    pairs=4,
    hidden=4,
    pretrain_steps=30,
    steps=STEPS,
    learning_rate=0.02,
    beta=Beta(dpo=0.3, ipo=0.2, kto=0.4),
    ref_update=RefUpdate(alpha=0.6, every=4, tau=3),
    grid=ToyGrid(alpha=[0.5, 0.6], every=[1, 4], tau=[3, 5]),
)
LOSSES: tuple[Loss, ...] = ("dpo", "ipo", "kto")


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return make_worlds(SETTINGS)


@pytest.fixture(scope="module")
def start(worlds: Worlds) -> Policy:
    return pretrain(new_policy(4, 3, 0), worlds.mask(worlds.demonstrations), 3, 30, 0.02)


def by_hand(loss: Loss, w: Tensor, l: Tensor, ref_w: Tensor, ref_l: Tensor) -> Tensor:  # noqa: E741
    """Equations of the papers, written out: w chosen, l rejected."""
    beta = getattr(SETTINGS.beta, loss)
    if loss == "dpo":
        return -torch.log(1 / (1 + torch.exp(-beta * ((w - ref_w) - (l - ref_l))))).mean()
    if loss == "ipo":
        return (((w - ref_w) - (l - ref_l) - 1 / (2 * beta)) ** 2).mean()
    z = max(0.0, float(torch.cat([w - ref_w, l - ref_l]).detach().mean()))
    good = 1 - 1 / (1 + torch.exp(-beta * (w - ref_w - z)))
    bad = 1 - 1 / (1 + torch.exp(-beta * (z - (l - ref_l))))
    return torch.cat([good, bad]).mean()


def one_run(cell: Cell, loss: Loss, start: Policy, worlds: Worlds, place: int) -> dict[str, list[float]]:
    """Margin, loss, KL and how far the reference moved, of one run after each step."""
    policy = {name: tensor[place].clone().requires_grad_() for name, tensor in start.items()}
    reference = copy.deepcopy({name: tensor.detach() for name, tensor in policy.items()})
    optimizer = torch.optim.Adam(policy.values(), lr=SETTINGS.learning_rate)
    chosen, rejected = worlds.chosen[place], worlds.rejected[place]
    initial = trajectory_logps(reference, 3)
    found: dict[str, list[float]] = {"margin": [], "loss_value": [], "kl": [], "moved": []}
    for step in range(STEPS + 1):
        logps, ref = trajectory_logps(policy, 3), trajectory_logps(reference, 3)
        value = by_hand(loss, logps[chosen], logps[rejected], ref[chosen], ref[rejected])
        h = (logps[chosen] - ref[chosen]) - (logps[rejected] - ref[rejected])
        found["margin"].append(float(h.detach().mean()))
        found["loss_value"].append(float(value.detach()))
        found["kl"].append(float((logps.detach().exp() * (logps.detach() - initial)).sum()))
        moved = 0.0
        interval = cell.every or cell.tau
        if interval and 0 < step < STEPS and step % interval == 0:
            alpha = cell.alpha or 1.0
            for name, old in reference.items():
                new = alpha * policy[name].detach() + (1 - alpha) * old
                moved += float((new - old).square().sum())
                reference[name] = new
            ref = trajectory_logps(reference, 3)
            value = by_hand(loss, logps[chosen], logps[rejected], ref[chosen], ref[rejected])
        found["moved"].append(math.sqrt(moved))
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return found


@pytest.mark.parametrize("loss", LOSSES)
def test_all_cells_against_a_plain_loop(loss: Loss, start: Policy, worlds: Worlds) -> None:
    cells = cells_of(SETTINGS, loss)
    record = train(SETTINGS, loss, cells, start, worlds)
    for place, cell in enumerate(cells):
        for seed in range(3):
            expected = one_run(cell, loss, start, worlds, seed)
            found: dict[str, Any] = {
                name: record.quantities[name][:, place, seed].tolist() for name in ("margin", "loss_value", "kl")
            }
            found["moved"] = record.moved[:, place, seed].tolist()
            for name, values in expected.items():
                assert found[name] == pytest.approx(values, rel=1e-6, abs=1e-9), (cell, seed, name)


def test_when_and_how_far_references_move(start: Policy, worlds: Worlds) -> None:
    """Every 3 and every 5 steps, never after the last; the base's never.

    Until the first update the trainings are the same, so soft with alpha 0.5 moves half as far there as hard.
    """
    cells = [Cell("dpo"), Cell("tr_dpo_soft", 0.5, 3), Cell("tr_dpo_hard", tau=3), Cell("tr_dpo_hard", tau=5)]
    moved = train(SETTINGS, "dpo", cells, start, worlds).moved
    for place, steps in enumerate(([], [3, 6, 9], [3, 6, 9], [5, 10])):
        assert (moved[:, place] > 1e-3).all(1).nonzero().flatten().tolist() == steps
        assert moved[[step for step in range(STEPS + 1) if step not in steps], place].eq(0).all()
    assert torch.allclose(moved[3, 1], 0.5 * moved[3, 2], rtol=1e-12)


def same(first: Record, second: Record) -> bool:
    """To the last bit."""
    return all(torch.equal(first.quantities[name], second.quantities[name]) for name in first.quantities)


@pytest.mark.parametrize("loss", LOSSES)
def test_hard_every_step_is_soft_with_alpha_one(loss: Loss, start: Policy, worlds: Worlds) -> None:
    hard = train(SETTINGS, loss, [Cell(f"tr_{loss}_hard", tau=1)], start, worlds)
    soft = train(SETTINGS, loss, [Cell(f"tr_{loss}_soft", 1.0, 1)], start, worlds)
    assert same(hard, soft) and torch.equal(hard.moved, soft.moved)
    assert hard.moved[1:STEPS].gt(0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_without_an_update_it_is_the_base_method(loss: Loss, start: Policy, worlds: Worlds) -> None:
    base = train(SETTINGS, loss, [Cell(loss)], start, worlds)
    for cell in (Cell(f"tr_{loss}_hard", tau=STEPS), Cell(f"tr_{loss}_soft", 0.6, STEPS)):
        assert same(base, train(SETTINGS, loss, [cell], start, worlds))
    moving = train(SETTINGS, loss, [Cell(f"tr_{loss}_hard", tau=STEPS - 1)], start, worlds)
    assert not same(base, moving)


def test_with_a_reference_that_follows_at_every_step_dpo_has_the_closed_form(start: Policy, worlds: Worlds) -> None:
    """Alpha 1 after each step: h = 0 whenever the gradient is taken, so it is -(beta / 2) grad h, whatever happened.

    Adam on that gradient alone, with no loss and no reference in sight, ends at the same policies.
    """
    record = train(SETTINGS, "dpo", [Cell("tr_dpo_soft", 1.0, 1)], start, worlds)
    for place in range(3):
        policy = {name: tensor[place].clone().requires_grad_() for name, tensor in start.items()}
        optimizer = torch.optim.Adam(policy.values(), lr=SETTINGS.learning_rate)
        for step in range(STEPS + 1):
            logps = trajectory_logps(policy, 3)
            assert float(record.quantities["chosen_logp"][step, 0, place]) == pytest.approx(
                float(logps.detach()[worlds.chosen[place]].mean()), rel=1e-9
            )
            h = (logps[worlds.chosen[place]] - logps[worlds.rejected[place]]).mean()
            slopes = torch.autograd.grad(h, list(policy.values()))
            for tensor, slope in zip(policy.values(), slopes, strict=True):
                tensor.grad = -SETTINGS.beta.dpo / 2 * slope
            optimizer.step()
    after = [i for i, (_, moment) in enumerate(record.points) if moment == "after"]
    assert len(after) == STEPS - 1
    assert torch.allclose(record.curvature["loss_value"][after], torch.tensor(2.0, dtype=torch.float64).log())


def test_the_worlds_do_not_touch_each_other(start: Policy, worlds: Worlds) -> None:
    two = Worlds(worlds.rewards[1:], worlds.demonstrations[1:], worlds.chosen[1:], worlds.rejected[1:])
    cells = cells_of(SETTINGS, "kto")
    all_three = train(SETTINGS, "kto", cells, start, worlds)
    fewer = train(SETTINGS, "kto", cells, {name: tensor[1:] for name, tensor in start.items()}, two)
    for name, tensor in fewer.quantities.items():
        assert torch.allclose(all_three.quantities[name][:, :, 1:], tensor, rtol=1e-9, atol=1e-12)


def test_what_is_given_stays_as_it_is(start: Policy, worlds: Worlds) -> None:
    before = {name: tensor.clone() for name, tensor in start.items()}
    train(SETTINGS, "dpo", cells_of(SETTINGS, "dpo"), start, worlds)
    assert all(torch.equal(start[name], before[name]) and not start[name].requires_grad for name in start)


def test_masses_sum_to_one_and_the_start_is_the_start(start: Policy, worlds: Worlds) -> None:
    q = train(SETTINGS, "ipo", cells_of(SETTINGS, "ipo"), start, worlds).quantities
    total = sum(q[f"{name}_mass"] for name in ("chosen", "rejected", "other", "ood"))
    assert torch.allclose(torch.as_tensor(total), torch.ones(STEPS + 1, 7, 3, dtype=torch.float64))
    assert q["kl"][0].eq(0).all() and q["margin"][0].eq(0).all()
    earned = (all_logps(start, 3).exp() * worlds.rewards).sum(1)
    assert torch.allclose(q["reward"][0], earned.expand(7, 3))


def test_curvature_is_seen_before_and_after_each_update_of_a_main_cell(start: Policy, worlds: Worlds) -> None:
    """Soft every 4, hard every 3; the grid's other cells bring no point of their own."""
    record = train(SETTINGS, "dpo", cells_of(SETTINGS, "dpo"), start, worlds)
    moves = [3, 4, 6, 8, 9]
    assert record.points == [(0, "before"), *((step, m) for step in moves for m in ("before", "after"))]
    for name, tensor in record.curvature.items():
        assert tensor.shape == (11, 3, 3), name
    index = record.points.index((3, "after"))
    jump = record.curvature["loss_value"][index] - record.curvature["loss_value"][index - 1]
    assert jump[:2].eq(0).all() and jump[2].gt(1e-4).all()  # at step 3 only the hard one's reference moves


def test_the_cells_of_a_loss() -> None:
    """Main ones first; the grid's that are the same are not trained twice."""
    assert cells_of(SETTINGS, "ipo") == [
        Cell("ipo"),
        Cell("tr_ipo_soft", 0.6, 4),
        Cell("tr_ipo_hard", tau=3),
        Cell("tr_ipo_soft", 0.5, 1),
        Cell("tr_ipo_soft", 0.6, 1),
        Cell("tr_ipo_soft", 0.5, 4),
        Cell("tr_ipo_hard", tau=5),
    ]
    assert {cell.method for loss in LOSSES for cell in cells_of(SETTINGS, loss)} == set(METHODS)


def test_an_underflow_is_said(start: Policy, worlds: Worlds) -> None:
    wild = SETTINGS.model_copy(update={"learning_rate": 300.0})
    with pytest.raises(UserError) as caught:
        train(wild, "ipo", [Cell("ipo"), Cell("tr_ipo_soft", 0.6, 4)], start, worlds)
    text = str(caught.value)
    assert re.match(r"toy_mdp: after \d+ steps of ipo \(world \d\) a trajectory's log-probability is -", text)
    assert "underflows" in text and "lower toy_mdp.learning_rate" in text


def test_a_number_that_is_none_is_said(start: Policy, worlds: Worlds) -> None:
    broken = {name: tensor.clone() for name, tensor in start.items()}
    broken["out_bias"][2] = float("nan")
    cells = [Cell("tr_dpo_soft", 0.6, 4), Cell("tr_dpo_hard", tau=3)]
    with pytest.raises(UserError, match=r"after 0 steps of tr_dpo_soft, alpha 0.6, every 4 \(world 2\) .* is nan"):
        train(SETTINGS, "dpo", cells, broken, worlds)


def test_which_run_it_was() -> None:
    """Two cells with three worlds each: the fifth run is world 1 of the second cell."""
    logps = torch.full((6, 27), -3.0, dtype=torch.float64)
    _check(logps, [Cell("kto"), Cell("tr_kto_hard", tau=3)], 3, 8)
    logps[4, 20] = -1000.0
    with pytest.raises(UserError, match=r"after 8 steps of tr_kto_hard, tau 3 \(world 1\) .* is -1000: .* underflows"):
        _check(logps, [Cell("kto"), Cell("tr_kto_hard", tau=3)], 3, 8)
