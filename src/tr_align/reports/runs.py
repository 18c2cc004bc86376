"""Finished runs of the pipeline as data: the workspace, another folder, or a DVC experiment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tr_align.config import Params, read_params
from tr_align.errors import UserError
from tr_align.judges.base import hc
from tr_align.metrics.bias import pairs_of
from tr_align.metrics.diversity import words
from tr_align.metrics.win_rate import outcome
from tr_align.reports.common import in_order, label

Row = dict[str, Any]
Reader = Callable[[str], str | None]
"""The text of a file of a run by its path, None where there is none."""

FREE = ("seed", "methods", "ref_update", "beta", "toy_mdp", "mlflow")
"""Sections of params.yaml in which runs of one report may differ; of the toy MDP it shows the first run's."""
HOW_ASKED = ("api_key_env", "concurrency", "timeout_seconds", "max_retries", "batch", "prices")
FREE_KEYS = (
    "align.learning_rate",
    *("judge.max_usd", "align.checkpoint_minutes", "align.max_tokens"),
    *(f"judge.openai.{key}" for key in HOW_ASKED),
)
"""And keys of other sections: the learning rate, which is tuned method by method, and what changes no result."""
OWN_SECTIONS = ("probe", "reward", "openai")
TOY = ("world", "curves", "along_kl", "grid", "curvature", "claims")
"""What a report shows of the toy MDP."""


@dataclass(frozen=True)
class Trained:
    """What is known of one training (or of the SFT model) of one run."""

    answers: dict[int, dict[str, Row]]
    """By step and prompt id: kl, hc (NaN where unread), axes, words, text, prompt."""
    outcomes: dict[str, dict[str, Row]]
    """By opponent ("sft", "base") and prompt id: `outcome` as :func:`tr_align.metrics.win_rate.outcome` has it, and
    the two verdicts `first` and `second`."""
    log: list[Row]
    """Of the training; empty for the SFT model, or where there is none."""
    likelihoods: list[Row]
    """Rows of :func:`tr_align.metrics.ood.likelihoods`; empty where they were not measured."""

    @property
    def last(self) -> int:
        return max(self.answers)


