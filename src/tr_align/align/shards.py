"""This process's part of a model, whatever wraps it: nothing, DDP, FSDP2, ZeRO-3, LoRA."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def base_model(model: Any) -> Any:
    """The language model itself, without the layer that LoRA puts around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def local_shards(model: Any) -> list[Tensor]:
    """What the reference follows: the trained parameters and the floating-point buffers, as this process holds them.

    The tensors share memory with the model (under ZeRO-3 with the optimizer's float32 copy). Tied weights appear once.
    With LoRA the trained parameters are the adapter's. Nothing may be gathered (see :func:`forget_gathered`).
    """
    return [values for values, _ in _trained(model)] + _buffers(model)


def read_shards(model: Any) -> list[Tensor]:
    """What forward passes read, in the order of :func:`local_shards`: the same, but under ZeRO-3 its own parameters,
    perhaps bfloat16, which it refreshes from the optimizer's."""
    return [read for _, read in _trained(model)] + _buffers(model)


def _trained(model: Any) -> list[tuple[Tensor, Tensor]]:
    return [_local(parameter) for parameter in model.parameters() if parameter.requires_grad]


def _buffers(model: Any) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _local(parameter: Any) -> tuple[Tensor, Tensor]:
    if hasattr(parameter, "ds_tensor"):  # ZeRO-3
        from deepspeed.utils import safe_get_local_fp32_param

        values = safe_get_local_fp32_param(parameter).detach().view(-1)
        # The last process's part ends in padding.
        length = max(0, min(values.numel(), parameter.ds_numel - dist.get_rank() * parameter.ds_tensor.numel()))
        return values[:length], parameter.ds_tensor.detach().view(-1)[:length]
    data = parameter.detach()
    shard = data.to_local() if hasattr(data, "to_local") else data  # FSDP2 holds DTensors
    return shard, shard


def forget_gathered(model: Any) -> None:
    """Drop what sharded models keep whole after a forward pass: else shards are hidden, or changes to them unseen."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # FSDP2
            module.reshard()
    if hasattr(model, "empty_partition_cache"):  # ZeRO-3
        model.empty_partition_cache()


def is_sharded(accelerator: Any) -> bool:
    """Whether each process holds only a part of the model."""
    plugin = accelerator.state.deepspeed_plugin
    return bool(accelerator.is_fsdp2 or (plugin is not None and plugin.zero_stage == 3))


def full_weights(accelerator: Any, model: Any) -> dict[str, Tensor] | None:
    """A wrapped model's whole state dict, on the main process only; all processes have to ask at once."""
    weights: dict[str, Tensor] = accelerator.get_state_dict(model)
    return weights if accelerator.is_main_process else None


def any_process(accelerator: Any, flag: bool) -> bool:
    """Whether `flag` is set on any process, the same answer on all of them."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item())


def lowest(accelerator: Any, number: int) -> int:
    """The lowest of all processes' numbers."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).min())
