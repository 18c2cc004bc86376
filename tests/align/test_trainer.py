"""The trainer: when the reference moves and how far, and the same numbers as stock TRL where it has the method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import gather
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

from tr_align import models
from tr_align.align.batches import collate
from tr_align.align.logps import reply_logps
from tr_align.align.train import load_policy, make_task, training_arguments
from tr_align.align.trainer import AlignTrainer
from tr_align.config import METHODS, Params
from tr_align.data.schema import Pair
from tr_align.errors import UserError

from .conftest import settings

Weights = list[torch.Tensor]
SEED_WITHOUT_NEIGHBOURS = 8


class Recorder(TrainerCallback):
    """Copies of the policy after each optimizer step, and the rows of the log."""

    def __init__(self) -> None:
        self.policies: list[Weights] = []
        self.logs: list[dict[str, float]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.policies.append([p.detach().clone() for p in model.parameters()])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.logs.append(dict(logs))


class Watched(AlignTrainer):
    """Also keeps, for each step, the log-probabilities its loss saw: the policy's and the reference's, by example."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[dict[int, tuple[torch.Tensor, torch.Tensor]]] = []

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.seen.append({})
        return super().training_step(*args, **kwargs)

    def _losses(self, model: Any, rows: list[int]) -> Any:
        losses = super()._losses(model, rows)
        with torch.no_grad():
            policy = self._logps(model, rows)
        for i, row in enumerate(rows):
            self.seen[-1][row] = (policy[i], self.reference.logps[row].clone())
        return losses


def train(
    name: str, params: Params, sft: Path, pairs: list[Pair], folder: Path, kind: type[Watched] = Watched
) -> tuple[Recorder, Any]:
    recorder = Recorder()
    args = training_arguments(params, name, folder)
    task = make_task(name, params, models.load_tokenizer(str(sft)), pairs, 1, gather)
    trainer = kind(model=load_policy(params, sft), args=args, task=task, callbacks=[recorder])
    trainer.train()
    return recorder, trainer


def weights(model: Any) -> Weights:
    return [p.detach().clone() for p in model.parameters()]


def apart(a: Weights, b: Weights) -> float:
    """Euclidean distance of two sets of parameters, written independently of the code under test."""
    return sum(((x.double() - y.double()) ** 2).sum().item() for x, y in zip(a, b, strict=True)) ** 0.5


def references(name: str, start: Weights, policies: list[Weights], alpha: float, interval: int) -> list[Weights]:
    """The rule, recomputed: the reference in force during each step, from the policies after each step."""
    expected, current = [], start
    for step in range(1, len(policies) + 1):
        expected.append(current)
        if METHODS[name].update != "none" and step % interval == 0:
            policy = policies[step - 1]
            a = 1.0 if METHODS[name].update == "hard" else alpha
            current = [a * p + (1 - a) * r for p, r in zip(policy, current, strict=True)]
    return [*expected, current]


