"""From a data source to the four splits of the experiment, with an account of every row.

Splits are by prompt: each prompt is in one split only. The judge split is made of embedded data, the only data whose
replies are known to fail on one axis each, or of the source's own pairs: if `data.judge` is "source" of such as the
other splits have, if it is "leftover" of those that are too long for them, which spares the others. Which embedded
requests it takes depends on the seed and on its size alone: not on the source, the other splits, the token limits or
the system prompt. The SFT split holds demonstrations: the chosen replies of its prompts, or those of `data.sft`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from tr_align.data import anthropic_hh, embedded, files, sft_split, tldr, ultrafeedback
from tr_align.data.lengths import Lengths
from tr_align.data.loaded import Dropped, Loaded, check_share
from tr_align.data.schema import Demonstration, Message, Pair, prompt_id, write_demonstrations, write_pairs
from tr_align.errors import UserError
from tr_align.settings import Data

SPLITS = ("sft", "preferences", "judge", "evaluation")

LEFTOVER = 4
"""So many times the token limits of the other splits a pair may have that is left over for the judge."""

PUBLISHED = {"anthropic_hh": anthropic_hh, "tldr": tldr, "ultrafeedback": ultrafeedback}

Split = dict[str, list[Any]]
"""The splits by name: `sft` holds demonstrations, the others pairs."""


def prepare(data: Data, seed: int, tokenizer: Any) -> tuple[Split, dict[str, Any]]:
    """Load `data.source` and `data.sft`, drop and count what cannot be used, and split the rest by prompt.

    The `preferences` and `judge` splits hold all pairs of their prompts, so interleaved that neighbours come
    from different prompts; `evaluation` holds one pair a prompt, and so does `sft` without data of its own. The result
    depends on the seed and on the set of rows, not on their order. `tokenizer` is the model's, with a chat template.

    Raises:
        UserError: a source cannot be read, more than `data.max_dropped` of its rows are faulty, or there are
            not enough prompts for the splits.
    """
    _check_settings(data)
    lengths = Lengths(tokenizer)
    requests = embedded.load_requests()
    embedded_rows = Loaded[Pair]()
    for pair in embedded.pairs(requests, data.system_prompt, seed):
        embedded_rows.pairs.append((f"{embedded.REQUESTS}: {pair.prompt[-1].content!r}, {pair.axis}", pair))
    judge = _judge(embedded_rows, seed, data.splits.judge) if data.judge == "embedded" else {}
    lengths.add([(where, pair) for where, pair in embedded_rows.pairs if pair.prompt_id in judge])
    if data.source == "embedded":
        loaded = embedded_rows
        groups, too_long = _usable(loaded, data, lengths, unlimited=judge.keys())
    else:
        loaded = _load(data)
        groups, too_long = _usable(loaded, data, lengths, unlimited=())
        for prompt in judge.keys() & groups.keys():
            loaded.dropped += [Dropped("in_judge_split", "", "") for _ in groups.pop(prompt)]
    left = {prompt: pairs for prompt, pairs in groups.items() if prompt not in judge}
    if data.judge == "leftover":
        judge, too_long = _leftover(too_long, groups, seed, data, lengths)
    loaded.dropped += [dropped for dropped, _ in too_long]
    chosen = _allot(left, seed, data, len(groups), loaded)
    if data.judge == "leftover":
        groups |= judge
    splits: Split = {
        "sft": [_demonstration(pairs[0]) for _, pairs in chosen.get("sft", ())],
        "preferences": interleave(chosen["preferences"], seed),
        "judge": interleave(chosen.get("judge", judge.items()), seed),
        "evaluation": [pairs[0] for _, pairs in chosen["evaluation"]],
    }
    account = {}
    if data.sft:
        others = [pair for name in SPLITS if name != "sft" for pair in splits[name]]
        splits["sft"], account["sft_data"] = sft_split.select(data, seed, lengths, others)
    else:
        lengths.add_demonstrations([("", row) for row in splits["sft"]])
    _assert_disjoint(splits)
    careful = {request.prompt for request in requests if request.careful}
    return splits, _stats(data, loaded, groups, splits, lengths, careful) | account


def write(folder: str | Path, splits: Split, stats: dict[str, Any]) -> None:
    """Write one JSON Lines file a split, and stats.json, to the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (write_demonstrations if name == "sft" else write_pairs)(folder / f"{name}.jsonl", rows)
    text = json.dumps(stats, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "stats.json").write_text(text + "\n", encoding="utf-8")


def interleave(groups: Iterable[tuple[str, list[Pair]]], seed: int) -> list[Pair]:
    """All pairs of all prompts in rounds, one pair a prompt and round, each prompt's own pairs shuffled.

    The prompts keep their order in every round, so the pairs of one prompt are as far apart as can be.
    """
    shuffled = []
    for prompt, pairs in groups:
        order = list(pairs)
        random.Random(f"{seed}:{prompt}").shuffle(order)
        shuffled.append(order)
    rounds = itertools.zip_longest(*shuffled)
    return [pair for pairs in rounds for pair in pairs if pair is not None]


