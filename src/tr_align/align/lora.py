"""LoRA: an adapter in place of the whole model, and what a moving reference then is.

Hard updates are exact: the adapted policy scores its own window. Soft updates average the adapter's matrices by name,
`A_ref <- alpha A + (1 - alpha) A_ref` and the same for B; that is not the average of the effective weights, for
`(sum of B)(sum of A)` has cross terms. `tests/align/test_lora.py` shows the difference.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tr_align.errors import UserError
from tr_align.settings import Lora


def add_adapter(model: Any, settings: Lora, seed: int) -> Any:
    """Wrap a model in an adapter that changes nothing yet (B = 0): the policy starts as the SFT model.

    Raises:
        UserError: the package peft is missing.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise UserError("align.lora: needs the package peft; run `pip install peft`") from None
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.scale, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def merged_weights(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an adapted model as that of a plain one, every adapter added to its layer.

    The sums are made in the CPU's memory: a GPU that holds an adapted model may have no room for a second one.
    """
    merged = {}
    for name, layer in model.get_base_model().named_modules():
        prefix = f"{name}." if name else ""
        if hasattr(layer, "get_delta_weight"):
            base = f"base_model.model.{prefix}base_layer."
            a, b = (weights[f"base_model.model.{prefix}lora_{side}.default.weight"] for side in "AB")
            merged[f"{prefix}weight"] = weights[f"{base}weight"].cpu() + layer.scaling["default"] * (b @ a).cpu()
            if f"{base}bias" in weights:
                merged[f"{prefix}bias"] = weights[f"{base}bias"]
    for name, tensor in weights.items():
        plain = name.removeprefix("base_model.model.")
        if "lora_" not in plain and ".base_layer." not in plain:
            merged[plain] = tensor
    return merged
