"""Stage `toy_mdp`: the nine methods in a world where everything can be computed."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from safetensors.torch import save_file  # noqa: E402

from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402
from tr_align.scratch import write_atomically  # noqa: E402
from tr_align.toy.summary import summary, to_text  # noqa: E402
from tr_align.toy.train import train_all  # noqa: E402

RAW, REPORT = Path("toy_mdp/steps.safetensors"), Path("reports/toy_mdp.json")


def main() -> None:
    settings = load_params().toy_mdp
    records = train_all(settings)
    for folder in (RAW.parent, REPORT.parent):
        folder.mkdir(exist_ok=True)
    kept = {f"{loss}/{name}": t.float() for loss, one in records.items() for name, t in one.quantities.items()}
    save_file(kept, RAW)
    write_atomically(REPORT, to_text(summary(settings, records)))


run_stage(main)
