"""Which experiments a sweep consists of, and which stages they have in common."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tr_align.config import Params, read_params
from tr_align.errors import UserError
from tr_align.planning.cells import followers, reached
from tr_align.reports.runs import flat

PARAMS = "params.yaml"
CODE = ("src", "pipeline", "dvc.yaml")
"""What an experiment runs beside its settings."""


@dataclass(frozen=True)
class Experiment:
    """One run of the pipeline: `overrides` are what DVC's option -S takes, `params` what they make of params.yaml."""

    name: str
    overrides: tuple[str, ...]
    params: Params


def planned(base: Params, given: Sequence[str]) -> tuple[list[Experiment], bool]:
    """The experiments of `given`, values of DVC's option -S, or without any those of the section `sweep`.

    Settings that params.yaml has already are no experiment, but the workspace's own run; the second result says
    whether that belongs to the sweep. The section's always does: its values are compared with it.

    Raises:
        UserError: there is nothing to run, no such setting, a setting cannot have a value, or a name cannot be given.
    """
    if given:
        combinations = _combinations(given)
    elif base.sweep:
        combinations = [(f"{key}={_literal(value)}",) for key, value, _ in base.variants()]
    else:
        raise UserError(
            f"{PARAMS}: has no section sweep; write one (sweep: {{ref_update.alpha: [0.3, 0.6]}}) "
            "or give -S 'ref_update.alpha=0.3,0.6'"
        )
    found: list[Experiment] = []
    with_base = not given
    for overrides in combinations:
        params = _overridden(overrides)
        if same(params) == same(base):
            with_base = True
        elif all(same(params) != same(other.params) for other in found):
            name = unused(_name(overrides), (other.name for other in found))
            found.append(Experiment(name, overrides, params))
    if not found:
        raise UserError("every value is that of params.yaml itself; dvc repro runs it")
    return found, with_base


def same(params: Params) -> dict[str, Any]:
    """The settings by which a run is known again; a list of further runs is not one of them."""
    return params.model_dump(mode="json", exclude={"sweep"})


def unused(name: str, names: Iterable[str]) -> str:
    """The name, with a number where it is taken."""
    taken, number, found = set(names), 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    return found


def changed_keys(base: Params, params: Params) -> set[str]:
    """The settings in which two differ, as `section.key`."""
    one, other = flat(same(base)), flat(same(params))
    return {key for key in one.keys() | other.keys() if one.get(key, ...) != other.get(key, ...)}


class Stages:
    """The stages of dvc.yaml: the settings that each depends on, the stages it follows, and what all write."""

    def __init__(
        self, settings: Mapping[str, Iterable[str]], follows: Iterable[tuple[str, str]], outputs: Iterable[str] = ()
    ) -> None:
        self.outputs = [Path(output) for output in outputs]
        self.settings = {stage: tuple(keys) for stage, keys in settings.items()}
        self.followers = followers(follows)

    @classmethod
    def of_workspace(cls, repo: Any) -> Stages:
        """Those of an open :class:`dvc.repo.Repo`."""
        index = repo.index
        settings = {
            stage.addressing: [key for dep in stage.deps if hasattr(dep, "params") for key in dep.params]
            for stage in index.stages
        }
        follows = [(stage.addressing, other.addressing) for stage, other in index.graph.edges]
        return cls(settings, follows, [out.def_path for stage in index.stages for out in stage.outs])

    def touched(self, keys: Iterable[str]) -> set[str]:
        """The stages that run anew when these settings change, with all that follow from them."""
        keys = list(keys)
        first = (
            stage
            for stage, settings in self.settings.items()
            if any(_in(key, setting) for key in keys for setting in settings)
        )
        return reached(first, lambda stage: self.followers.get(stage, ()))

    def shared(self, base: Params, experiments: Iterable[Experiment]) -> list[str]:
        """The stages that at least one experiment leaves as they are in the workspace."""
        every = set(self.settings)
        kept = (every - self.touched(changed_keys(base, experiment.params)) for experiment in experiments)
        return sorted(set().union(*kept))


