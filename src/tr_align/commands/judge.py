"""`tr-align judge`: ratings of replies, and comparisons with others', by any OpenAI-compatible endpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tr_align.commands.options import count, natural, positive
from tr_align.errors import UserError
from tr_align.settings import OpenAIJudge, Prompts

DEFAULTS = OpenAIJudge(model="")
EPILOG = """examples:
  tr-align judge --check --model my-model --base-url http://localhost:8000/v1
  export OPENAI_API_KEY=...
  tr-align judge --model gpt-4o-mini --replies ours.jsonl --against theirs.jsonl --max-usd 2 --out judged.jsonl

Replies are JSON Lines: {"prompt": text or chat messages, "reply": text}, as under generations/. Each reply gets five
grades from 1 to 10; with --against, the replies to the same prompts are compared in both orders. All answers are kept
in .judge/answers.sqlite and never asked for, or paid for, twice: a command that was stopped goes on where it was.
"""


def register(commands: Any) -> None:
    """Add `judge` to the parser's commands."""
    parser = commands.add_parser(
        "judge",
        help="rate replies, and compare them with others, by an OpenAI-compatible endpoint",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--replies", metavar="FILE", help="replies to judge")
    parser.add_argument("--against", metavar="FILE", help="replies to the same prompts to compare them with")
    parser.add_argument("--check", action="store_true", help="only see that the endpoint answers, and what it can do")
    parser.add_argument("--limit", type=count, metavar="N", help="judge only the first N prompts")
    parser.add_argument("--out", metavar="FILE", help="write every rating and verdict there, with the raw answers")
    parser.add_argument("--bootstrap", type=count, default=2000, metavar="N", help="resamples behind an interval")
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the bootstrap")
    add_endpoint_arguments(parser, required=True)
    parser.set_defaults(run=run)


def add_endpoint_arguments(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """The options that name an endpoint and how to ask it; `required` is whether --model has to be there."""
    group = parser.add_argument_group("endpoint")
    group.add_argument("--model", required=required, help="as the endpoint calls it")
    group.add_argument("--base-url", metavar="URL", help="default: OpenAI's; a server of yours mostly ends with /v1")
    group.add_argument(
        "--api-key-env", default=DEFAULTS.api_key_env, metavar="NAME", help="variable with the key (%(default)s)"
    )
    group.add_argument("--rate-prompt", default=DEFAULTS.prompts.rate, metavar="FILE", help="prompt file for ratings")
    group.add_argument(
        "--prefer-prompt", default=DEFAULTS.prompts.prefer, metavar="FILE", help="prompt file for comparisons"
    )
    group.add_argument("--prices", default=DEFAULTS.prices, metavar="FILE", help="price list (%(default)s)")
    group.add_argument("--max-usd", type=positive, metavar="X", help="stop before all kept answers cost more than this")
    group.add_argument("--max-tokens", type=count, default=DEFAULTS.max_tokens, metavar="N", help="of an answer")
    group.add_argument(
        "--concurrency", type=count, default=DEFAULTS.concurrency, metavar="N", help="calls at once (%(default)s)"
    )
    group.add_argument("--timeout", type=positive, default=DEFAULTS.timeout_seconds, metavar="S", help="of one answer")
    group.add_argument("--batch", action="store_true", help="OpenAI's Batch API: half the price, within a day")


def judge_from(options: argparse.Namespace) -> Any:
    """The endpoint judge that the options name.

    Raises:
        UserError: see :class:`tr_align.judges.openai.OpenAIJudge`.
    """
    from tr_align.judges.cache import default_path
    from tr_align.judges.openai import OpenAIJudge as Judge

    settings = OpenAIJudge(
        model=options.model,
        base_url=options.base_url,
        api_key_env=options.api_key_env,
        prompts=Prompts(rate=options.rate_prompt, prefer=options.prefer_prompt),
        max_tokens=options.max_tokens,
        concurrency=options.concurrency,
        timeout_seconds=options.timeout,
        batch=options.batch,
        prices=options.prices,
    )
    return Judge(settings, default_path(), options.max_usd)


def run(options: argparse.Namespace) -> None:
    """Judge the replies and print what came of it."""
    judge = judge_from(options)
    if options.check:
        print(judge.check())
        return
    if not options.replies:
        raise UserError("judge: give it --replies FILE, or --check")
    # Before anything is paid for.
    if options.out and (Path(options.out).is_dir() or not Path(options.out).absolute().parent.is_dir()):
        raise UserError(f"--out: {options.out} cannot be written; it has to be a file in a folder that is there")
    from tr_align import scratch
    from tr_align.judging import judge_replies

    replies = read_replies(options.replies)[: options.limit]
    opponents = {}
    if options.against:
        prompts = {row["prompt_id"] for row in replies}
        opponents["other"] = read_replies(options.against)
        if missing := prompts - {row["prompt_id"] for row in opponents["other"]}:
            raise UserError(
                f"{options.against}: has no reply to {len(missing)} of the {len(prompts)} prompts of "
                f"{options.replies}; both files have to answer the same prompts"
            )
    rows = judge_replies(judge, replies, opponents)
    if options.out:
        scratch.write_rows(options.out, rows)
    for line in summary(rows, replies, opponents, options.bootstrap, options.seed):
        print(line)
    if options.out:
        print(f"every answer: {options.out}", file=sys.stderr)


def read_replies(path: str) -> list[dict[str, Any]]:
    """Replies of one model, one a prompt; of a file under generations/, those of the trained model.

    Raises:
        UserError: the file is missing, or a line is no reply (file and line are named).
    """
    from tr_align.data.schema import Message, prompt_id

    file = Path(path)
    if not file.is_file():
        raise UserError(f"{path}: there is no such file; it has to be JSON Lines with prompt and reply")
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    rows: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, text = row["prompt"], row["reply"]
            messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
            messages = [Message.model_validate(message) for message in messages]
            step = row.get("step", 0)
            if not isinstance(text, str) or not messages or not isinstance(step, int):
                raise ValueError
            name = prompt_id(messages)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f'{path}:{number}: is no reply; a line is {{"prompt": text or messages, "reply": text}}'
            ) from error
        if name in rows and rows[name]["step"] == step:
            raise UserError(f"{path}:{number}: is a second reply to the same prompt; keep one")
        if name not in rows or step > rows[name]["step"]:
            values = {"step": step, "prompt_id": name, "reply": text}
            rows[name] = values | {"prompt": [message.model_dump() for message in messages]}
    if not rows:
        raise UserError(f"{path}: is empty; it has to be JSON Lines with prompt and reply")
    last = max(row["step"] for row in rows.values())
    return [row for row in rows.values() if row["step"] == last]


def summary(
    rows: list[dict[str, Any]], replies: list[dict[str, Any]], opponents: dict[str, Any], resamples: int, seed: int
) -> list[str]:
    """Lines with the mean ratings, the win rate and the judge's own biases, each with its 95 % interval."""
    import numpy as np

    from tr_align.judges.base import axes_of, hc
    from tr_align.metrics.bias import bias, pairs_of
    from tr_align.metrics.win_rate import outcome
    from tr_align.stats import mean_ci

    def line(name: str, values: Any, factor: float = 1.0, unit: str = "") -> str:
        array = np.array(values, dtype=float)
        lost = int(np.isnan(array).sum())
        if lost == len(array):
            return f"  {name:<14} no readable answer (n = {len(array)})"
        mean, (low, high) = mean_ci(array, resamples, seed)
        note = f", {lost} missing" if lost else ""
        return (
            f"  {name:<14} {factor * mean:.2f}{unit} [{factor * low:.2f}, {factor * high:.2f}]  n = {len(array)}{note}"
        )

    ratings = [row["axes"] for row in rows if row["kind"] == "rating"]
    lines = ["ratings, 1 to 10, with 95 % bootstrap intervals over prompts"]
    lines += [line("HC, their mean", list(map(hc, ratings)))]
    lines += [line(axis, [axes[axis] for axes in ratings]) for axis in axes_of(rows)]
    if not opponents:
        return lines
    duels = pairs_of(rows, replies, opponents["other"], "other")
    outcomes = [outcome(duel["first"], duel["second"]) for duel in duels]
    lines += ["comparisons, both orders, a verdict that flips is a tie", line("win rate", outcomes, 100, " %")]
    judged = bias(duels, resamples, seed)
    for key, name in (("consistent", "same verdict"), ("first_shown", "to the first"), ("longer", "to the longer")):
        if judged[key] is not None:
            low, high = judged[f"{key}_ci"]
            lines.append(f"  {name:<14} {100 * judged[key]:.1f} % [{100 * low:.1f}, {100 * high:.1f}]")
    return lines
