"""A judge behind any OpenAI-compatible endpoint: a chat model rates replies and compares two of them.

Every answer is kept in a file (:mod:`tr_align.judges.cache`) as it comes. A request that is already there is read back
instead of asked, so a killed run continues and a repeat of a finished one makes no call.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from tr_align.errors import UserError
from tr_align.judges import batch, prices, rubric
from tr_align.judges.base import Duel, Rating, Reply, Verdict
from tr_align.judges.book import USUAL_TOKENS, Book, Question, Request, Stop
from tr_align.judges.cache import Answers, Row
from tr_align.judges.endpoint import Endpoint
from tr_align.judges.live import Asking
from tr_align.judges.parse import expected_rating, parse_brackets, parse_preference, parse_rating
from tr_align.judges.prices import dollars
from tr_align.settings import AXES
from tr_align.settings import OpenAIJudge as Settings


class OpenAIJudge:
    """Rates and compares replies with a chat model, at temperature 0 where the model takes one.

    Args:
        settings: `judge.openai` of params.yaml. answers: the SQLite file that keeps the answers.
        max_usd: the most that all answers in that file may cost; no call starts that could pass it.
    Raises:
        UserError: no key is exported although the endpoint needs one, a prompt or price file is wrong, `max_usd` is
            set for a model without a price, or the file of answers is damaged.
    """

    unit = "points, 1 to 10"
    axes = AXES

    def __init__(self, settings: Settings, answers: Path, max_usd: float | None = None) -> None:
        self._endpoint = Endpoint(settings)
        self._rate = rubric.load("rate", settings.prompts.rate)
        self._prefer = rubric.load("prefer", settings.prompts.prefer)
        self._settings = settings
        self._answers = Answers(Path(answers))
        self._book = Book(settings, self._endpoint, self._answers, max_usd)

    def check(self) -> str:
        """Ask the endpoint for its models and, the first time, which parameters it takes; says what it can do.

        Raises:
            UserError: it cannot be reached, refuses the key or does not have the model.
        """
        model = self._settings.model
        features = asyncio.run(self._endpoint.check(self._answers.features(model)))
        self._answers.remember_features(model, features)
        price = self._book.price
        return (
            f"{model} at {self._endpoint.address} answers; "
            f"structured output: {'yes' if features['structured'] else 'no, its text is parsed'}; "
            f"log-probabilities: {'yes, ratings are expectations' if features['logprobs'] else 'no'}; "
            f"temperature 0: {'yes' if features['temperature'] else 'no'}; price: "
            + (f"${price.input:g} in, ${price.output:g} out per million tokens" if price else "unknown")
        )

    def forecast(self, ratings: int, comparisons: int, prompt_tokens: int, reply_tokens: int) -> str:
        """What so many questions about texts of at most these lengths will cost, in one line."""
        rate = prices.tokens_of(self._rate.text) + prompt_tokens + reply_tokens
        prefer = prices.tokens_of(self._prefer.text) + prompt_tokens + 2 * reply_tokens
        tokens_in, tokens_out = ratings * rate + comparisons * prefer, USUAL_TOKENS * (ratings + comparisons)
        line = (
            f"judge: {ratings:,} ratings and {comparisons:,} comparisons ahead, up to {tokens_in:,.0f} tokens in and "
            f"about {tokens_out:,.0f} out"
        )
        price, most = self._book.price, self._book.max_usd
        if price is None:
            return f"{line}; no price is known for {self._settings.model}"
        cost = price.of(tokens_in, tokens_out)
        line += f": about {dollars(cost)}, less what is answered already"
        if most is not None and self._book.spent() + cost > most:
            line += (
                f"\nwarning: judge.max_usd is {dollars(most)}, {dollars(self._book.spent())} spent: it may not suffice"
            )
        return line

    def rate(self, replies: Sequence[Reply]) -> list[Rating]:
        """Rate every reply on the five axes; the ratings come back in the order of the replies.

        An axis is the mean under the model's own probabilities of the ten numbers where the endpoint gives them, else
        the number it wrote; None where neither can be read.

        Raises:
            UserError: the endpoint stopped answering or the money is spent. The answers are kept;
                running again goes on.
        """
        template = self._rate
        questions = [
            Question(
                "rate", template.form, r.id, template.question(**rubric.rating_values(r.prompt, r.text)), _complete
            )
            for r in replies
        ]
        ratings = []
        for reply, rows in zip(replies, self._ask("rate", questions), strict=True):
            # Of two answers, the one with more axes; they are never mixed.
            best = min(rows, key=lambda row: [*parse_rating(row["text"]).values()].count(None))
            axes = parse_rating(best["text"])
            means = expected_rating(best["text"], best["tokens"])
            axes |= {axis: mean for axis, mean in means.items() if mean is not None and axes[axis] is not None}
            ratings.append(Rating(reply.id, axes, {"answers": rows}))
        return ratings

    def prefer(self, duels: Sequence[Duel]) -> list[Verdict]:
        """Compare the two replies of every duel, shown in its order; the verdicts come back in the order of the duels.

        Raises:
            UserError: the endpoint stopped answering or the money is spent. The answers are kept;
                running again goes on.
        """
        template = self._prefer
        read = parse_brackets if template.form == rubric.BRACKETS else parse_preference

        def decided(text: str) -> bool:
            return read(text) is not None

        questions = [Question("prefer", template.form, d.id, template.question(**_shown(d)), decided) for d in duels]
        return [
            Verdict(duel.id, read(rows[-1]["text"]), {"answers": rows})
            for duel, rows in zip(duels, self._ask("prefer", questions), strict=True)
        ]

    def _ask(self, kind: str, questions: Sequence[Question]) -> list[list[Row]]:
        """For each question, in order: the row of its answer, and of a second if the first is not readable."""
        if not questions:
            return []
        if self._answers.features(self._settings.model) is None:
            self.check()
        self._book.open()
        # Equal questions are asked once: their answers would share one key.
        unique: dict[str, Question] = {}
        for question in questions:
            unique.setdefault(question.text, question)
        rows, todo = {}, []
        for text, question in unique.items():
            rows[text], request = self._book.state(question)
            if request:
                todo.append((question, request))
        known = len(unique) - len(todo)
        if todo:
            self._run(kind, todo, known)
            rows |= {question.text: self._book.state(question)[0] for question, _ in todo}
        print(self._summary(list(unique.values()), list(rows.values()), known), file=sys.stderr)
        return [rows[question.text] for question in questions]

    def _run(self, kind: str, todo: Sequence[tuple[Question, Request]], known: int) -> None:
        try:
            print(self._book.announce(kind, known, [request for _, request in todo]), file=sys.stderr)
            with tqdm(total=known + len(todo), initial=known, desc=f"judge: {kind}", unit="question") as bar:
                if self._settings.batch:
                    asyncio.run(batch.ask(self._book, [question for question, _ in todo], bar))
                else:
                    asyncio.run(Asking(self._book, todo, bar).run(len(todo)))
        except Stop as reason:
            raise UserError(
                f"{reason}\nThe answers so far are kept in {self._answers.path}; running again continues from there."
            ) from None

    def _summary(self, questions: Sequence[Question], answers: Sequence[Sequence[Row]], known: int) -> str:
        """What came of it: what could not be read, what was refused, who answered from where."""
        settings = self._settings
        refused = sum(bool(rows[-1]["error"]) for rows in answers)
        twice = sum(len(rows) > 1 for rows in answers)
        lost = sum(not q.readable(rows[-1]["text"]) for q, rows in zip(questions, answers, strict=True)) - refused
        line = f"judge: {len(questions)} answers, {known} of them known before"
        if twice:
            line += f"; {twice} could not be read and were asked for again, {lost} not then either (missing)"
        if refused:
            reason = next(rows[-1]["error"] for rows in answers if rows[-1]["error"])
            line += f"; the endpoint refused {refused} (missing), e.g. {reason}"
        if self._book.price:
            line += f"; {dollars(self._answers.spent())} spent in all"
        rows = [row for given in answers for row in given if not row["error"]]
        names = Counter(row["model"] for row in rows)
        if set(names) - {settings.model}:
            named = ", ".join(f"{name or 'no name'} ({count})" for name, count in names.most_common())
            line += f"\nwarning: {settings.model} was asked; the answers carry the name {named}"
        elsewhere = sum(row["endpoint"] != self._endpoint.address for row in rows)
        if elsewhere:
            line += f"\nnote: {elsewhere} answers were given at another address than {self._endpoint.address}"
        return line


def _shown(duel: Duel) -> Mapping[str, str]:
    return rubric.duel_values(duel.prompt, duel.first, duel.second)


def _complete(text: str) -> bool:
    return None not in parse_rating(text).values()
