"""The `tr-align` command: reports of several runs, a judge of one's own, public benchmarks, MLflow's store."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from tr_align.errors import UserError
from tr_align.runtime import disable_telemetry

GROUPS = ("judge", "calibrate", "report", "benchmarks", "mlflow", "publish", "sweep", "plan", "preset", "reproduce")
"""Modules of `tr_align.commands`; each adds its commands to the parser and imports what is heavy when they run."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="tr-align", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in GROUPS:
        importlib.import_module(f"tr_align.commands.{group}").register(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a :class:`UserError` ends it with its message alone, exit status 1."""
    disable_telemetry()
    options = parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader, say `head`, has seen enough; nothing more can be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("\nstopped; the answers so far are kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
