"""Stage `judge@METHOD` (and `judge_sft`): the judge rates every reply and compares the trained model's with others'.

The only stage that may cost money: its answers are kept, and `score` computes from them.
"""

from tr_align.runtime import prepare_process

prepare_process()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from tr_align import gpus, scratch, tracking  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402


def main() -> None:
    name = sys.argv[1]
    params = load_params()
    if params.judge.name != "openai":
        gpus.claim()
    from tr_align.judging import judge_replies, load_judge

    def replies(method: str) -> list[dict[str, Any]]:
        return scratch.read_rows(f"generations/{method}.jsonl")

    opponents = {}
    if name != "sft":
        opponents["sft"] = replies("sft")
        base = params.methods[name].base
        if base != "sft":
            opponents["base"] = replies(base)
    judge = load_judge(params.judge, Path("models/judge"))
    out = Path(f"judgements/{name}.jsonl")
    out.parent.mkdir(exist_ok=True)
    with tracking.traced_judge(name, params):
        rows = judge_replies(judge, replies(name), opponents)
    scratch.write_rows(out, rows)


run_stage(main)
