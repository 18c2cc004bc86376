"""How far a judge can be trusted: its card, measured on pairs whose better reply is known.

Any judge is measured the same way. All questions are made before the first is asked, and asked in two calls, so that
the engine behind the judge shows one cost estimate and one progress bar for each kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tr_align.data.schema import Pair
from tr_align.errors import UserError
from tr_align.judges.base import Duel, Judge, Preference, Rating, Reply, as_number, hc
from tr_align.metrics.bias import bias
from tr_align.metrics.diversity import words
from tr_align.metrics.win_rate import outcome
from tr_align.rivals import ATTACKS_A_PAIR, OBVIOUS, OTHER_PROMPT, SUITE_PAIRS, Rival, rivals
from tr_align.stats import Array, bootstrap_means, independent, interval, mean_ci, share_ci

Row = dict[str, Any]

BETTER, NO_BETTER, WORSE = "better than chance", "no better than chance", "worse than chance"

FEWEST_PROMPTS = 2
"""One prompt has no reply to another, and no interval."""

TELLING_PROMPTS = 6
"""With fewer, not even a judge that is right each time can be told from a coin: 0.025^(1/5) is less than one half."""


def calibrate(
    judge: Judge, pairs: Sequence[Pair], resamples: int, seed: int, label_source: str
) -> tuple[Row, list[Row]]:
    """Measure a judge against labelled pairs, with obviously wrong replies and with replies that give it orders.

    :func:`questions` has the number of ratings and duels this takes.

    Args:
        pairs: `chosen` is the better reply; `axis`, where given, what the rejected one fails on.
        resamples: bootstrap resamples behind each 95 % interval. They draw prompts, each with all of its pairs,
            since pairs of one prompt are no independent evidence.
        seed: of the wrong replies and the intervals. label_source: who says which reply is better; for the reader.
    Returns:
        the card, made of JSON values, and one row a rating and a duel with texts and raw answers. An estimate on the
        card is {value, ci, n, n_missing}; its value and interval are None where no answer could be read. It has

        - agreement: the chosen reply is preferred over both orders (a flip is a tie, ties count half);
          agreement_rating: HC, the mean of its axes, ranks it higher (equal counts half); axes: the same of the
          axis that the rejected reply fails on, by axis.
        - verdict, verdict_rating: whether these two are "better than", "no better than" or "worse than chance".
        - bias: of :func:`tr_align.metrics.bias.bias`, the chosen reply being `a`.
        - length: agreement where the chosen reply has more words and where it has fewer, their difference, and
          labels_longer, the share of the labels that prefer the longer reply.
        - obvious: by kind of obviously wrong reply, the chosen reply is preferred.
        - injections: `fooled` is the share of duels in which a reply to another prompt with an attack appended wins
          or ties; `bare` that share of the same replies without it; `effect` the difference; `rating_shift` what
          the attack adds to its HC, in the judge's unit; attacks: fooled and bare by attack.
        - missing: ratings (with an axis that could not be read) and duels without an answer, of how many.
    Raises:
        UserError: there are fewer than two prompts.
    """
    prompts = np.array([pair.prompt_id for pair in pairs])
    if len(set(prompts)) < FEWEST_PROMPTS:
        raise UserError(
            f"calibrate.path (or --pairs): has {len(pairs)} labelled pairs of {len(set(prompts))} prompts to measure "
            "the judge with. It takes pairs of 2 prompts at the very least, and of a hundred for a useful card: name "
            "a file with more of them, or raise data.splits.judge if it is the judge split"
        )
    against = rivals(pairs, seed)
    replies, duels = _questions(pairs, against)
    ratings = judge.rate(replies)
    verdicts = judge.prefer(duels)
    rows: list[Row] = [
        {"kind": "rating", "id": r.id, "reply": reply.text, "axes": r.axes, "raw": r.raw}
        for reply, r in zip(replies, ratings, strict=True)
    ]
    rows += [
        {"kind": "duel", "id": v.id, "first": d.first, "second": d.second, "preference": v.preference, "raw": v.raw}
        for d, v in zip(duels, verdicts, strict=True)
    ]
    answers = _Answers({r.id: r for r in ratings}, {v.id: v.preference for v in verdicts})
    bootstrap = _Bootstrap(resamples, seed)
    rejected = [rival for rival in against if rival.kind == "rejected"]
    right = np.array([answers.right(rival) for rival in rejected])
    higher = np.array([_higher(answers.hc(f"{i}/chosen"), answers.hc(rival.id)) for i, rival in enumerate(rejected)])
    lengths = [(words(pair.chosen), words(pair.rejected)) for pair in pairs]
    met = []
    for rival, prompt, (ours, theirs) in zip(rejected, prompts, lengths, strict=True):
        first, second = answers.orders(rival)
        met.append({"prompt_id": prompt, "first": first, "second": second, "length_a": ours, "length_b": theirs})
    return {
        "label_source": label_source,
        "n_pairs": len(pairs),
        "n_prompts": len(set(prompts)),
        "agreement": bootstrap.share(right, prompts),
        "agreement_rating": bootstrap.share(higher, prompts),
        "verdict": bootstrap.verdict(right, prompts),
        "verdict_rating": bootstrap.verdict(higher, prompts),
        "axes": _axes(judge.axes, pairs, answers, bootstrap, prompts),
        "bias": bias(met, resamples, seed),
        "length": _length(right, np.array([ours - theirs for ours, theirs in lengths]), prompts, bootstrap),
        "obvious": _obvious(against, answers, bootstrap, prompts),
        "injections": _injections(against, answers, bootstrap, prompts),
        "missing": {
            "ratings": {"n_missing": sum(None in r.axes.values() for r in ratings), "n": len(ratings)},
            "duels": {"n_missing": sum(v.preference is None for v in verdicts), "n": len(verdicts)},
        },
        "unit": judge.unit,
        "seed": seed,
        "resamples": resamples,
    }, rows


def questions(pairs: int) -> tuple[int, int]:
    """The ratings and the duels that the calibration on so many pairs asks for, at most.

    Fewer where pairs share a prompt (the suite takes one pair a prompt) or a wrong reply cannot be made. For 100
    pairs of 100 prompts: 2 * 100 + 4 * 24 = 296 ratings, 2 * (100 + 8 * 24) = 584 duels.
    """
    suite = min(pairs, SUITE_PAIRS)
    ratings = 2 * pairs + (1 + ATTACKS_A_PAIR) * suite
    return ratings, 2 * (pairs + (len(OBVIOUS) + ATTACKS_A_PAIR) * suite)


def _questions(pairs: Sequence[Pair], against: Sequence[Rival]) -> tuple[list[Reply], list[Duel]]:
    """Every reply to rate and every duel, named `<rival>/first` or `<rival>/second` after where the rival stands."""
    replies = [Reply(f"{index}/chosen", pair.prompt, pair.chosen) for index, pair in enumerate(pairs)]
    replies += [Reply(rival.id, pairs[rival.pair].prompt, rival.shown("A")) for rival in against if rival.rated]
    duels = []
    for rival in against:
        pair = pairs[rival.pair]
        duels.append(Duel(f"{rival.id}/second", pair.prompt, pair.chosen, rival.shown("B")))
        duels.append(Duel(f"{rival.id}/first", pair.prompt, rival.shown("A"), pair.chosen))
    return replies, duels


@dataclass(frozen=True)
class _Answers:
    """The judge's answers by the id of the question."""

    ratings: Mapping[str, Rating]
    verdicts: Mapping[str, Preference | None]

    def orders(self, rival: Rival) -> tuple[Preference | None, Preference | None]:
        """The verdicts with the chosen reply shown first and second."""
        return self.verdicts[f"{rival.id}/second"], self.verdicts[f"{rival.id}/first"]

    def right(self, rival: Rival) -> float:
        """1 if the chosen reply is preferred to the rival, 0.5 for a tie or a flip, 0 if not, NaN if unread."""
        return outcome(*self.orders(rival))

    def passes(self, rival: Rival) -> float:
        """The share of the two orders in which the rival wins or ties; NaN if one was not read."""
        first, second = self.orders(rival)
        if first is None or second is None:
            return math.nan
        return ((first != "first") + (second != "second")) / 2

    def axis(self, reply: str, axis: str) -> float:
        return as_number(self.ratings[reply].axes[axis])

    def hc(self, reply: str) -> float:
        """The mean of the axes; NaN if one was not read."""
        return hc(self.ratings[reply].axes)


