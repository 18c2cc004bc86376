"""The page in a real browser: figures, tooltips, files, themes, keyboard, and a phone's width."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tr_align.reports.figures import all_figures
from tr_align.reports.page import build_page
from tr_align.reports.results import Report
from tr_align.reports.theme import DARK

from .made_up import report, toy
from .test_page import BLUE, INK, stand_in, stand_ins

Open = Callable[..., Any]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's HTML and waits until its figures are drawn; at the end nothing may have gone wrong."""
    contexts, complaints = [], []

    def open_page(html: str, address: str = "", viewport: dict[str, int] = DESK, **options: Any) -> Any:
        file = tmp_path / "index.html"
        file.write_text(html, "utf-8")
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        own = (file.as_uri(), "data:,", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else complaints.append(request.url))
        page.goto(file.as_uri() + address)
        _drawn(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def _drawn(page: Any, times: int = 1) -> None:
    # not wait_for_function, whose eval the page's policy forbids
    page.locator(f"html[data-drawn='{times}']").wait_for(state="attached")


@pytest.fixture(scope="module")
def html() -> str:
    made_up = report()
    return build_page(made_up, stand_ins(made_up))


# Figures


def test_every_figure_is_drawn(show: Open, html: str) -> None:
    page = show(html)
    for figure in stand_ins(report()):
        marks = page.locator(f"[data-figure={figure.name}] svg .mark-symbol.role-mark path")
        assert marks.count() == len(figure.rows)


def test_the_policy_forbids_the_network_and_other_scripts(browser: Any, html: str, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(html, "utf-8")
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto((tmp_path / "index.html").as_uri())
    assert page.evaluate("fetch('https://example.org').then(() => 'loaded', () => 'refused')") == "refused"
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'}))")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    for kind in ("connect", "script", "img"):
        assert any(kind in text and "Content Security Policy" in text for text in refused), (kind, refused)
    page.close()


def test_hovering_shows_the_numbers(show: Open, html: str) -> None:
    page = show(html)
    figure = stand_ins(report())[0]
    last = figure.rows[-1]
    mark = page.locator(f"[data-figure={figure.name}] .mark-symbol.role-mark path").nth(len(figure.rows) - 1)
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    words = tooltip.inner_text()
    assert last["name"] in words and f"{last['hc']:.2f}" in words
    assert tooltip.evaluate("element => getComputedStyle(element).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("kind", ["svg", "print"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_figure_can_be_saved_in_light_colours(show: Open, html: str, kind: str, scheme: str) -> None:
    page = show(html, color_scheme=scheme)
    figure = stand_ins(report())[0]
    svg = _saved(page, figure.name, kind).decode("utf-8")
    name, width = {"svg": ("kl_vs_hc.svg", 900), "print": ("kl_vs_hc-paper.svg", 200)}[kind]
    assert page.saved_name == name
    drawing = page.evaluate(
        """text => {
            const root = new DOMParser().parseFromString(text, 'image/svg+xml');
            const marks = root.querySelectorAll('.mark-symbol.role-mark path');
            return {name: root.documentElement.nodeName, marks: marks.length, fill: marks[0].getAttribute('fill'),
                    width: Number(root.documentElement.getAttribute('width'))};
        }""",
        svg,
    )
    assert drawing["name"] == "svg" and drawing["marks"] == len(figure.rows) and drawing["fill"] == BLUE
    assert width < drawing["width"] < width + 120
    assert 'fill="white"' in svg and f'fill="{INK}"' in svg


def test_a_figure_can_be_saved_as_a_picture(show: Open, html: str) -> None:
    assert _saved(show(html), "kl_vs_hc", "png")[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_csv_file_holds_the_rows(show: Open) -> None:
    rows: list[dict[str, Any]] = [
        {"name": 'a "quoted", one', "x": 0.1 + 0.2, "y": 1, "seeds": [0, 1], "final": True},
        {"name": "two\nlines", "x": -1e-9, "y": 2.5, "seeds": [], "final": False, "more": "öß"},
        {"name": "", "x": 3, "y": None, "seeds": [2], "final": True, "more": None},
    ]
    made_up = report()
    page = show(build_page(made_up, [*stand_ins(made_up), stand_in("odd", "Odd rows", rows, "x", "y")]))
    for figure in [*stand_ins(made_up), stand_in("odd", "Odd rows", rows, "x", "y")]:
        text = _saved(page, figure.name, "csv").decode("utf-8")
        found = list(csv.DictReader(io.StringIO(text, newline="")))
        assert list(found[0]) == list(dict.fromkeys(key for row in figure.rows for key in row))
        assert len(found) == len(figure.rows)
        for line, row in zip(found, figure.rows, strict=True):
            for key, text in line.items():
                assert _read(text, row.get(key)) == row.get(key), (key, text)


def _read(text: str, like: Any) -> Any:
    if like is None:
        return None if text == "" else text
    return text if isinstance(like, str) else json.loads(text)


def _saved(page: Any, figure: str, kind: str) -> bytes:
    with page.expect_download() as download:
        page.locator(f"[data-files={figure}] [data-kind={kind}]").click()
    page.saved_name = download.value.suggested_filename
    return Path(download.value.path()).read_bytes()


# Themes, widths, keyboard


def _ink(page: Any) -> str:
    text = page.locator("[data-figure=kl_vs_hc] svg text").first
    return str(text.evaluate("element => getComputedStyle(element).fill"))


def _back(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_the_system_chooses_the_theme_and_the_reader_another(show: Open, html: str) -> None:
    page = show(html, color_scheme="dark")
    dark_back, dark_ink = _back(page), _ink(page)
    assert dark_back != "rgb(255, 255, 255)" and dark_ink != "rgb(31, 35, 40)"
    page.locator(".theme label", has_text="Light").click()
    _drawn(page, 2)
    assert _back(page) == "rgb(255, 255, 255)" and _ink(page) == "rgb(31, 35, 40)"
    page.wait_for_timeout(300)  # Chromium stores on its own time
    page.reload()
    _drawn(page)
    assert _back(page) == "rgb(255, 255, 255)", "it is remembered"
    page.locator(".theme label", has_text="Auto").click()
    _drawn(page, 2)
    assert _back(page) == dark_back and _ink(page) == dark_ink
    # the system changes while the page is open
    page.emulate_media(color_scheme="light")
    _drawn(page, 3)
    assert _back(page) == "rgb(255, 255, 255)" and _ink(page) == "rgb(31, 35, 40)"


def test_a_dark_page_prints_on_white(show: Open, html: str) -> None:
    page = show(html, color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert _back(page) == "rgb(255, 255, 255)" and _ink(page) == "rgb(31, 35, 40)"
    assert page.locator("main details:not([open]):not(.methods)").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction(show: Open, html: str, scheme: str) -> None:
    page = show(html, viewport=PHONE, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    svg = page.locator("[data-figure=kl_vs_hc] svg").bounding_box()
    assert svg["width"] <= 328 and float(page.locator("[data-figure=kl_vs_hc] svg").get_attribute("width")) < 400
    # the first column of the wide table stays
    first = page.locator(".results tbody th").first
    before = first.bounding_box()["x"]
    page.locator(".scroll", has=page.locator(".results")).evaluate("element => { element.scrollLeft = 300; }")
    assert page.locator(".results tbody td").first.bounding_box()["x"] < 0
    assert first.bounding_box()["x"] == before


def test_a_turned_phone_gets_the_other_drawing(show: Open, html: str) -> None:
    page = show(html, viewport=PHONE)
    narrow = page.locator("[data-figure=kl_vs_hc] svg").get_attribute("width")
    page.set_viewport_size(DESK)
    _drawn(page, 2)
    assert float(page.locator("[data-figure=kl_vs_hc] svg").get_attribute("width")) > 2 * float(narrow)


def test_the_keyboard_reaches_everything(show: Open, html: str) -> None:
    page = show(html)
    seen: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(e => [e.className, e.dataset.kind, e.dataset.filter, e.type, e.tagName].filter(Boolean).join(' '))"
                "(document.activeElement)"
            )
        )
        if seen[-1] == "BODY":
            break
        outline = page.evaluate(
            "(e => getComputedStyle(e.matches('.theme input') ? e.nextElementSibling : e).outlineStyle)"
            "(document.activeElement)"
        )
        assert outline != "none", seen[-1]
    words = " / ".join(seen)
    assert seen[0].startswith("skip")
    for part in ("svg submit", "csv", "all submit", "flipped", "search INPUT", "SELECT", "scroll", "radio"):
        assert part.replace("submit", "button") in words or part in words, part


def test_the_skip_link_and_the_contents(show: Open, html: str) -> None:
    page = show(html)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator(".menu summary").focus()
    page.keyboard.press("Enter")
    assert page.locator(".menu nav").is_visible()
    page.keyboard.press("Escape")
    assert page.locator(".menu nav").is_hidden()
    for link in page.locator(".menu nav a").all():
        page.locator(".menu summary").click()
        link.click()
        assert page.locator(".menu nav").is_hidden()
        target = page.locator(link.get_attribute("href"))
        assert target.count() == 1
    assert page.locator("#settings").bounding_box()["y"] < 900


# Reports that lack something


def _partial() -> dict[str, Report]:
    whole = report()
    one = [row for row in whole.points if row["cell"] in ("sft", "dpo")]
    silent = [
        {**row, "replies": {c: {**r, "hc": None, "axes": None, "text": ""} for c, r in row["replies"].items()}}
        for row in whole.prompts
    ]
    blank = [
        row | {name: None for name in row if name.startswith(("hc", "detail", "self_bleu")) and row["cell"] != "sft"}
        for row in whole.points
    ]
    nothing = dict.fromkeys(("effect", "ci", "p", "p_holm", "kl"))
    return {
        "no claims": report(claims=[]),
        "no ood, no prompts": report(ood=[], prompts=[]),
        "one method": report(
            points=one, wins=[], frontier=[], peaks=[], claims=[], training=[], updates={}, prompts=[]
        ),
        "one seed": report(context=whole.context | {"seeds": [0]}),
        "unread": report(
            points=blank,
            prompts=silent,
            claims=[claim | nothing for claim in whole.claims],
            problems=[f"KTO, seed {number}: no generations/kto.jsonl" for number in range(5)],
        ),
        "unmeasured judge": report(context=whole.context | {"judge_accuracy": None, "judge_bias": None, "seconds": {}}),
    }


@pytest.mark.parametrize("name", list(_partial()))
def test_a_partial_report_is_shown(show: Open, name: str) -> None:
    made_up = _partial()[name]
    page = show(build_page(made_up, stand_ins(made_up)), viewport=PHONE)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    assert page.locator("h1").is_visible()
    assert "None" not in page.locator("main").inner_text()
    assert page.locator("#replies").count() == (1 if made_up.prompts else 0)
    if name == "unread":
        assert "5 things missing" in page.locator("#problems summary").inner_text()
        assert page.locator(".cards").inner_text().count("no readable rating") == 10
        assert "empty reply" in page.locator(".cards").inner_text()
    if name == "one seed":
        assert "trained once (one seed)" in page.locator("#answer").inner_text()
    if name == "one method":
        assert "so it cannot say" in page.locator("#answer").inner_text()


# The real figures


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_the_real_figures_are_drawn_in_both_themes(show: Open, viewport: dict[str, int]) -> None:
    made_up = report(toy=toy())
    drawn = all_figures(made_up)
    page = show(build_page(made_up, drawn), viewport=viewport, color_scheme="dark")
    assert page.locator(".plot").count() == len(drawn)
    for figure in drawn:
        plot = page.locator(f"[data-figure='{figure.name}']")
        assert plot.locator(".role-mark path, .role-mark line, .role-mark rect").count() > 5, figure.name
        used = set(
            plot.evaluate(
                "e => [...e.querySelectorAll('svg *')].flatMap(m => [m.getAttribute('fill'), m.getAttribute('stroke')])"
            )
        )
        assert not used & set(DARK) - set(DARK.values()), figure.name
        assert plot.evaluate("e => e.scrollWidth <= e.clientWidth"), figure.name
    assert page.evaluate("document.scrollingElement.scrollWidth") <= viewport["width"]
