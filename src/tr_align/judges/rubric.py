"""Questions to an LLM judge: prompt files, and the fences around what is judged."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from tr_align.data.schema import Message
from tr_align.errors import UserError
from tr_align.settings import PROMPTS

Kind = Literal["rate", "prefer"]
MARKERS: dict[Kind, tuple[str, ...]] = {
    "rate": ("conversation", "reply"),
    "prefer": ("conversation", "reply_a", "reply_b"),
}
"""What a prompt file has to contain, as {{marker}}."""

BRACKETS = "brackets"
"""Verdicts as Arena-Hard and MT-Bench have them."""


@dataclass(frozen=True)
class Rubric:
    """A prompt file, read and checked."""

    kind: Kind
    text: str

    @property
    def form(self) -> str:
        """The form of the answers: that of the kind, or verdicts in double brackets where a file asks for those."""
        asks_for_json = self.kind == "rate" or '"better"' in self.text
        return self.kind if asks_for_json or "[[" not in self.text else BRACKETS

    def question(self, **texts: str) -> str:
        """The question about these texts, one a marker.

        Each is fenced by lines with a code that is made from all of them, so that no text can know the code of its
        own fence and end it: whatever it says stays inside.
        """
        # Half of a surrogate pair, which JSON can carry, cannot be sent.
        texts = {name: text.encode(errors="replace").decode() for name, text in texts.items()}
        code = hashlib.sha256("\0".join(texts[name] for name in MARKERS[self.kind]).encode()).hexdigest()[:12]

        def fenced(marker: re.Match[str]) -> str:
            name = marker[1].replace("_", " ").upper()
            return f"<<<{name} {code}\n{texts[marker[1]]}\n{code} {name}>>>"

        # In one pass: a text that contains a marker is shown as it is.
        return re.sub(r"\{\{(\w+)\}\}", fenced, self.text)


def load(kind: Kind, path: str) -> Rubric:
    """Read a prompt file; one that ships with the package is found from any folder.

    Raises:
        UserError: the file is missing or unreadable, lacks a marker or has an unknown one.
    """
    file = Path(path)
    if file.exists():
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"judge.openai.prompts.{kind}: {path} cannot be read ({error}); it has to be a text file in UTF-8"
            ) from error
    elif path.startswith(f"{PROMPTS}/") and (packaged := files("tr_align.judges") / "prompts" / file.name).is_file():
        text = packaged.read_text(encoding="utf-8")
    else:
        raise UserError(f"judge.openai.prompts.{kind}: there is no file {path}; the default is {PROMPTS}/{kind}.txt")
    found, needed = set(re.findall(r"\{\{(\w+)\}\}", text)), set(MARKERS[kind])
    if found != needed:
        wrong = [f"lacks {{{{{name}}}}}" for name in sorted(needed - found)]
        wrong += [f"has an unknown {{{{{name}}}}}" for name in sorted(found - needed)]
        raise UserError(
            f"judge.openai.prompts.{kind}: {path} {' and '.join(wrong)}; it needs "
            + ", ".join(f"{{{{{name}}}}}" for name in MARKERS[kind])
        )
    return Rubric(kind, text)


def conversation(prompt: Sequence[Message]) -> str:
    """A conversation as text, one paragraph a message under the name of its role."""
    return "\n\n".join(f"[{m.role.capitalize()}]\n{m.content}" for m in prompt if m.role != "system" or m.content)


def rating_values(prompt: Sequence[Message], reply: str) -> Mapping[str, str]:
    return {"conversation": conversation(prompt), "reply": reply}


def duel_values(prompt: Sequence[Message], first: str, second: str) -> Mapping[str, str]:
    return {"conversation": conversation(prompt), "reply_a": first, "reply_b": second}
