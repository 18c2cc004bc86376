"""Stage `prepare`: read the data, check it, split it by prompt. What can be wrong is found here, before training."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402


def main() -> None:
    params = load_params()
    from tr_align import models, preflight
    from tr_align.data import prepare

    preflight.check_settings(params)
    model = params.model
    tokenizer = models.load_tokenizer(model.name, model.revision, model.chat_template)
    models.check_prompt_format(tokenizer)
    splits, stats = prepare.prepare(params.data, params.split_seed, tokenizer)
    preflight.check_splits(params, splits)
    prepare.write(Path("data/prepared"), splits, stats)


run_stage(main)
