"""The cells of the experiment: the stages of dvc.yaml for any settings, what a change touches, what DVC would run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tr_align.config import Params
from tr_align.errors import UserError

_REFERENCE = re.compile(r"\$\{([^}]+)\}")


@dataclass(frozen=True)
class Cell:
    """A stage: the settings it depends on, the files it reads and those it writes."""

    params: frozenset[str]
    reads: frozenset[str]
    writes: frozenset[str]


def cells(params: Params, pipeline: str | Path = "dvc.yaml") -> dict[str, Cell]:
    """The stages of a pipeline, by DVC's names (`align@dpo`), with these settings.

    Raises:
        UserError: there is no such file.
    """
    try:
        stages = yaml.safe_load(Path(pipeline).read_text(encoding="utf-8"))["stages"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{pipeline}: cannot be read ({error}); run this in the folder of a tr-align project") from None
    settings = params.model_dump(mode="json")
    found = {}
    for name, stage in stages.items():
        if "foreach" not in stage:
            found[name] = _cell(stage, settings)
            continue
        for key, item in settings["methods"].items():
            found[f"{name}@{key}"] = _cell(stage["do"], settings | {"key": key, "item": item})
    return found


def _cell(stage: Mapping[str, Any], values: Mapping[str, Any]) -> Cell:
    def names(*kinds: str) -> frozenset[str]:
        entries = [entry for kind in kinds for entry in stage.get(kind, [])]
        return frozenset(_filled(entry if isinstance(entry, str) else next(iter(entry)), values) for entry in entries)

    return Cell(names("params"), names("deps"), names("outs", "metrics", "plots"))


def _filled(text: str, values: Mapping[str, Any]) -> str:
    """`${a.b}` replaced by its value."""

    def value(match: re.Match[str]) -> str:
        found: Any = values
        for part in match.group(1).split("."):
            found = found[part]
        return str(found)

    return _REFERENCE.sub(value, text)


def touched(stages: Mapping[str, Cell], key: str) -> set[str]:
    """The stages that run again when the setting `key` changes: those that depend on it, and what follows."""
    return followed(stages, (name for name, cell in stages.items() if any(_within(key, p) for p in cell.params)))


def followed(stages: Mapping[str, Cell], first: Iterable[str]) -> set[str]:
    """These stages and all that read what they write."""

    def readers(name: str) -> list[str]:
        written = stages[name].writes
        return [
            other
            for other, cell in stages.items()
            if any(_under(a, b) or _under(b, a) for a in written for b in cell.reads)
        ]

    return reached(first, readers)


def reached(first: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """These stages and all that follow from them; `following` names those that follow directly from one."""
    found: set[str] = set()
    todo = list(first)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += following(name)
    return found


def followers(edges: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """By stage, those that follow directly from it; an edge is a stage and one that it depends on."""
    found: dict[str, set[str]] = {}
    for stage, dependency in edges:
        found.setdefault(dependency, set()).add(stage)
    return found


def _within(key: str, other: str) -> bool:
    """Whether one of two settings is the other or a part of it."""
    return key == other or key.startswith(other + ".") or other.startswith(key + ".")


def _under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def pending() -> list[str]:
    """Stages that have to run: those that changed and all that follows from them, as far as DVC knows now.

    Raises:
        UserError: this folder is no project of DVC's.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            changed = set(repo.status())
            follows = followers((stage.addressing, other.addressing) for stage, other in repo.index.graph.edges)
    except DvcException as error:
        raise UserError(f"DVC cannot tell what is to be run: {error}") from error
    return sorted(reached(changed, lambda name: follows.get(name, ())))
