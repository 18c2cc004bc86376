"""Killed at any moment and started again, a run ends as if nothing had happened: weights, log and reference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import gather
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from tr_align import models
from tr_align.align import train
from tr_align.align.resume import COMPLETE, Checkpoints, last_checkpoint, snapshot_name
from tr_align.align.train import Result, load_policy, make_task, reference_rule, train_method, training_arguments
from tr_align.align.trainer import AlignTrainer, Task
from tr_align.config import Params
from tr_align.data.schema import Message, Pair, read_pairs
from tr_align.errors import UserError

from .conftest import ROOT, settings

EACH_STEP = 1e-9
"""Minutes: a checkpoint after every optimizer step."""

Tensors = dict[str, torch.Tensor]


class Killed(Exception):
    pass


class Steps(TrainerCallback):
    """Calls a function when training begins (with 0) and after every optimizer step."""

    def __init__(self, look: Callable[[int], None]) -> None:
        self.look = look

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.look(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.look(state.global_step)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[AlignTrainer]:
    """Every trainer that `train_method` makes, in order."""
    made: list[AlignTrainer] = []

    class Kept(AlignTrainer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            made.append(self)

    monkeypatch.setattr(train, "AlignTrainer", Kept)
    return made


def killed_at(step: int) -> Callable[[dict[str, float]], None]:
    """A `publish` that dies when the step is logged, which is before its checkpoint is written."""

    def publish(row: dict[str, float]) -> None:
        if row["step"] == step:
            raise Killed

    return publish


def reference_of(trainer: Any) -> Tensors:
    return {name: tensor.clone() for name, tensor in trainer.reference.state().items()}


def assert_same(first: Tensors, second: Tensors) -> None:
    """To the bit, unknown values (nan) included."""
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype, name
        assert torch.equal(first[name].nan_to_num(12345.0), second[name].nan_to_num(12345.0)), name


def assert_same_results(whole: Result, resumed: Result, steps: list[int]) -> None:
    assert sorted(path.name for path in resumed.snapshots.iterdir()) == [snapshot_name(step) for step in steps]
    for step in steps:
        one, two = (
            load_file(result.snapshots / snapshot_name(step) / "model.safetensors") for result in (whole, resumed)
        )
        assert_same(one, two)
    assert whole.log.read_text() == resumed.log.read_text()
    assert whole.updated_at == resumed.updated_at


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tr_dpo_soft", {}),
        ("tr_dpo_hard", {}),
        ("tr_ipo_hard", {"align_sft_rewards": False}),  # its first window is scored by the training passes themselves
        ("tr_kto_soft", {"align_sft_rewards": False, "align_gradient_accumulation": 2}),
        ("tr_kto_hard", {"align_held_out": 2}),
        ("dpo", {"align_held_out": 2}),
    ],
    ids=str,
)
def test_killed_at_every_step_it_ends_with_the_same_weights_log_and_reference(
    name: str,
    changes: dict[str, Any],
    sft: Path,
    pairs: list[Pair],
    tmp_path: Path,
    trainers: list[AlignTrainer],
) -> None:
    """Windows of two steps, so a run goes on from within a window (after 1, 3) and from its end (after 2, 4)."""
    params = settings(
        **{"align_evaluate_at": [0.4, 1.0], "align_checkpoint_minutes": EACH_STEP}
        | {"align_warmup_steps": 2, "ref_update_every": 2, "ref_update_tau": 2}
        | changes
    )
    whole = train_method(name, params, sft, pairs, tmp_path / "whole")
    expected = reference_of(trainers[-1])

    for step in range(1, 6):
        with pytest.raises(Killed):
            train_method(name, params, sft, pairs, tmp_path / "killed", killed_at(step))
        checkpoint = last_checkpoint(tmp_path / "killed" / "checkpoints")
        assert (checkpoint.name if checkpoint else None) == (f"checkpoint-{step - 1}" if step > 1 else None)
        with (tmp_path / "killed" / "train.jsonl").open("a") as log:
            log.write('{"step": 6, "lo')  # a line torn by the kill
    resumed = train_method(name, params, sft, pairs, tmp_path / "killed")

    assert_same_results(whole, resumed, [2, 5])
    assert_same(expected, reference_of(trainers[-1]))
    rows = [json.loads(line) for line in whole.log.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    # What was compared did move: the update after step 2 is seen by step 3.
    moving = name != "dpo"
    assert whole.updated_at == ([2, 4] if moving else [])
    assert [row["ref_from_sft"] > 0 for row in rows] == [False, False, moving, moving, moving]


def test_the_reference_of_a_checkpoint_is_the_one_its_step_was_computed_with(
    sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """Soft, every 2 steps: moved when step 3 begins, so checkpoint 2 has the SFT model's and 3 and 4 the same one."""
    params = settings(align_checkpoint_minutes=EACH_STEP, ref_update_every=2)
    saved: dict[int, Tensors] = {}

    def look(row: dict[str, float]) -> None:
        checkpoint = last_checkpoint(tmp_path / "run" / "checkpoints")
        if checkpoint:
            saved[int(row["step"]) - 1] = load_file(checkpoint / "reference-0.safetensors")

    train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "run", look)
    masters = {step: {k: v for k, v in state.items() if k.startswith("master")} for step, state in saved.items()}
    start = {f"master.{i}": p.detach() for i, p in enumerate(models.load_model(str(sft)).parameters())}
    assert_same({name: masters[2][name] for name in start}, start)
    assert_same(masters[3], masters[4])
    assert not torch.equal(masters[2]["master.0"], masters[3]["master.0"])
    assert [saved[step]["updated_at"].tolist() for step in (1, 2, 3, 4)] == [[], [], [2], [2]]