@dataclass(frozen=True)
class _Bootstrap:
    """Estimates from values, shape (n,), NaN where missing, with intervals over the prompts they belong to."""

    resamples: int
    seed: int

    def share(self, values: Array, prompts: Any) -> Row:
        """A mean of values between 0 and 1, as it stands on the card."""
        return self._estimate(values, prompts, share_ci)

    def mean(self, values: Array, prompts: Any) -> Row:
        """A mean of any other values, as it stands on the card."""
        return self._estimate(values, prompts, mean_ci)

    def _estimate(self, values: Array, prompts: Any, estimator: Callable[..., tuple[float, list[float]]]) -> Row:
        missing = np.isnan(values)
        value, ci = None, None
        if not missing.all():
            value, ci = estimator(values, self.resamples, self.seed, clusters=prompts)
        return {"value": value, "ci": ci, "n": int((~missing).sum()), "n_missing": int(missing.sum())}

    def difference(self, one: Array, other: Array, prompts: Any) -> Row:
        """The difference of two means over the same rows, each NaN where a row is not its own."""
        sides = [values[~np.isnan(values)] for values in (one, other)]
        row: Row = {"value": None, "ci": None, "n": sum(map(len, sides))}
        if not all(map(len, sides)):
            return row
        # The same draw of prompts for both.
        ours, theirs = (bootstrap_means(values, self.resamples, self.seed, clusters=prompts) for values in (one, other))
        if np.isnan(ours - theirs).all():
            return row
        ci = interval(ours - theirs, independent(np.where(np.isnan(one), other, one), prompts))
        return row | {"value": float(sides[0].mean() - sides[1].mean()), "ci": ci}

    def verdict(self, values: Array, prompts: Any) -> str:
        """Where the interval of a share lies from 0.5."""
        ci = self.share(values, prompts)["ci"]
        if ci is None or independent(values, prompts) < TELLING_PROMPTS:
            return NO_BETTER
        return BETTER if ci[0] > 0.5 else WORSE if ci[1] < 0.5 else NO_BETTER


