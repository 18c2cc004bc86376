"""What calls cost: prices from a file, estimates before and sums after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tr_align.errors import UserError

PACKAGED = "src/tr_align/judges/prices.yaml"
"""Found from any folder."""
BYTES_A_TOKEN = 4
"""Of English text, roughly; in other scripts a character has more bytes, and more tokens. Only estimates use it."""


class _Price(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    input: float = Field(ge=0)
    output: float = Field(ge=0)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    batch_discount: float = Field(default=0.5, ge=0, le=1)
    models: dict[str, _Price]


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for so many tokens."""
        return (self.input * prompt_tokens + self.output * completion_tokens) / 1e6


def load(path: str, model: str, batch: bool) -> Price | None:
    """The price of a model, with the Batch API's discount if `batch`; None if the file does not have it.

    Raises:
        UserError: the file is missing or is no price list.
    """
    file = Path(path)
    if not file.exists() and path != PACKAGED:
        raise UserError(f"judge.openai.prices: there is no file {path}; the default is {PACKAGED}")
    source = file if file.exists() else files("tr_align.judges") / "prices.yaml"
    try:
        listed = _File.model_validate(yaml.safe_load(source.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise UserError(
            f"judge.openai.prices: {path} is no price list ({_reason(error)}); see {PACKAGED} for the form"
        ) from error
    found = listed.models.get(model) or listed.models.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", model))
    if found is None:
        return None
    factor = listed.batch_discount if batch else 1.0
    return Price(found.input * factor, found.output * factor)


def _reason(error: Exception) -> str:
    """What is wrong with a price list, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
    return " ".join(str(error).split())


def tokens_of(text: str) -> float:
    """About how many tokens a text has."""
    return len(text.encode(errors="replace")) / BYTES_A_TOKEN


def dollars(value: float) -> str:
    """`$0.0042`, `$1.38`, `$120`: two digits that mean something."""
    if value >= 100:
        return f"${value:,.0f}"
    return f"${value:.2f}" if value >= 0.1 or value == 0 else f"${Decimal(f'{value:.2g}'):f}"
