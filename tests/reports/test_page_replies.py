"""The reply browser in a real browser: filters, search, methods, keyboard, addresses, and replies of any kind."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tr_align.reports.page import PAGE_BYTES, build_page, replies

from .made_up import one_axis, prompts, report
from .test_page import ATTACK
from .test_page_browser import PHONE, Open, show

__all__ = ["show"]

FILTERS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "all": lambda reply: True,
    "tr": lambda reply: reply["vs_base"] == "win",
    "base": lambda reply: reply["vs_base"] == "lose",
    "flipped": lambda reply: "flipped" in (reply["vs_sft"], reply["vs_base"]),
}
WORDS = ("basil", "Licht", "wässern", "ORCHID", "topsoil")


def varied(count: int = 40) -> list[dict[str, Any]]:
    """Prompts whose verdicts differ enough that every filter finds some and leaves some."""
    draw = random.Random(7)
    rows = []
    for number, row in enumerate(prompts()[:1] * count):
        found = {}
        for cell, reply in row["replies"].items():
            kinds = ["tie", "tie", "tie", "unread", None, "lose" if number % 3 else "win", "flipped"]
            versus = {"vs_sft": None if cell == "sft" else draw.choice(kinds[:5])}
            versus["vs_base"] = draw.choice(kinds[:6]) if cell.startswith("tr_") else None
            if cell == "kto" and number % 5 == 0:
                versus["vs_sft"] = "flipped"
            found[cell] = reply | versus | {"text": f"{draw.choice(WORDS)} {draw.choice(WORDS)}"}
        rows.append({"id": f"id {number}&", "prompt": f"Prompt number {number}?", "replies": found})
    return rows


@pytest.fixture(scope="module")
def html() -> str:
    return build_page(report(prompts=varied()), [])


def expected(name: str, query: str = "", methods: Any = None) -> list[str]:
    found = []
    for row in varied():
        shown = {cell: reply for cell, reply in row["replies"].items() if methods is None or cell in methods}
        texts = [row["prompt"], *(reply["text"] for reply in shown.values())]
        if query and not any(query.lower() in text.lower() for text in texts):
            continue
        if name == "all" or any(FILTERS[name](reply) for reply in shown.values()):
            found.append(row["prompt"])
    return found


def offered(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#replies select option").all_text_contents()]


def counts(page: Any) -> dict[str, int]:
    return {
        name: int(page.locator(f"[data-filter={name}] .count").inner_text())
        for name in ("all", "tr", "base", "flipped")
    }


def search(page: Any, text: str) -> None:
    page.locator("#replies input[type=search]").fill(text)
    page.wait_for_timeout(300)


@pytest.mark.parametrize("name", list(FILTERS))
def test_a_filter_shows_exactly_its_prompts(show: Open, html: str, name: str) -> None:
    page = show(html)
    page.locator(f"[data-filter={name}]").click()
    assert offered(page) == expected(name)
    assert name == "all" or 0 < len(expected(name)) < len(varied())
    assert page.locator(f"[data-filter={name}]").get_attribute("aria-pressed") == "true"
    assert page.locator("#replies [aria-pressed=true]").count() == 1
    assert page.locator(".prompt").inner_text() == expected(name)[0]
    assert counts(page) == {other: len(expected(other)) for other in FILTERS}


def test_search_and_methods_narrow_every_filter(show: Open, html: str) -> None:
    page = show(html)
    search(page, "Wässern ORCHID")
    assert offered(page) == expected("all", "wässern orchid") != expected("all")
    page.locator(".methods summary").click()
    for cell in ("sft", "ipo", "tr_ipo_soft", "tr_ipo_hard", "kto", "tr_kto_soft", "tr_kto_hard"):
        page.locator(f".methods input[value={cell}]").uncheck()
    chosen = {"dpo", "tr_dpo_soft", "tr_dpo_hard"}
    assert page.locator(".chosen").inner_text() == "3 of 10"
    for name in FILTERS:
        page.locator(f"[data-filter={name}]").click()
        assert offered(page) == expected(name, "wässern orchid", chosen)
        assert counts(page) == {other: len(expected(other, "wässern orchid", chosen)) for other in FILTERS}
    search(page, "")
    page.locator("[data-filter=all]").click()
    assert counts(page) == {other: len(expected(other, "", chosen)) for other in FILTERS}
    assert page.locator(".cards .reply h3 .key").all_inner_texts() == ["DPO", "TR-DPO soft", "TR-DPO hard"]
    page.locator(".methods .all").click()
    assert page.locator(".cards .reply").count() == 10
    search(page, "no such words")
    assert "No prompt matches" in page.locator(".shown").inner_text()
    assert page.locator(".where").inner_text() == "none" and counts(page)["all"] == 0


def test_a_reply_has_its_ratings_and_verdicts(show: Open) -> None:
    rows = varied(2)
    rows[0]["replies"]["tr_dpo_soft"] |= {"hc": 8.25, "kl": 12.34, "words": 7, "vs_sft": "win", "vs_base": "flipped"}
    rows[0]["replies"]["tr_dpo_soft"]["axes"] = {"coherence": 9.0, "correctness": None, "helpfulness": "great"}
    rows[0]["replies"]["kto"] |= {"hc": None, "axes": None, "text": " \n", "vs_sft": "unread"}
    page = show(build_page(report(prompts=rows), []))
    words = page.locator(".reply.soft", has_text="TR-DPO soft").inner_text()
    for part in ("HC 8.3", "KL 12.3 nats", "7 words", "coherence 9.0", "correctness –", "helpfulness –", "detail –"):
        assert part in words.replace("\n", " ")
    assert "wins against SFT" in words and "judge flipped on DPO" in words
    silent = page.locator(".reply", has=page.locator(".key", has_text="KTO")).first.inner_text()
    for part in ("HC –", "no readable rating", "judge unreadable on SFT", "empty reply"):
        assert part in silent


def test_a_reply_that_was_rated_on_one_axis_has_its_hc_alone(show: Open) -> None:
    page = show(build_page(one_axis(), []))
    shown = page.locator(".reply.soft", has_text="TR-DPO soft")
    assert "HC 7.2" in shown.inner_text().replace("\n", " ") and "preference" not in shown.inner_text()
    assert shown.locator(".axes").count() == 0


def test_the_arrow_keys_step_through_the_prompts(show: Open, html: str) -> None:
    page = show(html)
    wanted = expected("flipped")
    page.locator("[data-filter=flipped]").focus()
    page.keyboard.press("Enter")
    for place in (1, 2):
        page.keyboard.press("ArrowRight")
        assert page.locator(".prompt").inner_text() == wanted[place]
        assert page.locator(".where").inner_text() == f"{place + 1} of {len(wanted)}"
    for place in (1, 0, -1):
        page.keyboard.press("ArrowLeft")
        assert page.locator(".prompt").inner_text() == wanted[place]
    page.locator("[data-step='1']").click()
    assert page.locator(".prompt").inner_text() == wanted[0]
    page.locator("#replies select").select_option(index=3)
    assert page.locator(".prompt").inner_text() == wanted[3]
    # in the search field the arrows move the cursor
    page.locator("#replies input[type=search]").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".prompt").inner_text() == wanted[3]


def test_the_address_keeps_what_is_seen(show: Open, html: str) -> None:
    page = show(html)
    page.locator("[data-filter=base]").click()
    search(page, "basil")
    page.locator(".methods summary").click()
    page.locator(".methods input[value=sft]").uncheck()
    page.locator("[data-step='1']").click()
    seen = page.locator(".shown").inner_text()
    address = page.evaluate("location.hash")
    other = show(html, address=address)
    assert other.locator(".shown").inner_text() == seen
    assert offered(other) == expected("base", "basil", set(varied()[0]["replies"]) - {"sft"})
    assert other.locator("#replies input[type=search]").input_value() == "basil"
    assert other.locator("#replies").bounding_box()["y"] < 200, "it is scrolled to"
    # an address followed on the open page, and one that means nothing here
    other.evaluate("location.hash = '#replies?prompt=id+7%26'")
    other.locator(".prompt", has_text="Prompt number 7?").wait_for()
    assert other.locator("#replies input[type=search]").input_value() == ""
    other.evaluate("location.hash = '#replies?filter=toString&methods=x&prompt=gone'")
    other.locator("[data-filter=all][aria-pressed=true]").wait_for()


STRANGE = {
    "markup": ATTACK,
    "end of script": "</script><script>window.hacked = 1</script><!-- <script>",
    "right to left": "شكرا \u202e override",
    "long word": "w" * 3000,
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 50,
    "controls": "a\x00b\x0b\u2028\u2029\r\nend",
    "half a character": "broken \ud83d end",
}


@pytest.mark.parametrize("kind", list(STRANGE))
def test_a_reply_of_any_kind_is_shown_as_text(show: Open, kind: str) -> None:
    text = STRANGE[kind]
    rows = varied(1)
    rows[0]["prompt"] = text
    rows[0]["replies"]["dpo"]["text"] = text
    page = show(build_page(report(prompts=rows), []), viewport=PHONE)
    written = text.encode("utf-8", "replace").decode()
    assert page.locator(".reply .said").nth(1).evaluate("element => element.textContent") == written
    assert page.locator(".prompt").evaluate("element => element.textContent") == written
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


def test_three_thousand_long_replies_stay_under_the_budget(show: Open) -> None:
    row = prompts()[0]
    long = "Lorem ipsum < dolor ünicode " * 40
    many = [
        {
            "id": f"p{number}",
            "prompt": f"Prompt {number}",
            "replies": {cell: reply | {"text": long} for cell, reply in row["replies"].items()},
        }
        for number in range(3000)
    ]
    html = build_page(report(prompts=many), [])
    assert PAGE_BYTES - 20_000 < len(html.encode()) <= PAGE_BYTES
    page = show(html)
    shown = len(offered(page))
    assert 100 < shown < 3000
    assert f"{shown} of 3000 prompts shown" in page.locator("#replies").inner_text()
    assert offered(page)[-1] == f"Prompt {shown - 1}"


def test_all_that_fit_are_kept() -> None:
    whole = report(prompts=varied())
    text, count = replies.fitting(whole, 10**7)
    assert count == len(varied())
    exact = len(text.encode())
    assert replies.fitting(whole, exact)[1] == count
    assert replies.fitting(whole, exact - 1)[1] == count - 1
    assert replies.fitting(whole, 0)[1] == 0
