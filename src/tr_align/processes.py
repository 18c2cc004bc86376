"""Which of several processes this one is, as torchrun and `accelerate launch` tell it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from tr_align.errors import UserError


@dataclass(frozen=True)
class Process:
    """Process `rank` of `count`, over all machines."""

    rank: int = 0
    count: int = 1


def this_process() -> Process:
    """This process, which computes on a GPU of its own from now on, where there are GPUs.

    Raises:
        UserError: more processes were started on this machine than it has GPUs.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1 and torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(f"launch: starts more processes on a machine than it has GPUs ({gpus}); start one a GPU")
        torch.cuda.set_device(local)
    return Process(rank, count)
