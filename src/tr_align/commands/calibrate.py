"""`tr-align calibrate`: the card of any judge, measured on a file of labelled pairs."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tr_align.commands.judge import add_endpoint_arguments, judge_from
from tr_align.commands.options import natural
from tr_align.errors import UserError

if TYPE_CHECKING:
    from tr_align.judges.base import Judge

RESAMPLES = 2000
BATCH_SIZE = 16
"""Of a stored judge: replies read at a time."""


def register(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "calibrate",
        help="measure a judge on pairs whose better reply is known",
        description="Measure a judge on labelled pairs, with obviously wrong replies and with replies that give it "
        "orders. With 100 pairs it is asked up to 880 questions (296 ratings, 584 duels).",
    )
    parser.add_argument(
        "--pairs", required=True, metavar="FILE", help="prompt, chosen (the better reply) and rejected, one pair a row"
    )
    parser.add_argument("--judge", metavar="FOLDER", help="a fitted judge such as models/judge, instead of --model")
    add_endpoint_arguments(parser, required=False)
    parser.add_argument(
        "--n", type=partial(natural, least=2), default=100, metavar="N", help="pairs to use, at most (default 100)"
    )
    parser.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="of the choice of pairs and the intervals (default 0)"
    )
    parser.add_argument("--out", metavar="FILE", help="write the card to this file, as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure, print the card and write it.

    Raises:
        UserError: not exactly one of --model and --judge is given; the pairs cannot be read, are too few or those
            that the judge was fitted on; the folder of --out is missing; the judge cannot be loaded or asked.
    """
    from tr_align import labelled
    from tr_align.calibration import calibrate
    from tr_align.reports.card import text
    from tr_align.scratch import write_atomically

    if (options.model is None) == (options.judge is None):
        raise UserError("give either --model NAME (an endpoint's) or --judge FOLDER (a fitted judge)")
    # Before anything is paid for.
    if options.out and not Path(options.out).absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {Path(options.out).parent} to write to; make it first")
    if options.judge and Path(options.pairs).resolve() == labelled.JUDGE_SPLIT.resolve():
        raise UserError(
            f"--pairs: most of {options.pairs} fitted the judge, so it would look better than it is. Take other pairs, "
            "or run `dvc repro calibrate`, which measures on the part that the fit left out"
        )
    # An empty system message, as in the pipeline: it keeps a fitted judge's chat template from putting its own there.
    pairs = labelled.choose(labelled.read(options.pairs, "--pairs", ""), options.n, options.seed)
    judge = _stored(Path(options.judge)) if options.judge else judge_from(options)
    card, _ = calibrate(judge, pairs, RESAMPLES, options.seed, options.pairs)
    if options.out:
        write_atomically(options.out, json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    print(text(card))


def _stored(folder: Path) -> Judge:
    """The reward model or the probes in a folder; which layers probes read was decided when they were stored."""
    if (folder / "reward.json").is_file():
        from tr_align.judges import reward

        return reward.load(folder, BATCH_SIZE)
    if not (folder / "probes.json").is_file():
        raise UserError(f"--judge: {folder} holds no judge; `dvc repro judge_fit` stores one in models/judge")
    from tr_align.judges import probe
    from tr_align.settings import Probe

    layers = json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    # held_out and regularisation matter to a fit only.
    settings = Probe(model=str(folder), layer=layers, held_out=0.5, regularisation=1.0, batch_size=BATCH_SIZE)
    return probe.load(folder, settings)