def test_rows_of_the_log_that_average_several_steps_are_the_same_after_a_kill(
    sft: Path, pairs: list[Pair], tmp_path: Path
) -> None:
    """Rows at 1, 2, 4, 5: a checkpoint after step 3 would leave step 4 alone in its row."""
    params = settings(align_checkpoint_minutes=EACH_STEP, align_log_every=2, ref_update_every=2)
    whole = train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "whole")
    for step in (4, 5):
        with pytest.raises(Killed):
            train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "killed", killed_at(step))
    assert_same_results(whole, train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "killed"), [5])
    assert [json.loads(line)["step"] for line in whole.log.read_text().splitlines()] == [1, 2, 4, 5]


def test_checkpoints_go_by_the_clock(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """A step takes 60 s by this clock, so one is due every second step, but none after the last of six."""
    task = make_task("dpo", settings(align_steps=6), models.load_tokenizer(str(sft)), pairs, 1, gather)
    trainer = make_trainer(settings(align_steps=6), sft, pairs, tmp_path, task=task)
    clock = [0.0]
    trainer.add_callback(Steps(lambda step: clock.__setitem__(0, 60.0 * step)))
    trainer.add_callback(Checkpoints(trainer, 2.0, lambda: clock[0]))
    kept = []
    trainer.add_callback(Steps(lambda step: kept.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))))
    trainer.train()
    # Seen before the step's own checkpoint is written; there is never more than one.
    expected = [[], [], [], ["checkpoint-2"], ["checkpoint-2"], ["checkpoint-4"], ["checkpoint-4"]]
    assert kept == expected
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-4"]


# Checkpoints that are not this run's


def make_trainer(
    params: Params, sft: Path, pairs: list[Pair], folder: Path, name: str = "dpo", task: Task | None = None
) -> Any:
    """As `train_method` makes it, but for the callbacks."""
    args = training_arguments(params, name, folder)
    task = task or make_task(name, params, models.load_tokenizer(str(sft)), pairs, 1, gather)
    return AlignTrainer(model=load_policy(params, sft), args=args, task=task)


@pytest.fixture
def stopped(sft: Path, pairs: list[Pair], tmp_path: Path) -> Path:
    """What a run of tr_dpo_soft, killed at step 3, has left."""
    with pytest.raises(Killed):
        train_method("tr_dpo_soft", RUNNING, sft, pairs, tmp_path / "run", killed_at(3))
    return tmp_path / "run"


