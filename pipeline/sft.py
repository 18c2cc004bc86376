"""Stage `sft`: fine-tune the base model on the chosen replies."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align import scratch  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.data.schema import read_pairs  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402


def main() -> None:
    params = load_params()
    from tr_align.sft import fine_tune

    pairs = read_pairs("data/prepared/sft.jsonl")
    log = Path("reports/train/sft.jsonl")
    log.parent.mkdir(parents=True, exist_ok=True)
    fine_tune(params, pairs, Path("models/sft"), log, scratch.root() / ".scratch" / "sft")


run_stage(main)