def _check_settings(data: Data) -> None:
    """Refuse settings that would silently do nothing."""
    if data.source not in PUBLISHED:
        for key in ("revision", "subsets"):
            if getattr(data, key) is not None:
                raise UserError(f"data.{key}: is set, but data.source {data.source!r} has none; make it null")
    if data.judge != "embedded" and data.source == "embedded":
        raise UserError(f"data.judge: {data.judge!r} is for preferences of another data.source; make it 'embedded'")
    if data.sft and data.sft.source == "files" and data.sft.revision is not None:
        raise UserError("data.sft.revision: is set, but data.sft.source 'files' has none; make it null")


def _load(data: Data) -> Loaded[Pair]:
    if data.source == "files":
        return files.load(data.path, data.system_prompt)
    loaded: Loaded[Pair] = PUBLISHED[data.source].load(data.path, data.system_prompt, data.revision, data.subsets)
    return loaded


def _demonstration(pair: Pair) -> Demonstration:
    return Demonstration(prompt=pair.prompt, completion=[Message(role="assistant", content=pair.chosen)])


def _judge(embedded_rows: Loaded[Pair], seed: int, count: int) -> dict[str, list[Pair]]:
    """The embedded prompts that the judge gets, with all their pairs.

    Raises:
        UserError: there are fewer than `count`.
    """
    groups: dict[str, list[Pair]] = defaultdict(list)
    for _, pair in embedded_rows.pairs:
        groups[pair.prompt_id].append(pair)
    if count > len(groups):
        raise UserError(
            f"data.splits.judge asks for {count} prompts, and the embedded data, of which the judge split is made, "
            f"has {len(groups)}; lower data.splits.judge"
        )
    return {prompt: groups[prompt] for prompt in _ordered(groups, seed)[:count]}


_TooLong = list[tuple[Dropped, Pair]]


def _leftover(
    too_long: _TooLong, groups: Mapping[str, list[Pair]], seed: int, data: Data, lengths: Lengths
) -> tuple[dict[str, list[Pair]], _TooLong]:
    """The prompts for the judge among pairs that are too long for the other splits, and the pairs it does not take.

    Raises:
        UserError: there are fewer than `data.splits.judge`.
    """
    found: dict[str, list[Pair]] = defaultdict(list)
    for _, pair in too_long:
        if pair.prompt_id not in groups and not _too_long(pair, data, lengths, LEFTOVER):
            found[pair.prompt_id].append(pair)
    count = data.splits.judge
    if count > len(found):
        raise UserError(
            f"data.splits.judge asks for {count} prompts, and {len(found)} are too long for the other splits but not "
            f"more than {LEFTOVER} times; lower it, or make data.judge 'source'"
        )
    judge = {prompt: found[prompt] for prompt in _ordered(found, seed)[:count]}
    taken = {id(pair) for pairs in judge.values() for pair in pairs}
    return judge, [(dropped, pair) for dropped, pair in too_long if id(pair) not in taken]


def _too_long(pair: Pair, data: Data, lengths: Lengths, times: int = 1) -> str | None:
    """Why a pair is over the token limits, or so many times them."""
    if lengths.prompt(pair) > times * data.max_prompt_tokens:
        return "prompt_too_long"
    reply = max(lengths.reply(pair.chosen), lengths.reply(pair.rejected))
    return "reply_too_long" if reply > times * data.max_reply_tokens else None


def _usable(
    loaded: Loaded[Pair], data: Data, lengths: Lengths, unlimited: Collection[str]
) -> tuple[dict[str, list[Pair]], _TooLong]:
    """The pairs that pass every check, by prompt, and those that are only too long; others move to `loaded.dropped`.

    The prompts in `unlimited` are exempt from the token limits.

    Raises:
        UserError: more than `data.max_dropped` of the rows are faulty.
    """
    rows = loaded.rows
    sound = []
    for where, pair in loaded.pairs:
        fault = _fault(pair)
        if fault:
            loaded.dropped.append(Dropped(fault, where, ""))
        else:
            sound.append((where, pair))
    # What is dropped from here on is no fault of the row, so it does not count toward the share.
    check_share(loaded.dropped, rows, data.max_dropped)
    # Sorted, so that which of two duplicates stays does not depend on the order of the rows.
    sound.sort(key=lambda item: _content(item[1]))
    seen = set()
    unique = []
    for where, pair in sound:
        key = (pair.prompt_id, pair.chosen, pair.rejected)
        if key in seen:
            loaded.dropped.append(Dropped("exact_duplicate", where, ""))
        else:
            seen.add(key)
            unique.append((where, pair))
    lengths.add(unique)
    groups: dict[str, list[Pair]] = defaultdict(list)
    loaded.pairs = []
    too_long: _TooLong = []
    for where, pair in unique:
        reason = None if pair.prompt_id in unlimited else _too_long(pair, data, lengths)
        if reason:
            too_long.append((Dropped(reason, where, ""), pair))
        else:
            loaded.pairs.append((where, pair))
            groups[pair.prompt_id].append(pair)
    return dict(groups), too_long