@dataclass
class Run:
    """A run: its settings, and what each of its models did."""

    name: str
    params: Params
    models: dict[str, Trained] = field(default_factory=dict)
    """By "sft" and method."""
    judgements: dict[str, list[Row]] = field(default_factory=dict)
    replies: dict[str, list[Row]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    judge_accuracy: Row | None = None
    calibration: Row | None = None
    toy: Row | None = None
    """What `toy_mdp` measured; None where it was not run, as in runs of before there was that stage."""
    made: Row | None = None
    """Of a study's run: `revision`, `finished` (ISO 8601), `seconds`, `machine`; None of other runs."""


def load(name: str, read: Reader) -> Run:
    """Read a run; a method whose files are missing or torn is left out, and `problems` says so.

    Raises:
        UserError: params.yaml or the SFT model's replies or ratings are missing: nothing could be compared.
    """
    text = read("params.yaml")
    if text is None:
        raise UserError(f"{name}: has no params.yaml; give the folder of a run, or a revision of this repository")
    run = Run(name, read_params(text, f"{name}: params.yaml"))
    for method in ["sft", *in_order(run.params.methods)]:
        replies, judgements = (
            _rows(run, read, f"{folder}/{method}.jsonl", f"{label(method)} is left out", _AGAIN)
            for folder in ("generations", "judgements")
        )
        if replies and judgements:
            run.replies[method], run.judgements[method] = replies, judgements
    if "sft" not in run.replies:
        raise UserError(f"{name}: {run.problems[0]}; without the SFT model there is nothing to compare with")
    for method in list(run.replies):
        try:
            run.models[method] = _trained(run, read, method)
        except (KeyError, ValueError, TypeError) as error:
            del run.replies[method], run.judgements[method]
            run.problems.append(
                f"{label(method)}: its replies and ratings do not belong together ({type(error).__name__}: {error}); "
                f"run `dvc repro judge@{method}` again"
            )
    if "sft" not in run.models:
        raise UserError(f"{name}: {run.problems[-1]}")
    of_judge = "what it says of the judge is left out"
    run.judge_accuracy = _measured(run, read, "reports/judge.json", of_judge)
    run.calibration = _measured(run, read, "reports/calibration.json", of_judge)
    run.toy = _toy(run, read)
    return run


def from_folder(folder: str | Path) -> Reader:
    """Files of a run that lies in a folder."""

    def read(path: str) -> str | None:
        file = Path(folder) / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return read


def from_revision(revision: str) -> Reader:
    """Files of a Git revision or DVC experiment of this repository, DVC's cached ones among them.

    Raises:
        UserError: there is no such revision.
    """
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError, SCMError

    try:
        files = DVCFileSystem(rev=revision)
        files.ls("/")  # opens the repository; `exists` would take every error for a "no"
    except (DvcException, RevError, SCMError) as error:
        raise UserError(f"{revision}: is no revision or experiment of this repository ({error})") from error

    def read(path: str) -> str | None:
        try:
            return str(files.read_text(path, encoding="utf-8"))
        except (OSError, DvcException):  # not in the revision, not in the cache, or the remote cannot be reached
            return None

    return read


def comparable(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs that differ from the first in nothing but seed, beta, update settings, learning rate and methods, and
    what is wrong with the others. :func:`tr_align.reports.study.study` names cells that have several learning rates.
    """
    first = _fixed(runs[0].params)
    kept, problems = [runs[0]], []
    for run in runs[1:]:
        other = _fixed(run.params)
        differing = sorted(key for key in first.keys() | other.keys() if first.get(key) != other.get(key))
        if differing:
            problems.append(
                f"{run.name} is left out: it differs from {runs[0].name} in {', '.join(differing)}, so a difference "
                "between their methods would mean nothing"
            )
        else:
            kept.append(run)
    return kept, problems


def flat(values: Row, prefix: str = "") -> Row:
    """Nested settings as `section.key`."""
    result: Row = {}
    for key, value in values.items():
        result |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return result


def _fixed(params: Params) -> Row:
    values = params.model_dump(mode="json", exclude=set(FREE))
    for judge in OWN_SECTIONS:  # settings of a judge that was not asked
        if judge != params.judge.name:
            values["judge"].pop(judge)
    return {key: value for key, value in flat(values).items() if key not in FREE_KEYS}


_AGAIN = {"missing": " (its stage did not finish)", "torn": "; run its stage again", "empty": "; run its stage again"}


def _rows(run: Run, read: Reader, path: str, lost: str, ways_out: Mapping[str, str] | None = None) -> list[Row]:
    """Rows of a JSON Lines file; none where something is wrong with it, and a problem that says what is lost."""
    try:
        text = read(path)
        rows: list[Row] = [json.loads(line) for line in (text or "").split("\n") if line]
        if rows:
            return rows
        state = "missing" if text is None else "empty"
    except ValueError:  # a line, or a character, that was cut off
        state = "torn"
    run.problems.append(f"{path} is {state}: {lost}{(ways_out or {}).get(state, '')}")
    return []


def _measured(run: Run, read: Reader, path: str, lost: str) -> Row | None:
    """A JSON file with something in it; None where nothing was measured, as of an endpoint's accuracy."""
    try:
        return json.loads(read(path) or "{}") or None
    except ValueError:
        run.problems.append(f"{path} is torn: {lost}")
        return None


def _toy(run: Run, read: Reader) -> Row | None:
    path, lost = "reports/toy_mdp.json", "the toy MDP is left out; run `dvc repro toy_mdp` again"
    toy = _measured(run, read, path, lost)
    if toy is None or (isinstance(toy, dict) and toy.keys() >= set(TOY)):
        return toy
    run.problems.append(f"{path} is of another version: {lost}")
    return None


def _trained(run: Run, read: Reader, method: str) -> Trained:
    replies, judgements = run.replies[method], run.judgements[method]
    axes = {(row["step"], row["prompt_id"]): row["axes"] for row in judgements if row["kind"] == "rating"}
    answers: dict[int, dict[str, Row]] = {}
    for row in replies:
        rating = axes[row["step"], row["prompt_id"]]
        answers.setdefault(row["step"], {})[row["prompt_id"]] = {
            "kl": float(row["kl"]),
            "hc": hc(rating),
            "axes": rating,
            "words": words(row["reply"]),
            "text": row["reply"],
            "prompt": row["prompt"],
        }
    outcomes: dict[str, dict[str, Row]] = {}
    if method != "sft":
        met = {"sft": "sft", "base": run.params.methods[method].base}
        for against, opponent in met.items():
            if (against == "base" and opponent == "sft") or opponent not in run.replies:
                continue
            duels = pairs_of(judgements, replies, run.replies[opponent], against)
            outcomes[against] = {
                duel["prompt_id"]: duel | {"outcome": outcome(duel["first"], duel["second"])} for duel in duels
            }
    log: list[Row] = []
    if method != "sft":
        log = _rows(run, read, f"reports/train/{method}.jsonl", f"no training curve of {label(method)}")
    likelihoods = _rows(run, read, f"likelihoods/{method}.jsonl", f"no OOD log-probabilities of {label(method)}")
    return Trained(answers, outcomes, log, likelihoods)


def experiments() -> list[str]:
    """Names of the DVC experiments that were run on the current commit.

    Raises:
        UserError: this is no repository of DVC.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            listed: dict[str, Iterable[Any]] = repo.experiments.ls()
    except DvcException as error:
        raise UserError(f"the experiments cannot be listed: {error}") from error
    return [name for names in listed.values() for name in _names(names)]


def _names(entries: Iterable[Any]) -> list[str]:
    return [str(entry[0] if isinstance(entry, tuple) else entry) for entry in entries]
