"""One method from start to snapshots: killed and resumed it ends the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tr_align.align.resume import COMPLETE, last_checkpoint, snapshot_name
from tr_align.align.train import reference_rule, train_method
from tr_align.data.schema import Pair

from .conftest import settings


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["tr_dpo_soft", "tr_kto_hard"])
def test_a_killed_run_resumes_to_the_same_weights_and_the_same_log(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    params = settings(
        align_steps=6,
        align_evaluate_at=[0.5, 1.0],
        align_checkpoint_minutes=1e-9,  # a checkpoint after every step
        ref_update_every=2,
        ref_update_tau=2,
    )
    whole = train_method(name, params, sft, pairs, tmp_path / "whole")

    def kill_at_five(row: dict[str, float]) -> None:
        if row["step"] == 5:
            raise Killed

    # Step 5 is logged before it is checkpointed, so the run goes on from step 4, after the updates of 2 and 4.
    with pytest.raises(Killed):
        train_method(name, params, sft, pairs, tmp_path / "killed", kill_at_five)
    checkpoint = last_checkpoint(tmp_path / "killed" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "checkpoint-4"
    resumed = train_method(name, params, sft, pairs, tmp_path / "killed")

    for step in (3, 6):
        weights = [load_file(r.snapshots / snapshot_name(step) / "model.safetensors") for r in (whole, resumed)]
        for key in weights[0]:
            assert torch.equal(weights[0][key], weights[1][key]), (step, key)
    assert whole.log.read_text() == resumed.log.read_text()
    rows = [json.loads(line) for line in whole.log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1]["ref_from_sft"] == 0 and rows[2]["ref_from_sft"] > 0  # the first update comes after step 2


def test_an_unfinished_checkpoint_does_not_count(tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-10" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_the_rules_of_the_nine_methods() -> None:
    params = settings(ref_update_alpha=0.4, ref_update_every=7, ref_update_tau=9)
    assert reference_rule(params, "dpo") == (1, None)
    assert reference_rule(params, "tr_ipo_soft") == (7, 0.4)
    assert reference_rule(params, "tr_kto_hard") == (9, 1.0)
