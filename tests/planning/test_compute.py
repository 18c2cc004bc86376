"""Work of the stages, worked out by hand for a model of round numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tr_align.config import METHODS, Params, load_params
from tr_align.errors import UserError
from tr_align.planning import gpus
from tr_align.planning.architectures import Sizes
from tr_align.planning.compute import Counter, Lengths, lengths, replies
from tr_align.planning.gpus import Gpu

ROOT = Path(__file__).parents[2]
# 1,000 parameters: 100 looked up, 100 in the head, 800 in the layers.
SIZES = Sizes(total=1000, head=100, looked_up=100, layer=400, outside=200, layers=2, heads_width=10, kv_width=10)
MEANS = Lengths(prompt=20, reply=10, sampled=5, measured=False)
GPU = Gpu("made up", 1e9, flops=1e6, bandwidth=1e3)
# A position: 2 * 800, and attention to half of 30 positions in 2 layers of width 10: 4 * 2 * 10 * 15.
POSITION = 1600 + 1200


def settings(**sections: dict[str, Any]) -> Params:
    params = load_params(ROOT / "presets" / "smoke.yaml").model_copy(update={"methods": METHODS})
    return params.model_copy(
        update={name: getattr(params, name).model_copy(update=values) for name, values in sections.items()}
    )


def counter(processes: int = 1, mfu: float = 0.5, **sections: dict[str, Any]) -> Counter:
    return Counter(settings(**sections), SIZES, MEANS, GPU, processes, mfu)


def test_sft_by_hand() -> None:
    """Two steps of four rows: 30 positions each, 10 of them through the head; backward is two forwards more."""
    work = counter().of("sft")
    assert work is not None
    forward = 8 * (30 * POSITION + 10 * 200)
    assert (work.flops, work.tokens, work.generated) == (3 * forward, 240, 0)
    assert work.gpu_hours == pytest.approx(3 * forward / 0.5e6 / 3600)
    recomputed = counter(sft={"gradient_checkpointing": True}).of("sft")
    assert recomputed is not None and recomputed.flops == 4 * forward
    doubled = counter(processes=2, sft={"gradient_accumulation": 3}).of("sft")
    assert doubled is not None and doubled.flops == 6 * work.flops
    none = counter(sft={"steps": 0}).of("sft")
    assert none is not None and none.flops == 0


def test_alignment_by_hand() -> None:
    """Four steps of two pairs: 40 positions, the prompt once, 20 of them through the head.

    The base method scores the data once, with the SFT model; a moving reference its windows, and SFT for the rewards.
    """
    forward = 8 * (40 * POSITION + 20 * 200)
    flops = lambda stage, **sections: counter(**sections).of(stage).flops / forward  # type: ignore[union-attr]  # noqa: E731
    on, off = {"align": {"sft_rewards": True}}, {"align": {"sft_rewards": False}}
    assert flops("align@dpo", **on) == flops("align@dpo", **off) == 4
    assert flops("align@tr_dpo_soft", **on) == flops("align@tr_dpo_hard", **on) == 5
    assert flops("align@tr_dpo_soft", **off) == 4
    assert flops("align@kto", **on) == 2 * 4  # single replies, twice as many, each with a mismatched one
    assert flops("align@kto", kto={"paired": True}) == 4
    assert flops("align@dpo", align={"gradient_checkpointing": True}) == 5


def test_generation_by_hand() -> None:
    """12 replies of the SFT model; a method's 12 at the end and 6 before. Each draws 5 tokens after 20."""
    params = settings()
    assert (replies(params, "sft"), replies(params, "dpo")) == (12, 18)
    work = counter(generate={"batch_size": 5, "max_new_tokens": 12}).of("generate_sft")
    assert work is not None
    assert work.generated == 60
    position = 2 * 900 + 4 * 2 * 10 * 12.5
    assert work.flops == 3 * 12 * 25 * position
    # Three batches of 12 steps, each reads 900 bfloat16 weights at half of 1,000 bytes a second.
    reading = 36 * 1800 / 500
    scoring = 2 * 12 * 25 * position / 0.5e6
    assert work.gpu_hours == pytest.approx((reading + scoring) / 3600)


def test_texts_by_hand_and_stages_without_a_gpu() -> None:
    """Two points, six prompts, five texts each: 70 positions."""
    work = counter().of("ood@dpo")
    assert work is not None and work.tokens == 2 * 6 * 70
    assert all(counter().of(stage) is None for stage in ("prepare", "report", "judge@dpo", "score_sft", "calibrate"))


def test_lengths_are_measured_where_the_data_is_prepared(tmp_path: Path) -> None:
    params = settings()
    assumed = lengths(params, tmp_path / "stats.json")
    assert assumed == Lengths(200, 400, 6, False) == lengths(params)
    means = {"mean_tokens": {"prompt": 30.0, "chosen": 10.0, "rejected": 20.0}}
    (tmp_path / "stats.json").write_text(json.dumps({"splits": {"preferences": means}}))
    assert lengths(params, tmp_path / "stats.json") == Lengths(30, 15, 6, True)


def test_gpus_by_name() -> None:
    assert gpus.find("H100").name == "h100" and gpus.find("a100-40gb").memory == 40e9
    assert all(gpu.usable < gpu.memory for gpu in gpus.GPUS.values())
    with pytest.raises(UserError, match="--gpu: 'rtx490' is not known; did you mean 'rtx4090'"):
        gpus.find("rtx490")
    with pytest.raises(UserError, match="known are h200, h100"):
        gpus.find("quantum")
