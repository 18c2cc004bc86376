"""The embedded dataset: requests with one good reply and five replies that each fail on one HC axis.

Three flawed replies (correctness, helpfulness, harmlessness) are written by hand in the data file. The other
two are made here from the good reply, because what they lack is form: an incoherent reply has its words in
the wrong places, a reply without detail stops after its first clause.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tr_align.data.loaded import with_system
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError

REQUESTS = Path("data/embedded/requests.jsonl")
"""Relative to the repository root, where every stage runs."""

Text = Annotated[str, Field(min_length=1)]

THIN_WORDS = 12
"""The most words a thinned reply keeps."""

_CLAUSE_WORDS = 3  # a clause shorter than this says too little to count as an answer
# fmt: off
_CONNECTIVES = frozenset([
    "and", "as", "because", "before", "but", "if", "or", "since", "so", "than", "until", "when", "where", "which",
    "while", "who",
])
_DANGLING = frozenset([
    "a", "an", "are", "at", "be", "by", "for", "from", "in", "into", "is", "it", "its", "of", "on", "that", "the",
    "their", "then", "these", "this", "to", "with", "you", "your",
])
# fmt: on


class Flawed(BaseModel):
    """The replies that were written to fail on one axis each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    correctness: Text
    helpfulness: Text
    harmlessness: Text


class Request(BaseModel):
    """One line of the data file. `careful`: the good reply has to decline or to urge caution."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Text
    careful: bool
    prompt: Text
    good: Text
    flawed: Flawed


def load_requests(path: str | Path = REQUESTS) -> list[Request]:
    """Read the embedded requests.

    Raises:
        UserError: the file is missing or empty, a line is not a request, or a prompt stands there twice;
            the message names file and line.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: there is no such file; run from the root of the repository, where it is committed")
    lines = path.read_text(encoding="utf-8").rstrip("\n")
    if not lines:
        raise UserError(f"{path}: is empty; restore the committed file")
    requests: list[Request] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines.split("\n"), 1):
        try:
            request = Request.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path}:{number}: {key + ': ' if key else ''}{first['msg']}") from error
        prompt = " ".join(request.prompt.lower().split())
        if prompt in seen:
            raise UserError(f"{path}:{number}: prompt: is the same as in line {seen[prompt]}; delete one of them")
        seen[prompt] = number
        requests.append(request)
    return requests


def pairs(requests: list[Request], system_prompt: str | None, seed: int) -> list[Pair]:
    """Five pairs a request: the good reply against one flawed reply for each HC axis.

    The result depends on the seed and on the set of requests, not on their order: every request draws from
    its own random stream and the pairs come sorted by prompt and axis.
    """
    made = []
    for request in requests:
        prompt = with_system([Message(role="user", content=request.prompt)], system_prompt)
        rng = random.Random(f"{seed}:{request.prompt}")  # a string seeds the same stream on every machine
        rejected = {
            "coherence": incoherent(request.good, rng),
            "correctness": request.flawed.correctness,
            "helpfulness": request.flawed.helpfulness,
            "harmlessness": request.flawed.harmlessness,
            "detail": thin(request.good),
        }
        made += [Pair(prompt=prompt, chosen=request.good, rejected=text, axis=axis) for axis, text in rejected.items()]
    return sorted(made, key=lambda pair: (pair.prompt_id, pair.axis or ""))


def incoherent(text: str, rng: random.Random) -> str:
    """A version of the text that fails on coherence and keeps its words; never equal to the text.

    `rng` chooses the way: words shuffled inside their sentences, a fragment repeated in a loop, or the halves
    of the sentences spliced wrongly.

    Raises:
        ValueError: the text is blank.
    """
    if not text.strip():
        raise ValueError("a blank text has no words to disorder")
    ways = [_shuffled, _looped, _spliced]
    rng.shuffle(ways)
    for way in ways:
        result = way(text, rng)
        if result.split() != text.split():
            return result
    # Only a text like "no no no" gets here: its words are all alike, so no order of them is wrong.
    return f"{text} {text}"


def thin(text: str) -> str:
    """A few words of the text, at most `THIN_WORDS` and less than half of it, ended by a full stop.

    That is its first sentence where it is short, else the first clauses of that, else the first short sentence
    there is, so that only detail is lost; a text with none of them is cut inside its first sentence.

    Raises:
        ValueError: the text has fewer than three words, so nothing clearly shorter is left to say.
    """
    total = len(text.split())
    if total < 3:
        raise ValueError("a text of fewer than three words cannot be made clearly shorter")
    most = min(THIN_WORDS, (total - 1) // 2)
    sentences = [sentence.split() for sentence in _sentences(text)]
    words = sentences[0]
    if len(words) > most:
        ends = [n for n in range(_CLAUSE_WORDS, most + 1) if _clause_ends(words, n)]
        short = [other for other in sentences if _CLAUSE_WORDS <= len(other) <= most]
        words = words[: ends[-1]] if ends else short[0] if short else _without_dangling(words[:most])
    return _unquoted(" ".join(words).rstrip(".,;:!?- ")) + "."


def _clause_ends(words: list[str], n: int) -> bool:
    """Whether the first `n` words can stand alone: a clause ends there by its comma or by the next one's connective."""
    return words[n - 1].endswith((",", ";", ":")) or words[n] in _CONNECTIVES


def _unquoted(text: str) -> str:
    """The text without the quotation marks or brackets that a cut has left open."""
    if text.count('"') % 2:
        text = text.replace('"', "")
    if text.count("(") != text.count(")"):
        text = text.replace("(", "").replace(")", "")
    if re.search(r"(?<!\w)'\w", text) and not re.search(r"\w[.,;!?]?'(?!\w)", text):
        text = re.sub(r"(?<!\w)'(?=\w)", "", text)
    return text


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text.strip())


def _without_dangling(words: list[str]) -> list[str]:
    """Words without the articles, prepositions and the like that a cut leaves hanging at the end."""
    end = len(words)
    while end > 1 and words[end - 1].lower().strip(".,;:") in _DANGLING:
        end -= 1
    return words[:end]


def _shuffled(text: str, rng: random.Random) -> str:
    sentences = []
    for sentence in _sentences(text):
        words = sentence.split()
        rng.shuffle(words)
        sentences.append(" ".join(words))
    return " ".join(sentences)


def _looped(text: str, rng: random.Random) -> str:
    """Begin as the text does, then repeat one fragment until the text's length is reached."""
    words = text.split()
    size = rng.randint(3, 5)
    start = rng.randint(0, max(0, len(words) // 3 - size))
    fragment = words[start : start + size]
    looped = words[: start + size]
    while len(looped) < len(words):
        looped += fragment
    return " ".join(looped)


def _spliced(text: str, rng: random.Random) -> str:
    """Give every sentence the second half of another one; a single sentence has its halves interleaved."""
    sentences = [sentence.split() for sentence in _sentences(text)]
    if len(sentences) == 1:
        words = sentences[0]
        middle = (len(words) + 1) // 2
        woven = [word for two in zip(words[middle:], words[:middle], strict=False) for word in two]
        return " ".join(woven + words[len(words) - middle : middle])
    heads = [words[: (len(words) + 1) // 2] for words in sentences]
    tails = [words[(len(words) + 1) // 2 :] for words in sentences]
    turn = rng.randint(1, len(tails) - 1)
    tails = tails[turn:] + tails[:turn]
    # The tail goes first, so that even two short sentences do not read as a sensible whole.
    return " ".join(" ".join(tail + head) for head, tail in zip(heads, tails, strict=True))