RUNNING = settings(align_checkpoint_minutes=EACH_STEP, align_held_out=2)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tr_dpo_soft", {"beta_dpo": 0.06}),
        ("tr_dpo_soft", {"ref_update_alpha": 0.5}),
        ("tr_dpo_soft", {"ref_update_every": 3}),
        ("tr_dpo_soft", {"align_steps": 6}),
        ("tr_dpo_soft", {"align_max_tokens": 99}),
        ("tr_dpo_soft", {"align_sft_rewards": False}),
        ("tr_dpo_soft", {"dpo_label_smoothing": 0.1}),
        ("tr_dpo_soft", {"align_held_out": 3}),
        ("tr_ipo_soft", {}),
        ("tr_kto_soft", {}),
        ("tr_dpo_hard", {}),
        ("dpo", {}),
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused(
    name: str, changes: dict[str, Any], stopped: Path, sft: Path, pairs: list[Pair]
) -> None:
    params = settings(align_checkpoint_minutes=EACH_STEP, **{"align_held_out": 2} | changes)
    with pytest.raises(UserError, match=r"checkpoint-2: is a checkpoint of other settings or other data; delete it"):
        train_method(name, params, sft, pairs, stopped)
    assert last_checkpoint(stopped / "checkpoints") is not None  # left for who wants the old settings back


@pytest.mark.parametrize("index", [0, 11], ids=["held out", "trained on"])
@pytest.mark.parametrize("part", ["prompt", "chosen", "rejected"])
def test_a_checkpoint_of_other_data_is_refused(
    index: int, part: str, stopped: Path, sft: Path, pairs: list[Pair]
) -> None:
    changes = {"prompt": [Message(role="user", content="Say Yes")], "chosen": "yes, gladlY", "rejected": "not nortH"}
    pairs[index] = pairs[index].model_copy(update={part: changes[part]})
    with pytest.raises(UserError, match="other settings or other data"):
        train_method("tr_dpo_soft", RUNNING, sft, pairs, stopped)


def test_a_checkpoint_of_more_processes_is_refused(stopped: Path, sft: Path, pairs: list[Pair]) -> None:
    """Of fewer, the file of this process is missing; of more it is there, with its own part of the rows only."""
    task = make_task("tr_dpo_soft", RUNNING, models.load_tokenizer(str(sft)), pairs, 2, gather)
    trainer = make_trainer(RUNNING, sft, pairs, stopped / "checkpoints", "tr_dpo_soft")
    trainer.task = replace(trainer.task, identity=task.identity)
    with pytest.raises(UserError, match="other settings or other data"):
        trainer.resume(stopped / "checkpoints" / "checkpoint-2")


