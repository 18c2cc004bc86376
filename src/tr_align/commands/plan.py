"""`tr-align plan`: what a run will need, before it starts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tr_align.errors import UserError

PREPARED = Path("data/prepared/stats.json")


def register(commands: Any) -> None:
    """Add `plan` to the command line."""
    parser = commands.add_parser(
        "plan",
        help="memory, hours, calls, dollars and disk of a run, before it starts",
        description="What the settings will need: cells to run, memory of a GPU, GPU-hours, the judge's calls and "
        "dollars, disk. Hours rest on assumptions, which are printed with them.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--params", default="params.yaml", metavar="FILE", help="settings (default: params.yaml)")
    source.add_argument("--preset", metavar="NAME", help="a preset's settings, as `tr-align preset` lists them")
    parser.add_argument("--gpu", default="h100", help="h200, h100, a100-80gb, a100-40gb, l40s, rtx4090 (default: h100)")
    parser.add_argument("--mfu", type=float, help="assumed share of the GPU's peak (default: 0.35)")
    parser.add_argument("--gpu-hour-usd", type=float, metavar="X", help="what a GPU costs an hour")
    parser.add_argument("--all", action="store_true", help="all cells, also those that are up to date")
    parser.add_argument("--sweep", action="store_true", help="each run of the settings' sweep, not only their sum")
    parser.add_argument("--json", action="store_true", help="JSON: bytes, hours, dollars")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the plan.

    Raises:
        UserError: the settings, the model's configuration or an option cannot be used.
    """
    import json

    from tr_align.config import load_params
    from tr_align.planning import cells, gpus, plan, table
    from tr_align.planning.compute import MFU

    path = _path(options)
    params = load_params(path)
    if options.sweep and not params.sweep:
        raise UserError(f"{path}: has no sweep; add e.g. `sweep: {{ref_update.alpha: [0.2, 0.8]}}`")
    mfu = MFU if options.mfu is None else options.mfu
    if not 0 < mfu <= 1:
        raise UserError(f"--mfu: is {mfu:g}; it has to be a share of the GPU's peak, more than 0 and at most 1")
    if options.gpu_hour_usd is not None and not options.gpu_hour_usd > 0:
        raise UserError(f"--gpu-hour-usd: is {options.gpu_hour_usd:g}; it has to be more than 0")
    gpu = gpus.find(options.gpu)
    stages = cells.cells(params)
    # Only of params.yaml does DVC know what is up to date.
    current = path.resolve() == Path("params.yaml").resolve()
    to_run = cells.pending() if current and not options.all else list(stages)
    prepared = PREPARED if current and "prepare" not in to_run else None
    made = plan.make(params, stages, to_run, gpu, mfu, prepared)
    if options.json:
        print(json.dumps(made.to_json() | {"params": str(path)}, indent=1))
    else:
        print(table.text(made, options.gpu_hour_usd, options.sweep))


def _path(options: argparse.Namespace) -> Path:
    if options.preset is None:
        return Path(options.params)
    from tr_align.commands.preset import find

    return find(options.preset)