@pytest.mark.parametrize("name", METHODS)
def test_each_step_sees_the_reference_of_the_rule(name: str, sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Soft: alpha 0.3 every 2 steps; hard: tau 2; five steps, so updates after 2 and 4.

    The log-probabilities each step's loss used are those of a model holding the recomputed reference weights, and
    before the first update those of the SFT model to the bit of float32 noise; at step 3 they are no longer.
    """
    params = settings(ref_update_alpha=0.3, ref_update_every=2, ref_update_tau=2, align_sft_rewards=False)
    seen, trainer = train(name, params, sft, pairs, tmp_path / "out")
    model = models.load_model(str(sft))
    start = weights(model)
    expected = references(name, start, seen.policies, alpha=0.3, interval=2)
    for step in range(1, 6):
        with torch.no_grad():
            for p, value in zip(model.parameters(), expected[step - 1], strict=True):
                p.copy_(value)
            for row, (_, used) in trainer.seen[step - 1].items():
                alone = reply_logps(model, collate([trainer.task.examples[row]], shared=False))[0]
                torch.testing.assert_close(used, alone, rtol=1e-5, atol=1e-5)
        distance = apart(expected[step - 1], start)
        assert (distance > 0.1) == (METHODS[name].update != "none" and step > 2)
        assert seen.logs[step - 1]["ref_from_sft"] == pytest.approx(distance, rel=1e-5, abs=1e-9)
        assert seen.logs[step - 1]["policy_from_ref"] == pytest.approx(
            apart(seen.policies[step - 1], expected[step - 1]), rel=1e-4
        )
        assert seen.logs[step - 1]["since_update"] == (
            [1, 2, 1, 2, 1][step - 1] if METHODS[name].update != "none" else step
        )
    assert trainer.reference is not None
    assert trainer.reference.updated_at == ([2, 4] if METHODS[name].update != "none" else [])
    if METHODS[name].update == "soft":
        for got, want in zip(trainer.reference.master, expected[-1], strict=False):
            torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    else:
        assert trainer.reference.master == []  # no weights of a reference are kept, and there is no second model


@pytest.mark.parametrize("name", ["tr_dpo_soft", "tr_dpo_hard", "tr_kto_soft"])
def test_an_update_on_the_last_step_is_recorded(name: str, sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    params = settings(align_steps=4, ref_update_alpha=0.3, ref_update_every=2, ref_update_tau=2)
    seen, trainer = train(name, params, sft, pairs, tmp_path / "out")
    assert trainer.reference is not None and trainer.reference.updated_at == [2, 4]
    # But nothing that was logged has seen it: the last row is of the reference that its loss was computed with.
    assert seen.logs[-1]["since_update"] == 2 and seen.logs[-1]["margin"] != 0


@pytest.mark.parametrize("name", ["tr_dpo_soft", "tr_kto_hard"])
def test_updates_count_optimizer_steps_under_gradient_accumulation(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    params = settings(align_steps=4, align_gradient_accumulation=2, ref_update_every=2, ref_update_tau=2)
    seen, trainer = train(name, params, sft, pairs, tmp_path / "out")
    assert len(seen.policies) == 4
    assert trainer.reference is not None and trainer.reference.updated_at == [2, 4]
    assert all(len(rows) == (8 if "kto" in name else 4) for rows in trainer.seen)


@pytest.mark.parametrize("name", ["dpo", "tr_ipo_soft"])
def test_passes_change_nothing_but_memory(name: str, sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """The same batch in one pass and one example a pass: same gradients to float32 rounding, same updates."""
    runs = []
    for tokens in (10_000, 1):
        params = settings(align_batch_size=4, align_max_tokens=tokens, ref_update_every=2)
        runs.append(train(name, params, sft, pairs, tmp_path / str(tokens))[0])
    start = weights(models.load_model(str(sft)))
    for one, many in zip(*(run.policies for run in runs), strict=True):
        assert apart(one, many) < 1e-4 * apart(one, start)


def test_models_that_cannot_share_prompts_train_to_the_same_weights(
    sft: Path, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = settings(ref_update_tau=2)
    shared, trainer = train("tr_dpo_hard", params, sft, pairs, tmp_path / "a")
    assert trainer.shared
    monkeypatch.setattr("tr_align.align.attention.can_share_prompts", lambda model: False)
    padded, trainer = train("tr_dpo_hard", params, sft, pairs, tmp_path / "b")
    assert not trainer.shared
    start = weights(models.load_model(str(sft)))
    assert apart(shared.policies[-1], padded.policies[-1]) < 1e-4 * apart(shared.policies[-1], start)


@pytest.mark.parametrize("name", ["tr_dpo_soft", "tr_dpo_hard"])
def test_rewards_against_sft_and_reference(name: str, sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """beta * (log pi - log ref) with the log-probabilities computed here, against both anchors."""
    params = settings(ref_update_every=2, ref_update_tau=2)
    seen, trainer = train(name, params, sft, pairs, tmp_path / "out")
    model = models.load_model(str(sft))
    for step, log in enumerate(seen.logs, 1):
        rows = list(trainer.seen[step - 1])
        policy = torch.stack([trainer.seen[step - 1][row][0] for row in rows])
        reference = torch.stack([trainer.seen[step - 1][row][1] for row in rows])
        with torch.no_grad():
            anchor = reply_logps(model, collate([trainer.task.examples[row] for row in rows], shared=False))
        beta = params.beta.dpo
        assert log["reward_chosen"] == pytest.approx((beta * (policy - reference))[:, 0].mean().item(), abs=1e-5)
        assert log["reward_chosen_sft"] == pytest.approx((beta * (policy - anchor))[:, 0].mean().item(), abs=1e-5)
        assert log["margin_sft"] == pytest.approx(
            (beta * ((policy - anchor)[:, 0] - (policy - anchor)[:, 1])).mean().item(), abs=1e-5
        )
        assert log["logps_rejected"] == pytest.approx(policy[:, 1].mean().item(), rel=1e-5)
        if step > 2:
            assert abs(log["margin"] - log["margin_sft"]) > 1e-3
        else:
            assert log["margin"] == pytest.approx(log["margin_sft"], abs=1e-5)


@pytest.mark.parametrize("name", ["tr_dpo_hard", "tr_kto_hard"])
def test_held_out_pairs_never_meet_the_reference_right_after_an_update(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """Evaluated at step 4, where tau = 2 moves the reference: the rewards are against the reference of steps 3 and 4.

    TRL evaluates after its update: there every margin at this step is 0.
    """
    params = settings(align_steps=6, align_evaluate_at=[4 / 6, 1.0], align_held_out=3, ref_update_tau=2)
    seen, trainer = train(name, params, sft, pairs, tmp_path / "out")
    assert ["held_out_margin" in log for log in seen.logs] == [False, False, False, True, False, True]
    assert not {row for rows in trainer.seen for row in rows} & set(trainer.task.held_out)
    batch = collate([trainer.task.examples[row] for row in trainer.task.held_out], shared=False)
    model = models.load_model(str(sft))
    logps = []
    for policy in (seen.policies[3], seen.policies[1]):  # after step 4, and the reference since step 2
        with torch.no_grad():
            for p, value in zip(model.parameters(), policy, strict=True):
                p.copy_(value)
            logps.append(reply_logps(model, batch))
    rewards = getattr(params.beta, METHODS[name].loss) * (logps[0] - logps[1])
    assert rewards.abs().min() > 1e-4
    assert seen.logs[3]["held_out_margin"] == pytest.approx((rewards[:, 0] - rewards[:, 1]).mean().item(), abs=1e-5)
    assert seen.logs[3]["held_out_accuracy"] == (rewards[:, 0] > rewards[:, 1]).float().mean().item()


def trl(kind: str, params: Params, sft: Path, ours: Watched, pairs: list[Pair], folder: Path, sync: bool) -> Any:
    """The same training by TRL alone: its loss, log-probabilities, data preparation and reference update."""
    reference = models.load_model(str(sft))
    recorder = Recorder()
    moved: list[Weights] = []

    class After(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            moved.append(weights(reference))

    options: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": params.align.steps,
        "learning_rate": params.align.learning_rate,
        "warmup_steps": params.align.warmup_steps,
        "max_grad_norm": params.align.max_grad_norm,
        "activation_checkpointing": False,
        "max_length": 512,
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "train_sampling_strategy": "sequential",
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
    by_id = {pair.prompt_id: pair for pair in pairs}
    task = ours.task
    order = [by_id[task.names[row]] for row in task.plan.order]
    rows: list[dict[str, Any]] = []
    for row, pair in zip(task.plan.order, order, strict=True):
        prompt = [message.model_dump() for message in pair.prompt]
        if kind == "kto":
            good = bool(task.objective.desirable[row])  # type: ignore[attr-defined]
            text = pair.chosen if good else pair.rejected
            rows.append({"prompt": prompt, "completion": [{"role": "assistant", "content": text}], "label": good})
        else:
            sides = {side: [{"role": "assistant", "content": getattr(pair, side)}] for side in ("chosen", "rejected")}
            rows.append({"prompt": prompt, **sides})
    shared: dict[str, Any] = {
        "model": models.load_model(str(sft)),
        "ref_model": reference,
        "train_dataset": Dataset.from_list(rows),
        "processing_class": models.load_tokenizer(str(sft)),
        "callbacks": [recorder],
    }
    trainer: Any
    if kind == "kto":
        trainer = KTOTrainer(args=KTOConfig(beta=params.beta.kto, per_device_train_batch_size=4, **options), **shared)
    else:
        loss = {"dpo": "sigmoid", "ipo": "ipo"}[kind]
        beta = getattr(params.beta, kind)
        args = DPOConfig(loss_type=[loss], beta=beta, per_device_train_batch_size=2, **options)
        trainer = DPOTrainer(args=args, **shared)
    trainer.add_callback(After())  # after TRL's own callback, so that the reference is seen as it is after the update
    trainer.train()
    return recorder, moved


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("kind", ["dpo", "ipo", "kto"])
def test_same_losses_log_probabilities_and_weights_as_stock_trl(
    kind: str, sync: bool, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """Four steps, float32, `sync_ref_model` every two with alpha 0.6; IPO in TRL's length-averaged form."""
    params = settings(align_steps=4, ref_update_alpha=0.6, ref_update_every=2, ipo_length_average=True, beta_ipo=0.1)
    # A seed whose groups hold no two replies to one prompt side by side: TRL would take such for mismatched.
    params = params.model_copy(update={"seed": SEED_WITHOUT_NEIGHBOURS})
    ours, trainer = train(f"tr_{kind}_soft" if sync else kind, params, sft, pairs, tmp_path / "ours")
    if kind == "kto":
        for start in range(0, 16, 4):
            group = [trainer.task.examples[row] for row in trainer.task.plan.order[start : start + 4]]
            assert [e.replies[1] for e in group] == [group[i - 1].replies[0] for i in range(4)]
    theirs, moved = trl(kind, params, sft, trainer, pairs, tmp_path / "theirs", sync)

    for mine, other in zip(ours.logs, theirs.logs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        assert mine["logps_chosen"] == pytest.approx(other["logps/chosen"], rel=1e-5)
        assert mine["logps_rejected"] == pytest.approx(other["logps/rejected"], rel=1e-5)
        if kind != "ipo":
            assert mine["margin"] == pytest.approx(other["rewards/margins"], rel=1e-4, abs=1e-5)
        if kind == "kto":
            assert mine["kto_kl"] == pytest.approx(other["kl"], rel=1e-4, abs=1e-4)
    start = weights(models.load_model(str(sft)))
    for mine, other in zip(ours.policies, theirs.policies, strict=True):
        # Against the way gone: Adam turns a rounding error in a gradient near 0 into a step of its own.
        assert apart(mine, other) < 1e-4 * apart(mine, start)
    expected = references(f"tr_{kind}_soft" if sync else kind, start, ours.policies, 0.6, 2)
    for step in range(4):  # TRL's after step s is ours during step s + 1
        if sync and step >= 1:
            assert apart(expected[step + 1], moved[step]) < 1e-4 * apart(expected[step + 1], start)
        else:
            assert apart(moved[step], start) == apart(expected[step + 1], start) == 0
    if sync:
        assert trainer.reference is not None
        assert apart(trainer.reference.master[: len(start)], moved[-1]) < 1e-4 * apart(moved[-1], start)


def test_summed_ipo_is_the_default_and_differs_from_the_average(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    summed, _ = train("ipo", settings(align_steps=2), sft, pairs, tmp_path / "a")
    averaged, _ = train("ipo", settings(align_steps=2, ipo_length_average=True), sft, pairs, tmp_path / "b")
    # At the start h = 0 in both, so the loss is (1 / (2 beta))^2; the gradients differ by the reply's length.
    assert summed.logs[0]["loss"] == pytest.approx(averaged.logs[0]["loss"], rel=1e-3)
    assert summed.logs[0]["grad_norm"] > 2 * averaged.logs[0]["grad_norm"]


def test_paired_kto_trains_on_pairs(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    seen, trainer = train("tr_kto_hard", settings(kto_paired=True, ref_update_tau=2), sft, pairs, tmp_path / "out")
    assert trainer.reference is not None and trainer.reference.updated_at == [2, 4]
    assert all(len(rows) == 2 for rows in trainer.seen)
    # At the start and right after each update all ratios are 0: every gain is 1/2.
    assert [seen.logs[i]["loss"] == pytest.approx(0.5, abs=1e-6) for i in range(5)] == [True, False, True, False, True]


def test_the_log_averages_over_the_steps_between_its_rows(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    every, _ = train("dpo", settings(align_steps=4), sft, pairs, tmp_path / "a")
    second, _ = train("dpo", settings(align_steps=4, align_log_every=2), sft, pairs, tmp_path / "b")
    means = [log["margin"] for log in every.logs]
    # The first step has a row of its own, so the second row is step 2 alone.
    assert [log["margin"] for log in second.logs] == pytest.approx([means[0], means[1], (means[2] + means[3]) / 2])


class Counting(Watched):
    """Also lists the examples that were scored without a gradient, outside of the loss."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scored: list[int] = []

    def _logps(self, model: Any, rows: Any) -> Any:
        if not model.training:
            self.scored.extend(rows)
        return super()._logps(model, rows)


def test_base_methods_score_the_reference_once_for_all_epochs(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Ten steps of two pairs out of four: five epochs, and each pair is scored by the SFT model exactly once."""
    params = settings(align_steps=10, align_sft_rewards=False)
    _, trainer = train("dpo", params, sft, pairs[:4], tmp_path, Counting)
    assert sorted(trainer.scored) == [0, 1, 2, 3]


def test_hard_updates_score_a_window_without_its_first_step(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """tau 3, six steps of two pairs: in steps 1 and 4 the policy is its own reference, the others' pairs are scored."""
    params = settings(align_steps=6, align_sft_rewards=False, ref_update_tau=3)
    _, trainer = train("tr_dpo_hard", params, sft, pairs, tmp_path, Counting)
    assert sorted(trainer.scored) == sorted(row for step in (2, 3, 5, 6) for row in trainer.task.plan.rows(step, 0))


def test_soft_updates_score_whole_windows(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Every two of four steps: the SFT model for step 2 (step 1 scores itself), the moved reference for 3 and 4."""
    params = settings(align_steps=4, align_sft_rewards=False, ref_update_every=2)
    _, trainer = train("tr_dpo_soft", params, sft, pairs, tmp_path, Counting)
    assert sorted(trainer.scored) == sorted(row for step in (2, 3, 4) for row in trainer.task.plan.rows(step, 0))


def test_fewer_rows_than_a_batch_are_refused(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"align\.batch_size"):
        train("dpo", settings(align_batch_size=20), sft, pairs, tmp_path / "out")
