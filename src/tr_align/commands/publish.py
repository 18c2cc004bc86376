"""`tr-align publish`: trained models with their model cards, as folders or on the Hugging Face hub."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path
from typing import Any

from tr_align.errors import UserError


def register(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "publish",
        help="trained models for others: folders or the Hugging Face hub, with a model card",
        description="Give trained models to others: weights (safetensors), configuration, tokenizer with its chat "
        "template, and a model card with the results of reports/. Run it at the root of the repository.",
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="e.g. tr_dpo_soft; default: all of params.yaml")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument(
        "--to",
        metavar="OWNER/NAME",
        help="repositories on the hub; {method} and {seed} are filled in: alice/hh-{method}",
    )
    target.add_argument("--folder", metavar="DIR", help="write a folder a method in here, upload nothing")
    parser.add_argument(
        "--license", metavar="ID", help="as the hub names it, e.g. mit; default: the base model's, if known"
    )
    parser.add_argument("--private", action="store_true", help="make new repositories private")
    parser.add_argument(
        "--dry-run", action="store_true", help="only print what it would do; nothing is written or sent"
    )
    parser.add_argument(
        "--force", action="store_true", help="publish what has changed since it was trained; the card says so"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Collect and check all models first, then write or upload one after the other.

    Raises:
        UserError: a model or its scores are missing, have changed, or are not safe; the licence is unknown; a name is
            no repository's, or is that of two models; a folder is taken; the hub refuses or cannot be reached.
    """
    from tr_align.config import load_params
    from tr_align.sharing import cells, hub
    from tr_align.sharing.card import model_card

    root = Path()
    params = load_params()
    names = list(dict.fromkeys(options.methods)) or list(params.methods)
    license = _license(options.license, params)
    targets = {
        name: hub.repository(options.to, name, params.seed) if options.to else str(Path(options.folder) / name)
        for name in names
    }
    if len(set(targets.values())) < len(names):
        raise UserError(f"--to: {options.to!r} is one repository for {len(names)} models; put {{method}} into it")
    for name in names:
        cells.find(name, params, root)  # what is missing is told before what has changed
    changed = cells.differences(names, root)
    published = {}
    for name, target in targets.items():
        if changed[name] and not options.force:
            raise UserError(
                f"{name}: has changed since it was trained and scored: {', '.join(changed[name])}; run `dvc repro` "
                "first, or publish it as it is with --force"
            )
        cell = cells.find(name, params, root, changed[name])
        shown = target if options.to else name  # a path says nothing on another machine
        files: dict[str, Path | bytes] = {**cell.files, "README.md": model_card(cell, license, shown).encode()}
        if cell.figure:
            files[cells.FIGURE] = cell.figure
        published[target] = files
        if options.folder and Path(target).exists():
            raise UserError(f"{target}: exists; delete it, or choose another --folder")
    if options.to and not options.dry_run:
        hub.check_token()
    for target, files in published.items():
        _show(target, files)
        if options.dry_run:
            continue
        if options.folder:
            _write(Path(target), files)
        else:
            message = f"{Path(target).name} by tr-align"
            print(f"  {hub.upload(target, files, options.private, message)}", flush=True)
    if options.dry_run:
        print("Dry run: nothing was written and nothing sent.")


def _license(given: str | None, params: Any) -> str:
    from tr_align.sharing.card import known_license

    license = given or known_license(params)
    if license is None:
        raise UserError(
            f"the licence of {params.model.name} is not known here; name it with --license, as its own model card does"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UserError(
            f"--license: {license!r} is no name of a licence on the hub; write e.g. apache-2.0, mit, llama3"
        )
    return license


def _show(target: str, files: dict[str, Path | bytes]) -> None:
    sizes = {name: len(file) if isinstance(file, bytes) else file.stat().st_size for name, file in files.items()}
    print(f"{target}  {_size(sum(sizes.values()))}")
    width = max(map(len, sizes))
    for name, size in sorted(sizes.items()):
        print(f"  {name:<{width}}  {_size(size):>9}", flush=True)


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _write(folder: Path, files: dict[str, Path | bytes]) -> None:
    """All of them or, after a kill or a full disk, no folder of that name."""
    unfinished = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        for name, file in files.items():
            if isinstance(file, bytes):
                (unfinished / name).write_bytes(file)
            else:
                shutil.copyfile(file, unfinished / name)
        os.rename(unfinished, folder)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"{folder}: cannot be written ({error})") from error
