"""Told to stop, or out of disk, an alignment keeps where it is and ends as an undisturbed one would."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tr_align import models, scratch, stopping
from tr_align.align import resume, train
from tr_align.align.resume import discard, last_checkpoint, snapshot_name
from tr_align.align.train import train_method
from tr_align.align.trainer import AlignTrainer
from tr_align.data.schema import Pair
from tr_align.errors import UserError

from .conftest import settings
from .test_resume import EACH_STEP, Killed, assert_same_results, killed_at


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    stopping._asked.clear()
    limit_files(resource.RLIM_INFINITY)


def limit_files(size: int) -> None:
    """From now on a file may have so many bytes and no more, the same error as a full disk half-way through one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Does something while a step is made."""
    plain, actions = AlignTrainer.training_step, {}

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = plain(self, *args, **kwargs)
        actions.pop(self.state.global_step + 1, lambda: None)()
        return loss

    monkeypatch.setattr(AlignTrainer, "training_step", training_step)
    return actions.__setitem__


def stop() -> None:
    stopping._asked.append("SIGTERM")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tr_dpo_soft", {}),
        ("tr_kto_hard", {"align_sft_rewards": False}),
        ("dpo", {"align_log_every": 3, "align_held_out": 2}),
    ],
    ids=str,
)
def test_stopped_in_every_step_it_ends_with_the_same_weights_and_log(
    name: str,
    changes: dict[str, Any],
    sft: Path,
    pairs: list[Pair],
    tmp_path: Path,
    during: Callable[[int, Callable[[], Any]], None],
) -> None:
    """A row of the log averages two or three steps, so most stops fall between two rows; no checkpoint is due."""
    params = settings(
        **{"align_log_every": 2, "ref_update_every": 2, "ref_update_tau": 2, "align_evaluate_at": [0.4, 1.0]} | changes
    )
    whole = train_method(name, params, sft, pairs, tmp_path / "whole")
    for step in range(1, 5):
        during(step, stop)
        with pytest.raises(stopping.Stopped, match=f"a checkpoint after step {step} of 5 is kept") as stopped:
            train_method(name, params, sft, pairs, tmp_path / "stopped")
        assert stopped.value.code == 143
        stopping._asked.clear()
        checkpoint = last_checkpoint(tmp_path / "stopped" / "checkpoints")
        assert checkpoint is not None and checkpoint.name == f"checkpoint-{step}"
    during(5, stop)  # in the last step: it is finished instead
    assert_same_results(whole, train_method(name, params, sft, pairs, tmp_path / "stopped"), [2, 5])
    rows = [json.loads(line)["step"] for line in whole.log.read_text().splitlines()]
    assert rows == ([1, 2, 3, 5] if changes.get("align_log_every") == 3 else [1, 2, 4, 5])


def test_stopped_while_the_sft_model_is_scored(
    sft: Path, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step, which may take long; what was scored is not scored again."""
    params = settings(align_max_tokens=10)
    plain, calls = AlignTrainer._logps, [0]

    def logps(self: Any, model: Any, rows: Any) -> Any:
        calls[0] += 1
        if calls[0] == 4 and not made:
            stop()
        return plain(self, model, rows)

    made: list[int] = []
    monkeypatch.setattr(AlignTrainer, "_logps", logps)
    with pytest.raises(stopping.Stopped, match="log-probabilities computed so far are kept"):
        train_method("dpo", params, sft, pairs, tmp_path / "stopped")
    stopping._asked.clear()
    made.append(calls[0])
    resumed = train_method("dpo", params, sft, pairs, tmp_path / "stopped")
    made.append(calls[0] - made[0])
    whole = train_method("dpo", params, sft, pairs, tmp_path / "whole")
    assert made[0] == 4 and made[1] == calls[0] - sum(made) - 4
    assert_same_results(whole, resumed, [5])


