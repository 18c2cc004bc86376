"""Replies of stored policies: which prompts at which point, KL that belongs to them, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tr_align import models, replies
from tr_align.config import load_params
from tr_align.data.schema import Pair, read_pairs
from tr_align.generation import encode_prompt, sample
from tr_align.processes import Process
from tr_align.replies import generate_replies
from tr_align.runtime import has_bf16
from tr_align.scratch import read_rows, write_rows
from tr_align.settings import Generate

ROOT = Path(__file__).parents[1]

WORDS = ["Say something about the long winters of the north.", "Tea?", "Why rain?", "Hello there, you.", "Go on"]
PAIRS = [
    Pair.model_validate({"prompt": [{"role": "user", "content": word}], "chosen": "Yes é.", "rejected": "No."})
    for word in WORDS
]
SETTINGS = Generate(curve_prompts=3, max_new_tokens=10, temperature=1.0, top_p=1.0, batch_size=2)


@pytest.fixture(autouse=True)
def _float32_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "has_bf16", lambda: False)
    monkeypatch.setattr(replies, "device", lambda: torch.device("cpu"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The SFT model and a policy at two points of its training, further and further from it."""
    root, tokenizer = tmp_path_factory.mktemp("models"), models.load_tokenizer(models.RANDOM)
    paths = [root / "sft", root / "step-00002", root / "step-00004"]
    model, generator = models.load_model(models.RANDOM), torch.Generator().manual_seed(0)
    for path in paths:
        models.save(model, tokenizer, path)
        with torch.no_grad():
            for weight in model.parameters():
                weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return paths


def share(folders: list[Path], scratch: Path, process: Process, **changes: Any) -> list[dict[str, Any]] | None:
    """What one of several processes does, and what it returns."""
    points = [(2, folders[1]), (4, folders[2])]
    settings = SETTINGS.model_copy(update=changes)
    scratch.mkdir(exist_ok=True)
    return generate_replies(points, folders[0], PAIRS, settings, 0, scratch, "test", process)


def answer(folders: list[Path], scratch: Path, **changes: Any) -> list[dict[str, Any]]:
    rows = share(folders, scratch, Process(), **changes)
    assert rows is not None
    return rows


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def same(one: list[dict[str, Any]], two: list[dict[str, Any]]) -> None:
    """Equal, but for the last digits of the numbers (a sum may be taken in another order)."""
    numbers = ("kl", "log_ratio")
    assert [{k: v for k, v in row.items() if k not in numbers} for row in one] == [
        {k: v for k, v in row.items() if k not in numbers} for row in two
    ]
    for number in numbers:
        assert [row[number] for row in one] == pytest.approx([row[number] for row in two], abs=1e-4)


