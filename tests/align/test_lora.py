"""Adapters: the policy starts as the SFT model, references move by name, snapshots are plain models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tr_align import models
from tr_align.align.batches import collate
from tr_align.align.logps import reply_logps
from tr_align.align.lora import merged_weights
from tr_align.align.shards import local_shards
from tr_align.align.train import load_policy, train_method
from tr_align.config import Params
from tr_align.data.schema import Pair
from tr_align.settings import Lora

from .conftest import settings
from .test_trainer import Watched, train


def adapted(**changes: object) -> Params:
    return settings(
        align_lora=Lora(rank=2, scale=4), ref_update_alpha=0.5, ref_update_every=2, ref_update_tau=2, **changes
    )


class Merged(Watched):
    """Keeps the policy's merged weights as they are before each step."""

    def training_step(self, *args: object, **kwargs: object) -> object:
        self.merged: list[dict[str, torch.Tensor]] = getattr(self, "merged", [])
        self.merged.append({name: tensor.clone() for name, tensor in (self.full_weights() or {}).items()})
        return super().training_step(*args, **kwargs)


def plain(sft: Path, weights: dict[str, torch.Tensor]) -> object:
    model = models.load_model(str(sft))
    model.load_state_dict(weights)
    return model


def test_an_adapter_changes_nothing_at_first_and_is_all_that_is_trained(sft: Path) -> None:
    policy, start = load_policy(adapted(), sft), models.load_model(str(sft))
    ids = torch.tensor([[3, 4, 5, 6]])
    assert torch.equal(policy(ids).logits, start(ids).logits)
    trained = [name for name, p in policy.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert len(local_shards(policy)) == len(trained) + sum(b.is_floating_point() for b in policy.buffers())


def test_the_hard_reference_is_the_adapted_policy_of_the_update(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """tau 2: during step 4 the reference is the policy after step 2, as a plain model with merged weights says."""
    _, trainer = train("tr_dpo_hard", adapted(), sft, pairs, tmp_path / "out", Merged)
    assert trainer.reference is not None and trainer.reference.updated_at == [2, 4] and trainer.reference.master == []
    rows = list(trainer.seen[3])
    batch = collate([trainer.task.examples[row] for row in rows], shared=False)
    used = torch.stack([trainer.seen[3][row][1] for row in rows])
    after_two, sft_logps = (reply_logps(plain(sft, w), batch).detach() for w in (trainer.merged[2], trainer.merged[0]))
    torch.testing.assert_close(used, after_two, rtol=1e-5, atol=1e-4)
    assert (after_two - sft_logps).abs().min() > 1e-3


def test_the_soft_reference_averages_adapters_not_effective_weights(
    sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """alpha 0.5, one update: A and B are each halfway; BA is then a quarter of the way in B's terms, not half.

    B starts at 0, so with (A0, 0) and (A2, B2) the reference has ((A0 + A2) / 2, B2 / 2), whose product differs from
    B2 A2 / 2 by B2 (A0 - A2) / 4.
    """
    params = adapted(align_steps=3)
    start = [shard.clone() for shard in local_shards(load_policy(params, sft))]
    seen, trainer = train("tr_dpo_soft", params, sft, pairs, tmp_path / "out", Merged)
    assert trainer.reference is not None and trainer.reference.updated_at == [2]
    names = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    after_two = [
        p for (name, _), p in zip(trainer.model.named_parameters(), seen.policies[1], strict=True) if "lora_" in name
    ]
    for old, new, got in zip(start, after_two, trainer.reference.master, strict=False):
        torch.testing.assert_close(got, (old + new) / 2, rtol=1e-6, atol=1e-7)
    a, b = (next(i for i, name in enumerate(names) if f"lora_{side}" in name) for side in "AB")
    master = trainer.reference.master
    effective = after_two[b] @ after_two[a] / 2
    difference = after_two[b] @ (start[a] - after_two[a]) / 4
    torch.testing.assert_close(master[b] @ master[a] - effective, difference, rtol=1e-3, atol=1e-6)
    assert difference.abs().max() > 1e-5


def test_snapshots_are_plain_models(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    params = adapted(align_steps=3)
    result = train_method("tr_dpo_hard", params, sft, pairs, tmp_path / "out")
    folder = result.snapshots / "step-00003"
    assert not list(folder.glob("*adapter*"))
    snapshot, start = models.load_model(str(folder)), models.load_model(str(sft))
    assert {name for name, _ in snapshot.named_parameters()} == {name for name, _ in start.named_parameters()}
    changed = [
        n for (n, p), q in zip(snapshot.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)
    ]
    assert changed and all("proj" in name for name in changed)


def test_merged_weights_compute_what_the_adapted_model_computes(sft: Path) -> None:
    policy = load_policy(adapted(), sft)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    merged = plain(sft, merged_weights(policy, policy.state_dict()))
    ids = torch.tensor([[3, 4, 5, 6]])
    torch.testing.assert_close(merged(ids).logits, policy(ids).logits, rtol=1e-4, atol=1e-5)  # type: ignore[operator]
    assert not torch.allclose(policy(ids).logits, models.load_model(str(sft))(ids).logits, atol=1e-2)


@pytest.mark.parametrize("name", ["tr_dpo_hard", "tr_kto_soft"])
def test_a_killed_adapter_run_resumes_to_the_same_weights(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    params = adapted(align_steps=4, align_checkpoint_minutes=1e-9)
    whole = train_method(name, params, sft, pairs, tmp_path / "whole")

    class Killed(Exception):
        pass

    def kill(row: dict[str, float]) -> None:
        if row["step"] == 4:
            raise Killed

    with pytest.raises(Killed):
        train_method(name, params, sft, pairs, tmp_path / "killed", kill)
    resumed = train_method(name, params, sft, pairs, tmp_path / "killed")
    assert whole.log.read_text() == resumed.log.read_text()
    weights = [models.load_model(str(r.snapshots / "step-00004")).state_dict() for r in (whole, resumed)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
