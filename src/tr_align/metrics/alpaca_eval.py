"""AlpacaEval 2: win rates and length-controlled (LC) win rates from a judge's preferences.

Sources: Dubois et al., "Length-Controlled AlpacaEval" (arXiv 2404.04475), and the benchmark's own package, alpaca-eval
0.6.6, whose numbers these are. The package cannot be imported beside our versions (it needs `pkg_resources`, which
setuptools no longer has) and its regression takes its data from the hub alone. So the regression is written here on
scikit-learn; the tests hold it against the package's, with those two things replaced, to 1e-9.

How well P(model preferred) is predicted by three features makes the LC win rate:

    logit P = a · tanh(length difference / its standard deviation) + b · difficulty of the instruction + c

fitted to the model's preferences and, with a small weight, to "gamed" rows: the baseline against itself told to be
brief or verbose, where c is left out. The LC win rate is the mean prediction for a length difference of 0.

The stand-in for the gamed rows that can be recovered from published fits is good to about 0.15 points of LC win rate
only. The publisher's own file (df_gamed.csv) has the same columns.

Two habits of the package matter for a model that lacks replies. It finds an instruction's difficulty by the place of
the annotation in the model's own list (column `row`), so what follows a gap is shifted; published LC win rates have
that in them, and so do these. And replies that were not annotated because they are empty count in `avg_length`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tr_align.errors import UserError
from tr_align.stats import Array

if TYPE_CHECKING:
    import pandas as pd

COEFFICIENTS = ("np.tanh(std_delta_len)", "instruction_difficulty", "not_gamed_baseline.astype(float)")
"""The columns of a file of published coefficients: a, b and c above."""

GAMED_WEIGHT = 0.1
"""Of a gamed row against a model's row: the package's 0.2, halved because two runs of the baseline are gamed."""

FOLDS = 5
SEED = 123
EMPTY_SHARE = 0.01
"""A run that lacks at most this share of the instructions is taken for a whole one with empty replies (published runs
lack up to 4 of 805), one that lacks more for a run on part of them."""

MISSING = {"", "nan", "na", "<na>", "null", "none"}


@dataclass(frozen=True)
class Run:
    """A model's annotations in the order of its list; all arrays have shape (n,).

    Attributes:
        row: place in the model's list, which is what the difficulty is looked up by.
        preference: 0 (baseline preferred) to 1 (model preferred), 0.5 a tie, NaN where the judge gave none.
        baseline_length, length: of the two replies, in characters.
    """

    model: str
    baseline: str
    row: np.ndarray[Any, np.dtype[np.int64]]
    preference: Array
    baseline_length: Array
    length: Array


@dataclass(frozen=True)
class Gamed:
    """The regularising rows: `features` (tanh of length, difficulty, 0), shape (n, 3), `preference` (n,) in 0 to 1."""

    features: Array
    preference: Array


def read_annotations(path: str | Path) -> list[Run]:
    """The models' annotations in a .csv or .csv.gz file, in the order in which the models first appear.

    Columns, in any order: model, row, preference (1 the baseline's reply is better ... 2 the model's is, 0 or 1.5 a
    tie, empty none), len_baseline, len_model, baseline. Other columns are ignored, the rows may come in any order, and
    rows that repeat another one to the letter are left out.

    Raises:
        UserError: the file cannot be read, lacks a column or rows, a value is not what its column takes, a model has
            two different annotations of one row, two baselines, or no preference at all.
    """
    columns = ["model", "row", "preference", "len_baseline", "len_model", "baseline"]
    table = _table(path, columns)[columns].drop_duplicates()
    for column in ("model", "baseline"):
        _refuse(path, table, column, table[column] == "", "is empty; name the model")
    values = {
        "row": _numbers(path, table, "row", whole=True),
        "preference": _numbers(path, table, "preference", missing=True),
        "len_baseline": _numbers(path, table, "len_baseline", whole=True),
        "len_model": _numbers(path, table, "len_model", whole=True),
    }
    preference = np.where(values["preference"] == 0, 1.5, values["preference"])
    _refuse(path, table, "preference", (preference < 1) | (preference > 2), "has to be 1 to 2, or 0 for a tie")
    twice = table.duplicated(["model", "row"])
    _refuse(path, table, "row", twice, "is there twice for its model, with different values; keep one annotation")

    runs = []
    for model in table["model"].unique():
        mine = np.flatnonzero(table["model"] == model)
        mine = mine[np.argsort(values["row"][mine])]
        baselines = table["baseline"].iloc[mine].unique()
        if len(baselines) > 1:
            raise UserError(f"{path}: {model} has the baselines {', '.join(baselines)}; give one file for each")
        if np.isnan(preference[mine]).all():
            raise UserError(f"{path}: {model} has no preference in any row; annotate it, or leave it out")
        runs.append(
            Run(
                model=model,
                baseline=baselines[0],
                row=values["row"][mine].astype(np.int64),
                preference=preference[mine] - 1,
                baseline_length=values["len_baseline"][mine],
                length=values["len_model"][mine],
            )
        )
    return runs


def read_difficulty(path: str | Path) -> dict[int, float]:
    """Difficulty by index from a .csv (.gz): instruction_difficulty, and eval_set_index or a column without a name.

    Raises:
        UserError: the file cannot be read, lacks a column or rows, or a value is missing, no number or there twice.
    """
    table = _table(path, ["instruction_difficulty"])
    key = _key(path, table, "eval_set_index")
    index = _numbers(path, table, key, whole=True)
    _refuse(path, table, key, table.duplicated([key]), "is there twice; keep one difficulty an instruction")
    difficulty = _numbers(path, table, "instruction_difficulty")
    return {int(key): float(value) for key, value in zip(index, difficulty, strict=True)}


def read_gamed(path: str | Path) -> Gamed:
    """The regularising rows from a .csv (.gz): preference (0 to 1), std_delta_len, instruction_difficulty.

    Raises:
        UserError: the file cannot be read, lacks a column or rows, or a value is not what its column takes.
    """
    columns = ["preference", "std_delta_len", "instruction_difficulty"]
    table = _table(path, columns)
    preference = _numbers(path, table, "preference", missing=True)
    _refuse(path, table, "preference", (preference < 0) | (preference > 1), "has to be 0 to 1 in the gamed rows")
    length = _numbers(path, table, "std_delta_len")
    difficulty = _numbers(path, table, "instruction_difficulty")
    known = ~np.isnan(preference)
    features = np.column_stack([np.tanh(length), difficulty, np.zeros(len(table))])
    return Gamed(features[known], preference[known])


def read_weights(path: str | Path) -> dict[str, Array]:
    """Published coefficients (a, b, c), shape (3,), by model (column model, or without a name); a model's last count.

    Raises:
        UserError: the file cannot be read, lacks a column or rows, or a value is missing or no number.
    """
    table = _table(path, list(COEFFICIENTS))
    models = table[_key(path, table, "model")]
    coefficients = np.column_stack([_numbers(path, table, column) for column in COEFFICIENTS])
    return dict(zip(models, coefficients, strict=True))


def score(run: Run, difficulty: dict[int, float], by: Gamed | Array) -> dict[str, Any]:
    """A model's line of the leaderboard; rates and their standard errors in percent, lengths in characters.

    Args:
        difficulty: by index, one for each instruction of the benchmark.
        by: the gamed rows to fit with, or the coefficients (a, b, c) to predict with.
    Returns:
        model, win_rate, standard_error, length_controlled_winrate, lc_standard_error (None of a single row),
        avg_length, n_total (rows with a preference). Those without are predicted like the others, as in the package.
    Raises:
        UserError: a row has no difficulty, or all length differences are the same, so that none can be controlled for.
    """
    unknown = [int(row) for row in run.row if int(row) not in difficulty]
    if unknown:
        raise UserError(
            f"{run.model}: row {unknown[0]} is not among the {len(difficulty)} instructions with a difficulty; "
            "give the difficulty file of this benchmark, and count rows from 0"
        )
    known = run.preference[~np.isnan(run.preference)]
    if run.model == run.baseline:
        predicted = np.full(len(run.row), 0.5)
    else:
        hardness = np.array([difficulty[int(row)] for row in run.row])
        _, b, c = fit(run, hardness, by) if isinstance(by, Gamed) else by
        predicted = (1 + np.tanh((b * hardness + c) / 2)) / 2  # the logistic function, safe far out
    return {
        "model": run.model,
        "win_rate": 100 * float(known.mean()),
        "standard_error": _standard_error(known),
        "length_controlled_winrate": 100 * float(predicted.mean()),
        "lc_standard_error": _standard_error(predicted),
        "avg_length": _average_length(run, len(difficulty)),
        "n_total": len(known),
    }


def fit(run: Run, hardness: Array, gamed: Gamed) -> Array:
    """The coefficients (a, b, c) of the regression in the module's docstring, shape (3,).

    L1-regularised; the strength is the best of ten by log loss in a cross-validation of five folds. A row with
    preference p enters as one with label 1 and weight p and one with label 0 and weight 1 - p, both in one fold.

    Args: `hardness` of shape (n,), the difficulty of the run's rows.
    Raises:
        UserError: the length differences are all the same.
    """
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    difference = run.baseline_length - run.length
    # Over all rows, those without a preference too.
    spread = float(difference.std(ddof=1)) if len(difference) > 1 else 0.0
    if spread == 0:
        raise UserError(f"{run.model}: its replies differ from the baseline's by one and the same length; leave it out")
    known = ~np.isnan(run.preference)
    mine = np.column_stack([np.tanh(difference / spread), hardness, np.ones(len(hardness))])[known]
    features = np.vstack([gamed.features, mine])
    target = np.concatenate([gamed.preference, run.preference[known]])
    weight = np.where(features[:, 2] == 1, 1.0, GAMED_WEIGHT)

    def log_loss(label: Array, predicted: Array, target: Array, weight: Array) -> float:
        # Against the preference itself; the label only carries it into the fit.
        bounded = np.clip(predicted, 1e-15, 1 - 1e-15)
        return -float(np.mean(weight * (target * np.log(bounded) + (1 - target) * np.log(1 - bounded))))

    with config_context(enable_metadata_routing=True):  # how `target` and `weight` reach the loss fold by fold
        scorer = make_scorer(log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            Cs=10,
            cv=GroupKFold(n_splits=FOLDS),
            scoring=scorer.set_score_request(target=True, weight=True),
            l1_ratios=(1.0,),
            solver="liblinear",
            fit_intercept=False,
            random_state=SEED,
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        model.fit(
            np.vstack([features, features]),
            np.repeat([1, 0], len(target)),
            sample_weight=np.concatenate([target, 1 - target]) * np.tile(weight, 2),
            groups=np.tile(np.arange(len(target)), 2),
            target=np.tile(target, 2),
            weight=np.tile(weight, 2),
        )
    coefficients: Array = model.coef_[0]
    return coefficients


def _standard_error(values: Array) -> float | None:
    """Of the mean of values, shape (n,), in percent; None for a single one."""
    return 100 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else None


def _average_length(run: Run, instructions: int) -> int:
    """Mean length of the replies, rounded down, empty ones that were never annotated included (see `EMPTY_SHARE`)."""
    whole = instructions - len(run.row) <= EMPTY_SHARE * instructions
    # A gap in `row` is an annotation that was taken out of the list: a reply of unknown length, not an empty one.
    never_listed = instructions - 1 - int(run.row.max()) if whole else 0
    return int(run.length.sum() / (len(run.row) + never_listed))


def _table(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file, every cell as text: a model may be called 7 or NA."""
    import pandas as pd

    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:  # ValueError: what pandas and decoding raise
        raise UserError(f"{path}: cannot be read as CSV: {str(error).strip()}") from error
    for column in columns:
        if column not in table.columns:
            raise UserError(f"{path}: has no column {column!r}; it has {_names(table)}. Rename or add it")
    if table.empty:
        raise UserError(f"{path}: has no rows below its header")
    return table


