"""The page's tables of log-probabilities: numbers and changes with their intervals, per token and per reply."""

from __future__ import annotations

from typing import Any

import pytest

from tr_align.reports.page import build_page
from tr_align.reports.page.fixed_texts import likelihoods

from . import made_up
from .made_up import report


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    found = likelihoods(report())
    assert found
    return found


def test_a_table_per_token_and_one_per_reply(tables: dict[str, Any]) -> None:
    """At step 12: chosen -1.4 - 0.12 a token and 50 times as much a reply; foreign -1.4 - 0.36."""
    assert tables["kinds"] == ["chosen", "rejected", "SFT's samples", "mismatched", "foreign"]
    token, reply = tables["tables"]
    assert (token["title"], reply["title"]) == ("Per token", "Per reply, the sum over its tokens")
    (soft,) = [row for row in token["rows"] if row["name"] == "TR-DPO soft"]
    cell = {"value": "−1.52", "ends": "[−1.62, −1.42]", "change": "−0.12", "change_ends": "[−0.14, −0.10]"}
    assert soft["cells"][0] == cell
    assert soft["cells"][4]["value"] == "−1.76" and soft["cells"][4]["change"] == "−0.36"
    assert (soft["beta"], soft["n"], soft["loss"], soft["update"]) == ("0.05", "48 × 2", "dpo", "soft")
    (soft,) = [row for row in reply["rows"] if row["name"] == "TR-DPO soft"]
    cell = {"value": "−76.0", "ends": "[−81.0, −71.0]", "change": "−6.0", "change_ends": "[−7.0, −5.0]"}
    assert soft["cells"][0] == cell


def test_sft_comes_first_and_has_not_changed(tables: dict[str, Any]) -> None:
    for table in tables["tables"]:
        names = [row["name"] for row in table["rows"]]
        assert names[:4] == ["SFT", "DPO", "TR-DPO soft", "TR-DPO hard"] and len(names) == 10
        assert [row["name"] for row in table["rows"] if row["family"]] == ["SFT", "DPO", "IPO", "KTO"]
        sft = table["rows"][0]
        assert (sft["loss"], sft["update"], sft["beta"], sft["n"]) == (None, "none", "", "48 × 2")
        assert all(cell["change"] == cell["change_ends"] == "" for cell in sft["cells"])
    assert tables["tables"][0]["rows"][0]["cells"][0]["value"] == "−1.40"
    assert tables["tables"][1]["rows"][0]["cells"][0]["value"] == "−70.0"


def test_sft_is_the_start_with_the_most_seeds() -> None:
    def fewer(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "seeds": [0], "per_token": -9.0} if row["method"] == "dpo" else row

    found = likelihoods(report(ood=[fewer(row) for row in made_up.ood()]))
    assert found
    sft, dpo, *_ = found["tables"][0]["rows"]
    assert (sft["n"], sft["cells"][0]["value"]) == ("48 × 2", "−1.40")
    assert (dpo["n"], dpo["cells"][0]["value"]) == ("48 × 1", "−9.00")


def test_the_trained_model_of_every_beta() -> None:
    """The end of a training is its own last step."""
    rows = made_up.ood()
    more = [{**row, "beta": 0.1} for row in rows if row["method"] == "dpo" and row["step"] <= 8]
    found = likelihoods(report(ood=[*rows, *more]))
    assert found
    shown = [(row["name"], row["beta"], row["cells"][0]["change"]) for row in found["tables"][0]["rows"]]
    assert shown[:3] == [("SFT", "", ""), ("DPO", "0.05", "−0.12"), ("DPO", "0.1", "−0.08")]


def test_what_was_not_measured_is_a_dash_or_no_column() -> None:
    rows = [row for row in made_up.ood() if row["kind"] != "foreign"]
    found = likelihoods(report(ood=rows))
    assert found and found["kinds"][-1] == "mismatched"
    some = [row for row in made_up.ood() if (row["kind"], row["method"]) != ("foreign", "kto")]
    found = likelihoods(report(ood=some))
    assert found
    (kto,) = [row for row in found["tables"][0]["rows"] if row["name"] == "KTO"]
    assert kto["cells"][4] == {"value": "–", "ends": "", "change": "", "change_ends": ""}
    # Without the SFT model's log-probabilities there is neither its row nor a change.
    unknown = dict.fromkeys(f"{name}{end}" for name in ("change", "change_per_reply") for end in ("", "_lo", "_hi"))
    found = likelihoods(report(ood=[row | unknown for row in made_up.ood() if row["step"]]))
    assert found
    first = found["tables"][0]["rows"][0]
    assert (first["name"], first["cells"][0]["value"], first["cells"][0]["change"]) == ("DPO", "−1.52", "")
    assert likelihoods(report(ood=[])) is None


def test_they_are_on_the_page_and_in_its_contents() -> None:
    page = build_page(report(), [])
    assert '<a href="#likelihoods">' in page and '<section id="likelihoods"' in page
    assert page.count("Per reply, the sum over its tokens</h3>") == 1
    assert "−1.52<small>[−1.62, −1.42]</small>Δ −0.12<small>[−0.14, −0.10]</small>" in page
    assert 'href="#likelihoods"' not in build_page(report(ood=[]), [])
