"""Types of options that several commands take."""

from __future__ import annotations

import argparse


def natural(text: str, least: int = 0) -> int:
    """A whole number of `least` or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"has to be a whole number of {least} or more, is {text}")
    return int(text)


def count(text: str) -> int:
    """A whole number of 1 or more."""
    return natural(text, least=1)


def positive(text: str) -> float:
    """A finite number above 0.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"has to be a number above 0, is {text}")
    return value