def _key(path: str | Path, table: pd.DataFrame, name: str) -> str:
    """The column `name`, or the one without a name that a saved pandas index is."""
    for column in table.columns:
        if column == name or column.startswith("Unnamed: "):
            return str(column)
    raise UserError(f"{path}: has no column {name!r}; it has {_names(table)}. Rename or add it")


def _names(table: pd.DataFrame) -> str:
    names = ", ".join(map(str, table.columns))
    return names if len(names) <= 200 else names[:200] + " ..."  # a file that is no CSV may be one long header


def _numbers(path: str | Path, table: pd.DataFrame, column: str, whole: bool = False, missing: bool = False) -> Array:
    """A column as numbers, NaN where `missing` is allowed and so; `whole` ones are counts, 0 or more."""
    import pandas as pd

    none = table[column].str.strip().str.lower().isin(MISSING)
    values = pd.to_numeric(table[column].mask(none), errors="coerce").to_numpy(dtype=np.float64)
    if not missing:
        _refuse(path, table, column, none, "is missing")
    _refuse(path, table, column, ~none & ~np.isfinite(values), "is not a number")
    if whole:
        _refuse(path, table, column, (values < 0) | (values != np.round(values)), "has to be a whole number, 0 or more")
    return values


def _refuse(path: str | Path, table: pd.DataFrame, column: str, wrong: Any, why: str) -> None:
    """Raise for the first row that is `wrong`, shape (n,); its number counts the rows of data from 1."""
    places = np.flatnonzero(np.asarray(wrong))
    if len(places):
        place = places[0]
        number, value = int(table.index[place]) + 1, table[column].iloc[place]
        raise UserError(f"{path}:{number}: {column}: {value!r} {why} (data row {number})")
