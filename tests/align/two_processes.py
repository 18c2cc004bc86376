"""One of two processes that train a tiny policy on the CPU; run by test_distributed.py, once alone for comparison.

two_processes.py WRAPPER METHOD SFT PAIRS FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

import torch  # noqa: E402
from accelerate.state import DistributedType, PartialState  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tests.align.conftest import settings  # noqa: E402

from tr_align.align import resume, train  # noqa: E402
from tr_align.align.trainer import AlignTrainer  # noqa: E402
from tr_align.data.schema import read_pairs  # noqa: E402


def main() -> None:
    wrapper, method, sft, pairs, folder = sys.argv[1:]
    torch.set_num_threads(1)
    alone = wrapper == "alone"
    params = settings(
        align_steps=4,
        align_batch_size=4 if alone else 2,
        align_evaluate_at=[0.75, 1.0],
        align_max_tokens=60,  # several passes a step
        align_held_out=3,
        ref_update_alpha=0.3,
        ref_update_every=2,
        ref_update_tau=2,
    )
    train.has_bf16 = lambda: False
    arguments = train.training_arguments
    seen: dict[str, Any] = {}

    def cpu_arguments(*args: Any) -> Any:
        made = arguments(*args)
        assert made.device.type == "cpu" and made.world_size == (1 if alone else 2)
        if wrapper == "fsdp2":  # accelerate takes FSDP for a thing of GPUs and would quietly run DDP
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return made

    def save(model: Any, tokenizer: Any, target: Path, weights: dict[str, torch.Tensor]) -> None:
        target.mkdir(parents=True)
        save_file(
            {name: w.detach().float().contiguous().clone() for name, w in weights.items()},
            target / "weights.safetensors",
        )

    step = AlignTrainer.training_step

    def training_step(self: Any, model: Any, *args: Any) -> Any:
        seen["wrapped"] = {kind.__name__ for kind in type(model).__mro__}
        return step(self, model, *args)

    train.training_arguments = cpu_arguments
    AlignTrainer.training_step = training_step  # type: ignore[method-assign]
    resume.models = type("", (), {"save": staticmethod(save)})  # float32, to be compared
    train.train_method(method, params, sft, read_pairs(pairs), Path(folder))
    expected = {
        "alone": "LlamaForCausalLM",
        "ddp": "DistributedDataParallel",
        "fsdp2": "FSDPModule",
        "zero3": "DeepSpeedEngine",
    }
    assert expected[wrapper] in seen["wrapped"], seen
    sys.stdout.flush()
    os._exit(0)  # taking FSDP2's process group apart sometimes aborts


main()
