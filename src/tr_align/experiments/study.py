"""A study: a list of runs of the pipeline, each a preset with some settings changed, judged by one judge or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from tr_align.config import METHODS, read_params
from tr_align.errors import UserError
from tr_align.settings import Positive, Strict

JudgeName = Literal["probe", "reward", "openai"]


class StudyRun(Strict):
    """A run: what it is for, its methods (None: all), and its settings where they are not the preset's."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    why: str
    methods: Annotated[list[str], Field(min_length=1)] | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    report: bool = True
    """Whether the report is made of it, and OOD measured; the runs of a search for settings are left out."""


class Study(Strict):
    """Runs, most important first. The first judge judges each run as it ends, the others go over all of them after."""

    preset: str
    out: str
    judges: Annotated[list[JudgeName], Field(min_length=1)]
    learning_rates: dict[str, Positive] = Field(default_factory=dict)
    """By method, what a search has found: for the runs that the report is made of."""
    runs: Annotated[list[StudyRun], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_differ(self) -> Study:
        unknown = sorted(set(self.learning_rates) - set(METHODS))
        if unknown:
            raise ValueError(f"learning_rates: there is no method {', '.join(unknown)}")
        for key, names in (("runs", [run.name for run in self.runs]), ("judges", self.judges)):
            twice = sorted({str(name) for name in names if list(names).count(name) > 1})
            if twice:
                raise ValueError(f"{key}: {', '.join(twice)} is there twice")
        return self


def read_study(path: str | Path) -> Study:
    """Read and validate the file of a study.

    Raises:
        UserError: it cannot be read, or is no study; the message names the key.
    """
    try:
        return Study.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {key}{': ' if key else ''}{first['msg'].removeprefix('Value error, ')}") from error


def preset(study: Study) -> dict[str, Any]:
    """The preset that the study's runs change, as YAML's values.

    Raises:
        UserError: it cannot be read.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(Path(study.preset).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"preset: {study.preset}: cannot be read: {error}") from error
    return raw


def settings(study: Study, run: StudyRun, judge: JudgeName, data: str | None) -> dict[str, Any]:
    """The params.yaml of a run, as YAML's values.

    Args: `data`: takes the place of `data.path`.
    Raises:
        UserError: the preset cannot be read, or a setting of the run does not exist or cannot have its value.
    """
    raw = preset(study)
    changes = run.set | {"judge.name": judge} | ({"data.path": data} if data else {})
    for key, value in changes.items():
        *parents, last = key.split(".")
        section: Any = raw
        for part in parents:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise UserError(f"{run.name}: set.{key}: there is no such section; write it as in ref_update.alpha")
        section[last] = value
    if run.methods is not None:
        raw["methods"] = {name: _method(run, name) for name in run.methods}
    if run.report:
        for name, rate in study.learning_rates.items():
            if name in raw["methods"]:
                raw["methods"][name]["learning_rate"] = rate
    raw.pop("sweep", None)
    read_params(yaml.safe_dump(raw), f"run {run.name}")
    return raw


def _method(run: StudyRun, name: str) -> dict[str, Any]:
    """A method; without its base in the run it has no duel with it."""
    if name not in METHODS:
        raise UserError(f"{run.name}: methods: there is no {name}; there are {', '.join(METHODS)}")
    method = METHODS[name].model_dump(exclude_none=True)
    return method if method["base"] in (run.methods or ()) else method | {"base": "sft"}
