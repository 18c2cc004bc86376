"""Token lengths of prompts and replies, counted as the model sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError

from tr_align.data.schema import Demonstration, Message, Pair, prompt_id
from tr_align.errors import UserError

_BATCH = 1000


class Lengths:
    """Lengths in tokens, each text counted once.

    A prompt is counted with the chat template around it and the opening of the assistant's turn behind it;
    a reply is counted alone, without the token that ends the turn. A demonstration's completion is counted as all that
    follows its prompt in the templated conversation.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._prompts: dict[str, int] = {}
        self._replies: dict[str, int] = {}
        self._conversations: dict[str, int] = {}

    def add(self, rows: Iterable[tuple[str, Pair]]) -> None:
        """Count the rows' texts, in batches because that is what fast tokenizers are fast at.

        Raises:
            UserError: the tokenizer has no chat template, or its template refuses a prompt (the row is named).
        """
        rows = list(rows)
        prompts = {pair.prompt_id: (where, pair.prompt) for where, pair in rows if pair.prompt_id not in self._prompts}
        texts = {key: self._templated(where, prompt) for key, (where, prompt) in prompts.items()}
        self._prompts.update(self._count(texts))
        replies = {reply for _, pair in rows for reply in (pair.chosen, pair.rejected)} - self._replies.keys()
        self._replies.update(self._count({reply: reply for reply in replies}))

    def add_demonstrations(self, rows: Sequence[tuple[str, Demonstration]]) -> None:
        """As :meth:`add`; a batch of conversations at a time, for they are long."""
        for start in range(0, len(rows), _BATCH):
            prompts: dict[str, str] = {}
            whole: dict[str, str] = {}
            for where, row in rows[start : start + _BATCH]:
                if row.prompt_id not in self._prompts:
                    prompts[row.prompt_id] = self._templated(where, row.prompt)
                whole[_whole_id(row)] = self._templated(where, [*row.prompt, *row.completion], opening=False)
            self._prompts.update(self._count(prompts))
            self._conversations.update(self._count(whole))

    def prompt(self, row: Pair | Demonstration) -> int:
        return self._prompts[row.prompt_id]

    def reply(self, text: str) -> int:
        return self._replies[text]

    def completion(self, row: Demonstration) -> int:
        return self._conversations[_whole_id(row)] - self._prompts[row.prompt_id]

    def _templated(self, where: str, conversation: list[Message], opening: bool = True) -> str:
        messages = [message.model_dump() for message in conversation]
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening))
        except TemplateError as error:
            raise UserError(
                f"{where}: the model's chat template refuses this conversation: {error}. "
                "Some templates know no system message: set data.system_prompt to null"
            ) from error
        except ValueError as error:
            raise UserError(f"model.name: its tokenizer cannot template a chat; take a chat model: {error}") from error

    def _count(self, texts: dict[str, str]) -> Iterable[tuple[str, int]]:
        items = list(texts.items())
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            # The template has put the special tokens there already.
            ids = self._tokenizer([text for _, text in batch], add_special_tokens=False)["input_ids"]
            yield from zip((key for key, _ in batch), map(len, ids), strict=True)


def _whole_id(row: Demonstration) -> str:
    return prompt_id([*row.prompt, *row.completion])
