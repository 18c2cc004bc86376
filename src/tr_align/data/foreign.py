"""Texts of another kind than replies to a prompt (`ood.texts`): what no policy was aligned on or away from."""

from __future__ import annotations

from pathlib import Path

from tr_align.data import tables
from tr_align.data.tables import FORMATS
from tr_align.errors import UserError

COLUMNS = tables.Columns("a column text", ("text",), (("text",),))
FEWEST = 2
"""Below, nothing could be said of their mean."""


def read(path: str | Path) -> list[str]:
    """The texts of a file, in its order; other columns are ignored.

    Raises:
        UserError: there is no such file, it cannot be read or has fewer than two texts, or a row's text is missing,
            empty, or none; it names file, row and what to do.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ood.texts: there is no file {path}; give one with a column text ({FORMATS})")
    texts = [_text(row, f"{path}, row {number}") for number, row in tables.read(path, COLUMNS, "ood.texts")]
    if len(texts) < FEWEST:
        raise UserError(
            f"{path}: has {len(texts)} texts, and ood.texts needs {FEWEST} at least, one a prompt; add some"
        )
    return texts


def _text(row: object, where: str) -> str:
    if not isinstance(row, dict):
        raise UserError(f"{where}: is no JSON object with text; put the line right or delete it")
    text = row.get("text")
    if text is None:
        raise UserError(f"{where}: has no text; name the column text, or put another file in ood.texts")
    if not isinstance(text, str):
        raise UserError(f"{where}: text has to be text, is {type(text).__name__}; put it right or delete the row")
    if not text.strip():
        raise UserError(f"{where}: text is empty; fill it in or delete the row")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: text is not valid Unicode (position {error.start}); put it right") from None
    return text
