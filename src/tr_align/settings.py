"""The sections of `params.yaml` as typed models; :mod:`tr_align.config` puts them together and reads the file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

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

PREFERENCE = "preference"
"""The one axis of a judge that was fitted on preferences, which do not say what is wrong with the rejected reply."""


TOY_ACTIONS = 3
"""At each state of the toy tree, as in Rafailov et al. 2024 (arXiv 2406.02900)."""
TOY_DEPTH = 8
"""The most: 6,561 trajectories, enumerated after every step of a thousand trainings."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Launch(Strict):
    """What starts the stages that can use several processes, before the name of their script."""

    train: Annotated[str, Field(min_length=1)] = "python"
    generate: Annotated[str, Field(min_length=1)] = "python"


class Splits(Strict):
    """How many prompts each split gets. No prompt is in two of them."""

    sft: Count
    preferences: Count
    judge: Natural
    evaluation: Annotated[Whole, Field(ge=2)]


class SftData(Strict):
    """Demonstrations of their own for SFT; without them it gets chosen replies of preferences."""

    source: Literal["ultrachat", "tldr", "files"]
    path: str | None = None
    revision: str | None = None


class Data(Strict):
    source: Literal["embedded", "anthropic_hh", "tldr", "ultrafeedback", "files"]
    path: str | None = None
    revision: str | None = None
    subsets: Annotated[list[str], Field(min_length=1)] | None = None
    sft: SftData | None = None
    judge: Literal["embedded", "source", "leftover"] = "embedded"
    seed: Natural | None = None
    """Of the splits; None: the run's own. Given, runs of several seeds have prompts and judge in common."""
    system_prompt: str | None = None
    splits: Splits
    max_prompt_tokens: Count
    max_reply_tokens: Count
    max_dropped: Annotated[Real, Field(ge=0, le=1)]


class Model(Strict):
    name: str
    revision: str | None = None
    chat_template: str | None = None


class Sft(Strict):
    steps: Natural
    batch_size: Count
    gradient_accumulation: Count = 1
    learning_rate: Positive
    warmup_steps: Natural
    gradient_checkpointing: bool = False
    checkpoint_minutes: Positive = 10.0


class Method(Strict):
    """One cell of the experiment; `moves` and `interval` name the settings of its update, for DVC to watch."""

    loss: Loss
    update: Update
    base: str
    moves: str
    interval: str
    learning_rate: Positive | None = None
    """In place of `align.learning_rate`, for methods that were tuned one by one."""


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
    engine: Literal["transformers", "vllm", "auto"] = "transformers"
    tensor_parallel: Count = 1


class Ood(Strict):
    """Of how many prompts the log-probability of fixed texts is followed (None: those of the curves), and a file with
    texts of another kind than replies, one for each of them."""

    prompts: Annotated[Whole, Field(ge=2)] | None = None
    texts: str = "data/foreign/texts.jsonl"


class Probe(Strict):
    model: str
    layer: Count
    held_out: Annotated[Real, Field(gt=0, lt=1)]
    regularisation: Positive
    batch_size: Count


class RewardModel(Strict):
    """The judge that is trained on preferences; `seed` is its own, so that runs of several seeds have one judge."""

    model: str = "packaged:smollm2-135m-instruct"
    revision: str | None = None
    seed: Natural = 1
    held_out: Annotated[Real, Field(gt=0, lt=1)] = 0.25
    epochs: Count = 1
    batch_size: Count = 8
    gradient_accumulation: Count = 1
    learning_rate: Positive = 1e-5
    warmup_steps: Natural = 5


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
    name: Literal["probe", "reward", "openai"]
    max_usd: Positive | None = None
    probe: Probe
    reward: RewardModel = RewardModel()
    openai: OpenAIJudge


class Calibrate(Strict):
    """Which labelled pairs measure the judge; by default those of the judge split."""

    path: str = "data/prepared/judge.jsonl"
    pairs: Annotated[Whole, Field(ge=2)] = 100


class Score(Strict):
    bootstrap: Annotated[Whole, Field(ge=100)]


class ToyGrid(Strict):
    """The update settings of the toy world's grid: every alpha with every interval, and every tau."""

    alpha: Annotated[list[Fraction], Field(min_length=1)] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    every: Annotated[list[Count], Field(min_length=1)] = [1, 64]
    tau: Annotated[list[Count], Field(min_length=1)] = [32, 64, 128, 256, 512]

    @field_validator("alpha", "every", "tau")
    @classmethod
    def _increasing(cls, values: list[float]) -> list[float]:
        if values != sorted(set(values)):
            raise ValueError("has to increase, with no value twice")
        return values


class ToyMdp(Strict):
    """The tree world of :mod:`tr_align.toy`, its policy and trainings. `ref_update` is that of the nine methods."""

    seed: Natural = 0
    seeds: Annotated[Whole, Field(ge=2)] = 20
    depth: Count = 5
    demonstrations: Count = 81
    pairs: Natural = 20
    hidden: Count = 16
    pretrain_steps: Natural = 500
    pretrain_learning_rate: Positive = 0.02
    steps: Annotated[Whole, Field(ge=10)] = 640
    learning_rate: Positive = 0.001
    beta: Beta = Beta(dpo=0.1, ipo=0.1, kto=0.1)
    ref_update: RefUpdate = RefUpdate(alpha=0.6, every=64, tau=64)
    grid: ToyGrid = ToyGrid()

    @property
    def trajectories(self) -> int:
        """Leaves of the tree."""
        return int(TOY_ACTIONS**self.depth)

    @model_validator(mode="after")
    def _small_and_partly_covered(self) -> ToyMdp:
        if self.depth > TOY_DEPTH:
            raise ValueError(
                f"depth: is {self.depth}: a tree of {TOY_ACTIONS}^{self.depth} trajectories is too large to enumerate "
                f"after every step; give at most {TOY_DEPTH}"
            )
        if self.demonstrations >= self.trajectories:
            raise ValueError(
                f"demonstrations: is {self.demonstrations}, but the tree has {self.trajectories} trajectories: nothing "
                "would be out of distribution; give fewer, or more depth"
            )
        if not self.pairs:
            raise ValueError("pairs: is 0: preferences that cover nothing train nothing; give at least 1")
        if 2 * self.pairs >= self.demonstrations:
            raise ValueError(
                f"pairs: is {self.pairs}: pairs of two trajectories, each in one pair, would cover all "
                f"{self.demonstrations} demonstrations or more, and leave no other in distribution; give at most "
                f"{(self.demonstrations - 1) // 2}"
            )
        intervals = {"ref_update.every": self.ref_update.every, "ref_update.tau": self.ref_update.tau}
        intervals |= {f"grid.every: {k}": k for k in self.grid.every} | {f"grid.tau: {k}": k for k in self.grid.tau}
        for key, interval in intervals.items():
            if interval >= self.steps:
                raise ValueError(
                    f"{key.partition(':')[0]}: {interval} is not below toy_mdp.steps, {self.steps}: that reference "
                    "would never move while it is used; lower the one or raise the other"
                )
        return self


class Mlflow(Strict):
    experiment: str
    trace_judge: bool = False