def copied_paths(experiments: Iterable[Experiment], base: Params, stages: Stages) -> list[str]:
    """Files and folders that settings name, that experiments read, and that git does not hold.

    DVC's copies of the repository have only what git holds and DVC makes. Outputs of stages are left out, and absolute
    paths, which are the same everywhere.
    """
    tracked = _tracked()
    found = set()
    for experiment in experiments:
        touched = stages.touched(changed_keys(base, experiment.params))
        read = [setting for stage in touched for setting in stages.settings[stage]]
        for key, value in flat(same(experiment.params)).items():
            if not isinstance(value, str) or not any(_in(key, setting) for setting in read):
                continue
            path = Path(value)
            made = any(path.is_relative_to(output) for output in stages.outputs)
            if path.exists() and not path.is_absolute() and not made and str(path) not in tracked:
                found.add(_copied(path, tracked))
    return sorted(found)


def not_in_git() -> list[str]:
    """Files of the code that git does not hold, so that experiments would run without them."""
    return _names(git("ls-files", "-z", "--others", "--exclude-standard", "--", *CODE))


def git(*arguments: str, refused: tuple[int, ...] = ()) -> str | None:
    """What git prints; None where it ends with a status of `refused`.

    Raises:
        UserError: it ends with another.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode in refused:
        return None
    if done.returncode:
        raise UserError(f"git {arguments[0]}: {done.stderr.strip()}; experiments need a Git repository with a commit")
    return done.stdout


def _copied(path: Path, tracked: set[str]) -> str:
    """The path or the first folder above it that is not in git: DVC copies into folders that exist, and no others."""
    heads = (str(Path(*path.parts[:length])) for length in range(1, len(path.parts) + 1))
    return next(head for head in heads if head not in tracked)


def _tracked() -> set[str]:
    """Files in git and the folders that hold them."""
    files = _names(git("ls-files", "-z"))
    return {str(part) for file in files for part in (Path(file), *Path(file).parents)}


def _names(listed: str | None) -> list[str]:
    return [name for name in (listed or "").split("\0") if name]


def _combinations(given: Sequence[str]) -> list[tuple[str, ...]]:
    """DVC's reading of -S: `key=1,2` and `key=range(...)` are several values, several keys every combination."""
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    files = to_path_overrides(given)
    if set(files) != {PARAMS}:
        raise UserError(f"-S: {', '.join(sorted(set(files) - {PARAMS}))}: settings are in {PARAMS} only")
    try:
        return [tuple(_plain(item) for item in sweep[PARAMS]) for sweep in get_hydra_sweeps(files)]
    except HydraException as error:
        raise UserError(
            f"-S {' '.join(given)}: cannot be read ({str(error).splitlines()[0]}); "
            "write e.g. -S 'ref_update.alpha=0.3,0.6'"
        ) from error


def _plain(override: str) -> str:
    """0.3 and not 0.30000000000000004, the third value of range(0.1,0.9,0.1)."""
    key, equals, value = override.partition("=")
    if re.fullmatch(r"-?\d+\.\d{12,}", value):
        value = f"{float(value):.12g}"
    return key + equals + value


def _overridden(overrides: Sequence[str]) -> Params:
    """The settings with these changes, made by DVC itself."""
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides

    shown = " ".join(overrides)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PARAMS
        copy.write_text(Path(PARAMS).read_text(encoding="utf-8"), encoding="utf-8")
        try:
            apply_overrides(copy, list(overrides))
        except DvcException as error:
            why = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"-S {shown}: {why}; write a setting as in ref_update.alpha=0.3") from error
        return read_params(copy.read_text(encoding="utf-8"), f"-S {shown}")


def _literal(value: Any) -> str:
    """A value as DVC's -S reads it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


def _name(overrides: Sequence[str]) -> str:
    """A name that says what is different, e.g. alpha-0.3 or beta.ipo-0.1_seed-1, of letters that Git allows."""
    parts = [override.lstrip("+~").removeprefix("ref_update.").replace("=", "-", 1) for override in overrides]
    name = re.sub(r"[^A-Za-z0-9._]+", "-", "_".join(parts))
    return re.sub(r"\.\.+", ".", name)[:100].strip("-.")


def _in(key: str, setting: str) -> bool:
    """Whether a key is a setting, or is in the section of that name."""
    return key == setting or key.startswith(setting + ".")
