"""What cannot be trained on stops with words that say what and where, and never spoils what was trained before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import gather
from safetensors.torch import load_file

from tr_align import models
from tr_align.align.batches import Example
from tr_align.align.plan import unpaired_groups
from tr_align.align.resume import last_checkpoint, snapshot_name
from tr_align.align.train import Result, make_task, train_method
from tr_align.align.trainer import AlignTrainer
from tr_align.config import METHODS, Params
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError

from .conftest import settings

EACH_STEP = 1e-9
"""Minutes: a checkpoint after every optimizer step."""


def final_weights(result: Result, step: int) -> dict[str, torch.Tensor]:
    return load_file(result.snapshots / snapshot_name(step) / "model.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


# A loss that is not finite


def spoil(patch: pytest.MonkeyPatch, row: int, reply: int, value: float, grad: bool, step: int) -> None:
    """From a step on one reply's log-probability is not a number: in the policy's passes or in the reference's."""
    plain = AlignTrainer._logps

    def spoilt(self: Any, model: Any, rows: Any) -> Any:
        logps = plain(self, model, rows)
        if torch.is_grad_enabled() != grad or self.state.global_step + 1 < step:
            return logps
        here = torch.tensor([[r == row and column == reply for column in (0, 1)] for r in rows])
        return torch.where(here, torch.tensor(value), logps)

    patch.setattr(AlignTrainer, "_logps", spoilt)


def row_of_step(name: str, params: Params, sft: Path, pairs: list[Pair], step: int) -> tuple[int, list[str]]:
    """The last example of a step, and the prompt ids of all of that step's examples, it first."""
    task = make_task(name, params, models.load_tokenizer(str(sft)), pairs, 1, gather)
    rows = task.plan.rows(step, 0)
    return rows[-1], [task.names[row] for row in reversed(rows)]


