"""What keeping freed memory (`runtime.prepare_process`) gives a training step on a CPU.

Alternates processes with and without it on the same model and batches (default: the packaged SmolLM2, DPO, three
pairs a step) and prints the median step of each; the last line is JSON with the ratio.

    python benchmarks/allocator.py [--repeats 2] [--steps 5]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]


def measure(keep: bool, steps: int) -> list[float]:
    """Seconds of each step after the first, in this process."""
    from tr_align.runtime import prepare_process

    if keep:
        prepare_process()
    from tr_align.align.trainers import make_trainer
    from transformers import TrainerCallback

    from tr_align import models
    from tr_align.align.reference import ReferenceUpdate
    from tr_align.config import load_params
    from tr_align.data import embedded

    class Clock(TrainerCallback):
        times: list[float] = []  # noqa: RUF012

        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            self.times.append(time.perf_counter() - self.start)

    params = load_params(ROOT / "presets" / "embedded.yaml")
    pairs = embedded.pairs(embedded.load_requests(ROOT / "data/embedded/requests.jsonl"), "", 0)[:200]
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            loss="dpo",
            policy=models.load_model(params.model.name),
            tokenizer=models.load_tokenizer(params.model.name),
            pairs=pairs,
            align=params.align.model_copy(update={"steps": steps}),
            beta=params.beta.dpo,
            dpo=params.dpo,
            ipo=params.ipo,
            kto=params.kto,
            update=ReferenceUpdate(models.load_model(params.model.name), 1, None),
            seed=0,
            folder=folder,
            max_length=256,
            callbacks=[Clock()],
        )
        trainer.train()
    return Clock.times[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--measure", choices=["keep", "plain"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure == "keep", arguments.steps)))
        return
    times: dict[str, list[float]] = {"plain": [], "keep": []}
    for _ in range(arguments.repeats):
        for kind in times:
            command = [sys.executable, __file__, "--measure", kind, "--steps", str(arguments.steps)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times[kind] += json.loads(printed.strip().splitlines()[-1])
    medians = {kind: round(median(values), 2) for kind, values in times.items()}
    print(f"seconds a step, median of {len(times['plain'])}: as it is {medians['plain']}, kept {medians['keep']}")
    print(json.dumps({**medians, "speedup": round(medians["plain"] / medians["keep"], 2)}))


if __name__ == "__main__":
    main()
