"""`params.yaml` as typed, validated models.

Every stage reads its settings through :func:`load_params`, so a misspelt key or a value outside its
range stops the first stage, before any training. Unknown keys are refused.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from tr_align.errors import UserError

Loss = Literal["dpo", "ipo", "kto"]
Update = Literal["none", "soft", "hard"]


def _not_a_switch(value: Any) -> Any:
    """pydantic reads `true` as 1; text stays allowed, for YAML reads `1e-4` as text."""
    if isinstance(value, bool):
        raise ValueError("has to be a number")
    return value


Whole = Annotated[int, BeforeValidator(_not_a_switch)]
Real = Annotated[float, BeforeValidator(_not_a_switch)]
Natural = Annotated[Whole, Field(ge=0)]
Count = Annotated[Whole, Field(ge=1)]
Fraction = Annotated[Real, Field(gt=0, le=1)]
Positive = Annotated[Real, Field(gt=0)]

AXES = ("coherence", "correctness", "helpfulness", "harmlessness", "detail")
"""The five human-centric (HC) axes of arXiv 2404.09656 v1; `detail` is its "level of detail"."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Splits(Strict):
    """How many prompts each split gets. No prompt is in two of them."""

    sft: Count
    preferences: Count
    judge: Natural
    evaluation: Annotated[Whole, Field(ge=2)]


class Data(Strict):
    source: Literal["embedded", "anthropic_hh", "files"]
    path: str | None = None
    system_prompt: str | None = None
    splits: Splits
    max_prompt_tokens: Count
    max_reply_tokens: Count
    max_dropped: Annotated[Real, Field(ge=0, le=1)]


class Model(Strict):
    name: str


class Sft(Strict):
    steps: Count
    batch_size: Count
    learning_rate: Positive
    warmup_steps: Natural


class Method(Strict):
    """One cell of the experiment; `moves` and `interval` name the settings of its update, for DVC to watch."""

    loss: Loss
    update: Update
    base: str
    moves: str
    interval: str


class Lora(Strict):
    """Train an adapter on all linear layers instead of the whole model."""

    rank: Count
    scale: Count


class Align(Strict):
    steps: Count
    batch_size: Count
    gradient_accumulation: Count
    max_tokens: Count
    learning_rate: Positive
    warmup_steps: Natural
    max_grad_norm: Positive
    gradient_checkpointing: bool
    lora: Lora | None = None
    sft_rewards: bool
    held_out: Natural
    log_every: Count
    evaluate_at: Annotated[list[Fraction], Field(min_length=1)]
    checkpoint_minutes: Positive

    @field_validator("evaluate_at")
    @classmethod
    def _increasing_to_the_end(cls, points: list[float]) -> list[float]:
        if points != sorted(set(points)) or points[-1] != 1.0:
            raise ValueError("has to increase and to end with 1.0 (the trained model)")
        return points

    @property
    def evaluation_steps(self) -> list[int]:
        """The optimizer steps after which the policy is kept for evaluation, increasing, last = `steps`."""
        return sorted({max(1, round(point * self.steps)) for point in self.evaluate_at})


class RefUpdate(Strict):
    alpha: Fraction
    every: Count
    tau: Count


class Beta(Strict):
    dpo: Positive
    ipo: Positive
    kto: Positive


class Dpo(Strict):
    label_smoothing: Annotated[Real, Field(ge=0, lt=0.5)]


class Ipo(Strict):
    length_average: bool


class Kto(Strict):
    paired: bool
    desirable_weight: Positive
    undesirable_weight: Positive


class Generate(Strict):
    curve_prompts: Count
    max_new_tokens: Count
    temperature: Positive
    top_p: Fraction
    batch_size: Count


class Probe(Strict):
    model: str
    layer: Count
    held_out: Annotated[Real, Field(gt=0, lt=1)]
    regularisation: Positive
    batch_size: Count


PROMPTS = "src/tr_align/judges/prompts"


class Prompts(Strict):
    """The files with the questions put to an LLM judge."""

    rate: str = f"{PROMPTS}/rate.txt"
    prefer: str = f"{PROMPTS}/prefer.txt"


class OpenAIJudge(Strict):
    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    prompts: Prompts = Prompts()
    max_tokens: Count = 512
    concurrency: Count = 16
    timeout_seconds: Positive = 60.0
    max_retries: Natural = 5
    batch: bool = False
    prices: str = "src/tr_align/judges/prices.yaml"


class Judge(Strict):
    name: Literal["probe", "openai"]
    max_usd: Positive | None = None
    probe: Probe
    openai: OpenAIJudge


class Calibrate(Strict):
    """Which labelled pairs measure the judge; by default those of the judge split."""

    path: str = "data/prepared/judge.jsonl"
    pairs: Annotated[Whole, Field(ge=2)] = 100


class Score(Strict):
    bootstrap: Annotated[Whole, Field(ge=100)]


class Mlflow(Strict):
    experiment: str
    trace_judge: bool = False


class Params(Strict):
    """The whole of `params.yaml`."""

    seed: Natural
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
    judge: Judge
    calibrate: Calibrate
    score: Score
    mlflow: Mlflow

    @model_validator(mode="after")
    def _known_methods(self) -> Params:
        if not self.methods:
            raise ValueError("methods: is empty; name at least one of " + ", ".join(METHODS))
        for name, method in self.methods.items():
            if name not in METHODS:
                raise ValueError(f"methods.{name}: unknown method{_closest(name, METHODS)}")
            expected = METHODS[name]
            if method != expected:
                raise ValueError(f"methods.{name}: has to read {expected.model_dump()}")
            if expected.base != "sft" and expected.base not in self.methods:
                raise ValueError(f"methods.{name}: is compared with {expected.base}, which is missing; add it")
        return self

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
