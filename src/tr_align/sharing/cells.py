"""A trained cell of the pipeline as it lies in the workspace: its weights, its numbers, and whether they still hold."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tr_align.config import Params
from tr_align.errors import UserError

Row = dict[str, Any]

PUBLISHED = (".safetensors", ".json", ".jinja", ".txt", ".model")
"""What a model's folder may hold: weights, configurations, tokenizers. Nothing that is unpickled or run."""
NOT_HERE = ("deleted", "not in cache")
"""States of `dvc status` that say where a file is, not that it changed."""
FIGURE = "kl_vs_hc.png"


@dataclass(frozen=True)
class Cell:
    """A trained model and what is known of it."""

    name: str
    params: Params
    files: dict[str, Path]
    """The model's, by name."""
    scores: dict[str, Row]
    """`final` of reports/score by "sft", its base method and its own name."""
    claims: list[Row]
    """Its rows of reports/claims.json, without those about the toy world, which say nothing of this model."""
    calibration: Row | None
    data: Row
    """The account of the data, data/prepared/stats.json; empty where it was not pulled."""
    figure: Path | None
    commit: str | None
    """Of the code, with ", with local changes" where it has some."""
    changed: list[str]
    """What differs from when it was trained and scored, in words."""


def find(name: str, params: Params, root: Path, changed: Sequence[str] = ()) -> Cell:
    """Read a cell.

    Args: `name`: a method. changed: what :func:`differences` says of it.
    Raises:
        UserError: it is none of this run, or its model or scores are missing, torn, of different steps, or not safe.
    """
    if name not in params.methods:
        raise UserError(f"{name}: is no method of params.yaml; it has {', '.join(params.methods)}")
    step = params.align.steps
    folder = root / "models" / name / f"step-{step:05d}"
    if not folder.is_dir():
        raise UserError(
            f"{name}: there is no trained model in {folder.relative_to(root)}; train it with `dvc repro score@{name}`, "
            f"or fetch it with `dvc pull align@{name}`"
        )
    names = ("sft", params.methods[name].base, name)
    scores = {each: _score(root, each) for each in dict.fromkeys(names)}
    if scores[name]["step"] != step:
        raise UserError(
            f"{name}: reports/score/{name}.json is of step {scores[name]['step']} and the model of step {step}; "
            f"run `dvc repro score@{name}`"
        )
    figure = root / "reports" / "figures" / FIGURE
    return Cell(
        name=name,
        params=params,
        files=model_files(folder),
        scores=scores,
        claims=[
            row
            for row in _json(root / "reports/claims.json") or []
            if row["cell"] == name and not row["kind"].startswith("toy_")
        ],
        calibration=_json(root / "reports/calibration.json"),
        data=_json(root / "data/prepared/stats.json") or {},
        figure=figure if figure.is_file() else None,
        commit=_commit(root),
        changed=list(changed),
    )


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a saved model, by name.

    Raises:
        UserError: one is of a kind that is not published, weights are no safetensors file or cut off, or what
            transformers needs is not all there.
    """
    files = {path.name: path for path in sorted(folder.iterdir())}
    for path in files.values():
        if path.suffix not in PUBLISHED or not path.is_file():
            raise UserError(
                f"{path}: is not published; a model's folder holds only {', '.join(PUBLISHED)} files, nothing that "
                "would be unpickled or run where it is loaded. Remove it, or train again"
            )
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="np"):
                    pass
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path}: is no whole safetensors file ({error}); fetch or train it again") from error
    missing = [name for name in ("config.json", "tokenizer_config.json") if name not in files]
    if not any(name.endswith(".safetensors") for name in files):
        missing.append("model.safetensors")
    if missing:
        raise UserError(f"{folder}: lacks {', '.join(missing)}; fetch or train it again")
    return files


def differences(names: Sequence[str], root: Path) -> dict[str, list[str]]:
    """By cell, what DVC says has changed since its model was trained and scored: settings, code, data, results.

    A file that is not here, because it was not pulled, has not changed.
    Raises:
        UserError: this is no DVC repository, or it has no such stage.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            shared = _changes(repo.status(targets=["report"]))
            return {
                name: [
                    *_changes(repo.status(targets=[f"score@{name}", "calibrate"], with_deps=True)),
                    *(f"the report ({change})" for change in shared),
                ]
                for name in names
            }
    except DvcException as error:
        raise UserError(
            f"DVC cannot tell whether the models belong to params.yaml ({error}); run this at the repository's root"
        ) from error


def _changes(status: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(change for entries in status.values() for change in _of_stage(entries)))


def _of_stage(entries: Sequence[Any]) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, str):  # "changed command"
            yield entry
            continue
        for files in entry.values():
            for path, state in files.items():
                if isinstance(state, dict):  # settings of a params file
                    yield from (f"{key} {what}" for key, what in state.items())
                elif state not in NOT_HERE:
                    yield f"{path} {state}"


def _score(root: Path, name: str) -> Row:
    path = root / "reports" / "score" / f"{name}.json"
    found = _json(path)
    if found is None:
        stage = "score_sft" if name == "sft" else f"score@{name}"
        raise UserError(f"{path.relative_to(root)}: is missing; run `dvc repro {stage}`")
    return dict(found["final"])


def _json(path: Path) -> Any:
    """None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: is no JSON file ({error}); run its stage again") from error


def _commit(root: Path) -> str | None:
    """None outside a Git repository, or before its first commit."""

    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", str(root), *command], check=True, capture_output=True, text=True).stdout

    try:
        commit = git("rev-parse", "HEAD").strip()
        # What the pipeline writes does not count.
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", "src", "pipeline", "params.yaml", "dvc.yaml")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}, with local changes" if dirty else commit
