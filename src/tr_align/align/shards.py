"""This process's part of a model, whatever wraps it: nothing, DDP, FSDP2, ZeRO-3, LoRA."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def base_model(model: Any) -> Any:
    """The language model itself, without the layer that LoRA puts around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def local_shards(model: Any) -> list[Tensor]:
    """What the reference follows: the trained parameters and the floating-point buffers, as this process holds them.

    The tensors share memory with the model, so writing to them changes it. Tied weights appear once. With LoRA the
    trained parameters are the adapter's.
    """
    parameters = [_local(p) for p in model.parameters() if p.requires_grad]
    return parameters + [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _local(parameter: Any) -> Tensor:
    shard: Tensor
    if hasattr(parameter, "ds_tensor"):  # DeepSpeed ZeRO-3: the parameter itself is empty between passes
        shard = parameter.ds_tensor
        return shard
    data = parameter.detach()
    shard = data.to_local() if hasattr(data, "to_local") else data  # FSDP2 holds DTensors
    return shard


def is_sharded(accelerator: Any) -> bool:
    """Whether each process holds only a part of the model."""
    plugin = accelerator.state.deepspeed_plugin
    return bool(accelerator.is_fsdp2 or (plugin is not None and plugin.zero_stage == 3))


def any_process(accelerator: Any, flag: bool) -> bool:
    """Whether `flag` is set on any process, the same answer on all of them."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item())
