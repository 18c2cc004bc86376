"""Send what lies under reports/ to MLflow: after a run, or to make the store anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tr_align import tracking
from tr_align.config import Params
from tr_align.errors import UserError
from tr_align.reports.common import in_order
from tr_align.reports.theme import TONES
from tr_align.scratch import read_rows
from tr_align.tracking.store import without_password
from tr_align.tracking.tables import reply_table

ARTIFACTS = ("*.html", "*.md", "*.tex", "*.json", "*.png", "*.svg", "figures/*")


def publish(params: Params, reports: Path) -> None:
    """Bring MLflow up to the report files. If it cannot be reached, say so: the report is not worth less for it.

    Raises:
        UserError: there is no report yet.
    """
    try:
        send(params, reports.parent, tracking.dvc_tags())
    except UserError:
        raise
    except Exception as error:
        print(
            f"MLflow does not show this run yet ({type(error).__name__}: {without_password(error)}); "
            "the files under reports/ have it all, and `make mlflow` rebuilds MLflow from them",
            file=sys.stderr,
        )


def send(params: Params, root: Path, tags: Mapping[str, str]) -> list[str]:
    """Bring MLflow up to the files under `root`: those in git, and the replies where DVC has them.

    Returns: what is missing there, and so in MLflow, in words.
    Raises:
        UserError: there are no scores. Exception: MLflow's, if it cannot be reached or is broken.
    """
    reports = root / "reports"
    found = {name: reports / "score" / f"{name}.json" for name in ("sft", *in_order(params.methods))}
    scores = {name: json.loads(path.read_text("utf-8")) for name, path in found.items() if path.exists()}
    if len(scores) < 2 or "sft" not in scores:
        raise UserError(f"{reports / 'score'}: has no results; run `make repro` first, at the root of the repository")
    sft = scores.pop("sft")
    models, silent = {}, []
    for name, score in scores.items():
        replies, judgements = (read_rows(root / folder / f"{name}.jsonl") for folder in ("generations", "judgements"))
        if not (replies and judgements):
            silent.append(name)
        models[name] = tracking.Model(
            # At step 0 the policy is the SFT model: every curve starts there.
            curve=[*sft["curve"], *score["curve"]],
            final=score["final"],
            training=read_rows(reports / "train" / f"{name}.jsonl"),
            replies=reply_table(replies, judgements) if replies and judgements else None,
        )
    artifacts = {
        path: str(path.parent.relative_to(reports)).removeprefix(".")
        for pattern in ARTIFACTS
        for path in sorted(reports.glob(pattern))
        if path.is_file()
    }
    colours = {name: TONES[params.methods[name].loss][params.methods[name].update] for name in models}
    tracking.publish(params, models, artifacts, tags, colours)
    missing = [f"no scores of {name}" for name in found if name != "sft" and name not in models]
    if silent:
        missing.append(f"no table of replies for {len(silent)}, whose generations/ and judgements/ are not here")
    return missing
