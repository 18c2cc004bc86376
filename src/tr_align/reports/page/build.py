"""From a report and its figures to the page: one string, with a size budget and a policy that forbids any network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

import vl_convert
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tr_align.reports import card, html, theme
from tr_align.reports.agreement import DEPENDS
from tr_align.reports.common import share_with_interval
from tr_align.reports.figure import Figure
from tr_align.reports.page import answer, fixed_texts, replies, tables, words
from tr_align.reports.page.embed import figure_data, n_bytes, script_json
from tr_align.reports.results import Report

PAGE_BYTES = 5_000_000
"""The most a page may weigh; replies that do not fit are left out, and the page says so."""
FIGURE_BYTES = 2_500_000
"""The most that all figures together may; a figure beyond it is replaced by a sentence."""
SCRIPTS = ("dom.js", "figures.js", "replies.js", "page.js")
STYLES = ("base.css", "parts.css", "replies.css", "print.css")


def build_page(report: Report, figures: Sequence[Figure]) -> str:
    """The whole page.

    Every text that comes from data is escaped. The page stays under :data:`PAGE_BYTES`: it holds as many of
    `report.prompts` as fit, from the first one on, and figures up to :data:`FIGURE_BYTES`.
    """
    drawn, too_large = _fitting(figures)
    values = _values(report, figures, too_large)
    values["figures_json"] = Markup(script_json({"figures": drawn, "dark": theme.DARK}))
    # the page without its prompts, with the longest text that can stand in their place
    empty = _rendered(values, "", len(report.prompts))
    chosen, n_shown = replies.fitting(report, PAGE_BYTES - n_bytes(empty))
    return _rendered(values, chosen, n_shown)


def _fitting(figures: Sequence[Figure]) -> tuple[list[dict[str, Any]], list[str]]:
    """The data of the figures that fit, in order, and the names of the others."""
    drawn, too_large, used = [], [], 0
    for figure in figures:
        data = figure_data(figure)
        size = n_bytes(script_json(data))
        if used + size > FIGURE_BYTES:
            too_large.append(figure.name)
        else:
            drawn.append(data)
            used += size
    return drawn, too_large


def _values(report: Report, figures: Sequence[Figure], too_large: Sequence[str]) -> dict[str, Any]:
    """Everything the templates name, but for the replies."""
    calibration = report.context.get("calibration")
    return {
        "context": report.context,
        "verdict": words.minus(" ".join(report.context["verdict"])),
        "answers": answer.answers(report),
        "swept": answer.swept(report),
        "other_judges": answer.other_judges(report),
        "cautions": answer.problems_of_trust(report),
        "problems": report.problems,
        "figures": [figure for figure in figures if figure.about == "models"],
        "toy_figures": [figure for figure in figures if figure.about == "toy"],
        "world": report.toy and report.toy["world"],
        "too_large": too_large,
        "claims": tables.claims(report),
        "results": tables.results(report),
        "peaks": tables.peaks(report),
        "likelihoods": fixed_texts.likelihoods(report),
        "accuracy": tables.accuracy(report),
        "bias": tables.bias(report),
        "card": Markup(card.section(calibration)) if calibration else None,
        "settings": tables.settings(report),
        "cells": replies.cells_of(report),
        "n_prompts": len(report.prompts),
        "notice": replies.notice(report),
    }


def _rendered(values: dict[str, Any], replies_json: str, n_shown: int) -> str:
    scripts = _scripts()
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )
    page = (
        _environment()
        .get_template("page.html")
        .render(
            **values,
            policy=policy,
            style=Markup("\n".join([*(_asset(name) for name in STYLES), *_tones()])),
            early_script=Markup(scripts[0]),
            vega=Markup(scripts[1]),
            script=Markup(scripts[2]),
            replies_json=Markup(replies_json),
            n_shown=n_shown,
        )
    )
    # a lone half of a character, which a model can produce, cannot be written as UTF-8
    return page.encode("utf-8", "replace").decode("utf-8")


def _tones() -> list[str]:
    """The figures' colour of each method, for the marks beside its name."""
    return [
        f".{loss}.{update} {{ --tone: light-dark({colour}, {theme.DARK[colour]}); }}"
        for loss, by_update in theme.TONES.items()
        for update, colour in by_update.items()
    ]


@cache
def _scripts() -> tuple[str, str, str]:
    """What runs before the first paint, Vega, and the rest; the policy allows these three and no other."""
    vega = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=theme.VEGA_LITE)
    own = "\n".join(_asset(name) for name in SCRIPTS)
    return _asset("theme.js"), vega.replace("</script", "<\\/script"), f"(() => {{\n'use strict';\n{own}}})();"


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _asset(name: str) -> str:
    return _read("assets", name)


def _read(folder: str, name: str) -> str:
    return resources.files("tr_align.reports.page").joinpath(folder, name).read_text("utf-8")


@cache
def _environment() -> Environment:
    found = Environment(
        loader=FunctionLoader(lambda name: _read("templates", name)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {
        "chip": words.chip,
        "depends": DEPENDS,
        "signed": words.signed,
        "plain": words.plain,
        "interval": words.interval,
        "share": share_with_interval,
        "bar": lambda value, low, high, half=True: Markup(html.bar(value, low, high, half)),
    }
    return found
