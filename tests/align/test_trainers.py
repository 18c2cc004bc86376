"""The trainers: when the reference moves and how far, and the same numbers as stock TRL where it has the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tr_align import models
from tr_align.align.reference import ReferenceUpdate
from tr_align.align.train import reference_rule
from tr_align.align.trainers import LOGGED, make_trainer, paired_rows, unpaired_rows
from tr_align.config import METHODS, Params
from tr_align.data.schema import Pair
from tr_align.errors import UserError

from .conftest import settings


class Recorder(TrainerCallback):
    """Copies of policy and reference after each optimizer step, once the update has been done."""

    def __init__(self, reference: torch.nn.Module) -> None:
        self.reference = reference
        self.policies: list[list[torch.Tensor]] = []
        self.references: list[list[torch.Tensor]] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.policies.append([p.detach().clone() for p in model.parameters()])
        self.references.append([p.detach().clone() for p in self.reference.parameters()])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.logs.append(dict(logs))


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Euclidean distance of two sets of parameters, written independently of the code under test."""
    return sum(((x.double() - y.double()) ** 2).sum().item() for x, y in zip(a, b, strict=True)) ** 0.5


def train(name: str, params: Params, sft: Path, pairs: list[Pair], folder: Path) -> tuple[Recorder, ReferenceUpdate]:
    interval, alpha = reference_rule(params, name)
    reference = models.load_model(str(sft))
    update = ReferenceUpdate(reference, interval, alpha)
    recorder = Recorder(reference)
    trainer: Any = make_trainer(
        loss=METHODS[name].loss,
        policy=models.load_model(str(sft)),
        tokenizer=models.load_tokenizer(str(sft)),
        pairs=pairs,
        align=params.align,
        beta=getattr(params.beta, METHODS[name].loss),
        dpo=params.dpo,
        ipo=params.ipo,
        kto=params.kto,
        update=update,
        seed=0,
        folder=str(folder),
        max_length=512,
        callbacks=[recorder],
    )
    trainer.train()
    return recorder, update


