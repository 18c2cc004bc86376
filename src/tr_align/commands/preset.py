"""`tr-align preset`: list the presets, or make one of them params.yaml."""

from __future__ import annotations

import argparse
import difflib
import subprocess
from pathlib import Path
from typing import Any

from tr_align.errors import UserError

FOLDER, PARAMS = Path("presets"), Path("params.yaml")


def register(commands: Any) -> None:
    """Add `preset` to the command line."""
    parser = commands.add_parser(
        "preset",
        help="list the presets, or put one into params.yaml",
        description="Without a name: the presets, the one that params.yaml is marked with *. With a name: copy it to "
        "params.yaml; settings that exist nowhere else are not overwritten.",
    )
    parser.add_argument("name", nargs="?", help="a preset")
    parser.add_argument("--force", action="store_true", help="overwrite settings that exist nowhere else")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """List, or copy.

    Raises:
        UserError: this is no tr-align project, there is no such preset, or params.yaml would be lost.
    """
    if options.name is None:
        print(listing())
        return
    text = find(options.name).read_bytes()
    if PARAMS.exists() and PARAMS.read_bytes() != text and not options.force:
        _refuse_a_loss()
    PARAMS.write_bytes(text)
    print(f"params.yaml is now {options.name}: {headline(find(options.name))}")


def presets() -> dict[str, Path]:
    """The presets of the project in this folder, by name.

    Raises:
        UserError: there are none here.
    """
    found = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    if not found or not Path("dvc.yaml").is_file():
        raise UserError(f"{Path.cwd()}: is no tr-align project (it has no dvc.yaml and presets/); go to its folder")
    return found


def find(name: str) -> Path:
    """The file of a preset.

    Raises:
        UserError: there is none of that name, or no project here.
    """
    found = presets()
    if name in found:
        return found[name]
    close = difflib.get_close_matches(name, found, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(found)}"
    raise UserError(f"there is no preset {name!r}; {hint}")


def headline(path: Path) -> str:
    """What a preset is for: the first sentence of the comment at its head, after the line all of them share."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    sentence, _, _ = (" ".join(comment) + " ").partition(". ")
    return sentence.strip()


def listing() -> str:
    """A line a preset; the one that params.yaml is marked."""
    found = presets()
    current = PARAMS.read_bytes() if PARAMS.exists() else b""
    width = max(map(len, found))
    lines = [
        f"{'*' if path.read_bytes() == current else ' '} {name.ljust(width)}  {headline(path)}"
        for name, path in found.items()
    ]
    if not any(line.startswith("*") for line in lines):
        lines.append("(params.yaml is none of them)" if current else "(there is no params.yaml)")
    return "\n".join(lines)


def _refuse_a_loss() -> None:
    """Refuse if params.yaml is no preset and differs from what git has.

    Raises:
        UserError: so it is.
    """
    current = PARAMS.read_bytes()
    if any(path.read_bytes() == current for path in presets().values()):
        return
    changed = changes()
    if changed is None or changed:
        which = f" ({', '.join(changed)})" if changed else ""
        raise UserError(
            f"params.yaml has changes that are in no preset and not in git{which}; commit it, keep a copy, or say "
            "--force to lose them"
        )


def changes() -> list[str] | None:
    """The settings of params.yaml that differ from its last commit; None if git does not have it."""
    import yaml

    done = subprocess.run(["git", "show", f"HEAD:./{PARAMS}"], capture_output=True, check=False)
    if done.returncode != 0:
        return None
    if done.stdout == PARAMS.read_bytes():
        return []
    try:
        before, after = _flat(yaml.safe_load(done.stdout)), _flat(yaml.safe_load(PARAMS.read_bytes()))
    except yaml.YAMLError:
        return ["it is not valid YAML"]
    named = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return named or ["comments"]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _flat(part, f"{prefix}.{key}" if prefix else str(key))
    return found
