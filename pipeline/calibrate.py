"""Stage `calibrate`: measure the judge on labelled pairs; its card is printed with everything that it judged."""

from tr_align.runtime import prepare_process

prepare_process()

import json  # noqa: E402
from pathlib import Path  # noqa: E402

from tr_align import gpus, scratch, tracking  # noqa: E402
from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402


def main() -> None:
    params = load_params()
    if params.judge.name != "openai":
        gpus.claim()
    from tr_align.calibration import calibrate
    from tr_align.judging import load_judge
    from tr_align.labelled import for_judge
    from tr_align.reports.card import text

    pairs, source = for_judge(params)
    judge = load_judge(params.judge, Path("models/judge"))
    with tracking.traced_judge("calibration", params):
        card, rows = calibrate(judge, pairs, params.score.bootstrap, params.seed, source)
    answers, report = Path("judgements/calibration.jsonl"), Path("judgements/calibration.json")
    answers.parent.mkdir(exist_ok=True)
    scratch.write_rows(answers, rows)
    scratch.write_atomically(report, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    print(text(card))


run_stage(main)
