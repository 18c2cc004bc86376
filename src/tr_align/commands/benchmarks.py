"""`tr-align alpaca-eval`, `arena-hard` and `mt-bench`: scores of public benchmarks from a judge's stored answers."""

from __future__ import annotations

import argparse
import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tr_align.commands.options import count, natural
from tr_align.errors import UserError

ALPACA_EVAL = """\
Win rate and length-controlled (LC) win rate of AlpacaEval 2: one JSON object a model and line, with model, win_rate,
standard_error, length_controlled_winrate, lc_standard_error (all percent), avg_length (characters), n_total.

The numbers are those of the package alpaca-eval 0.6.6. A length-controlled win rate needs a regression; give --gamed
to fit it, or --weights to predict with coefficients that were published.
Where --gamed is the stand-in recovered from published fits and not the publisher's df_gamed.csv, LC win rates are
good to about 0.15 points only."""

ARENA_HARD = """\
Win rates of Arena-Hard v0.1 against its baseline: one JSON object a model and line, with model, score (percent, 50
for the baseline), lower, upper (95 % bootstrap over judgments), n_games, n_missing.

Each row of a file is a judgment as arena-hard-auto v0.1 writes it: model, question_id, and two games, the baseline as
Assistant A in the first and as B in the second. Games without a readable verdict, or with several, are counted in
n_missing and left out."""

MT_BENCH = """\
MT-Bench scores by single-answer grading: one JSON object a model and line, with model, score (mean rating, 1 to 10),
ci (95 % bootstrap over questions), turn_1, turn_2, n (ratings), n_missing, score_missing_as_0 (if
those counted as 0).

Each row of a file is a judgment as FastChat writes it: model, question_id, turn, judgment. As there, judgments without
a rating are left out (n_missing counts them), and a question that was rated again counts with each of its ratings."""


def register(commands: Any) -> None:
    """Add the three commands to the parser's subparsers."""
    alpaca = _add(
        commands,
        "alpaca-eval",
        "win rate and length-controlled win rate of AlpacaEval 2",
        ALPACA_EVAL,
        "tr-align alpaca-eval --annotations annotations.csv.gz --difficulty instruction_difficulty.csv "
        "--gamed df_gamed.csv",
    )
    alpaca.add_argument(
        "--annotations",
        required=True,
        metavar="FILE",
        help=".csv or .csv.gz with model, row (place in the model's list of annotations, from 0), preference (1 the "
        "baseline is better ... 2 the model is, 0 or 1.5 a tie, empty where the judge gave none), len_baseline, "
        "len_model (characters), baseline",
    )
    alpaca.add_argument(
        "--difficulty", required=True, metavar="FILE", help=".csv with eval_set_index, instruction_difficulty"
    )
    alpaca.add_argument(
        "--gamed",
        metavar="FILE",
        help=".csv with the regularising rows: preference (0 to 1), std_delta_len, instruction_difficulty; "
        "not read with --weights",
    )
    alpaca.add_argument("--weights", metavar="FILE", help=".csv with published coefficients to predict with, not fit")
    alpaca.set_defaults(run=alpaca_eval)

    arena = _add(
        commands,
        "arena-hard",
        "Bradley-Terry win rates of Arena-Hard v0.1",
        ARENA_HARD,
        "tr-align arena-hard --judgments model_judgment/gpt-4-1106-preview/*.jsonl --bootstrap 1000 --seed 0",
    )
    _add_judgments(arena)
    arena.add_argument("--baseline", default="gpt-4-0314", metavar="NAME", help="default: %(default)s")
    arena.set_defaults(run=arena_hard)

    mt = _add(
        commands,
        "mt-bench",
        "ratings of MT-Bench, single-answer grading",
        MT_BENCH,
        "tr-align mt-bench --judgments gpt-4_single.jsonl",
    )
    _add_judgments(mt)
    mt.set_defaults(run=mt_bench)


def alpaca_eval(options: argparse.Namespace) -> None:
    """Print a line for each model of the annotations, in their order.

    Raises:
        UserError: a file is wrong, there is neither --gamed nor --weights, or --weights lacks a model.
    """
    from tr_align.metrics import alpaca_eval as metric

    if options.gamed is None and options.weights is None:
        raise UserError("alpaca-eval needs --gamed to fit the regression with, or --weights to predict with")
    runs = metric.read_annotations(options.annotations)
    difficulty = metric.read_difficulty(options.difficulty)
    if options.weights is None:
        gamed = metric.read_gamed(options.gamed)
        lines = [metric.score(run, difficulty, gamed) for run in runs]
    else:
        weights = metric.read_weights(options.weights)
        for run in runs:
            if run.model not in weights:
                raise UserError(
                    f"{options.weights}: has no coefficients of {run.model}; leave --weights out to fit them"
                )
        lines = [metric.score(run, difficulty, weights[run.model]) for run in runs]
    _print(lines)


def arena_hard(options: argparse.Namespace) -> None:
    """Print a line for the baseline and each model of the judgments.

    Raises:
        UserError: a file is wrong, or no game has a verdict.
    """
    from tr_align.metrics import arena_hard as metric

    _print(metric.scores(read_rows(options.judgments), options.baseline, options.bootstrap, options.seed))


def mt_bench(options: argparse.Namespace) -> None:
    """Print a line for each model of the judgments.

    Raises:
        UserError: a file is wrong.
    """
    from tr_align.metrics import mt_bench as metric

    _print(metric.scores(read_rows(options.judgments), options.bootstrap, options.seed))


def read_rows(paths: Sequence[str | Path]) -> Iterator[tuple[str, Any]]:
    """The rows of .jsonl and .jsonl.gz files, each with its file and line for messages.

    Raises:
        UserError: a file cannot be read, has no row, or a line is not JSON.
    """
    for path in map(Path, paths):
        if not path.is_file():
            raise UserError(f"{path}: there is no such file")
        opened = gzip.open if path.suffix == ".gz" else open
        rows = 0
        try:
            with opened(path, "rt", encoding="utf-8-sig") as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        rows += 1
                        yield f"{path}:{number}", json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{path}:{number}: is not JSON ({error.msg}); the file needs one JSON object a line"
            ) from error
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read ({error}); fetch the file again") from error
        if not rows:
            raise UserError(f"{path}: is empty; it needs one JSON object a line")


def _add(commands: Any, name: str, summary: str, description: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def _add_judgments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--judgments", required=True, nargs="+", metavar="FILE", help=".jsonl or .jsonl.gz files")
    command.add_argument(
        "--bootstrap",
        type=count,
        default=1000,
        metavar="N",
        help="resamples for the interval (default: %(default)s)",
    )
    command.add_argument("--seed", type=natural, default=0, metavar="N", help="of the resamples (default: %(default)s)")


def _print(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        print(json.dumps(line, ensure_ascii=False, allow_nan=False))