def test_what_changes_no_number_may_change(stopped: Path, sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    whole = train_method("tr_dpo_soft", RUNNING, sft, pairs, tmp_path / "whole")
    params = settings(align_checkpoint_minutes=60.0, align_held_out=2, generate_temperature=0.5)
    assert_same_results(whole, train_method("tr_dpo_soft", params, sft, pairs, stopped), [5])


def test_a_checkpoint_without_its_reference_is_refused(stopped: Path, sft: Path, pairs: list[Pair]) -> None:
    (stopped / "checkpoints" / "checkpoint-2" / "reference-0.safetensors").unlink()
    with pytest.raises(UserError, match=r"checkpoint-2: holds no reference-0\.safetensors; .* without the reference"):
        train_method("tr_dpo_soft", RUNNING, sft, pairs, stopped)


def test_a_checkpoint_whose_reference_has_no_identity_is_refused(stopped: Path, sft: Path, pairs: list[Pair]) -> None:
    file = stopped / "checkpoints" / "checkpoint-2" / "reference-0.safetensors"
    save_file(load_file(file), file)
    with pytest.raises(UserError, match="other settings or other data"):
        train_method("tr_dpo_soft", RUNNING, sft, pairs, stopped)


def test_scores_kept_by_a_run_on_other_data_are_not_used(
    sft: Path, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it scored the SFT model, and started again in the same folder with one reply changed."""
    params = settings(align_max_tokens=10)
    clock = iter(range(0, 10**9, 61))  # 60 s go by between two looks, so every pass is kept
    plain, calls = AlignTrainer._logps, [0]

    def killed(self: Any, model: Any, rows: Any) -> Any:
        calls[0] += 1
        if calls[0] == 9:
            raise Killed
        return plain(self, model, rows)

    with monkeypatch.context() as patch:
        patch.setattr("tr_align.align.trainer.time.monotonic", lambda: next(clock))
        patch.setattr(AlignTrainer, "_logps", killed)
        with pytest.raises(Killed):
            train_method("dpo", params, sft, pairs, tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").glob("sft-logps-0.*"))
    pairs[0] = pairs[0].model_copy(update={"chosen": "Yes, gladly"})
    whole = train_method("dpo", params, sft, pairs, tmp_path / "whole")
    assert_same_results(whole, train_method("dpo", params, sft, pairs, tmp_path / "run"), [5])


def test_an_unfinished_checkpoint_does_not_count(tmp_path: Path) -> None:
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert last_checkpoint(tmp_path) is None
    (tmp_path / "checkpoint-2" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    (tmp_path / "checkpoint-10" / COMPLETE).touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"  # not the last by the alphabet
    assert last_checkpoint(tmp_path / "nowhere") is None


def test_the_rules_of_the_nine_methods() -> None:
    params = settings(ref_update_alpha=0.4, ref_update_every=7, ref_update_tau=9)
    for loss in ("dpo", "ipo", "kto"):
        assert reference_rule(params, loss) == (1, None)
        assert reference_rule(params, f"tr_{loss}_soft") == (7, 0.4)
        assert reference_rule(params, f"tr_{loss}_hard") == (9, 1.0)


# What stock TRL does


def stock(sft: Path, pairs: list[Pair], folder: Path) -> Any:
    """TRL's own TR-DPO, which saves after step 3: alpha 0.6, every 2 steps."""
    rows = [
        {
            "prompt": [message.model_dump() for message in pair.prompt],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in pairs
    ]
    args = DPOConfig(
        output_dir=str(folder),
        max_steps=5,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        gradient_checkpointing=False,
        sync_ref_model=True,
        ref_model_mixup_alpha=0.6,
        ref_model_sync_steps=2,
        max_length=512,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_steps=3,
        report_to="none",
        disable_tqdm=True,
    )
    return DPOTrainer(
        model=models.load_model(str(sft)),
        ref_model=models.load_model(str(sft)),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=models.load_tokenizer(str(sft)),
    )


def copies(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_stock_trl_forgets_the_reference_on_resume(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Both move the reference after step 2 and are resumed after step 3: TRL's is the SFT model again, silently."""
    start = copies(models.load_model(str(sft)).parameters())

    theirs: dict[str, dict[int, list[torch.Tensor]]] = {"whole": {}, "resumed": {}}
    for run, seen in theirs.items():
        trainer = stock(sft, pairs, tmp_path / "theirs")
        look = lambda step, to=seen, of=trainer: to.__setitem__(step, copies(of.ref_model.parameters()))  # noqa: E731
        trainer.add_callback(Steps(look))
        trainer.train(resume_from_checkpoint=str(tmp_path / "theirs" / "checkpoint-3") if run == "resumed" else None)
    assert not equal(theirs["whole"][3], start)
    assert equal(theirs["resumed"][0], start)
    assert not equal(theirs["resumed"][4], theirs["whole"][4])

    ours: dict[str, dict[int, list[torch.Tensor]]] = {"whole": {}, "resumed": {}}
    params = settings(ref_update_alpha=0.6, ref_update_every=2)
    for run, seen in ours.items():
        trainer = make_trainer(params, sft, pairs, tmp_path / "ours", "tr_dpo_soft")
        look = lambda step, to=seen, of=trainer: to.__setitem__(step, copies(of.reference.master) if step else [])  # noqa: E731
        trainer.add_callback(Steps(look))
        if run == "whole":
            three = Steps(lambda step, of=trainer: setattr(of.control, "should_save", step == 3))
            trainer.add_callback(three)
            trainer.add_callback(Checkpoints(trainer, 1e9))
            trainer.train()
        else:
            trainer.resume(tmp_path / "ours" / "checkpoint-3")
    count = len(start)  # the masters of the buffers come after those of the parameters
    assert not equal(ours["whole"][3][:count], start)
    assert equal(ours["resumed"][4], ours["whole"][3])  # no update falls between them
    assert equal(ours["resumed"][5], ours["whole"][5])


def test_a_checkpoint_of_stock_trl_is_refused(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    stock(sft, pairs, tmp_path / "run" / "checkpoints").train()
    trainer = make_trainer(settings(), sft, pairs, tmp_path / "run" / "checkpoints", "tr_dpo_soft")
    with pytest.raises(UserError, match=r"checkpoint-3: holds no reference-0\.safetensors; it was written by another"):
        trainer.resume(tmp_path / "run" / "checkpoints" / "checkpoint-3")


# The real thing: SIGKILL in another process

STEPS, EVALUATED = 6, [3, 6]

HARD = settings(
    align_steps=STEPS,
    align_evaluate_at=[0.5, 1.0],
    align_checkpoint_minutes=EACH_STEP,
    align_max_tokens=10,  # a pair a pass, with gradients or without: twelve before the first step, four a window
    ref_update_every=2,
)

SCRIPT = """
import os, shutil, signal, sys, time
from pathlib import Path
import torch
from tr_align import models
from tr_align.align import reference, resume, train, trainer
from tr_align.config import Params
from tr_align.data.schema import read_pairs

where, sft, params, pairs, folder = sys.argv[1:]
train.has_bf16 = lambda: False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def count(owner, name, number, then):
    "From the given call on, another function in its place; its first argument is the original."
    plain, calls = getattr(owner, name), [0]
    def counted(*args, **kwargs):
        calls[0] += 1
        return plain(*args, **kwargs) if calls[0] < number else then(plain, *args, **kwargs)
    setattr(owner, name, counted)

def torn(plain, *args, **kwargs):
    "Half of the bytes of what is to be written to the argument that is a path."
    plain(*args, **kwargs)
    path = next(Path(a) for a in args if isinstance(a, (str, Path)))
    if path.is_dir():
        path = path / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    die()

plain_save_file = resume.save_file

def torn_file(plain, *args):
    "In place of `save_atomically`, with the file that it writes first."
    resume.save_file = lambda *rest: torn(plain_save_file, *rest)
    plain(*args)

def torn_state(plain, state, path, *args, **kwargs):
    if not str(path).endswith("checkpoint-4/optimizer.pt"):
        return plain(state, path, *args, **kwargs)
    torn(plain, state, path)

def half_of_the_tensors(plain, references, policies, alpha):
    half = len(list(references)) // 2
    plain(list(references)[:half], list(policies)[:half], alpha)
    die()

if where == "checkpoint":  # the weights are there, the optimizer's state half
    count(torch, "save", 1, torn_state)
elif where == "reference":  # all of the checkpoint but its reference, which is half
    count(trainer, "save_atomically", 4, torn_file)
elif where == "marker":  # all of the checkpoint but the marker
    count(trainer.AlignTrainer, "save_reference", 4, lambda plain, *args: (plain(*args), die()))
elif where == "window":  # the 3rd pass that scores the window of steps 5 and 6
    def forward(self, model, rows):
        if self.state.global_step == 4 and not torch.is_grad_enabled():
            forward.passes += 1
            if forward.passes == 3:
                die()
        return plain_logps(self, model, rows)
    forward.passes = 0
    plain_logps, trainer.AlignTrainer._logps = trainer.AlignTrainer._logps, forward
elif where == "sft":  # while it keeps the 4th pass of scoring the SFT model, half of that file's bytes written
    clock = iter(range(0, 10**9, 61))
    time.monotonic = lambda: next(clock)
    count(trainer, "save_atomically", 4, torn_file)
elif where == "update":  # the second soft update, between two tensors
    count(reference, "soft_update", 2, half_of_the_tensors)
elif where == "snapshot":  # that of step 6: half of its weights
    count(models, "save", 2, torn)
elif where == "end":  # all is done; of the checkpoints, not needed any more, the weights are gone already
    def half(path, *args, **kwargs):
        if Path(path).name in ("checkpoints", "checkpoint-5"):
            next(Path(path).rglob("model.safetensors")).unlink()
            die()
        plain_rmtree(path, *args, **kwargs)
    plain_rmtree, shutil.rmtree = shutil.rmtree, half

settings = Params.model_validate_json(Path(params).read_text())
train.train_method("tr_dpo_soft", settings, sft, read_pairs(pairs), Path(folder))
resume.discard(Path(folder))
"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Result, int]]:
    """SFT model, settings and pairs in a folder; the run to compare with, and its passes before the first step."""
    folder = tmp_path_factory.mktemp("hard")
    models.save(models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM), folder / "sft")
    rows = [
        Pair.model_validate(
            {
                "prompt": [{"role": "user", "content": f"Say {i}"}],
                "chosen": f"{i}, gladly" + " and" * (i % 3),
                "rejected": "no" + "!" * i,
            }
        )
        for i in range(12)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row.model_dump()) + "\n" for row in rows))
    (folder / "params.json").write_text(HARD.model_dump_json())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "has_bf16", lambda: False)
        passes = count_scoring_passes(patch)
        yield folder, train_method("tr_dpo_soft", HARD, folder / "sft", rows, folder / "whole"), passes[0]


def count_scoring_passes(patch: pytest.MonkeyPatch) -> dict[int, int]:
    """Filled as a run goes on: passes without a gradient, by the steps done before them."""
    passes: dict[int, int] = {}
    plain = AlignTrainer._logps

    def counted(self: Any, model: Any, rows: Any) -> Any:
        if not torch.is_grad_enabled():
            passes[self.state.global_step] = passes.get(self.state.global_step, 0) + 1
        return plain(self, model, rows)

    patch.setattr(AlignTrainer, "_logps", counted)
    return passes


@pytest.mark.parametrize(
    ("where", "goes_on_from"),
    [
        ("checkpoint", 3),
        ("reference", 3),
        ("marker", 3),
        ("window", 4),
        ("sft", None),
        ("update", 4),
        ("snapshot", 5),
        ("end", None),
    ],
)
def test_killed_for_real_it_ends_the_same(
    where: str,
    goes_on_from: int | None,
    uninterrupted: tuple[Path, Result, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs, whole, _ = uninterrupted
    run = tmp_path / "run"
    arguments = [where, str(inputs / "sft"), str(inputs / "params.json"), str(inputs / "pairs.jsonl"), str(run)]
    threads = str(torch.get_num_threads())  # sums depend on it
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": threads}
    killed = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    checkpoint = last_checkpoint(run / "checkpoints")
    assert (checkpoint.name if checkpoint else None) == (f"checkpoint-{goes_on_from}" if goes_on_from else None)
    if where in ("checkpoint", "reference", "marker"):
        assert (run / "checkpoints" / "checkpoint-4" / "model.safetensors").exists()  # the torn one was begun
    if where == "snapshot":
        assert (run / "snapshots" / f"{snapshot_name(6)}.tmp").exists()

    passes = count_scoring_passes(monkeypatch)
    resumed = train_method("tr_dpo_soft", HARD, inputs / "sft", read_pairs(inputs / "pairs.jsonl"), run)
    assert_same_results(whole, resumed, EVALUATED)
    if where == "sft":
        assert passes[0] == uninterrupted[2] - 3 > 0  # the three passes that were kept are not done again
