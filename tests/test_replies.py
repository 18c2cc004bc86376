"""Replies of stored policies: which prompts at which point, KL that belongs to them, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tr_align import models, replies
from tr_align.data.schema import Pair
from tr_align.generation import encode_prompt, sample
from tr_align.replies import generate_replies
from tr_align.settings import Generate

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


def answer(folders: list[Path], done: Path, **changes: Any) -> list[dict[str, Any]]:
    points = [(2, folders[1]), (4, folders[2])]
    settings = SETTINGS.model_copy(update=changes)
    return generate_replies(points, folders[0], PAIRS, settings, 0, done, "test")


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
    rows = answer(folders, tmp_path / "done.jsonl")
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
    stored = [json.loads(line) for line in (tmp_path / "done.jsonl").read_text(encoding="utf-8").splitlines()]
    assert sorted(map(str, stored)) == sorted(map(str, rows))


def test_each_row_is_its_own_policys_reply_and_kl(folders: list[Path], tmp_path: Path) -> None:
    """One row of each step by hand: sample alone, then whole logits of both models, without padding."""
    rows = {(row["step"], row["prompt_id"]): row for row in answer(folders, tmp_path / "done.jsonl")}
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
    same(answer(folders, tmp_path / "a.jsonl", batch_size=1), answer(folders, tmp_path / "b.jsonl", batch_size=64))


def test_a_model_has_no_distance_from_itself(folders: list[Path], tmp_path: Path) -> None:
    rows = generate_replies([(0, folders[0])], folders[0], PAIRS, SETTINGS, 0, tmp_path / "done.jsonl", "sft")
    assert [(row["step"], row["kl"], row["log_ratio"]) for row in rows] == [(0, 0.0, 0.0)] * 5


@pytest.mark.parametrize("kept", [0, 2, 3, 7], ids=["nothing", "a-batch", "a-batch-and-a-half", "all-but-one"])
def test_a_killed_run_goes_on(folders: list[Path], tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some rows are kept, the next is torn (within a letter of two bytes): the result is that of an unbroken run."""
    done = tmp_path / "done.jsonl"
    whole = answer(folders, tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    assert len(lines) == 8
    done.write_bytes(b"".join(lines[:kept]) + '{"step": 4, "reply": "é'.encode()[:-1])
    answered: list[int] = []

    def counted(policy: Any, tokenizer: Any, prompts: Any, *rest: Any) -> Any:
        answered.append(len(prompts))
        return sample(policy, tokenizer, prompts, *rest)

    monkeypatch.setattr(replies, "sample", counted)
    same(answer(folders, done), whole)
    # Batches of 2 and 1 prompts at step 2, of 2, 2 and 1 at step 4; those with all rows kept are not asked again.
    assert answered == {0: [2, 1, 2, 2, 1], 2: [1, 2, 2, 1], 3: [2, 2, 1], 7: [1]}[kept]
    # And once more: nothing is left to do.
    answered.clear()
    same(answer(folders, done), whole)
    assert answered == []


def test_policies_are_not_loaded_again_for_finished_points(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(folders, tmp_path / "done.jsonl")
    lines = (tmp_path / "done.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "done.jsonl").write_text("".join(lines[:3]), encoding="utf-8")
    loaded: list[str] = []
    load = models.load_model

    def counted(name: str, *rest: Any) -> Any:
        loaded.append(Path(name).name)
        return load(name, *rest)

    monkeypatch.setattr(models, "load_model", counted)
    answer(folders, tmp_path / "done.jsonl")
    assert loaded == ["sft", "step-00004"]
