"""One of two processes that fine-tune a tiny model on the CPU; run by test_distributed.py, once alone for comparison.

two_processes_sft.py WRAPPER FOLDER [STEP AT WHICH THE MAIN PROCESS IS KILLED]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

import torch  # noqa: E402
from accelerate.state import DistributedType, PartialState  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from tests.align.conftest import settings  # noqa: E402

from tr_align import sft  # noqa: E402
from tr_align.data.schema import read_demonstrations  # noqa: E402


def main() -> None:
    wrapper, folder, kill_at = sys.argv[1], Path(sys.argv[2]), int("".join(sys.argv[3:]) or 0)
    torch.set_num_threads(1)
    alone = wrapper == "alone"
    params = settings(
        model_name="random:two-layer",
        sft_steps=5,
        sft_batch_size=4 if alone else 2,
        sft_gradient_accumulation=2,
        sft_learning_rate=1e-2,
        sft_warmup_steps=1,
        sft_checkpoint_minutes=1e-9,
    )
    sft.has_bf16 = lambda: False
    arguments, step = sft._arguments, sft._Trainer.training_step
    seen: set[str] = set()

    def cpu_arguments(*args: Any) -> Any:
        made = arguments(*args)
        assert made.device.type == "cpu" and made.world_size == (1 if alone else 2)
        if wrapper == "fsdp2":  # accelerate takes FSDP for a thing of GPUs and would quietly run DDP
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return made

    def training_step(self: Any, model: Any, *args: Any) -> Any:
        seen.update(kind.__name__ for kind in type(model).__mro__)
        if self.state.global_step + 1 == kill_at and self.is_world_process_zero():
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, model, *args)

    def save(model: Any, tokenizer: Any, target: Path, weights: dict[str, torch.Tensor]) -> None:
        target.mkdir(parents=True)  # by one process, once
        whole = {name: weight.detach().float().contiguous().clone() for name, weight in weights.items()}
        save_file(whole, target / "weights.safetensors")

    sft._arguments = cpu_arguments
    sft._Trainer.training_step = training_step  # type: ignore[method-assign]
    sft.models.save = save  # type: ignore[assignment]  # float32, to be compared
    rows = read_demonstrations(folder / "rows.jsonl")
    sft.fine_tune(params, rows, folder / "model", folder / "log.jsonl", folder / "scratch")
    expected = {
        "alone": "LlamaForCausalLM",
        "ddp": "DistributedDataParallel",
        "fsdp2": "FSDPModule",
        "zero3": "DeepSpeedEngine",
    }
    assert expected[wrapper] in seen, seen
    sys.stdout.flush()
    os._exit(0)  # taking FSDP2's process group apart sometimes aborts


main()
