"""Stage `prepare`: read the data, check it, split it by prompt. Everything that can be wrong is found here."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402


def main() -> None:
    params = load_params()
    from tr_align import models, scratch
    from tr_align.data import prepare

    if params.judge.name == "openai":
        from tr_align.judges.openai import OpenAIJudge

        OpenAIJudge(params.judge.openai, scratch.folder("check", {}, []) / "answers.jsonl").check()
    models.check(params.model.name)
    splits, stats = prepare.prepare(params.data, params.seed, models.load_tokenizer(params.model.name))
    prepare.write(Path("data/prepared"), splits, stats)


run_stage(main)
