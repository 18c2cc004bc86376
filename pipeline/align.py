"""Stage `align@METHOD`: align the SFT model with one method; keep the policy at several points of the training."""

from tr_align.runtime import prepare_process

prepare_process()

import shutil  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from tr_align import gpus, scratch, stopping, tracking  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.data.schema import read_pairs  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402

DATA, SFT = Path("data/prepared/preferences.jsonl"), Path("models/sft")


def main() -> None:
    name = sys.argv[1]
    params = load_params()
    gpus.claim()
    import torch
    from accelerate import PartialState

    from tr_align.align.resume import discard
    from tr_align.align.train import train_method

    for warning in params.warnings():
        if f"the reference of {name} " in warning:
            print(f"warning: {warning}", file=sys.stderr)
    inputs = [DATA, SFT / "model.safetensors"]
    folder = scratch.folder(f"align@{name}", {"run": tracking.run_key(name, params)}, inputs)
    main_process = PartialState(cpu=not torch.cuda.is_available()).is_main_process
    run = tracking.LiveRun(name, params, tracking.dvc_tags()) if main_process else None
    result = train_method(name, params, SFT, read_pairs(DATA), folder, run.log if run else lambda row: None)
    if run is None:
        return
    with stopping.deferred():
        run.finish()
        log, out = Path(f"logs/{name}.jsonl"), Path("models") / name
        log.parent.mkdir(exist_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        with scratch.writing(".", "the trained policies"):
            shutil.copyfile(result.log, log)
            shutil.move(result.snapshots, out)
        discard(folder)


run_stage(main)
