"""A model's shapes without its weights: from a table of published ones, a folder, or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from transformers import AutoConfig

from tr_align import models
from tr_align.errors import UserError


@cache
def table() -> dict[str, dict[str, Any]]:
    """The published models by name: `parameters` and `config`."""
    text = (files("tr_align.planning") / "architectures.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)  # type: ignore[no-any-return]


def config_of(name: str, revision: str | None = None) -> Any:
    """The transformers configuration of a model; models in the table need no network.

    Raises:
        UserError: there is no such model, or its configuration cannot be had.
    """
    if name == models.RANDOM:
        return models.load_model(name).config
    if name in table():
        values = dict(table()[name]["config"])
        return AutoConfig.for_model(values.pop("model_type"), **values)
    if name.endswith(".gguf"):  # its header takes as long to read as the file; and shapes are all that is wanted
        return models.load_model(name).config
    models.check(name, revision)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"model.name: the configuration of {name!r} cannot be read: {reason}") from error


@dataclass(frozen=True)
class Sizes:
    """Parameters: all; those of the output layer (tied or not); those looked up, not multiplied (input embeddings that
    are not the output layer too); of one layer; outside the layers. And what attention costs: layers, width of all
    heads, width of the key and value heads."""

    total: int
    head: int
    looked_up: int
    layer: int
    outside: int
    layers: int
    heads_width: int
    kv_width: int


def sizes(model: Any) -> Sizes:
    """Counted on the model itself, which may be on the meta device or of fake tensors."""
    total = sum(parameter.numel() for parameter in model.parameters())
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    layers = decoder_layers(model)
    layer = max(sum(parameter.numel() for parameter in block.parameters()) for block in layers)
    inside = sum(parameter.numel() for block in layers for parameter in block.parameters())
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Sizes(
        total=total,
        head=head.weight.numel(),
        looked_up=0 if embeddings.weight is head.weight else embeddings.weight.numel(),
        layer=layer,
        outside=total - inside,
        layers=len(layers),
        heads_width=heads * width,
        kv_width=width * (getattr(config, "num_key_value_heads", None) or heads),
    )


def decoder_layers(model: Any) -> list[Any]:
    """The model's layers, which a sharded model gathers one at a time.

    Raises:
        UserError: none are found.
    """
    import torch

    count = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise UserError(f"model.name: in a {model.config.model_type} no layers are found, so it cannot be planned for")
