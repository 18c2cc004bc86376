"""The one row type every data source yields, and its JSON Lines form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tr_align.errors import UserError


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Pair(BaseModel):
    """One preference: a conversation that ends with the user's turn, a chosen and a rejected reply to it.

    `axis` is the HC axis on which the rejected reply fails, where the data says so (embedded data only).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: list[Message] = Field(min_length=1)
    chosen: str
    rejected: str
    axis: str | None = None

    @property
    def prompt_id(self) -> str:
        return prompt_id(self.prompt)


def prompt_id(prompt: list[Message]) -> str:
    """A short, stable name of a prompt: the same conversation has the same id on every machine."""
    text = json.dumps([[m.role, " ".join(m.content.split())] for m in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_pairs(path: str | Path) -> list[Pair]:
    """Read prepared pairs.

    Raises:
        UserError: the file is missing or a line is not a pair (file and line are named).
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; run `dvc repro prepare` first")
    pairs = []
    for number, line in enumerate(
        path.read_text(encoding="utf-8").split("\n"), 1
    ):  # not splitlines: U+2028 may be text
        if not line:
            continue
        try:
            pairs.append(Pair.model_validate_json(line))
        except ValidationError as error:
            raise UserError(f"{path}:{number}: is not a preference pair: {error.errors()[0]['msg']}") from error
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON Lines, one a line, UTF-8."""
    Path(path).write_text("".join(pair.model_dump_json() + "\n" for pair in pairs), encoding="utf-8")
