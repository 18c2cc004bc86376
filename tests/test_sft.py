"""Supervised fine-tuning: TRL's loss on the replies alone, the policy it leaves, and going on after a kill."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers.models.llama.modeling_llama import LlamaMLP
from trl import SFTTrainer

from tr_align import models, scratch, sft, stopping
from tr_align.align import resume
from tr_align.align.resume import last_checkpoint
from tr_align.config import Params, load_params
from tr_align.data.schema import Demonstration, Message
from tr_align.errors import UserError

ROOT = Path(__file__).parents[1]
ROWS = [
    Demonstration(
        prompt=[Message(role="user", content=f"Say {word}")],
        completion=[Message(role="assistant", content=f"{word}" + " and so on" * i)],
    )
    for i, word in enumerate(["tea", "rain", "stone", "light", "river", "paper", "cloud"])
]
EACH_STEP = 1e-9
"""Minutes: a checkpoint after every optimizer step."""

torch.set_num_threads(1)  # as in tests/align/conftest.py


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sft, "has_bf16", lambda: False)
    yield
    stopping._asked.clear()


def settings(**changes: Any) -> Params:
    params = load_params(ROOT / "presets" / "smoke.yaml")
    values = {"steps": 3, "batch_size": 3, "learning_rate": 1e-2, "warmup_steps": 0} | changes
    return params.model_copy(update={"sft": params.sft.model_copy(update=values)})


def run(folder: Path, params: Params) -> list[dict[str, float]]:
    sft.fine_tune(params, ROWS[:6], folder / "model", folder / "log.jsonl", folder / "scratch")
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_same_losses_and_weights_as_stock_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = run(tmp_path / "ours", settings())
    monkeypatch.setattr(sft._Trainer, "compute_loss", SFTTrainer.compute_loss)
    theirs = run(tmp_path / "theirs", settings())
    assert [row["step"] for row in ours] == [1, 2, 3]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    weights = [models.load_model(str(tmp_path / who / "model")).state_dict() for who in ("ours", "theirs")]
    start = models.load_model(models.RANDOM).state_dict()
    for name in start:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-2, atol=1e-3)
        assert not torch.equal(weights[0][name], start[name])


def test_prompts_have_no_part_in_the_loss(tmp_path: Path) -> None:
    """The first loss is the mean over reply tokens, computed here from full logits."""
    first = run(tmp_path, settings(steps=1, batch_size=6))[0]["loss"]
    model, tokenizer = models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM)
    total, count = 0.0, 0
    for row in ROWS[:6]:
        prompt = [m.model_dump() for m in row.prompt]
        start = len(tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])
        whole = [*prompt, *(m.model_dump() for m in row.completion)]
        ids = torch.tensor([tokenizer.apply_chat_template(whole)["input_ids"]])
        table = model(ids).logits[0].log_softmax(-1)
        for position in range(start, ids.shape[1]):
            total -= table[position - 1, ids[0, position]].item()
            count += 1
    assert first == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7}, r"^sft\.batch_size: is 7, so an optimizer step takes 7 rows, but .* has only 6; lower it"),
        (
            {"batch_size": 2, "gradient_accumulation": 4},
            r"sft\.batch_size: is 2, sft\.gradient_accumulation 4, so an optimizer step takes 8 rows, but .* only 6",
        ),
    ],
)
def test_fewer_rows_than_a_step_takes(changes: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, settings(**changes))
    assert not (tmp_path / "model").exists()


def test_no_steps_keep_the_base_model(tmp_path: Path) -> None:
    """The paper's Instruct setting. In bfloat16, as every saved policy; no rows are needed."""
    sft.fine_tune(settings(steps=0), [], tmp_path / "model", tmp_path / "log.jsonl", tmp_path / "scratch")
    assert (tmp_path / "log.jsonl").read_bytes() == b""
    base, saved = models.load_model(models.RANDOM).state_dict(), models.load_model(str(tmp_path / "model")).state_dict()
    for name, weight in base.items():
        assert torch.equal(saved[name], weight.bfloat16().float()), name
    assert models.load_tokenizer(str(tmp_path / "model")).chat_template is not None


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    """3 x 2 rows are 6 rows, every token of equal weight, though the two batches' lengths differ."""
    one = run(tmp_path / "one", settings(batch_size=6))
    three = run(tmp_path / "three", settings(batch_size=2, gradient_accumulation=3))
    assert [row["step"] for row in three] == [1, 2, 3]
    for whole, parts in zip(one, three, strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "TRL's loss"])
