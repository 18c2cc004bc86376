"""The rows of the toy's file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tr_align.reports.results import CELL
from tr_align.settings import RefUpdate, ToyGrid, ToyMdp
from tr_align.toy.policy import new_policy, pretrain
from tr_align.toy.statistics import at_kl, estimate, matched, rounded
from tr_align.toy.summary import LEVELS, summary, to_text
from tr_align.toy.train import QUANTITIES, Record, cells_of, train
from tr_align.toy.world import make_worlds

SETTINGS = ToyMdp(
    seeds=3,
    depth=3,
    demonstrations=12,
    pairs=4,
    hidden=4,
    steps=12,
    learning_rate=0.02,
    ref_update=RefUpdate(alpha=0.6, every=4, tau=3),
    grid=ToyGrid(alpha=[0.5], every=[1], tau=[5]),
)


@pytest.fixture(scope="module")
def records() -> dict[str, Record]:
    worlds = make_worlds(SETTINGS)
    start = pretrain(new_policy(4, 3, 0), worlds.mask(worlds.demonstrations), 3, 30, 0.02)
    return {loss: train(SETTINGS, loss, cells_of(SETTINGS, loss), start, worlds) for loss in ("dpo", "ipo", "kto")}


@pytest.fixture(scope="module")
def made(records: dict[str, Record]) -> dict[str, Any]:
    return summary(SETTINGS, records)


def test_the_world(made: dict[str, Any], records: dict[str, Record]) -> None:
    world = made["world"]
    assert (world["trajectories"], world["actions"], world["pairs"], world["seeds"]) == (27, 3, 4, 3)
    assert world["main"] == {"alpha": 0.6, "every": 4, "tau": 3} and world["tau"] == [5]
    masses = [world["start"][f"{name}_mass"] for name in ("chosen", "rejected", "other", "ood")]
    assert sum(masses) == pytest.approx(1, abs=1e-4)
    assert world["start"]["reward"] == rounded(float(records["kto"].quantities["reward"][0, 0].mean()))


def test_curves_hold_the_means_and_intervals_of_every_quantity(
    made: dict[str, Any], records: dict[str, Record]
) -> None:
    """Twelve steps: all of them are shown."""
    rows = made["curves"]
    assert len(rows) == 9 * 13 and {row["n"] for row in rows} == {3}
    row = next(row for row in rows if (row["cell"], row["step"]) == ("tr_ipo_hard", 7))
    for name in QUANTITIES:
        found = estimate(records["ipo"].quantities[name][7, 2].numpy())
        assert [row[name], row[f"{name}_lo"], row[f"{name}_hi"]] == [rounded(v) for v in (found.value, *found.ci)]
    assert [row[key] for key in CELL] == ["tr_ipo_hard", "TR-IPO hard", "tr_ipo_hard", "ipo", "hard", None, None, 3]


def test_along_kl_only_where_every_world_went(made: dict[str, Any], records: dict[str, Record]) -> None:
    for loss, record in records.items():
        kl = record.quantities["kl"].numpy()
        for place, cell in enumerate(record.cells[:3]):
            rows = [row for row in made["along_kl"] if row["cell"] == cell.method]
            furthest = kl[:, place].max(0).min()
            assert 1 < len(rows) <= LEVELS + 1 and rows[0]["kl"] == 0
            assert rows[-1]["kl"] <= rounded(furthest) * 1.0001
            middle = rows[len(rows) // 2]
            values = record.quantities["reward"][:, place].numpy()
            expected = sum(at_kl(values[:, s], kl[:, place, s], middle["kl"]) for s in range(3)) / 3
            assert middle["reward"] == pytest.approx(expected, rel=1e-3), loss
    longest = max(len([r for r in made["along_kl"] if r["cell"] == c]) for c in ("dpo", "tr_dpo_soft", "tr_dpo_hard"))
    assert longest == LEVELS + 1


def test_the_grid_has_every_cell_with_its_setting(made: dict[str, Any], records: dict[str, Record]) -> None:
    rows = {row["cell"]: row for row in made["grid"]}
    of_dpo = ["dpo", "tr_dpo_soft", "tr_dpo_hard", "tr_dpo_soft-a0.5-e1", "tr_dpo_hard-t5"]
    assert [cell for cell, row in rows.items() if row["loss"] == "dpo"] == of_dpo
    assert rows["tr_dpo_soft-a0.5-e1"]["name"] == "TR-DPO soft α=0.5, every 1"
    assert rows["tr_dpo_hard-t5"]["name"] == "TR-DPO hard τ=5" and rows["tr_dpo_hard-t5"]["tau"] == 5
    assert rows["dpo"]["matched_kl"] is rows["dpo"]["ood_difference"] is rows["dpo"]["reward_difference_hi"] is None
    q = {name: tensor.numpy() for name, tensor in records["dpo"].quantities.items()}
    one = matched(q["ood_mass"][:, 4], q["kl"][:, 4], q["ood_mass"][:, 0], q["kl"][:, 0])
    assert rows["tr_dpo_hard-t5"]["ood_difference"] == pytest.approx(100 * one.difference.mean(), rel=1e-4)
    assert rows["tr_dpo_hard-t5"]["matched_kl"] == pytest.approx(one.kl.mean(), rel=1e-4)
    assert rows["tr_dpo_hard-t5"]["reward"] == pytest.approx(q["reward"][-1, 4].mean(), rel=1e-4)


def test_curvature_has_an_after_only_where_the_cells_own_reference_moved(made: dict[str, Any]) -> None:
    after = {
        cell: [row["step"] for row in made["curvature"] if row["cell"] == cell and row["moment"] == "after"]
        for cell in ("kto", "tr_kto_soft", "tr_kto_hard")
    }
    assert after == {"kto": [], "tr_kto_soft": [4, 8], "tr_kto_hard": [3, 6, 9]}
    before = [row["step"] for row in made["curvature"] if row["cell"] == "kto"]
    assert before == [0, 3, 4, 6, 8, 9]


def test_a_line_a_row_and_the_same_value_again(made: dict[str, Any]) -> None:
    text = to_text(made)
    assert json.loads(text) == made
    lines = text.splitlines()
    assert len(lines) == 2 + 1 + sum(len(rows) + 2 for key, rows in made.items() if key != "world")
    assert len(made["claims"]) == 5 * 6
