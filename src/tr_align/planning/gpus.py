"""GPUs a plan can be made for: from their makers' data sheets, dense bfloat16 with float32 sums."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tr_align.errors import UserError

USABLE = 0.92
"""Share of a GPU's memory that a stage can have; the rest is for CUDA itself, NCCL and fragments. An assumption."""


@dataclass(frozen=True)
class Gpu:
    """Memory in bytes, peak in FLOP a second, bandwidth in bytes a second."""

    name: str
    memory: float
    flops: float
    bandwidth: float

    @property
    def usable(self) -> float:
        """Bytes that a stage can have."""
        return USABLE * self.memory


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("h200", 141e9, 989e12, 4.8e12),
        Gpu("h100", 80e9, 989e12, 3.35e12),
        Gpu("a100-80gb", 80e9, 312e12, 2.04e12),
        Gpu("a100-40gb", 40e9, 312e12, 1.56e12),
        Gpu("l40s", 48e9, 362e12, 0.864e12),
        Gpu("rtx4090", 24e9, 165e12, 1.01e12),
    )
}


def find(name: str) -> Gpu:
    """A GPU by name.

    Raises:
        UserError: it is not in the table.
    """
    if name.lower() in GPUS:
        return GPUS[name.lower()]
    close = difflib.get_close_matches(name.lower(), GPUS, n=1)
    raise UserError(
        f"--gpu: {name!r} is not known"
        + (f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(GPUS)}")
    )
