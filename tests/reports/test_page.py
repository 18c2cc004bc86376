"""The page stands alone, escapes what it shows, and says where the judge is weak."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from tr_align.reports.page import page

ATTACK = "</script><script>alert('x')</script><img src=x onerror=alert(1)>"


class Outline(HTMLParser):
    """Elements, their attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.words += data

    def count(self, tag: str, **attributes: str) -> int:
        wanted = attributes.items()
        return sum(name == tag and wanted <= attrs.items() for name, attrs in self.elements)


def outline(html: str) -> Outline:
    parser = Outline()
    parser.feed(html)
    parser.close()
    assert parser.stack == []
    return parser


@pytest.fixture
def parts(
    metrics: dict[str, Any],
    curve: list[dict[str, Any]],
    context: dict[str, Any],
    samples: list[dict[str, Any]],
    training: dict[str, Any],
) -> dict[str, Any]:
    return {"metrics": metrics, "curve": curve, "context": context, "samples": samples, "training": training}


def test_loads_nothing_from_elsewhere(parts: dict[str, Any]) -> None:
    html = page(**parts)
    found = outline(html)
    for _, attributes in found.elements:
        for name in ("src", "href", "action", "data"):
            assert not re.match(r"\s*(https?:)?//", attributes.get(name) or "")
    assert not re.search(r"""(?:src|href)\s*=\s*["']https?://""", html)
    assert "@import" not in html
    assert not re.search(r"url\(\s*['\"]?http", html)


def test_vega_is_bundled_once(parts: dict[str, Any]) -> None:
    html = page(**parts)
    assert html.count("window.vegaEmbed=") == 1
    assert outline(html).count("script") == 2


def test_has_every_part(parts: dict[str, Any]) -> None:
    found = outline(page(**parts))
    for name in ("kl-hc", "wins", "training"):
        assert found.count("div", id=name) == 1
    assert found.count("tr") == (1 + 9) + (1 + 5)
    assert found.count("details") == 3
    assert found.count("article") == 3 * 10
    for text in ("TR-DPO soft beats DPO in duels", "not supported", "contradicted", "every τ = 4 steps", "2025-03-01"):
        assert text in found.words


def test_everything_is_escaped(parts: dict[str, Any]) -> None:
    parts["samples"] = [{"prompt": ATTACK, "replies": {"sft": ATTACK, "dpo": ATTACK}}]
    parts["context"] |= dict.fromkeys(("model", "data", "judge", "hc_unit", "date"), ATTACK)
    parts["context"]["claims"] = [{"claim": ATTACK, "verdict": "supported", "evidence": ATTACK}]
    html = page(**parts)
    found = outline(html)
    assert found.count("script") == 2
    assert found.count("img") == 0
    assert "<script>alert" not in html
    assert found.words.count(ATTACK) >= 10


def test_warns_of_a_weak_judge(parts: dict[str, Any]) -> None:
    assert "Weak on harmlessness" in outline(page(**parts)).words
    parts["context"]["judge_accuracy"]["detail"] = {"accuracy": 0.52, "ci": [0.42, 0.62], "n": 100}
    words = outline(page(**parts)).words
    assert "Weak on harmlessness and detail" in words
    assert "On detail it cannot be told from guessing" in words
    for row in parts["context"]["judge_accuracy"].values():
        row |= {"accuracy": 0.9, "ci": [0.8, 0.95]}
    assert "Weak on" not in outline(page(**parts)).words


def test_judge_without_a_measured_accuracy(parts: dict[str, Any]) -> None:
    parts["context"]["judge_accuracy"] = None
    assert "was not measured" in outline(page(**parts)).words


def test_partial_results(parts: dict[str, Any]) -> None:
    keep = {"sft", "kto", "tr_kto_soft"}
    parts["metrics"] = {name: row for name, row in parts["metrics"].items() if name in keep}
    parts["curve"] = [row for row in parts["curve"] if row["method"] in keep]
    parts |= {"samples": [], "training": {}}
    parts["context"]["claims"] = []
    found = outline(page(**parts))
    assert found.count("div", id="training") == 0
    assert found.count("div", id="kl-hc") == 1
    assert "Replies side by side" not in found.words


def test_an_empty_reply_is_named(parts: dict[str, Any]) -> None:
    parts["samples"] = [{"prompt": "hello", "replies": {"sft": "  "}}]
    assert "empty reply" in outline(page(**parts)).words
