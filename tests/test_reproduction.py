"""docs/reproduction.md and the README quote the reproduction's report: every row of theirs is a row of its table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "reports" / "hh-smollm2-135m"
METHOD = re.compile(r"\| (with )?(TR-)?(DPO|IPO|KTO)\b")


def rows(path: Path) -> list[str]:
    """The lines of a file's tables that begin with a method."""
    return [line for line in path.read_text(encoding="utf-8").splitlines() if METHOD.match(line)]


def test_the_paper_quotes_rows_of_the_report() -> None:
    quoted = rows(ROOT / "docs" / "reproduction.md")
    known = rows(REPORT / "table.md") + rows(REPORT / "judges.md")
    assert len(quoted) >= 15  # nine methods, six comparisons at the same KL
    assert [row for row in quoted if row not in known] == []


@pytest.mark.parametrize("page", ["docs/reproduction.md", "README.md"])
def test_its_links_lead_to_files(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", path.read_text(encoding="utf-8"))
    assert links and [link for link in links if not (path.parent / link).exists()] == []
