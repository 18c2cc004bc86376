"""Pieces of HTML that several parts of the page are made of. What goes in as text is escaped here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


def table(head: Iterable[str], rows: Iterable[str]) -> str:
    """A table: the names of its columns, and its rows as HTML."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def cell(text: str) -> str:
    """A value with its interval in a smaller type, which keeps eleven columns on the page."""
    value, bracket, interval = text.partition(" [")
    return f"<td>{escape(value)}{f'<small>[{escape(interval)}</small>' if bracket else ''}</td>"


def bar(value: float, low: float, high: float, half: bool = True) -> str:
    """A share and its interval, 0 to 1, as a bar; `half` marks 50 %."""
    value, low, high = 100 * value, 100 * low, 100 * high
    return (
        f'<div class="bar" aria-hidden="true">{"<u></u>" if half else ""}'
        f'<i style="left:{low:.1f}%;width:{high - low:.1f}%"></i><b style="left:{value:.1f}%"></b></div>'
    )
