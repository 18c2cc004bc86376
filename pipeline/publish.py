"""`make mlflow`: rebuild MLflow's store from the files under reports/, for example in a fresh clone."""

from tr_align.runtime import prepare_process

prepare_process()

from pathlib import Path  # noqa: E402

from tr_align.config import load_params  # noqa: E402
from tr_align.progress import run_stage  # noqa: E402
from tr_align.reports.publish import publish  # noqa: E402

run_stage(lambda: publish(load_params(), Path("reports")))
