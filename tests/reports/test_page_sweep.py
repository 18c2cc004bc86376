"""What the page, the tables and the terminal say of a report with several settings of an update."""

from __future__ import annotations

from typing import Any

from reports.made_up import cell, claims, context, report
from tr_align.reports import build, table
from tr_align.reports.claims import KINDS
from tr_align.reports.page import build_page, tables
from tr_align.reports.page.answer import answers, swept
from tr_align.reports.results import Report


def with_sweep() -> Report:
    """The made-up claims, and one at matched KL about another alpha."""
    other = cell("tr_dpo_soft") | {"cell": "tr_dpo_soft-a0.1-e2", "name": "TR-DPO soft α=0.1, every 2", "alpha": 0.1}
    row = claims()[0] | other | {"swept": True, "effect": -0.77, "ci": [-1.0, -0.5], "verdict": "contradicted"}
    return report(claims=[*claims(), row])


def test_the_answers_are_about_the_main_settings() -> None:
    """The other one is among the claims, and the page says so."""
    plain, found = report(), with_sweep()
    assert answers(found) == answers(plain)
    assert (swept(plain), swept(found)) == (0, 1)
    page = build_page(found, [])
    assert '1 more setting of the updates is among the <a href="#claims">claims</a>, corrected apart.' in page
    assert "−0.77" in page[page.index('id="claims"') :]
    assert "corrected apart" not in build_page(plain, [])


def test_without_main_settings_the_others_are_the_answers() -> None:
    only = report(claims=[dict(row) | {"swept": True} for row in claims()])
    assert answers(only) == answers(report()) and swept(only) == 0


def test_the_table_says_that_families_are_apart() -> None:
    apart = "(Holm), apart for settings of the update other than the main one."
    assert apart in table.claims_note(with_sweep()) and apart not in table.claims_note(report())
    assert "TR-DPO soft keeps more quality" in build.summary(with_sweep())


def test_learning_rates_are_shown_where_they_differ() -> None:
    def rates(**by_cell: list[float]) -> list[tuple[str, str]]:
        found: Any = tables.settings(report(context=context() | {"learning_rates": by_cell}))["learning_rates"]
        return list(found)

    assert rates(dpo=[1e-4], tr_dpo_soft=[1e-4]) == []
    assert rates(dpo=[3e-5], tr_dpo_soft=[1e-4], ipo=[3e-5, 1e-4]) == [
        ("3e-05", "DPO, IPO"), ("0.0001", "IPO, TR-DPO soft")
    ]  # fmt: skip
    differing = report(context=context() | {"learning_rates": {"dpo": [3e-5], "ipo": [1e-4]}})
    page = build_page(differing, [])
    assert '<tr><th scope="row">3e-05</th><td>DPO</td></tr>' in page
    assert "Learning rates, tuned method by method" in page
    assert "Learning rates, tuned" not in build_page(report(), [])


def test_every_kind_has_its_heading() -> None:
    for kind in KINDS:
        claim = claims()[0] | {"id": f"{kind}/tr_dpo_soft", "kind": kind}
        (group,) = tables.claims(report(claims=[claim]))
        assert group["title"] != kind and group["meaning"].endswith(".")