def _fault(pair: Pair) -> str | None:
    chosen, rejected = pair.chosen.strip(), pair.rejected.strip()
    if not pair.prompt[-1].content.strip():
        return "empty_prompt"
    if not chosen or not rejected:
        return "empty_reply"
    return "chosen_equals_rejected" if chosen == rejected else None


def _content(pair: Pair) -> tuple[str, str, str, str, str]:
    return (pair.prompt_id, pair.axis or "", pair.chosen, pair.rejected, pair.model_dump_json())


def _ordered(groups: dict[str, list[Pair]], seed: int) -> list[str]:
    """The prompts in a seeded shuffle.

    They are sorted by a hash, so that a prompt's place does not depend on which other prompts there are. System
    messages stay out of it, so that the split stays the same when only data.system_prompt changes.
    """

    def place(prompt: str) -> tuple[str, str]:
        turns = [message for message in groups[prompt][0].prompt if message.role != "system"]
        return hashlib.sha256(f"{seed}:{prompt_id(turns)}".encode()).hexdigest(), prompt

    return sorted(groups, key=place)


def _allot(
    left: dict[str, list[Pair]], seed: int, data: Data, prompts: int, loaded: Loaded[Pair]
) -> dict[str, list[tuple[str, list[Pair]]]]:
    """Deal the prompts to the splits in the order of the seeded shuffle.

    The SFT split gets none if it has data of its own, nor does the judge's unless `data.judge` is "source".

    Raises:
        UserError: there are not enough of them.
    """
    own = {"sft": data.sft is not None, "judge": data.judge != "source"}
    names = [name for name in SPLITS if not own.get(name)]
    wanted = {name: getattr(data.splits, name) for name in names}
    missing = sum(wanted.values()) - len(left)
    if missing > 0:
        asked = {name: getattr(data.splits, name) for name in SPLITS if name in wanted or data.source == "embedded"}
        largest = max(wanted, key=lambda name: wanted[name])
        advice = (
            f"lower data.splits.{largest} to {wanted[largest] - missing}"
            if wanted[largest] > missing
            else "lower them all"
        )
        long = sum(dropped.reason.endswith("_too_long") for dropped in loaded.dropped)
        raise UserError(
            f"there are {prompts} usable prompts, and data.splits asks for {sum(asked.values())}: "
            + ", ".join(f"{name} {count}" for name, count in asked.items())
            + f"; {advice}"
            + (f", or raise the token limits, which dropped {long} rows" if long else "")
        )
    order = iter(_ordered(left, seed))
    return {name: [(prompt, left[prompt]) for prompt in itertools.islice(order, wanted[name])] for name in names}


def _assert_disjoint(splits: Split) -> None:
    prompts = [{row.prompt_id for row in rows} for rows in splits.values()]
    assert len(set().union(*prompts)) == sum(map(len, prompts)), "a prompt is in two splits"


def _stats(
    data: Data,
    loaded: Loaded[Pair],
    groups: Mapping[str, list[Pair]],
    splits: Split,
    lengths: Lengths,
    careful: set[str],
) -> dict[str, Any]:
    """The account of the rows. A row is a pair: an embedded request is five of them."""
    kept = sum(map(len, groups.values()))
    dropped = dict(Counter(row.reason for row in loaded.dropped))
    stats: dict[str, Any] = {
        "source": data.source,
        "rows_read": kept + sum(dropped.values()),
        "rows_kept": kept,
        "dropped": dropped,
        "unique_prompts": len(groups),
        "splits": {},
    }
    if data.source == "anthropic_hh":
        stats["rows_with_merged_turns"] = loaded.merged_turns
    if loaded.origin:
        stats["hub"] = loaded.origin
    for name, rows in splits.items():
        prompts = {row.prompt_id: row.prompt[-1].content for row in rows}
        entry: dict[str, Any] = {"prompts": len(prompts), "demonstrations" if name == "sft" else "pairs": len(rows)}
        if rows:
            entry["mean_tokens"] = {"prompt": _mean([lengths.prompt(row) for row in rows])}
            if name == "sft":
                entry["mean_tokens"]["completion"] = _mean([lengths.completion(row) for row in rows])
            else:
                entry["mean_tokens"]["chosen"] = _mean([lengths.reply(row.chosen) for row in rows])
                entry["mean_tokens"]["rejected"] = _mean([lengths.reply(row.rejected) for row in rows])
            if (name == "judge" and data.judge == "embedded") or (
                data.source == "embedded" and not (name == "sft" and data.sft)
            ):
                entry["careful_share"] = round(sum(text in careful for text in prompts.values()) / len(prompts), 4)
        stats["splits"][name] = entry
    return stats


def _mean(numbers: list[int]) -> float:
    return round(sum(numbers) / len(numbers), 2)