@pytest.mark.parametrize("name", METHODS)
def test_the_reference_moves_by_its_rule_at_its_steps_and_at_no_other(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """Soft: alpha 0.3 every 2 steps; hard: tau 3; five steps. Every parameter, after every step."""
    params = settings(ref_update_alpha=0.3, ref_update_every=2, ref_update_tau=3)
    start = [p.detach().clone() for p in models.load_model(str(sft)).parameters()]
    seen, update = train(name, params, sft, pairs, tmp_path / "out")

    expected = start
    moved = []
    for step in range(1, 6):
        policy = seen.policies[step - 1]
        if METHODS[name].update == "soft" and step in (2, 4):
            expected = [0.3 * p + 0.7 * r for p, r in zip(policy, expected, strict=True)]
            moved.append(step)
        if METHODS[name].update == "hard" and step == 3:
            expected = policy
            moved.append(step)
        for got, want, before in zip(seen.references[step - 1], expected, start, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
            if not moved:
                assert torch.equal(got, before)  # to the bit, before the first update
        assert not any(torch.equal(p, s) for p, s in zip(policy, start, strict=True))  # the policy did move
    assert update.updated_at == moved
    if moved:
        assert any(not torch.equal(r, s) for r, s in zip(seen.references[-1], start, strict=True))


@pytest.mark.parametrize("name", ["tr_dpo_soft", "tr_kto_hard"])
def test_updates_count_optimizer_steps_under_gradient_accumulation(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    params = settings(align_steps=4, align_gradient_accumulation=2, ref_update_every=2, ref_update_tau=2)
    seen, update = train(name, params, sft, pairs, tmp_path / "out")
    assert len(seen.policies) == 4
    assert update.updated_at == [2, 4]


def test_distances_are_those_before_the_update(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Hard, tau 2: the reference of steps 1 and 2 is the SFT model, that of step 3 the policy of step 2."""
    seen, update = train("tr_dpo_hard", settings(align_steps=3, ref_update_tau=2), sft, pairs, tmp_path / "out")
    start = [p.detach() for p in models.load_model(str(sft)).parameters()]

    assert update.distances["ref_from_sft"] == pytest.approx(apart(seen.policies[1], start), rel=1e-5)
    assert update.distances["policy_from_ref"] == pytest.approx(apart(seen.policies[2], seen.policies[1]), rel=1e-5)


def test_everything_promised_is_logged_every_step(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    for name in ("ipo", "kto"):
        seen, update = train(name, settings(align_steps=3), sft, pairs, tmp_path / name)
        assert len(seen.logs) == 3
        for log in seen.logs:
            assert set(LOGGED) <= set(log) | set(update.distances)
        assert seen.logs[0]["margin"] == pytest.approx(0, abs=1e-4)  # the policy starts as the reference
        assert seen.logs[0]["logps_chosen"] < 0


def stock(kind: str, params: Params, sft: Path, rows: Any, folder: Path, sync: bool) -> tuple[Recorder, Any]:
    """The same training by TRL alone, with its own loss, log-probabilities and reference update."""
    reference = models.load_model(str(sft))
    recorder = Recorder(reference)
    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": params.align.steps,
        "learning_rate": params.align.learning_rate,
        "warmup_steps": params.align.warmup_steps,
        "max_grad_norm": params.align.max_grad_norm,
        "gradient_checkpointing": False,
        "max_length": 512,
        "seed": 0,
        "bf16": False,
        "use_cpu": True,
        "dataloader_drop_last": True,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if sync:
        options |= {
            "sync_ref_model": True,
            "ref_model_mixup_alpha": params.ref_update.alpha,
            "ref_model_sync_steps": params.ref_update.every,
        }
    shared: dict[str, Any] = {
        "model": models.load_model(str(sft)),
        "ref_model": reference,
        "train_dataset": rows,
        "processing_class": models.load_tokenizer(str(sft)),
    }
    trainer: Any
    if kind == "kto":
        args = KTOConfig(
            beta=params.beta.kto, per_device_train_batch_size=4, train_sampling_strategy="sequential", **options
        )
        trainer = KTOTrainer(args=args, **shared)
    else:
        loss = {"dpo": "sigmoid", "ipo": "ipo"}[kind]
        args = DPOConfig(loss_type=[loss], beta=getattr(params.beta, kind), per_device_train_batch_size=2, **options)
        trainer = DPOTrainer(args=args, **shared)
    # After TRL's own callback, so that the reference is seen as it is after the update.
    trainer.add_callback(recorder)
    trainer.train()
    return recorder, trainer


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_same_losses_and_weights_as_stock_trl(
    kind: str, sync: bool, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """IPO in its length-averaged form, which is the one TRL has."""
    params = settings(align_steps=4, ref_update_alpha=0.6, ref_update_every=2, ipo_length_average=True, beta_ipo=0.1)
    name = f"tr_{kind}_soft" if sync else kind
    ours, _ = train(name, params, sft, pairs, tmp_path / "ours")
    rows = unpaired_rows(pairs, 0) if kind == "kto" else paired_rows(pairs)
    theirs, _ = stock(kind, params, sft, rows, tmp_path / "theirs", sync)

    for mine, other in zip(ours.logs, theirs.logs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        if kind != "kto":
            assert mine["logps_chosen"] == pytest.approx(other["logps/chosen"], rel=1e-5)
        if kind == "dpo":
            assert mine["margin"] == pytest.approx(other["rewards/margins"], rel=1e-4, abs=1e-6)
    start = [p.detach() for p in models.load_model(str(sft)).parameters()]
    for step in range(4):
        # Against the way gone: Adam turns a rounding error in a gradient near 0 into a step of its own.
        assert apart(ours.policies[step], theirs.policies[step]) < 1e-4 * apart(ours.policies[step], start)
        if sync and step >= 1:
            assert apart(ours.references[step], theirs.references[step]) < 1e-4 * apart(ours.references[step], start)
        else:
            assert apart(theirs.references[step], start) == apart(ours.references[step], start) == 0


def test_summed_ipo_is_the_default_and_differs_from_the_average(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    summed, _ = train("ipo", settings(align_steps=2), sft, pairs, tmp_path / "a")
    averaged, _ = train("ipo", settings(align_steps=2, ipo_length_average=True), sft, pairs, tmp_path / "b")
    # At the start h = 0 in both, so the loss is (1 / (2 beta))^2; the gradients differ by the reply's length.
    assert summed.logs[0]["loss"] == pytest.approx(averaged.logs[0]["loss"], rel=1e-3)
    assert summed.logs[0]["grad_norm"] > 2 * averaged.logs[0]["grad_norm"]


def test_kto_rows_alternate_and_keep_every_reply_once(pairs: list[Pair]) -> None:
    rows = unpaired_rows(pairs, seed=3)
    assert rows["label"] == [True, False] * len(pairs)
    texts = [completion[0]["content"] for completion in rows["completion"]]
    assert sorted(texts[0::2]) == sorted(pair.chosen for pair in pairs)
    assert sorted(texts[1::2]) == sorted(pair.rejected for pair in pairs)
    assert texts[0::2] != [pair.chosen for pair in pairs]  # shuffled
    assert unpaired_rows(pairs, seed=3)["completion"] == rows["completion"]


def test_fewer_rows_than_a_batch_are_refused(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"align\.batch_size"):
        train("dpo", settings(align_batch_size=20), sft, pairs, tmp_path / "out")
