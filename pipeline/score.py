"""Stage `score@METHOD` (and `score_sft`): numbers with intervals from replies and judgements. Free to repeat.

It also copies into reports/, and so into git, what the stages before it measured. They cannot write there themselves:
DVC's cache of runs, which spares an experiment a training that another had, leaves out stages with uncached outputs.
"""

import json
import shutil
import sys
from pathlib import Path

from tr_align import scratch
from tr_align.config import load_params
from tr_align.progress import run_stage
from tr_align.scoring import score


def main() -> None:
    name = sys.argv[1]
    params = load_params()
    rows, judgements = (scratch.read_rows(f"{folder}/{name}.jsonl") for folder in ("generations", "judgements"))
    met = {} if name == "sft" else {"sft": "sft", "base": params.methods[name].base}
    opponents = {against: scratch.read_rows(f"generations/{model}.jsonl") for against, model in met.items()}
    out = Path(f"reports/score/{name}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    numbers = score(rows, judgements, opponents, params.score.bootstrap, params.seed)
    out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    copies = {f"logs/{name}.jsonl": f"reports/train/{name}.jsonl"}
    if name == "sft":
        copies["models/judge/accuracy.json"] = "reports/judge.json"
        copies["judgements/calibration.json"] = "reports/calibration.json"
    for measured, copy in copies.items():
        Path(copy).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(measured, copy)


run_stage(main)
