"""`params.yaml` as typed, validated models.

Every stage reads its settings through :func:`load_params`, so a misspelt key or a value outside its
range stops the first stage, before any training. Unknown keys are refused.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from tr_align.errors import UserError
from tr_align.settings import (
    Align,
    Beta,
    Calibrate,
    Data,
    Dpo,
    Generate,
    Ipo,
    Judge,
    Kto,
    Launch,
    Loss,
    Method,
    Mlflow,
    Model,
    Natural,
    Ood,
    RefUpdate,
    Score,
    Sft,
    Strict,
    ToyMdp,
)


class Params(Strict):
    """The whole of `params.yaml`."""

    seed: Natural
    launch: Launch = Launch()
    data: Data
    model: Model
    sft: Sft
    methods: dict[str, Method]
    align: Align
    ref_update: RefUpdate
    beta: Beta
    dpo: Dpo
    ipo: Ipo
    kto: Kto
    generate: Generate
    ood: Ood = Ood()
    judge: Judge
    calibrate: Calibrate
    score: Score
    toy_mdp: ToyMdp = ToyMdp()
    mlflow: Mlflow
    sweep: dict[str, list[Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known_methods(self) -> Params:
        if not self.methods:
            raise ValueError("methods: is empty; name at least one of " + ", ".join(METHODS))
        for name, method in self.methods.items():
            if name not in METHODS:
                raise ValueError(f"methods.{name}: unknown method{_closest(name, METHODS)}")
            expected = METHODS[name]
            # Without its base a method is trained as ever, and meets the SFT model alone in duels.
            allowed = {"learning_rate": method.learning_rate}
            if method not in (expected.model_copy(update=allowed | {"base": base}) for base in (expected.base, "sft")):
                raise ValueError(f"methods.{name}: has to read {expected.model_dump(exclude_none=True)}")
            if method.base != "sft" and method.base not in self.methods:
                raise ValueError(
                    f"methods.{name}: is compared with {method.base}, which is missing; add it, or write base: sft"
                )
        return self

    @model_validator(mode="after")
    def _sweep_of_known_settings(self) -> Params:
        for key, values in self.sweep.items():
            if not values:
                raise ValueError(f"sweep.{key}: is empty; name the values to try, or delete the line")
            for value in values:
                self._with(key, value)
        return self

    def _with(self, key: str, value: Any) -> Params:
        """These settings with one changed, without a sweep.

        Raises:
            ValueError: there is no such setting, or it cannot have that value.
        """
        raw = self.model_dump(exclude={"sweep"})
        *parents, name = key.split(".")
        section: Any = raw
        for part in parents:
            section = section.get(part) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise ValueError(f"sweep.{key}: there is no such setting; write it as in ref_update.alpha")
        section[name] = value
        try:
            return Params.model_validate(raw)
        except ValidationError as error:
            raise ValueError(f"sweep.{key}: {_explain(error.errors()[0])}") from error

    def learning_rate(self, method: str) -> float:
        """The learning rate that a method is trained with."""
        return self.methods[method].learning_rate or self.align.learning_rate

    @property
    def split_seed(self) -> int:
        """By which prompts are dealt to the splits."""
        return self.seed if self.data.seed is None else self.data.seed

    @property
    def ood_prompts(self) -> int:
        """Prompts whose fixed texts are measured, if there are as many and a text of another kind for each."""
        return self.ood.prompts or max(2, self.generate.curve_prompts)

    def variants(self) -> list[tuple[str, Any, Params]]:
        """The runs of `sweep`: key, value, and these settings with that one changed.

        A value that these settings have already is left out.
        """
        return [
            (key, value, changed)
            for key, values in self.sweep.items()
            for value in values
            if (changed := self._with(key, value)) != self.model_copy(update={"sweep": {}})
        ]

    def warnings(self) -> list[str]:
        """What is allowed but hardly meant: references that never move."""
        found = []
        for name, method in self.methods.items():
            key = {"none": None, "soft": "every", "hard": "tau"}[method.update]
            interval = getattr(self.ref_update, key) if key else 0
            if interval >= self.align.steps:
                found.append(
                    f"ref_update.{key}: is {interval}, but align.steps is {self.align.steps}: the reference of {name} "
                    f"never moves while it is used, so this is {method.base} under another name; lower the one or "
                    "raise the other"
                )
        return found


def _methods() -> dict[str, Method]:
    knobs = {"soft": ("ref_update.alpha", "ref_update.every"), "hard": ("ref_update.tau", "ref_update.tau")}
    methods = {}
    for loss in get_args(Loss):
        # A base method has no update; DVC wants a name there all the same.
        methods[loss] = Method(loss=loss, update="none", base="sft", moves=f"beta.{loss}", interval=f"beta.{loss}")
    for loss in get_args(Loss):
        for update in ("soft", "hard"):
            moves, interval = knobs[update]
            methods[f"tr_{loss}_{update}"] = Method(loss=loss, update=update, base=loss, moves=moves, interval=interval)
    return methods


METHODS: dict[str, Method] = _methods()
"""The nine methods, by name: dpo, ipo, kto and their soft and hard trust-region variants."""


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and validate a params file.

    Raises:
        UserError: the file is missing or unreadable, is not YAML, has an unknown key, or has a value outside its range;
            the message names the file, the key and the way out.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(
            f"{path}: there is no such file. Start from one in presets/, e.g. cp presets/embedded.yaml {path}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a UTF-8 text file: {error}") from error
    return read_params(text, str(path))


def read_params(text: str, name: str) -> Params:
    """The same from the text of a file that is called `name` in messages, as :func:`load_params`."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{name}: is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{name}: has to be a mapping of settings; see presets/embedded.yaml")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise UserError("\n".join(f"{name}: {_explain(item)}" for item in error.errors())) from error


def _explain(error: Any) -> str:
    """One pydantic error in the user's words: the key, what is wrong, what to do."""
    location = error["loc"]
    key = ".".join(str(part) for part in location)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key{_closest(str(location[-1]), _fields_at(location[:-1]))}"
    if error["type"] == "missing":
        return f"{key}: is missing; presets/embedded.yaml shows it with its default"
    if error["type"] in ("model_type", "dict_type"):
        return f"{key}: has to be a mapping of settings (it is {error['input']!r}); see presets/embedded.yaml"
    message = str(error["msg"]).removeprefix("Value error, ")
    if not key:
        return message
    if error["type"] == "value_error" and isinstance(error["input"], dict):
        return f"{key}.{message}"  # of a section as a whole: the message names the key in it
    return f"{key}: {message[0].lower()}{message[1:]} (it is {error['input']!r})"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """The keys that are known at a place of the file."""
    model: type[BaseModel] = Params
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        kinds = (annotation, *get_args(annotation))  # the model itself, or one that may be null
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            return list(Method.model_fields)  # the entries of `methods` are the only ones with free names
        model = models[0]
    return list(model.model_fields)


def _closest(name: str, candidates: Any) -> str:
    candidates = list(candidates)
    close = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; known are " + ", ".join(candidates)
