"""Make the README's picture of the report: the top of reports/index.html in a real browser.

python docs/img/report.py     # at the root of the repository; needs chromium and playwright
"""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).parent
PAGE = Path("reports/index.html").resolve().as_uri()


def main() -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 1010}, color_scheme="light")
        page.goto(PAGE)
        page.locator("html[data-drawn]").wait_for(timeout=60_000)
        page.screenshot(path=str(FOLDER / "report.png"))
        browser.close()


if __name__ == "__main__":
    main()
