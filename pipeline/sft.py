"""Stage `sft`: fine-tune the base model on the demonstrations; with `sft.steps` 0 it is the SFT model as it is."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align import gpus, scratch  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.data.schema import read_demonstrations  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402

DATA, SFT, LOG = Path("data/prepared/sft.jsonl"), Path("models/sft"), Path("logs/sft.jsonl")


def main() -> None:
    params = load_params()
    gpus.claim()
    import torch
    from accelerate import PartialState

    from tr_align.align.resume import discard
    from tr_align.sft import fine_tune

    state = PartialState(cpu=not torch.cuda.is_available())
    settings = {
        "model": params.model.model_dump(mode="json"),
        "sft": params.sft.model_dump(mode="json", exclude={"checkpoint_minutes"}),
        "max_tokens": [params.data.max_prompt_tokens, params.data.max_reply_tokens],
        "seed": params.seed,
        "processes": state.num_processes,
    }
    folder = scratch.folder("sft", settings, [DATA])
    LOG.parent.mkdir(exist_ok=True)
    fine_tune(params, read_demonstrations(DATA), SFT, LOG, folder)
    if state.is_main_process:
        discard(folder)


run_stage(main)
