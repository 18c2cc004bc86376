"""Stage `generate@METHOD` (and `generate_sft`): replies to the evaluation prompts, each with its KL to the SFT."""

from tr_align.runtime import prepare_process

prepare_process()

import shutil  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from tr_align import gpus, scratch  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.data.schema import read_pairs  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402

DATA, SFT = Path("data/prepared/evaluation.jsonl"), Path("models/sft")


def main() -> None:
    name = sys.argv[1]
    params = load_params()
    gpus.claim(1 if params.generate.engine == "transformers" else params.generate.tensor_parallel)
    from tr_align.processes import this_process
    from tr_align.replies import generate_replies
    from tr_align.vllm_engine import choose

    process = this_process()
    generate = choose(params.generate, params.launch.generate)
    points = [(0, SFT)]
    if name != "sft":
        points = [(int(path.name.removeprefix("step-")), path) for path in sorted(Path("models", name).glob("step-*"))]
    weights = [path / "model.safetensors" for _, path in points]
    settings = {"generate": generate.model_dump(mode="json"), "seed": params.seed}
    folder = scratch.folder(f"generate@{name}", settings, [DATA, SFT / "model.safetensors", *weights])
    rows = generate_replies(points, SFT, read_pairs(DATA), generate, params.seed, folder, f"{name}: replies", process)
    if rows is None:
        return
    out = Path(f"generations/{name}.jsonl")
    out.parent.mkdir(exist_ok=True)
    scratch.write_rows(out, rows)
    shutil.rmtree(folder)


run_stage(main)
