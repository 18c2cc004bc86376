"""The one place that knows MLflow: a view of what the files under reports/ record.

One run a trained model, found again by the tag `run_key` (a hash of the settings that made the model), so that
`align` starts a run, `report` adds its scores, and `tr-align mlflow rebuild` makes everything anew from the files.
docs/mlflow.md says what is in a run and how to read it.
"""

from tr_align.runtime import disable_telemetry
from tr_align.tracking.identity import dvc_tags, run_key, run_name, settings
from tr_align.tracking.live import LiveRun
from tr_align.tracking.publish import Model, publish
from tr_align.tracking.store import Tracker
from tr_align.tracking.traces import traced_judge

disable_telemetry()  # MLflow looks once, when it is imported: the modules here import it when they are used

__all__ = ["LiveRun", "Model", "Tracker", "dvc_tags", "publish", "run_key", "run_name", "settings", "traced_judge"]
