"""Passes on shapes allocate what real passes do, and few layers tell of many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from tr_align.align import attention
from tr_align.align.logps import reply_logps
from tr_align.planning.measure import FakeModel, Layout, Live, _Cut
from tr_align.settings import Lora

LAYERS = 4
LLAMA = LlamaConfig(
    vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=LAYERS, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=True,
)  # fmt: skip
NEOX = GPTNeoXConfig(
    vocab_size=300, hidden_size=64, intermediate_size=256, num_hidden_layers=LAYERS, num_attention_heads=4
)
LAYOUT = Layout(2, 20, (9, 7))
CONFIGS = {"llama": LLAMA, "neox": NEOX}


def test_a_layout_by_hand() -> None:
    """Two examples of 20 + 8 + 6 positions, with 9 + 7 scored tokens each."""
    assert (LAYOUT.positions, LAYOUT.scored) == (68, 32)
    batch = LAYOUT.batch(shared=True)
    assert batch.input_ids.shape == (1, 68) and len(batch.labels) == 32
    assert LAYOUT.batch(shared=False).input_ids.shape == (4, 28)


@pytest.mark.parametrize(
    ("kind", "checkpointing", "bf16"), [("llama", False, True), ("llama", True, False), ("neox", True, True)]
)
def test_a_real_pass_allocates_as_much(kind: str, checkpointing: bool, bf16: bool) -> None:
    """Every storage that the project's own code makes is counted, on real tensors."""
    real: Any = {"llama": LlamaForCausalLM, "neox": GPTNeoXForCausalLM}[kind](CONFIGS[kind]).train()
    real.set_attn_implementation(attention.NAME)
    if checkpointing:
        real.activation_checkpointing_enable({"use_reentrant": False})
    live = Live()
    live.ignore([*real.parameters(), *real.buffers()])
    with live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logps = reply_logps(real, LAYOUT.batch(shared=True))
        if not bf16:
            logps.sum().backward()
    if bf16:
        with live:
            logps.sum().backward()
    fake = FakeModel(CONFIGS[kind], checkpointing=checkpointing, bf16=bf16)
    assert fake.training(LAYOUT, again=False) == pytest.approx(max(live.peaks), rel=0.01)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"checkpointing": True}),
        ("llama", {"lora": Lora(rank=2, scale=4), "gpu": True}),
        ("neox", {"dtype": torch.bfloat16}),
    ],
    ids=str,
)
def test_few_layers_tell_of_many(kind: str, options: dict[str, Any]) -> None:
    plain = {"dtype": torch.float32, "checkpointing": False, "lora": None, "gpu": False, "bf16": True}
    whole = _Cut(CONFIGS[kind], LAYERS, **(plain | options))  # type: ignore[arg-type]
    few = FakeModel(CONFIGS[kind], **options)
    for again, drop in ((False, False), (True, False), (False, True)):
        assert few.training(LAYOUT, again, drop) == max(whole.training(LAYOUT, again, drop, True))
    assert few.scoring(LAYOUT) == whole.scoring(LAYOUT)
    assert few.prefill(4, 12) == whole.prefill(4, 12)
    assert few.states(4, 12) == whole.states(4, 12)


def test_what_saves_memory_does() -> None:
    plain = FakeModel(LLAMA)
    layout = Layout(3, 160, (120, 120))
    training = plain.training(layout, again=False)
    assert FakeModel(LLAMA, checkpointing=True).training(layout, again=False) < 0.6 * training
    assert plain.scoring(layout) < 0.5 * training
    assert plain.training(layout, again=False, shared=False) > 1.3 * training
    # Gradients of an earlier pass are there all the time: 4 bytes a parameter.
    parameters = sum(p.numel() for p in LlamaForCausalLM(LLAMA).parameters())
    assert plain.training(layout, again=True) == pytest.approx(training + 4 * parameters, abs=1024)
    # A generation's cache: keys and values of 2 heads of 16, 4 bytes, for 4 layers.
    longer = plain.prefill(4, 60) - plain.prefill(4, 50)
    assert longer > 4 * 10 * 2 * 2 * 16 * 4 * LAYERS


@pytest.mark.parametrize("gpu", [False, True])
def test_a_few_examples_tell_of_many(gpu: bool) -> None:
    """Blocks of the output layer are of 256 tokens on a CPU, of 4,096 on a GPU: 9 examples fill the latter twice."""
    layout = Layout(9, 30, (500, 450))
    whole = [_Cut(LLAMA, layers, torch.float32, False, None, gpu, True) for layers in (2, 3)]
    ends = [cut.training(layout, False, False, True) for cut in whole]
    expected = max(few + (more - few) * (LAYERS - 2) for few, more in zip(ends[0][:-1], ends[1][:3], strict=True))
    assert FakeModel(LLAMA, gpu=gpu).training(layout, again=False) == pytest.approx(expected, rel=0.02)


def test_storages_are_counted_once_and_until_they_are_freed() -> None:
    with Live() as live:
        first = torch.empty(100)
        view = first[:50].view(5, 10)
        assert live.now == 400
        second = torch.empty(50)
        del second
        live.mark()
        assert (live.now, live.peaks) == (400, [600, 400])
        del first, view
        assert live.now == 0
