"""The two row types that data sources yield, preferences and demonstrations, and their JSON Lines form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

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


class Demonstration(BaseModel):
    """One example of how to reply, for SFT: TRL's conversational prompt and completion.

    The completion begins with the assistant's reply to the prompt; where it goes on, with the user's next turn and so
    forth, it ends with the assistant's. The loss falls on all of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: list[Message] = Field(min_length=1)
    completion: list[Message] = Field(min_length=1)

    @field_validator("completion")
    @classmethod
    def _replies(cls, completion: list[Message]) -> list[Message]:
        if completion[0].role != "assistant" or completion[-1].role != "assistant":
            raise ValueError("the completion has to begin and to end with a message of the assistant")
        return completion

    @property
    def prompt_id(self) -> str:
        return prompt_id(self.prompt)


Row = TypeVar("Row", Pair, Demonstration)


def prompt_id(prompt: list[Message]) -> str:
    """A short, stable name of a prompt: the same conversation has the same id on every machine."""
    text = json.dumps([[m.role, " ".join(m.content.split())] for m in prompt], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_pairs(path: str | Path) -> list[Pair]:
    """Read prepared pairs.

    Raises:
        UserError: the file is missing or a line is not a pair (file and line are named).
    """
    return _read(path, Pair, "a preference pair")


def read_demonstrations(path: str | Path) -> list[Demonstration]:
    """Read prepared demonstrations.

    Raises:
        UserError: the file is missing or a line is not a demonstration (file and line are named).
    """
    return _read(path, Demonstration, "a demonstration (prompt and completion)")


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON Lines, one a line, UTF-8."""
    _write(path, pairs)


def write_demonstrations(path: str | Path, demonstrations: Iterable[Demonstration]) -> None:
    """Write demonstrations as JSON Lines, one a line, UTF-8."""
    _write(path, demonstrations)


def _read(path: str | Path, kind: type[Row], name: str) -> list[Row]:
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; run `dvc repro prepare` first")
    rows = []
    with path.open(encoding="utf-8", newline="\n") as lines:  # only \n ends a line: U+2028 may be text
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                rows.append(kind.model_validate_json(line))
            except ValidationError as error:
                raise UserError(f"{path}:{number}: is not {name}: {error.errors()[0]['msg']}") from error
    return rows


def _write(path: str | Path, rows: Iterable[Pair | Demonstration]) -> None:
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(row.model_dump_json() + "\n" for row in rows)
