"""The toy MDP from its file to the page: read, put beside the other claims, told in a section of its own."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tr_align.reports import table
from tr_align.reports.figures import all_figures
from tr_align.reports.page import build_page, words
from tr_align.reports.page.embed import PART, PART_LETTERS, Parts, figure_data, n_bytes, script_json
from tr_align.reports.runs import comparable, from_folder, load

from . import made_up
from .run_folder import Made, made_run, report_of, write
from .test_page import Outline, outline

PATH = "reports/toy_mdp.json"
AGAIN = "the toy MDP is left out; run `dvc repro toy_mdp` again"


# Reading


def test_it_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert made_run(tmp_path, "without").toy is None
    run = made_run(tmp_path, "with", Made(toy=made_up.toy()))
    assert run.toy == json.loads(json.dumps(made_up.toy()))
    assert run.problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"world": {"depth": 5', f"{PATH} is torn: {AGAIN}"),
        ('{"world": {}, "curves": []}', f"{PATH} is of another version: {AGAIN}"),
        ("[1]", f"{PATH} is of another version: {AGAIN}"),
    ],
    ids=["torn", "without tables", "a list"],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, text: str, problem: str) -> None:
    (write(tmp_path) / PATH).write_text(text, encoding="utf-8")
    run = load("here", from_folder(tmp_path))
    assert (run.toy, run.problems) == (None, [problem])
    assert list(run.models) == ["sft", "dpo", "tr_dpo_soft"]


def test_runs_with_other_toys_are_comparable(tmp_path: Path) -> None:
    runs = [made_run(tmp_path, name, Made(settings=s)) for name, s in (("a", {}), ("b", {"toy_mdp.depth": 6}))]
    assert comparable(runs) == (runs, [])


# The report


def test_its_claims_follow_the_others_and_change_no_verdict(tmp_path: Path) -> None:
    without, with_it = report_of(tmp_path / "a", Made()), report_of(tmp_path / "b", Made(toy=made_up.toy()))
    assert without.toy is None
    assert with_it.toy == json.loads(json.dumps(made_up.toy()))
    own = [claim for claim in with_it.claims if claim["kind"] != "toy_ood"]
    assert own == without.claims and own
    assert list(with_it.claims) == [*own, *made_up.toy()["claims"]]
    assert with_it.context["verdict"] == without.context["verdict"]
    assert "toy" not in " ".join(with_it.context["verdict"])


def test_a_report_of_several_runs_shows_the_first_ones(tmp_path: Path) -> None:
    found = made_up.toy()
    other = found | {"world": found["world"] | {"seeds": 99}}
    mades = [Made(settings={"seed": seed}, toy=toy) for seed, toy in ((0, found), (1, other))]
    report = report_of(tmp_path / "a", *mades)
    assert report.toy is not None and report.toy["world"]["seeds"] == 5
    assert report_of(tmp_path / "b", Made(), Made(settings={"seed": 1}, toy=other)).toy is None


def test_the_note_under_the_claims_counts_prompts_and_worlds() -> None:
    claims = [*made_up.claims(), *made_up.toy()["claims"]]
    last = table.claims_markdown(made_up.report(claims=claims)).splitlines()[-1]
    assert "64 prompts; seeds 0, 1" in last and "0 to 64" not in last
    assert last.endswith(" Those of the toy MDP rest on 5 worlds of their own.")
    assert "toy MDP" not in table.claims_markdown(made_up.report())
    # a paper has no room for them
    assert "toy" not in table.claims_latex(made_up.report(claims=claims)).lower()


# The page


def page(**changes: Any) -> str:
    toy = made_up.toy()
    report = made_up.report(**{"toy": toy, "claims": [*made_up.claims(), *toy["claims"]]} | changes)
    return build_page(report, all_figures(report))


@pytest.fixture(scope="module")
def html() -> str:
    return page()


def test_the_section_tells_the_world_from_its_numbers(html: str) -> None:
    section = html[html.index('<section id="toy"') : html.index('<section id="claims"')]
    told = outline(section).words
    for part in (
        "A tree with 3 actions at each of 5 levels has 243 trajectories",
        "81 of them are demonstrations",
        "40 of these make 20 preference pairs",
        "the other 162 are out of distribution (OOD)",
        "trains for 12 steps",
        "on 5 such worlds",
        "docs/toy-mdp.md",
    ):
        assert part in told
    found = outline(section)
    assert [place["data-figure"] for place in found.all("div") if "data-figure" in place] == [
        "toy_mass",
        "toy_logps",
        "toy_kl",
        "toy_curvature",
        "toy_grid",
    ]
    assert html.index('id="ood"') < html.index('<section id="toy"')


class Levels(HTMLParser):
    """The ids of headings, by level."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: dict[str, list[str]] = {"h2": [], "h3": []}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.ids:
            self.ids[tag].append(dict(attrs).get("id") or "")


