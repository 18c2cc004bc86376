"""Do the toy world's claims depend on its settings? One line a claim and world; docs/toy-mdp.md shows what came out.

python examples/toy_worlds.py                    # all of WORLDS, about a minute each
python examples/toy_worlds.py "beta 0.5"         # one of them
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from tr_align.errors import UserError
from tr_align.settings import Beta, RefUpdate, ToyGrid, ToyMdp
from tr_align.toy.claims import claims
from tr_align.toy.train import train_all


def every_loss(beta: float) -> Beta:
    return Beta(dpo=beta, ipo=beta, kto=beta)


# What differs from the settings of params.yaml; the grid is not trained.
WORLDS: dict[str, dict[str, Any]] = {
    "as in params.yaml": {},
    "other worlds": {"seed": 1},
    "beta 0.5": {"beta": every_loss(0.5)},
    "beta 0.02": {"beta": every_loss(0.02)},
    "5 pairs": {"pairs": 5},
    "40 pairs": {"pairs": 40},
    "hidden 64": {"hidden": 64},
    "learning rate 0.003": {"learning_rate": 0.003},
    "1920 steps": {"steps": 1920},
    "updates every 16": {"ref_update": RefUpdate(alpha=0.6, every=16, tau=16)},
    "depth 6": {"depth": 6, "demonstrations": 243, "pairs": 60},
}


def main(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in WORLDS]
    if unknown:
        raise UserError(f"{unknown[0]}: no such world; there are: {', '.join(WORLDS)}")
    for name in names or WORLDS:
        settings = ToyMdp(**({"grid": ToyGrid(alpha=[0.6], every=[64], tau=[64])} | WORLDS[name]))
        print(f"\n{name}")
        try:
            rows = claims(settings, train_all(settings, main_only=True))
        except UserError as error:
            print(f"  {error}")
            continue
        for row in rows:
            low, high = row["ci"]
            print(
                f"  {row['verdict']:<13} {row['id']:<28} {row['effect']:+.3g} [{low:+.3g}, {high:+.3g}] {row['unit']}"
            )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
