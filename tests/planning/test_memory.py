"""What a training holds, counted on the objects that hold it; how a split divides it; and pass layouts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tr_align import models
from tr_align.align.reference import Reference
from tr_align.align.shards import local_shards
from tr_align.config import METHODS, Params, load_params
from tr_align.errors import UserError
from tr_align.planning import memory
from tr_align.planning.measure import FakeModel, Layout
from tr_align.planning.memory import Estimator, align_step, filled, sft_step
from tr_align.settings import Lora

ROOT = Path(__file__).parents[2]
SOFT, HARD, BASE = (METHODS[name] for name in ("tr_dpo_soft", "tr_dpo_hard", "dpo"))


def settings(**sections: dict[str, Any]) -> Params:
    params = load_params(ROOT / "presets" / "smoke.yaml")
    return params.model_copy(
        update={name: getattr(params, name).model_copy(update=values) for name, values in sections.items()}
    )


def estimator(gpu: bool = False, **sections: dict[str, Any]) -> Estimator:
    return Estimator(models.load_model(models.RANDOM).config, settings(**sections), gpu=gpu)


def test_gradients_moments_and_the_reference_are_those_of_a_real_step() -> None:
    model: Any = models.load_model(models.RANDOM)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    size = lambda tensors: sum(t.numel() * t.element_size() for t in tensors)  # noqa: E731
    moments = [state[key] for state in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    reference = lambda alpha: Reference(1, alpha, local_shards(model), (1, 2), torch.device("cpu"))  # noqa: E731

    found = {name: estimator().align(METHODS[name], "none", 1) for name in ("dpo", "tr_dpo_hard", "tr_dpo_soft")}
    for each in found.values():
        assert each.weights == size(model.parameters())
        assert each.gradients == size(p.grad for p in model.parameters())
        assert each.optimizer == size(moments)
    for name, alpha in (("dpo", None), ("tr_dpo_hard", 1.0), ("tr_dpo_soft", 0.5)):
        assert found[name].reference == size(reference(alpha).master)
    assert found["dpo"].reference == found["tr_dpo_hard"].reference == 0 < found["tr_dpo_soft"].reference
    assert found["dpo"].passes == found["tr_dpo_hard"].passes == found["tr_dpo_soft"].passes


def test_the_total_is_the_sum_of_the_parts() -> None:
    assert memory.Memory(1, 2, 3, 4, 5, 6).total == 21


def test_full_passes_by_hand() -> None:
    example = Layout(1, 20, (11, 11))  # 40 positions
    # Four examples, 160 positions, 80 at a time: two passes of two.
    assert filled(example, 4, 80) == (Layout(2, 20, (11, 11)), 2)
    # One is longer than a pass may be: alone.
    assert filled(example, 4, 30) == (Layout(1, 20, (11, 11)), 4)
    # All fit.
    assert filled(example, 4, 1000) == (Layout(4, 20, (11, 11)), 1)
    # 100 positions are filled by three shorter ones.
    layout, passes = filled(example, 4, 100)
    assert (layout.examples, passes) == (3, 2)
    assert abs(layout.positions - 100) <= 3


def test_the_steps_of_the_methods_by_hand() -> None:
    """Prompts of 400 + 8 tokens and replies of 800: a pair has 408 + 2 * 799 = 2006 positions."""
    align = {"batch_size": 2, "gradient_accumulation": 3, "max_tokens": 5000, "steps": 4}
    dpo = align_step(settings(align=align), BASE, 1)
    # Six pairs, 12,036 positions, at most 5,000 of them at a time.
    assert dpo.passes == 3 and abs(dpo.layout.positions - 5000) <= 3
    assert dpo.scoring is not None and abs(dpo.scoring.positions - 4 * 5000) <= 12
    # KTO's batch is one pass whatever max_tokens is: twice as many single replies, with a mismatched one each.
    kto = align_step(settings(align=align), METHODS["kto"], 1)
    assert (kto.layout, kto.passes) == (Layout(4, 408, (800, 800)), 3)
    paired = align_step(settings(align=align, kto={"paired": True}), METHODS["kto"], 1)
    assert paired.layout.examples == 2
    sft = {"batch_size": 4, "gradient_accumulation": 2}
    step = sft_step(settings(sft=sft), gpu=False, processes=1)
    assert (step.layout, step.passes, step.shared) == (Layout(4, 408, (800,)), 2, True)
    assert not sft_step(settings(sft=sft), gpu=True, processes=1).shared
    assert not sft_step(settings(sft=sft), gpu=False, processes=2).shared


def test_how_a_split_divides_what_is_held() -> None:
    """4 bytes of weights, 4 of gradients, 8 of moments, 4 of a soft reference for each parameter."""
    one = estimator(gpu=True)
    size = one.sizes.total
    alone = one.align(SOFT, "none", 1)
    assert (alone.weights, alone.gradients, alone.optimizer, alone.exchange) == (4 * size, 4 * size, 8 * size, 0)
    ddp = one.align(SOFT, "ddp", 4)
    assert ddp.total == alone.total + 4 * size and ddp.exchange == 4 * size
    fsdp = one.align(SOFT, "fsdp", 4)
    assert (fsdp.weights, fsdp.gradients, fsdp.optimizer) == (size, size, 2 * size)
    assert fsdp.reference == size + 4 * one.buffers
    outside, layer = one.sizes.outside, one.sizes.layer
    assert fsdp.exchange == 4 * outside + 8 * layer
    zero3 = one.align(SOFT, "zero3", 4)
    assert (zero3.weights, zero3.gradients, zero3.optimizer) == (size / 2, size / 2, 3 * size)
    assert zero3.reference == fsdp.reference
    zero2 = one.align(SOFT, "zero2", 4)
    assert (zero2.weights, zero2.gradients, zero2.optimizer) == (2 * size, size / 2, 3 * size)
    assert zero2.reference == alone.reference
    # Four processes hold no more than one does.
    assert one.align(BASE, "fsdp", 4).total < one.align(BASE, "none", 1).total


def test_several_passes_a_step_keep_their_gradients() -> None:
    """With one pass gradients come as activations go; with two, they are there from the first on."""
    short = {"data": {"max_prompt_tokens": 100, "max_reply_tokens": 50}}
    align = {"batch_size": 4, "gradient_accumulation": 1, "sft_rewards": False}
    full = 4 * (108 + 2 * 49)
    one = estimator(align=align | {"max_tokens": full}, **short)
    two = estimator(align=align | {"max_tokens": full // 2}, **short)
    fake = FakeModel(one.config)
    layout = Layout(4, 108, (50, 50))
    alone = one.align(BASE, "none", 1)
    peak = max(fake.training(layout, again=False), fake.scoring(filled(Layout(1, 108, (50, 50)), 16, 4 * full)[0]))
    samples = 3 * 4 * sum(one.trained)  # all tensors of so small a model are taken whole
    assert alone.gradients + alone.passes == peak + samples
    half = Layout(2, 108, (50, 50))
    again = two.align(BASE, "none", 1)
    assert again.gradients + again.passes - samples >= fake.training(half, again=True)


def test_recomputed_activations_and_an_adapter_take_less() -> None:
    plain = estimator(gpu=True)
    recomputed = estimator(gpu=True, align={"gradient_checkpointing": True}, sft={"gradient_checkpointing": True})
    assert recomputed.align(BASE, "none", 1).passes < plain.align(BASE, "none", 1).passes
    assert recomputed.sft("none", 1).passes < plain.sft("none", 1).passes
    adapted = estimator(gpu=True, align={"lora": Lora(rank=2, scale=4)})
    trained, size = sum(adapted.trained), plain.sizes.total
    assert 0 < trained < size / 2
    soft = adapted.align(SOFT, "none", 1)
    assert (soft.weights, soft.gradients, soft.optimizer) == (4 * (size + trained), 4 * trained, 8 * trained)
    assert soft.reference == 4 * (trained + adapted.buffers)
    # SFT trains all of it.
    assert adapted.sft("none", 1).optimizer == 8 * size


def test_generation_holds_two_models_and_a_cache() -> None:
    few, many = (estimator(generate={"batch_size": count, "max_new_tokens": 400}) for count in (2, 12))
    assert few.generate().weights == 2 * 2 * few.sizes.total
    # Keys and values of one head of 16 in bfloat16 for 808 positions of 12 rows, two layers and one copied.
    cache = 2 * 12 * (408 + 400) * few.sizes.kv_width * 2
    assert many.generate().passes >= 3 * cache
    assert many.generate().passes > 2 * few.generate().passes


def test_a_model_that_cannot_be_planned_is_said() -> None:
    one = estimator()

    def broken(*arguments: Any) -> int:
        raise RuntimeError("data-dependent operation\nand more")

    with pytest.raises(UserError, match=r"a llama cannot be planned for: data-dependent operation$"):
        one._once(broken)