def test_its_figures_are_below_its_heading(html: str) -> None:
    levels = Levels(html).ids
    assert {"toy-title", "training-title", "claims-title"} <= set(levels["h2"])
    assert {"toy_mass-title", "toy_grid-title"} <= set(levels["h3"])
    found: Outline = outline(html)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [link["href"] for link in found.all("a")]
    assert "#toy" in targets and "#toy_mass" not in targets and "#training" in targets


def test_its_claims_have_a_heading_and_rest_on_seeds(html: str) -> None:
    told = outline(html).words
    assert "Toy MDP: less probability outside the data 6 supported" in told
    assert "+1.25 [+0.50, +2.00] percentage points at 1.9 nats, β = 0.1, 5 seeds, p = 0.04" in told
    assert "0 prompts" not in told


@pytest.mark.parametrize("kind", ["toy_ood", "toy_reward", "toy_recovery", "toy_gradient", "toy_curvature"])
def test_every_kind_of_claim_is_explained(kind: str) -> None:
    claims = [claim | {"kind": kind} for claim in made_up.toy()["claims"]]
    report = made_up.report(claims=claims)
    told = outline(build_page(report, [])).words
    assert kind not in told and "Toy MDP: " in told


def test_without_a_toy_there_is_no_section() -> None:
    html = page(toy=None, claims=made_up.claims())
    assert 'id="toy"' not in html and '"#toy"' not in html and "Toy MDP" not in html


def test_none_is_no_count() -> None:
    assert words.sample({"n_prompts": 0, "seeds": [0, 1]}) == "2 seeds"
    assert words.counted(0, "prompt") == words.counted(None, "prompt") == ""


# What repeats in a figure


def restored(part: Any, parts: list[Any]) -> Any:
    if isinstance(part, list):
        return [restored(item, parts) for item in part]
    if not isinstance(part, dict):
        return part
    if PART in part:
        return restored(parts[part[PART]], parts)
    return {key: restored(value, parts) for key, value in part.items()}


def test_what_repeats_is_kept_once() -> None:
    scale = {"domain": ["a long name", "another long name"], "range": [1, 2]}
    axis = {"title": "a title that is as long as it needs to be", "scale": scale}
    specs = [{"x": axis, "y": scale, "z": {"short": 1}}, {"x": axis, "z": {"short": 1}}]
    parts = Parts(specs)
    first, second = (parts.shortened(spec) for spec in specs)
    assert parts.parts == [scale, {"title": axis["title"], "scale": {PART: 0}}]
    assert (first, second) == ({"x": {PART: 1}, "y": {PART: 0}, "z": {"short": 1}}, {"x": {PART: 1}, "z": {"short": 1}})
    assert [restored(spec, parts.parts) for spec in (first, second)] == specs
    # what is only ever in the same whole stays there
    whole = Parts([{"x": axis}, {"x": axis}])
    assert (whole.shortened({"x": axis}), whole.parts) == ({PART: 0}, [{"x": axis}])
    assert len(json.dumps({"short": 1})) <= PART_LETTERS < len(json.dumps(scale))


def test_every_figure_is_whole_again_and_small() -> None:
    for figure in all_figures(made_up.report(toy=made_up.toy())):
        data = figure_data(figure)
        for size in ("wide", "narrow", "print"):
            spec = restored(data[size], data["parts"])
            assert spec.pop("data") == {"$rows": 1} or not figure.rows
            assert [key for key in spec] == [key for key in getattr(figure, size) if key != "data"]
            assert spec["config"] == getattr(figure, size)["config"]
        specs = {size: data[size] for size in ("wide", "narrow", "print")} | {"parts": data["parts"]}
        whole = [restored(data[size], data["parts"]) for size in ("wide", "narrow", "print")]
        assert n_bytes(script_json(specs)) < 0.6 * n_bytes(script_json(whole)), figure.name
