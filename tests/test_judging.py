"""What a judge is asked: ratings of all replies, duels of the trained model's in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tr_align import models
from tr_align.config import load_params
from tr_align.errors import UserError
from tr_align.judges import reward
from tr_align.judges.base import Duel, Rating, Reply, Verdict
from tr_align.judges.openai import OpenAIJudge
from tr_align.judging import judge_replies, last_step, load_judge
from tr_align.settings import AXES, RewardModel

Row = dict[str, Any]


class Longest:
    """Rates a reply by its length and prefers the longer one; keeps what it was asked."""

    unit = "characters"
    axes = AXES

    def __init__(self) -> None:
        self.rated: list[Reply] = []
        self.compared: list[Duel] = []

    def rate(self, replies: Sequence[Reply]) -> list[Rating]:
        self.rated.extend(replies)
        return [Rating(r.id, dict.fromkeys(AXES, float(len(r.text))), {"text": r.text}) for r in replies]

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]:
        self.compared.extend(duels)
        return [
            Verdict(
                d.id,
                "tie" if len(d.first) == len(d.second) else "first" if len(d.first) > len(d.second) else "second",
                {"shown": [d.first, d.second]},
            )
            for d in duels
        ]


def reply(step: int, prompt: str, text: str) -> Row:
    return {"step": step, "prompt_id": prompt, "prompt": [{"role": "user", "content": prompt}], "reply": text}


OURS = [reply(2, "a", "x"), reply(5, "a", "longer"), reply(5, "b", "tiny")]
SFT = [reply(0, "b", "the SFT model"), reply(0, "a", "SFT")]
BASE = [reply(3, "a", "old"), reply(3, "b", "older"), reply(6, "b", "base"), reply(6, "a", "the base")]


def test_every_reply_is_rated() -> None:
    judge = Longest()
    rows = judge_replies(judge, OURS, {})
    # "x", "longer" and "tiny" have 1, 6 and 4 characters.
    assert rows == [
        {"kind": "rating", "step": 2, "prompt_id": "a", "axes": dict.fromkeys(AXES, 1.0), "raw": {"text": "x"}},
        {"kind": "rating", "step": 5, "prompt_id": "a", "axes": dict.fromkeys(AXES, 6.0), "raw": {"text": "longer"}},
        {"kind": "rating", "step": 5, "prompt_id": "b", "axes": dict.fromkeys(AXES, 4.0), "raw": {"text": "tiny"}},
    ]
    assert [question.prompt[-1].content for question in judge.rated] == ["a", "a", "b"]
    assert len({question.id for question in judge.rated}) == 3
    assert judge.compared == []


def test_the_trained_models_replies_meet_each_opponent_in_both_orders() -> None:
    judge = Longest()
    rows = [row for row in judge_replies(judge, OURS, {"sft": SFT, "base": BASE}) if row["kind"] == "duel"]
    assert [(d.prompt[-1].content, d.first, d.second) for d in judge.compared] == [
        ("a", "longer", "SFT"),
        ("a", "SFT", "longer"),
        ("b", "tiny", "the SFT model"),
        ("b", "the SFT model", "tiny"),
        ("a", "longer", "the base"),
        ("a", "the base", "longer"),
        ("b", "tiny", "base"),
        ("b", "base", "tiny"),
    ]
    assert len({question.id for question in judge.compared}) == 8
    # `shown` is where the policy's reply stood; the preference is the judge's word, first or second as shown.
    assert [(row["against"], row["prompt_id"], row["shown"], row["preference"]) for row in rows] == [
        ("sft", "a", "first", "first"),
        ("sft", "a", "second", "second"),
        ("sft", "b", "first", "second"),
        ("sft", "b", "second", "first"),
        ("base", "a", "first", "second"),
        ("base", "a", "second", "first"),
        ("base", "b", "first", "tie"),
        ("base", "b", "second", "tie"),
    ]
    assert rows[1]["raw"] == {"shown": ["SFT", "longer"]}


def test_an_opponent_that_did_not_answer_is_an_error() -> None:
    with pytest.raises(UserError, match=r"generations of base: no reply to prompt a; run `dvc repro`"):
        judge_replies(Longest(), OURS, {"sft": SFT, "base": BASE[:3]})


def test_the_last_step_is_the_highest() -> None:
    assert [row["reply"] for row in last_step([OURS[1], OURS[0], OURS[2]])] == ["longer", "tiny"]


def test_a_stored_reward_model_is_loaded(tmp_path: Path) -> None:
    settings = load_params(Path(__file__).parents[1] / "params.yaml").judge.model_copy(update={"name": "reward"})
    model, tokenizer = reward.untrained(RewardModel(model=models.RANDOM))
    models.save(model, tokenizer, tmp_path)
    (tmp_path / "reward.json").write_text('{"middle": 0.5, "half_gap": 2.0}')
    judge = load_judge(settings, tmp_path)
    assert isinstance(judge, reward.RewardJudge)
    assert (judge.scale, judge.read.batch_size) == (reward.Scale(0.5, 2.0), settings.reward.batch_size)


def test_the_judge_of_the_settings_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_params(Path(__file__).parents[1] / "params.yaml").judge.model_copy(update={"name": "openai"})
    monkeypatch.setenv(settings.openai.api_key_env, "none")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert isinstance(load_judge(settings, tmp_path), OpenAIJudge)
    assert (tmp_path / ".judge" / "answers.sqlite").exists()