def _higher(good: float, bad: float) -> float:
    """1, 0.5 or 0 as the first rating is higher, equal or lower; NaN if one is missing."""
    return math.nan if math.isnan(good) or math.isnan(bad) else (np.sign(good - bad) + 1) / 2


def _axes(axes: Sequence[str], pairs: Sequence[Pair], answers: _Answers, bootstrap: _Bootstrap, prompts: Any) -> Row:
    found = {}
    for axis in axes:
        rows = [index for index, pair in enumerate(pairs) if pair.axis == axis]
        if rows:
            ids = [(f"{index}/chosen", f"{index}/rejected") for index in rows]
            values = [_higher(answers.axis(good, axis), answers.axis(bad, axis)) for good, bad in ids]
            found[axis] = bootstrap.share(np.array(values), prompts[rows])
    return found


def _length(right: Array, more: Any, prompts: Any, bootstrap: _Bootstrap) -> Row:
    """`more`: by how many words the chosen reply is the longer one, shape (n,); equal lengths are left out."""
    longer, shorter, unequal = more > 0, more < 0, more != 0
    return {
        "chosen_longer": bootstrap.share(right[longer], prompts[longer]),
        "chosen_shorter": bootstrap.share(right[shorter], prompts[shorter]),
        "difference": bootstrap.difference(np.where(longer, right, np.nan), np.where(shorter, right, np.nan), prompts),
        "labels_longer": bootstrap.share(longer[unequal].astype(float), prompts[unequal]),
    }


def _obvious(against: Sequence[Rival], answers: _Answers, bootstrap: _Bootstrap, prompts: Any) -> Row:
    found = {}
    for kind in OBVIOUS:
        met = [rival for rival in against if rival.kind == kind and rival.attack is None]
        if met:
            values = np.array([answers.right(rival) for rival in met])
            found[kind] = bootstrap.share(values, prompts[[rival.pair for rival in met]])
    return found


def _injections(against: Sequence[Rival], answers: _Answers, bootstrap: _Bootstrap, prompts: Any) -> Row:
    attacked = [(rival, rival.attack) for rival in against if rival.attack]
    plain = {rival.pair: rival for rival in against if rival.kind == OTHER_PROMPT and not rival.attack}
    where = prompts[[rival.pair for rival, _ in attacked]] if attacked else prompts[:0]
    fooled = np.array([answers.passes(rival) for rival, _ in attacked])
    bare = np.array([answers.passes(plain[rival.pair]) for rival, _ in attacked])
    shift = np.array([answers.hc(rival.id) - answers.hc(plain[rival.pair].id) for rival, _ in attacked])
    ids = np.array([attack.id for _, attack in attacked])
    by_attack = {}
    for attack in dict.fromkeys(attack for _, attack in attacked):
        mine = ids == attack.id
        one = bootstrap.share(fooled[mine], where[mine])
        by_attack[attack.id] = {
            "kind": attack.kind,
            "fooled": one["value"],
            "bare": bootstrap.share(bare[mine], where[mine])["value"],
            "n": one["n"],
            "n_missing": one["n_missing"],
        }
    return {
        "placement": "appended",
        "fooled": bootstrap.share(fooled, where),
        "bare": bootstrap.share(bare, where),
        "effect": bootstrap.mean(fooled - bare, where),
        "rating_shift": bootstrap.mean(shift, where),
        "attacks": by_attack,
    }