@pytest.mark.parametrize(
    ("step", "size", "what", "kept"),
    [
        (3, 50_000, "the checkpoint after step 3 cannot be written: .*limit for files", "checkpoint-2"),
        (3, 150_000, "the checkpoint after step 3 cannot be written: the file was cut off", "checkpoint-2"),
        (4, 30_000, "the policy after step 4 cannot be written: .*limit for files", "checkpoint-3"),
    ],
    ids=["weights", "optimizer", "snapshot"],
)
def test_a_full_disk_leaves_the_last_checkpoint(
    step: int,
    size: int,
    what: str,
    kept: str,
    sft: Path,
    pairs: list[Pair],
    tmp_path: Path,
    during: Callable[[int, Callable[[], Any]], None],
) -> None:
    params = settings(align_checkpoint_minutes=EACH_STEP, ref_update_every=2, align_evaluate_at=[0.8, 1.0])
    whole = train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "whole")
    during(step, lambda: limit_files(size))
    with pytest.raises(UserError, match=f"{what} .* bytes.* are free, and this takes .* bytes.*: make room"):
        train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "full")
    limit_files(resource.RLIM_INFINITY)
    # What was begun is gone, its room is needed.
    assert [path.name for path in (tmp_path / "full" / "checkpoints").glob("checkpoint-*")] == [kept]
    assert not list((tmp_path / "full").glob("snapshots/*"))
    assert_same_results(whole, train_method("tr_dpo_soft", params, sft, pairs, tmp_path / "full"), [4, 5])


@pytest.mark.parametrize(("name", "copies"), [("dpo", 3), ("tr_dpo_hard", 3), ("tr_dpo_soft", 4)])
def test_what_the_disk_has_no_room_for_is_not_begun(
    name: str, copies: int, sft: Path, pairs: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: float32 weights and two moments (and a soft reference), and two policies in bfloat16."""
    params = settings(align_evaluate_at=[0.4, 1.0])
    needed = (4 * copies + 2 * 2) * models.load_model(models.RANDOM).num_parameters()
    usage = type("usage", (), {"free": needed - 1})()
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=rf"are free, but a checkpoint and the policies that {name} keeps .*{needed:,}"):
        train_method(name, params, sft, pairs, tmp_path / "run")
    assert not (tmp_path / "run" / "snapshots").exists()


def test_the_estimate_is_about_the_size_of_a_checkpoint(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """Beside the weights only the tokenizer, settings, log-probabilities and the sample of weights, of fixed size."""
    params = settings(align_checkpoint_minutes=EACH_STEP, ref_update_every=2)
    with pytest.raises(Killed):
        train_method("tr_dpo_soft", params, sft, pairs, tmp_path, killed_at(5))
    checkpoint = tmp_path / "checkpoints" / "checkpoint-4"
    size = sum(path.stat().st_size for path in checkpoint.iterdir() if path.suffix != ".json")
    reference = load_file(checkpoint / "reference-0.safetensors")
    fixed = sum(tensor.nbytes for name, tensor in reference.items() if "sample" in name)
    assert size - fixed == pytest.approx(16 * models.load_model(models.RANDOM).num_parameters(), rel=0.15)


def test_a_checkpoint_without_the_snapshots_before_it_is_not_used(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """A stage that was killed between moving its results away and forgetting its checkpoints."""
    params = settings(align_checkpoint_minutes=EACH_STEP, align_evaluate_at=[0.4, 1.0])
    whole = train_method("dpo", params, sft, pairs, tmp_path / "whole")
    moved = train_method("dpo", params, sft, pairs, tmp_path / "run")
    moved.snapshots.rename(tmp_path / "models")
    assert last_checkpoint(tmp_path / "run" / "checkpoints") is not None
    assert_same_results(whole, train_method("dpo", params, sft, pairs, tmp_path / "run"), [2, 5])


def test_a_discarded_folder_never_holds_a_checkpoint_in_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints" / "checkpoint-2"
    folder.mkdir(parents=True)
    (folder / "weights").touch()
    (folder / resume.COMPLETE).touch()
    plain = resume.shutil.rmtree

    def killed(path: Path, *args: Any, **kwargs: Any) -> None:
        assert last_checkpoint(tmp_path / "checkpoints") is None  # before anything of it is deleted
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(resume.shutil, "rmtree", killed)
        with pytest.raises(Killed):
            discard(tmp_path)
    discard(tmp_path)
    assert not tmp_path.exists() and plain is resume.shutil.rmtree


def test_unfinished_checkpoints_make_room(sft: Path, pairs: list[Pair], tmp_path: Path) -> None:
    """What a kill left half written is deleted before training goes on, not when it ends."""
    params = settings(align_checkpoint_minutes=EACH_STEP)
    with pytest.raises(Killed):
        train_method("dpo", params, sft, pairs, tmp_path / "run", killed_at(3))
    torn = tmp_path / "run" / "checkpoints" / "checkpoint-9"
    torn.mkdir()
    seen = []
    train_method("dpo", params, sft, pairs, tmp_path / "run", lambda row: seen.append(torn.exists()))
    assert seen == [False] * 3
    assert train.TRAIN_LOG == "train.jsonl" and (tmp_path / "run" / "snapshots" / snapshot_name(5)).exists()
