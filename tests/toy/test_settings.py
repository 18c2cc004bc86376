"""Settings of the toy world that make no sense are refused where params.yaml is read, before any stage runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tr_align.config import load_params
from tr_align.errors import UserError

ROOT = Path(__file__).parents[2]


def complaint(tmp_path: Path, section: dict[str, object]) -> str:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    raw["toy_mdp"] |= section
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_params(tmp_path / "params.yaml")
    return str(caught.value).removeprefix(f"{tmp_path}/params.yaml: ")


@pytest.mark.parametrize(
    "section, message",
    [
        (
            {"depth": 12},
            "toy_mdp.depth: is 12: a tree of 3^12 trajectories is too large to enumerate after every step; "
            "give at most 8",
        ),
        (
            {"demonstrations": 243},
            "toy_mdp.demonstrations: is 243, but the tree has 243 trajectories: nothing would be out of distribution; "
            "give fewer, or more depth",
        ),
        ({"pairs": 0}, "toy_mdp.pairs: is 0: preferences that cover nothing train nothing; give at least 1"),
        (
            {"pairs": 41},
            "toy_mdp.pairs: is 41: pairs of two trajectories, each in one pair, would cover all 81 demonstrations or "
            "more, and leave no other in distribution; give at most 40",
        ),
        (
            {"grid": {"alpha": [0.5], "every": [1], "tau": [64, 640]}},
            "toy_mdp.grid.tau: 640 is not below toy_mdp.steps, 640: that reference would never move while it is used; "
            "lower the one or raise the other",
        ),
        (
            {"ref_update": {"alpha": 0.6, "every": 700, "tau": 64}},
            "toy_mdp.ref_update.every: 700 is not below toy_mdp.steps, 640: that reference would never move while it "
            "is used; lower the one or raise the other",
        ),
        (
            {"grid": {"alpha": [0.5, 0.5], "every": [1], "tau": [64]}},
            "toy_mdp.grid.alpha: has to increase, with no value twice (it is [0.5, 0.5])",
        ),
        ({"seeds": 1}, "toy_mdp.seeds: input should be greater than or equal to 2 (it is 1)"),
        ({"dept": 3}, "toy_mdp.dept: unknown key; did you mean 'depth'?"),
    ],
)
def test_refused(tmp_path: Path, section: dict[str, object], message: str) -> None:
    assert complaint(tmp_path, section) == message


def test_the_largest_tree_and_cover_are_allowed(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    raw["toy_mdp"] |= {"depth": 8, "demonstrations": 6560, "pairs": 3279}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert load_params(tmp_path / "params.yaml").toy_mdp.trajectories == 6561
