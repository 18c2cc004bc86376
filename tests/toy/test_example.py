"""`examples/toy_worlds.py`, in worlds small enough for a test."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from tr_align.errors import UserError
from tr_align.settings import RefUpdate, ToyGrid, ToyMdp

SCRIPT = Path(__file__).parents[2] / "examples" / "toy_worlds.py"
SMALL: dict[str, Any] = {
    "seeds": 2,
    "depth": 3,
    "demonstrations": 12,
    "pairs": 4,
    "pretrain_steps": 5,
    "steps": 12,
    "ref_update": RefUpdate(alpha=0.6, every=4, tau=4),
    "grid": ToyGrid(alpha=[0.6], every=[4], tau=[4]),
}


def test_one_line_a_claim(capsys: pytest.CaptureFixture[str]) -> None:
    script = runpy.run_path(str(SCRIPT))
    script["WORLDS"].clear()
    script["WORLDS"] |= {"small": SMALL, "wild": SMALL | {"learning_rate": 500.0}}
    script["main"]([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "small" and len(lines) == 2 + 30 + 3
    assert lines[2].split()[1] == "toy_ood/tr_dpo_soft" and lines[2].endswith("percentage points of mass")
    assert lines[-2] == "wild" and "underflows" in lines[-1]
    with pytest.raises(UserError, match="big: no such world; there are: small, wild"):
        script["main"](["big"])


def test_its_worlds_are_valid() -> None:
    worlds = runpy.run_path(str(SCRIPT))["WORLDS"]
    assert all(ToyMdp(**({"grid": ToyGrid(alpha=[0.6], every=[64], tau=[64])} | given)) for given in worlds.values())