def test_rows_by_step_and_in_the_order_of_the_prompts(folders: list[Path], tmp_path: Path) -> None:
    """Three prompts (curve_prompts, the first three) at step 2, all five at step 4."""
    rows = answer(folders, tmp_path)
    ids = [pair.prompt_id for pair in PAIRS]
    assert [(row["step"], row["prompt_id"]) for row in rows] == [
        *((2, name) for name in ids[:3]),
        *((4, name) for name in ids),
    ]
    for row in rows:
        pair = PAIRS[ids.index(row["prompt_id"])]
        assert row["prompt"] == [message.model_dump() for message in pair.prompt]
        assert 1 <= row["tokens"] <= 10
        assert row["kl"] > 0
        if not row["finished"]:
            assert row["tokens"] == 10
    # Every row is in the scratch file, too, batch by batch.
    stored = [json.loads(line) for line in (tmp_path / "replies-0.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(map(str, stored)) == sorted(map(str, rows))


def test_each_row_is_its_own_policys_reply_and_kl(folders: list[Path], tmp_path: Path) -> None:
    """One row of each step by hand: sample alone, then whole logits of both models, without padding."""
    rows = {(row["step"], row["prompt_id"]): row for row in answer(folders, tmp_path)}
    tokenizer, sft = models.load_tokenizer(models.RANDOM), models.load_model(str(folders[0])).eval()
    for step, folder in ((2, folders[1]), (4, folders[2])):
        policy, pair = models.load_model(str(folder)).eval(), PAIRS[0]
        [reply] = sample(policy, tokenizer, [pair.prompt], SETTINGS, 0)
        prompt = encode_prompt(tokenizer, pair.prompt)
        with torch.no_grad():
            p, q = (
                model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
                for model in (policy, sft)
            )
        row = rows[step, pair.prompt_id]
        assert row["reply"] == tokenizer.decode(reply, skip_special_tokens=True).strip()
        assert row["tokens"] == len(reply)
        assert row["kl"] == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-4)
        assert row["log_ratio"] == pytest.approx(
            sum((p - q)[i, token].item() for i, token in enumerate(reply)), abs=1e-4
        )


def test_the_batch_size_changes_nothing(folders: list[Path], tmp_path: Path) -> None:
    same(answer(folders, tmp_path / "a", batch_size=1), answer(folders, tmp_path / "b", batch_size=64))


def test_a_model_has_no_distance_from_itself(folders: list[Path], tmp_path: Path) -> None:
    rows = generate_replies([(0, folders[0])], folders[0], PAIRS, SETTINGS, 0, tmp_path, "sft")
    assert rows is not None
    assert [(row["step"], row["kl"], row["log_ratio"]) for row in rows] == [(0, 0.0, 0.0)] * 5


@pytest.mark.parametrize("kept", [0, 2, 3, 7], ids=["nothing", "a-batch", "a-batch-and-a-half", "all-but-one"])
def test_a_killed_run_goes_on(folders: list[Path], tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows are kept, the next is torn (within a letter of two bytes): the result is that of an unbroken run."""
    whole = answer(folders, tmp_path / "whole")
    written = lines(tmp_path / "whole" / "replies-0.jsonl")
    assert len(written) == 8
    (tmp_path / "replies-0.jsonl").write_bytes(b"".join(written[:kept]) + '{"step": 4, "reply": "é'.encode()[:-1])
    answered: list[int] = []

    def counted(policy: Any, tokenizer: Any, prompts: Any, *rest: Any) -> Any:
        answered.append(len(prompts))
        return sample(policy, tokenizer, prompts, *rest)

    monkeypatch.setattr(replies, "sample", counted)
    same(answer(folders, tmp_path), whole)
    # Batches of 2 and 1 prompts at step 2, of 2, 2 and 1 at step 4; those with all rows kept are not asked again.
    assert answered == {0: [2, 1, 2, 2, 1], 2: [1, 2, 2, 1], 3: [2, 2, 1], 7: [1]}[kept]
    # And once more: nothing is left to do.
    answered.clear()
    same(answer(folders, tmp_path), whole)
    assert answered == []


def test_policies_are_not_loaded_again_for_finished_points(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(folders, tmp_path)
    (tmp_path / "replies-0.jsonl").write_bytes(b"".join(lines(tmp_path / "replies-0.jsonl")[:3]))
    loaded: list[str] = []
    load = models.load_model

    def counted(name: str, *rest: Any) -> Any:
        loaded.append(Path(name).name)
        return load(name, *rest)

    monkeypatch.setattr(models, "load_model", counted)
    answer(folders, tmp_path)
    assert loaded == ["sft", "step-00004"]


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_share_the_batches(folders: list[Path], tmp_path: Path, count: int) -> None:
    """Each answers its part, none twice; the first, coming last here, has the rows of one process alone."""
    for rank in reversed(range(1, count)):
        assert share(folders, tmp_path / "many", Process(rank, count)) is None
    rows = share(folders, tmp_path / "many", Process(0, count))
    assert rows is not None
    same(rows, answer(folders, tmp_path / "one"))
    parts = [len(lines(tmp_path / "many" / f"replies-{rank}.jsonl")) for rank in range(count)]
    # 3 prompts and then 5, in batches of at most 2: two processes get (2 | 1) and (2 + 1 | 2), three get one each of
    # the 3 and (2 | 2 | 1) of the 5.
    assert parts == {2: [5, 3], 3: [3, 3, 2]}[count]


def test_one_large_batch_is_cut_for_all(folders: list[Path], tmp_path: Path) -> None:
    """A batch that holds every prompt would leave all but one process idle."""
    share(folders, tmp_path, Process(1, 2), batch_size=64)
    assert len(lines(tmp_path / "replies-1.jsonl")) == 1 + 2  # of 3, in 2 + 1, and of 5, in 3 + 2


@pytest.mark.parametrize("count", [1, 2])
def test_processes_that_were_killed_go_on_as_fewer(
    folders: list[Path], tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of them were killed in the middle; one, or two, finish the rest, and ask for nothing that is there."""
    whole = answer(folders, tmp_path / "whole")
    for rank in (2, 1, 0):
        share(folders, tmp_path / "cut", Process(rank, 3))
    for rank, kept in ((0, 1), (1, 3), (2, 0)):
        path = tmp_path / "cut" / f"replies-{rank}.jsonl"
        written = lines(path)
        path.write_bytes(b"".join(written[:kept]) + b'{"step": 4, "pro')
    asked: list[str] = []

    def counted(policy: Any, tokenizer: Any, prompts: Any, *rest: Any) -> Any:
        asked.extend(prompt[0].content for prompt in prompts)
        return sample(policy, tokenizer, prompts, *rest)

    monkeypatch.setattr(replies, "sample", counted)
    for rank in reversed(range(1, count)):
        share(folders, tmp_path / "cut", Process(rank, count))
    rows = share(folders, tmp_path / "cut", Process(0, count))
    assert rows is not None
    same(rows, whole)
    assert 4 <= len(asked) < 8


def test_the_first_process_waits_for_the_others(folders: list[Path], tmp_path: Path) -> None:
    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.append(share(folders, tmp_path, Process(0, 2))))
    waiting.start()
    waiting.join(timeout=5)
    assert waiting.is_alive() and not results
    share(folders, tmp_path, Process(1, 2))
    waiting.join(timeout=30)
    assert len(results[0]) == 8


def test_the_first_process_waits_for_one_without_work(folders: list[Path], tmp_path: Path) -> None:
    """One prompt, two processes: the second may still be starting when the reply is there."""

    def answer_one(rank: int) -> Any:
        return generate_replies(
            [(0, folders[0])], folders[0], PAIRS[:1], SETTINGS, 0, tmp_path, "test", Process(rank, 2)
        )

    results: list[Any] = []
    waiting = threading.Thread(target=lambda: results.append(answer_one(0)))
    waiting.start()
    waiting.join(timeout=3)
    assert waiting.is_alive() and len(lines(tmp_path / "replies-0.jsonl")) == 1
    assert answer_one(1) is None
    waiting.join(timeout=30)
    assert len(results[0]) == 1


def stored_run(folders: list[Path], root: Path, questions: int) -> None:
    """What `generate@dpo` reads, in the folder it runs in: smoke settings, prompts, policies."""
    params = (ROOT / "presets" / "smoke.yaml").read_text(encoding="utf-8")
    for old, new in {"max_new_tokens: 12": "max_new_tokens: 30", "batch_size: 64": "batch_size: 1"}.items():
        assert old in params
        params = params.replace(old, new)
    (root / "params.yaml").write_text(params, encoding="utf-8")
    pairs = [
        {"prompt": [{"role": "user", "content": f"Question {n}?"}], "chosen": "Yes.", "rejected": "No."}
        for n in range(questions)
    ]
    (root / "data" / "prepared").mkdir(parents=True)
    write_rows(root / "data" / "prepared" / "evaluation.jsonl", pairs)
    (root / "models").mkdir()
    shutil.copytree(folders[0], root / "models" / "sft")
    for folder in folders[1:]:
        shutil.copytree(folder, root / "models" / "dpo" / folder.name)


def test_the_stage_with_two_processes_stopped_and_started_again(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real script, two processes by torchrun, SIGTERM in the middle: in the end the rows of one process alone."""
    stored_run(folders, tmp_path, questions=40)
    stage = [str(ROOT / "pipeline" / "generate.py"), "dpo"]
    two = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node=2", "--rdzv_endpoint=127.0.0.1:0", *stage]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    out = tmp_path / "generations" / "dpo.jsonl"
    files = [f".scratch/generate@dpo/*/replies-{rank}.jsonl" for rank in (0, 1)]

    def written() -> list[int]:
        return [sum(len(lines(path)) for path in tmp_path.glob(name)) for name in files]

    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(two, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        while first.poll() is None and not all(written()):
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=60)
    before = sum(written())
    assert first.returncode != 0 and 2 <= before < 46, (tmp_path / "log").read_text()
    assert not out.exists()
    subprocess.run(two, cwd=tmp_path, env=environment, check=True)
    rows = read_rows(out)
    assert len(rows) == 6 + 40  # curve_prompts of the preset, then all
    assert not list(tmp_path.glob(files[0]))  # the scratch folder is gone once the replies are there
    monkeypatch.setattr(replies, "has_bf16", has_bf16)  # as the script computes
    params = load_params(tmp_path / "params.yaml")
    pairs = read_pairs(tmp_path / "data" / "prepared" / "evaluation.jsonl")
    points = [(2, folders[1]), (4, folders[2])]
    alone = generate_replies(points, folders[0], pairs, params.generate, params.seed, tmp_path, "test")
    assert alone is not None
    same(rows, alone)