def test_gradient_checkpointing_changes_no_number(
    packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not packed:
        monkeypatch.setattr(sft._Trainer, "compute_loss", SFTTrainer.compute_loss)
    layers, plain = [0], LlamaMLP.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        layers[0] += 1
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(LlamaMLP, "forward", forward)
    kept = run(tmp_path / "kept", settings())
    once = layers[0]
    again = run(tmp_path / "again", settings(gradient_checkpointing=True))
    assert kept == again
    assert same_files(tmp_path / "kept", tmp_path / "again")
    assert layers[0] - once == once + 2 * 3  # two layers, computed a second time in each of three steps


def test_prompts_begin_with_one_bos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with Llama 3: the template writes the token, and the tokenizer adds one to every text that has none."""
    tokenizer = models.load_tokenizer(models.RANDOM)
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
    )
    bos = ("<|im_start|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id  # what would double it
    monkeypatch.setattr(models, "load_tokenizer", lambda *args, **options: tokenizer)
    seen: list[tuple[list[int], list[int]]] = []

    class Seen(sft._Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            seen.extend(zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True))
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft, "_Trainer", Seen)
    run(tmp_path, settings(batch_size=6, steps=1))
    trained = set()
    for ids, labels in seen:
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
        trained.add(tokenizer.decode([label for label in labels if label != -100]))
    # What the model learns to write: the reply and its end, nothing of the prompt.
    assert trained == {row.completion[0].content + tokenizer.eos_token for row in ROWS[:6]}


# Going on after a kill, a stop, a full disk

LONG = {"steps": 7, "batch_size": 2, "warmup_steps": 2, "checkpoint_minutes": EACH_STEP}
"""Four batches an epoch, the last of one row, so that a run goes on within an epoch and at its end."""


class Killed(Exception):
    pass


def kill() -> None:
    raise Killed


def train(folder: Path, params: Params) -> None:
    sft.fine_tune(params, ROWS, folder / "model", folder / "log.jsonl", folder / "scratch")


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], Any]], None]:
    """Does something when a step was logged, which is before its checkpoint is written."""
    plain, actions = sft.Log.on_log, {}

    def on_log(self: Any, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        plain(self, args, state, control, logs=logs, **kwargs)
        if "loss" in (logs or {}):
            actions.pop(state.global_step, lambda: None)()

    monkeypatch.setattr(sft.Log, "on_log", on_log)
    return actions.__setitem__


def same_files(one: Path, two: Path) -> bool:
    names = ("model/model.safetensors", "log.jsonl")
    return all((one / name).exists() and (one / name).read_bytes() == (two / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [({}, range(1, 8)), ({"gradient_accumulation": 2}, (3, 5))],
    ids=["batches", "accumulated batches"],
)
def test_killed_at_every_step_it_ends_with_the_same_weights_and_log(
    changes: dict[str, int], steps: Sequence[int], tmp_path: Path, at: Callable[[int, Callable[[], Any]], None]
) -> None:
    params = settings(**LONG | changes)
    train(tmp_path / "whole", params)
    for step in steps:
        at(step, kill)
        with pytest.raises(Killed):
            train(tmp_path / "killed", params)
        checkpoint = last_checkpoint(tmp_path / "killed" / "scratch" / "checkpoints")
        assert (checkpoint.name if checkpoint else None) == (f"checkpoint-{step - 1}" if step > 1 else None)
        with (tmp_path / "killed" / "scratch" / "train.jsonl").open("a") as log:
            log.write('{"step": 8, "lo')  # a line torn by the kill
    train(tmp_path / "killed", params)
    assert same_files(tmp_path / "whole", tmp_path / "killed")
    assert [row["step"] for row in scratch.read_rows(tmp_path / "whole" / "log.jsonl")] == [1, 2, 3, 4, 5, 6, 7]


def test_stopped_at_any_step_it_keeps_that_step(tmp_path: Path, at: Callable[[int, Callable[[], Any]], None]) -> None:
    """No checkpoint is due by the clock. After the last step there is nothing to keep: the model is saved."""
    params = settings(**LONG | {"checkpoint_minutes": 60.0})
    train(tmp_path / "whole", params)
    for step in (1, 3, 5):
        stop_before(step, at)
        with pytest.raises(stopping.Stopped, match=f"a checkpoint after step {step} of 7 is kept") as stopped:
            train(tmp_path / "stopped", params)
        assert stopped.value.code == 143
        stopping._asked.clear()
        checkpoint = last_checkpoint(tmp_path / "stopped" / "scratch" / "checkpoints")
        assert checkpoint is not None and checkpoint.name == f"checkpoint-{step}"
        assert not (tmp_path / "stopped" / "model").exists()
    at(7, lambda: stopping._asked.append("SIGTERM"))
    train(tmp_path / "stopped", params)
    assert same_files(tmp_path / "whole", tmp_path / "stopped")


def stop_before(step: int, at: Callable[[int, Callable[[], Any]], None]) -> None:
    """A signal that comes while a step is made: after the row before it, or, for the first, before training."""
    if step == 1:
        stopping._asked.append("SIGTERM")
    else:
        at(step - 1, lambda: stopping._asked.append("SIGTERM"))


def limit_files(size: int) -> None:
    """From now on a file may have so many bytes and no more, the same error as a full disk half-way through one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def _unlimited() -> Iterator[None]:
    yield
    limit_files(resource.RLIM_INFINITY)


@pytest.mark.parametrize(
    ("at_step", "size", "what", "kept"),
    [
        (4, 50_000, "the checkpoint after step 4 cannot be written: .*limit for files", "checkpoint-3"),
        (4, 150_000, "the checkpoint after step 4 cannot be written: the file was cut off", "checkpoint-3"),
        (7, 30_000, "the SFT model cannot be written: .*limit for files", "checkpoint-6"),
    ],
    ids=["weights", "optimizer", "end"],
)
@pytest.mark.usefixtures("_unlimited")
def test_a_full_disk_leaves_the_last_checkpoint(
    at_step: int,
    size: int,
    what: str,
    kept: str,
    tmp_path: Path,
    at: Callable[[int, Callable[[], Any]], None],
) -> None:
    params = settings(**LONG)
    train(tmp_path / "whole", params)
    at(at_step, lambda: limit_files(size))
    with pytest.raises(UserError, match=f"{what} .* bytes.* are free.*What was complete is kept: make room"):
        train(tmp_path / "full", params)
    limit_files(resource.RLIM_INFINITY)
    checkpoints = tmp_path / "full" / "scratch" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == [kept]  # what was begun is gone, its room is needed
    train(tmp_path / "full", params)
    assert same_files(tmp_path / "whole", tmp_path / "full")


@pytest.mark.usefixtures("_unlimited")
def test_a_row_of_the_log_that_is_cut_off_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = settings(**LONG)
    train(tmp_path / "whole", params)
    plain = resume.append_rows

    def cut_off(path: Path, rows: list[dict[str, Any]]) -> None:
        if rows[0]["step"] == 5:
            limit_files(path.stat().st_size + 20)
        plain(path, rows)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "append_rows", cut_off)
        with pytest.raises(UserError, match="a row of the log cannot be written: the file is larger than the limit"):
            train(tmp_path / "full", params)
    limit_files(resource.RLIM_INFINITY)
    assert not (tmp_path / "full" / "scratch" / "train.jsonl").read_bytes().endswith(b"\n")
    train(tmp_path / "full", params)
    assert same_files(tmp_path / "whole", tmp_path / "full")


