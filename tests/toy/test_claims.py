"""Claims on made-up trainings whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tr_align.metrics.seeds import Estimate
from tr_align.settings import Loss, RefUpdate, ToyGrid, ToyMdp
from tr_align.toy.claims import CLAIMS, FINDERS, PAPER, UNITS, claims
from tr_align.toy.train import QUANTITIES, Cell, Record, cells_of

SEEDS, STEPS = 6, 20
SETTINGS = ToyMdp(
    seeds=SEEDS,
    steps=STEPS,
    ref_update=RefUpdate(alpha=0.6, every=10, tau=10),
    grid=ToyGrid(alpha=[0.6], every=[10], tau=[10]),
)
Shape = Callable[[float], float]


def noise(seed: int) -> Tensor:
    """One number a world, of mean zero."""
    drawn = np.random.default_rng(seed).normal(0, 1, SEEDS)
    return torch.from_numpy(drawn - drawn.mean())


def record(loss: Loss, **shapes: Sequence[Shape]) -> Record:
    """Quantities as functions of the share of the training that is done, for base, soft and hard; a world's own
    deviation is in proportion to that share. What is not given is the share itself."""
    share = torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
    quantities = {}
    for number, name in enumerate(QUANTITIES):
        of_cells = shapes.get(name, [lambda x: x] * 3)
        columns = [
            torch.tensor([of(float(x)) for x in share], dtype=torch.float64)[:, None]
            + (0.0 if name == "kl" else 0.01) * share[:, None] * noise(10 * number + place)
            for place, of in enumerate(of_cells)
        ]
        quantities[name] = torch.stack(columns, dim=1)
    moved = torch.zeros(STEPS + 1, 3, SEEDS, dtype=torch.float64)
    moved[10, 1:] = 1.0
    points = [(0, "before"), (10, "before"), (10, "after"), (20, "before")]
    jumps = shapes.get("jumps", [lambda x: 4.0, lambda x: 4.0, lambda x: 4.0])
    values = torch.ones(4, 3, SEEDS, dtype=torch.float64)
    for place, of in enumerate(jumps):
        values[2, place] = of(1.0) + 0.01 * noise(place)
    return Record(
        cells_of(SETTINGS, loss),
        quantities,
        moved,
        points,
        {"gradient": values, "curvature": values, "gauss_newton": values.sqrt()},
    )


def found(kind: str, *records: Record) -> list[dict[str, Any]]:
    by_loss = {one.cells[0].method: one for one in records}
    return [row for row in claims(SETTINGS, by_loss) if row["kind"] == kind]


def test_less_mass_outside_at_equal_kl_supports() -> None:
    """Base: 30 % at KL 1, its end. Soft has gone to KL 2, where it has 40 %, and 20 % at 1. Hard: 60 % and 30 %.

    So soft differs by -10 points (supported: fewer are better), hard by none.
    """
    one = record(
        "dpo",
        kl=[lambda x: x, lambda x: 2 * x, lambda x: 2 * x],
        ood_mass=[lambda x: 0.3 * x, lambda x: 0.4 * x, lambda x: 0.6 * x],
    )
    soft, hard = found("toy_ood", one)
    assert (soft["verdict"], hard["verdict"]) == ("supported", "inconclusive")
    assert soft["effect"] == pytest.approx(-10, abs=0.01) and hard["effect"] == pytest.approx(0, abs=0.01)
    assert soft["kl"] == 1.0
    assert "at the end 40.00 against 30.00, with a KL of 2.0 against 1.0 nats (6 worlds)" in soft["evidence"]


def test_more_mass_outside_contradicts_and_more_reward_supports() -> None:
    up = [lambda x: x, lambda x: 2 * x, lambda x: 0.5 * x]
    one = record("ipo", ood_mass=up, reward=up)
    assert [row["verdict"] for row in found("toy_ood", one)] == ["contradicted", "supported"]
    soft, hard = found("toy_reward", one)
    assert [soft["verdict"], hard["verdict"]] == ["supported", "contradicted"]
    assert [soft["effect"], hard["effect"]] == [pytest.approx(1, abs=0.01), pytest.approx(-0.5, abs=0.01)]


def trough(x: float) -> float:
    """Down to -4 at half of the training, then up to -1."""
    return -8 * x if x < 0.5 else -4 + 6 * (x - 0.5)


@pytest.mark.parametrize(
    "shape, verdict, fall, rise",
    [
        (trough, "supported", -4, 3),
        (lambda x: -4 * x, "contradicted", -3.6, -0.4),  # still falling over the last tenth
        (lambda x: 5 * x, "contradicted", 0.25, 4.75),  # its lowest point is above the start: it never fell
    ],
)
def test_recoveries(shape: Shape, verdict: str, fall: float, rise: float) -> None:
    soft, hard = found("toy_recovery", record("kto", chosen_logp=[lambda x: x, shape, trough]))
    assert soft["verdict"] == verdict and hard["verdict"] == "supported"
    assert soft["effect"] == pytest.approx(rise, abs=0.02)
    said = float(soft["evidence"].split(" ")[0])
    assert said == pytest.approx(fall, abs=0.02)
    assert (
        soft["detail"].startswith("after a fall of ") and soft["detail"].split(" ")[4] == soft["evidence"].split(" ")[0]
    )


def test_both_parts_of_a_recovery_have_to_show() -> None:
    """A sure fall and a rise that is less than the worlds differ by: the larger p counts."""
    flat = record("dpo", chosen_logp=[trough, lambda x: -4 * min(1.0, 2 * x) + (0.002 if x == 1 else 0), trough])
    soft = found("toy_recovery", flat)[0]
    assert soft["effect"] > 0 and soft["verdict"] == "inconclusive" and soft["p"] > 0.05


def test_what_an_update_does_to_gradient_and_curvature() -> None:
    """1 before, 4 after: two doublings, and 2 x 3 / 5 = 120 %. Down to a quarter the same with the other sign."""
    one = record("dpo", jumps=[lambda x: 1.0, lambda x: 4.0, lambda x: 0.25])
    for kind, size in (("toy_gradient", 2.0), ("toy_curvature", 120.0)):
        soft, hard = found(kind, one)
        assert [soft["verdict"], hard["verdict"]] == ["supported", "contradicted"]
        assert soft["effect"] == pytest.approx(size, rel=0.01) and hard["effect"] == pytest.approx(-size, rel=0.05)
    assert "changes by a factor of 4.00 at an update" in found("toy_gradient", one)[0]["evidence"]
    assert found("toy_curvature", one)[0]["detail"].startswith("its Gauss-Newton part by +66.667 [+66.")
    assert "detail" not in found("toy_gradient", one)[0]


def test_steps_at_which_only_another_reference_moved_do_not_count() -> None:
    one = record("dpo", jumps=[lambda x: 1.0, lambda x: 4.0, lambda x: 4.0])
    one.moved[10, 2] = 0
    one.moved[15, 2] = 1
    one.points[:] = [(10, "before"), (10, "after"), (15, "before"), (15, "after")]
    values = one.curvature["gradient"]
    values[0:4, 1] = torch.tensor([1.0, 2.0, 1.0, 64.0], dtype=torch.float64)[:, None]
    values[0:4, 2] = torch.tensor([1.0, 64.0, 1.0, 8.0], dtype=torch.float64)[:, None]
    assert [row["effect"] for row in found("toy_gradient", one)] == [1.0, 3.0]


def test_holm_counts_the_cells_of_a_kind() -> None:
    """p of one effect of many: over three losses the smallest is multiplied by six."""
    shapes = [lambda x: x, lambda x: x + 0.005 * x, lambda x: x]
    rows = found("toy_reward", *(record(loss, reward=shapes) for loss in ("dpo", "ipo", "kto")))
    assert len(rows) == 6
    smallest = min(rows, key=lambda row: row["p"])
    assert smallest["p_holm"] == pytest.approx(min(1.0, 6 * smallest["p"]), rel=1e-3)


def test_a_row_has_all_that_a_report_asks_for() -> None:
    rows = claims(SETTINGS, {"dpo": record("dpo")})
    assert [row["id"] for row in rows] == [f"{kind}/tr_dpo_{u}" for kind in CLAIMS for u in ("soft", "hard")]
    assert FINDERS.keys() == CLAIMS.keys() == UNITS.keys() == PAPER.keys()
    assert rows[0] | {"effect": 0, "ci": 0, "p": 0, "p_holm": 0, "kl": 0, "evidence": "", "verdict": ""} == {
        "id": "toy_ood/tr_dpo_soft",
        "kind": "toy_ood",
        "cell": "tr_dpo_soft",
        "name": "TR-DPO soft",
        "method": "tr_dpo_soft",
        "loss": "dpo",
        "update": "soft",
        "alpha": 0.6,
        "every": 10,
        "tau": None,
        "base": "DPO",
        "claim": CLAIMS["toy_ood"].format(method="TR-DPO soft", base="DPO"),
        "verdict": "",
        "effect": 0,
        "unit": "percentage points of mass",
        "ci": 0,
        "p": 0,
        "p_holm": 0,
        "kl": 0,
        "beta": 0.1,
        "n_prompts": 0,
        "seeds": [0, 1, 2, 3, 4, 5],
        "evidence": "",
        "paper": {"value": None, "unit": None, **PAPER["toy_ood"]},
    }
    assert isinstance(FINDERS["toy_ood"](record("dpo"), 1).effect, Estimate)
    assert Cell("dpo") == record("dpo").cells[0]
