"""Stage `score@METHOD` (and `score_sft`): numbers with intervals from replies and judgements. Free to repeat."""

import json
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


run_stage(main)
