"""The reply browser's data: the prompts that fit, each with the methods' replies, as short as JSON goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import yaml

from tr_align.reports.page.embed import n_bytes, script_json
from tr_align.reports.page.words import in_order
from tr_align.reports.results import Report, Row

FIELDS = ("text", "words", "kl", "hc", "axes", "vs_sft", "vs_base")
"""The order of a reply's values; page/assets/replies.js reads them by place."""


def cells_of(report: Report) -> list[dict[str, Any]]:
    """The methods that replied, each beside its base: `cell`, `name`, `update`, `loss` and its base's label `base`."""
    losses = {row["cell"]: row["loss"] for row in report.points}
    found: dict[str, dict[str, Any]] = {}
    for prompt in report.prompts:
        for cell, reply in prompt["replies"].items():
            loss = losses.get(cell)
            base = loss.upper() if loss else "its base"
            found.setdefault(
                cell, {"cell": cell, "name": reply["name"], "update": reply["update"], "loss": loss, "base": base}
            )
    return in_order(list(found.values()))


def notice(report: Report) -> Row | None:
    """Where the prompts are from: `text`, and `licence` in full or None. None for prompts of this project or a user."""
    source = report.context["settings"].get("data.source")
    known: Row = yaml.safe_load(resources.files(__package__).joinpath("notices.yaml").read_text("utf-8"))
    return known.get(source)


def fitting(report: Report, room: int) -> tuple[str, int]:
    """The JSON of the first prompts that stay within `room` bytes, and how many they are."""
    cells = cells_of(report)
    axes = report.context["axes"]
    before = f'{{"axes":{script_json(axes)},"cells":{script_json(cells)},"total":{len(report.prompts)},"prompts":['
    used = n_bytes(before) + len("]}")
    kept: list[str] = []
    for prompt in report.prompts:
        item = script_json(_prompt(prompt, cells, axes))
        used += n_bytes(item) + bool(kept)  # and a comma
        if used > room:
            break
        kept.append(item)
    return f"{before}{','.join(kept)}]}}", len(kept)


def _prompt(prompt: Row, cells: Sequence[Row], axes: Sequence[str]) -> list[Any]:
    replies = prompt["replies"]
    return [prompt["id"], prompt["prompt"], [_reply(replies.get(cell["cell"]), axes) for cell in cells]]


def _reply(reply: Mapping[str, Any] | None, axes: Sequence[str]) -> list[Any] | None:
    if reply is None:
        return None
    rating = reply["axes"] or {}
    values = dict(reply) | {"axes": [_rounded(rating.get(axis)) for axis in axes] if rating else None}
    values |= {name: _rounded(reply[name]) for name in ("kl", "hc")}
    return [values[name] for name in FIELDS]


def _rounded(value: Any) -> float | None:
    """More decimals than a reader is shown; all sixteen would be a third of a short reply.

    None also for a rating that is no number: a judge may answer anything.
    """
    return round(value, 3) if isinstance(value, int | float) else None