@pytest.mark.parametrize(
    ("name", "reply", "value", "grad"),
    [
        ("tr_dpo_soft", 1, float("nan"), True),
        ("tr_dpo_soft", 0, float("-inf"), True),  # the loss is inf
        ("tr_dpo_soft", 0, float("nan"), False),  # the reference's: scored when the window of steps 4 to 6 begins
        ("tr_dpo_hard", 0, float("nan"), True),
        ("tr_ipo_hard", 0, float("inf"), True),
        ("tr_kto_soft", 0, float("nan"), True),
        ("tr_kto_soft", 1, float("nan"), True),  # a mismatched reply: the KL that all losses of the batch share
    ],
)
def test_a_loss_that_is_not_finite_stops_before_it_reaches_the_weights(
    name: str,
    reply: int,
    value: float,
    grad: bool,
    sft: Path,
    pairs: list[Pair],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = settings(
        align_checkpoint_minutes=EACH_STEP, align_evaluate_at=[0.6, 1.0], ref_update_every=3, ref_update_tau=3
    )
    row, prompts = row_of_step(name, params, sft, pairs, step=4)
    whole = train_method(name, params, sft, pairs, tmp_path / "whole")

    with monkeypatch.context() as patch:
        spoil(patch, row, reply, value, grad, step=4)
        with pytest.raises(UserError) as caught:
            train_method(name, params, sft, pairs, tmp_path / "run")
    message = str(caught.value)
    assert message.startswith("the loss is not finite at step 4, for the prompts ")
    named = re.findall(r"\b[0-9a-f]{16}\b", message)
    assert named == (sorted(set(prompts)) if METHODS[name].loss == "kto" and reply == 1 else prompts[:1])
    assert "align.learning_rate" in message

    # Nothing of step 4 was logged, and what step 3 left is whole: the run goes on from it once the cause is gone.
    rows = [json.loads(line) for line in (tmp_path / "run" / "train.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == "checkpoint-3"
    kept = load_file(checkpoint / "model.safetensors")
    third = final_weights(whole, 3)
    assert all(torch.equal(kept[key].to(torch.bfloat16), third[key]) for key in third)
    resumed = train_method(name, params, sft, pairs, tmp_path / "run")
    assert same(final_weights(whole, 5), final_weights(resumed, 5))
    assert whole.log.read_text() == resumed.log.read_text()


def test_a_beta_that_is_not_finite_stops_at_the_first_step(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    params = settings(beta_dpo=float("inf"))  # past the validation of params.yaml, which refuses it
    _, prompts = row_of_step("dpo", params, sft, pairs, step=1)
    with pytest.raises(UserError, match="the loss is not finite at step 1") as caught:
        train_method("dpo", params, sft, pairs, tmp_path / "run")
    assert all(prompt in str(caught.value) for prompt in prompts)
    assert last_checkpoint(tmp_path / "run" / "checkpoints") is None


def test_no_more_than_five_prompts_are_named(
    sft: Path, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = settings(beta_dpo=float("inf"), align_batch_size=4, align_gradient_accumulation=2, align_max_tokens=10)
    with pytest.raises(UserError, match=r"for the prompts ([0-9a-f]{16}, ){4}[0-9a-f]{16} and 3 more; no weight was"):
        train_method("dpo", params, sft, pairs, tmp_path / "run")


@pytest.mark.parametrize("step", [3, 5], ids=["third step", "last step"])
def test_a_gradient_that_is_not_finite_never_reaches_a_checkpoint_or_a_snapshot(
    step: int, sft: Path, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite, its gradient overflows."""
    plain = AlignTrainer._losses

    def overflowing(self: Any, model: Any, rows: Any) -> Any:
        losses = plain(self, model, rows)
        if self.state.global_step == step - 1:
            losses.register_hook(lambda grad: grad * float("inf"))
        return losses

    params = settings(align_checkpoint_minutes=EACH_STEP, align_evaluate_at=[0.2, 0.4, 0.6, 0.8, 1.0])
    with monkeypatch.context() as patch:
        patch.setattr(AlignTrainer, "_losses", overflowing)
        with pytest.raises(UserError, match=f"not finite at step {step}"):
            train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "run")
    checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None and checkpoint.name == f"checkpoint-{step - 1}"
    stored = [checkpoint, *(tmp_path / "run" / "snapshots").iterdir()]
    assert len(stored) == step
    for folder in stored:
        assert all(tensor.isfinite().all() for tensor in load_file(folder / "model.safetensors").values()), folder


# Data


@pytest.mark.parametrize("name", ["dpo", "tr_kto_soft"])
def test_pairs_cut_to_nothing_are_counted_listed_and_left_out(
    name: str, sft: Path, pairs: list[Pair], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of twelve is a share of 0.083, two are 0.167."""
    params = settings(data_max_prompt_tokens=30, data_max_reply_tokens=32, data_max_dropped=0.1)  # 70 in all
    long = [Message(role="user", content="Say " + "x" * 60)]
    pairs[3] = pairs[3].model_copy(update={"prompt": long})
    cut = train_method(name, params, sft, pairs, tmp_path / "cut")
    said = capsys.readouterr().err
    assert f"1 of 12 rows have nothing left to score and are left out: {pairs[3].prompt_id}" in said
    without = train_method(name, params, sft, [*pairs[:3], *pairs[4:]], tmp_path / "without")
    assert same(final_weights(cut, 5), final_weights(without, 5))
    assert "left out" not in capsys.readouterr().err

    pairs[7] = pairs[7].model_copy(update={"prompt": [*long, *pairs[7].prompt]})
    with pytest.raises(UserError) as caught:
        train_method(name, params, sft, pairs, tmp_path / "refused")
    assert str(caught.value).startswith("data.max_prompt_tokens, data.max_reply_tokens: 2 of 12 rows")
    assert f"(prompts {pairs[3].prompt_id}, {pairs[7].prompt_id})" in str(caught.value)
    assert not (tmp_path / "refused" / "train.jsonl").exists()
    # By the limit of his choice the user may go on without them.
    train_method(name, settings(**LIMITS | {"data_max_dropped": 0.17}), sft, pairs, tmp_path / "allowed")


LIMITS = {"data_max_prompt_tokens": 30, "data_max_reply_tokens": 32}


def test_limits_that_leave_nothing_are_refused(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    params = settings(data_max_prompt_tokens=1, data_max_reply_tokens=1)
    with pytest.raises(UserError, match=r"12 of 12 rows have nothing left to score within 10 tokens .* and 7 more\)"):
        train_method("dpo", params, sft, pairs, tmp_path / "run")
    with pytest.raises(UserError, match=r"align\.batch_size: an optimizer step takes 2 examples, .* has only 0"):
        params = settings(data_max_prompt_tokens=1, data_max_reply_tokens=1, data_max_dropped=1.0)
        train_method("dpo", params, sft, pairs, tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "changes", "needed", "there"),
    [
        ("dpo", {"align_batch_size": 13}, 13, 12),
        ("ipo", {"align_batch_size": 5, "align_gradient_accumulation": 3}, 15, 12),
        ("tr_dpo_soft", {"align_held_out": 11}, 2, 1),
        ("dpo", {"align_held_out": 100}, 2, 0),
        ("kto", {"align_batch_size": 4, "align_gradient_accumulation": 4}, 32, 24),
    ],
    ids=str,
)
def test_fewer_pairs_than_a_step_needs(
    name: str, changes: dict[str, Any], needed: int, there: int, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    said = f"takes {needed} examples, but the preferences split has only {there}; lower it"
    with pytest.raises(UserError, match=rf"^align\.batch_size: an optimizer step {said}"):
        train_method(name, settings(**changes), sft, pairs, tmp_path / "run")
    assert not (tmp_path / "run" / "train.jsonl").exists()


def test_as_many_pairs_as_a_step_needs_are_enough(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    train_method("dpo", settings(align_batch_size=12, align_steps=2), sft, pairs, tmp_path / "run")


def test_a_kto_group_needs_two_replies_to_two_prompts(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    def replies(*prompts: int) -> list[Example]:
        return [Example((prompt,), ((7,),)) for prompt in prompts]

    with pytest.raises(UserError, match=r"align\.batch_size: KTO compares replies within a batch"):
        unpaired_groups(replies(1, 2), replies(1, 2), group=1, seed=0)
    with pytest.raises(UserError, match="replies to one prompt only"):
        unpaired_groups(replies(1, 1), replies(1, 1), group=2, seed=0)
    one = [pair.model_copy(update={"prompt": pairs[0].prompt}) for pair in pairs]
    with pytest.raises(UserError, match="replies to one prompt only"):
        train_method("kto", settings(), sft, one, tmp_path / "run")
    train_method("dpo", settings(align_steps=1), sft, one, tmp_path / "run")  # of no matter to the other losses


@pytest.mark.parametrize(
    ("lacking", "message"), [("eos_token", "no end-of-sequence token"), ("chat_template", "no chat template")]
)
def test_a_tokenizer_that_cannot_end_a_reply_is_refused_before_anything_is_trained(
    lacking: str, message: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    tokenizer = models.load_tokenizer(str(sft))
    setattr(tokenizer, lacking, None)
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (sft / name).unlink()
    tokenizer.save_pretrained(sft)
    with pytest.raises(UserError, match=rf"^model\.name: .*{message}"):
        train_method("dpo", settings(), sft, pairs, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# References that never move


@pytest.mark.parametrize(
    ("name", "base", "key"),
    [("tr_dpo_hard", "dpo", "tau"), ("tr_ipo_soft", "ipo", "every"), ("tr_kto_hard", "kto", "tau")],
)
def test_an_interval_as_long_as_the_run_is_the_base_method_and_is_said_so(
    name: str, base: str, key: str, sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    params = settings(**{f"ref_update_{key}": 100})
    (warning,) = [text for text in params.warnings() if f"the reference of {name} " in text]
    assert warning == (
        f"ref_update.{key}: is 100, but align.steps is 5: the reference of {name} never moves while it is used, so "
        f"this is {base} under another name; lower the one or raise the other"
    )
    still = train_method(name, params, sft, pairs, tmp_path / name)
    plain = train_method(base, params, sft, pairs, tmp_path / base)
    assert still.updated_at == []
    assert same(final_weights(still, 5), final_weights(plain, 5))
    assert still.log.read_text() == plain.log.read_text()


def test_an_interval_of_all_steps_moves_the_reference_when_it_is_used_no_more(
    sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    params = settings(ref_update_tau=5)
    assert any("the reference of tr_dpo_hard never moves while it is used" in text for text in params.warnings())
    last = train_method("tr_dpo_hard", params, sft, pairs, tmp_path / "hard")
    plain = train_method("dpo", params, sft, pairs, tmp_path / "plain")
    assert last.updated_at == [5]
    assert same(final_weights(last, 5), final_weights(plain, 5))
    assert last.log.read_text() == plain.log.read_text()


def test_intervals_shorter_than_the_run_are_no_matter() -> None:
    assert settings(ref_update_tau=4, ref_update_every=4).warnings() == []
    assert len(settings(ref_update_tau=5, ref_update_every=4).warnings()) == 3  # the three hard methods
    assert len(settings(ref_update_tau=4, ref_update_every=5).warnings()) == 3
