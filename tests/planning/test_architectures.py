"""Published models: their shapes give their published numbers of parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig, MambaConfig

from tr_align import models
from tr_align.errors import UserError
from tr_align.planning import architectures
from tr_align.planning.measure import whole_model

PUBLISHED = {
    "EleutherAI/pythia-2.8b": 2_775_208_960,
    "EleutherAI/pythia-6.9b": 6_857_302_016,
    "EleutherAI/pythia-12b": 11_846_072_320,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    models.PACKAGED: 134_515_008,
}


@pytest.mark.parametrize("name", architectures.table())
def test_the_parameters_of_every_model_of_the_table(name: str) -> None:
    sizes = architectures.sizes(whole_model(architectures.config_of(name)))
    assert sizes.total == architectures.table()[name]["parameters"] == PUBLISHED.get(name, sizes.total)


def test_the_published_models_are_in_the_table() -> None:
    assert set(PUBLISHED) <= set(architectures.table())


def test_the_parts_by_hand() -> None:
    """Width 8, two heads of 4, one of them for keys and values, MLP 16, 10 words, 3 layers, head of its own.

    A layer: queries 64, keys and values 2 * 32, output 64, MLP 3 * 128, two norms 16: 592. Outside: 2 * 80, a norm 8.
    """
    config = LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    sizes = architectures.sizes(whole_model(config))
    assert sizes == architectures.Sizes(
        total=3 * 592 + 168, head=80, looked_up=80, layer=592, outside=168, layers=3, heads_width=8, kv_width=4
    )
    config.tie_word_embeddings = True
    tied = architectures.sizes(whole_model(config))
    assert (tied.total, tied.head, tied.looked_up) == (3 * 592 + 88, 80, 0)


def test_a_folder_tells_its_shapes_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    models.save(models.load_model(models.RANDOM), models.load_tokenizer(models.RANDOM), tmp_path / "model")
    assert architectures.config_of(str(tmp_path / "model")).hidden_size == 32
    assert architectures.config_of(models.RANDOM).hidden_size == 32
    with pytest.raises(UserError, match=r"model\.name"):
        architectures.config_of("./nowhere")


def test_a_model_without_the_layers_it_says_is_refused() -> None:
    model = whole_model(MambaConfig(vocab_size=10, hidden_size=8, num_hidden_layers=2, state_size=4))
    model.config.num_hidden_layers = 5
    with pytest.raises(UserError, match="no layers are found"):
        architectures.decoder_layers(model)