def test_what_the_disk_has_no_room_for_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: 12 bytes of a checkpoint and 2 of the saved model for each parameter."""
    needed = 14 * models.load_model(models.RANDOM).num_parameters()
    free = [needed - 1]
    usage = type("usage", (), {"free": property(lambda self: free[0])})()
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=rf"{needed - 1:,} bytes are free, but a checkpoint and the SFT model take"):
        run(tmp_path, settings())
    free[0] = needed
    run(tmp_path, settings())


def test_killed_for_real_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    """SIGKILL with half of the optimizer's state on the disk: the checkpoint before it counts."""
    params = settings(**LONG)
    train(tmp_path / "whole", params)
    (tmp_path / "params.json").write_text(params.model_dump_json())
    (tmp_path / "rows.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in ROWS))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    checkpoints = tmp_path / "killed" / "scratch" / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["checkpoint-3", "checkpoint-4"]
    assert last_checkpoint(checkpoints) == checkpoints / "checkpoint-3"
    train(tmp_path / "killed", params)
    assert same_files(tmp_path / "whole", tmp_path / "killed")


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from tr_align import sft
from tr_align.config import Params
from tr_align.data.schema import read_demonstrations

here = Path(sys.argv[1])
sft.has_bf16 = lambda: False
plain = torch.save

def save(state, path, *args, **kwargs):
    plain(state, path, *args, **kwargs)
    if str(path).endswith("checkpoint-4/optimizer.pt"):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = save
to = here / "killed"
params = Params.model_validate_json((here / "params.json").read_text())
sft.fine_tune(params, read_demonstrations(here / "rows.jsonl"), to / "model", to / "log.jsonl", to / "scratch")
"""
