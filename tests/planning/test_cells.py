"""The cells are those that DVC resolves from dvc.yaml, for any settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo

from tr_align.config import METHODS, load_params
from tr_align.errors import UserError
from tr_align.planning.cells import Cell, cells, followed, pending, touched

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def repo() -> Iterator[Repo]:
    with Repo(str(ROOT)) as opened:
        yield opened


@pytest.fixture(scope="module")
def stages() -> dict[str, Cell]:
    return cells(PARAMS, ROOT / "dvc.yaml")


def test_names_settings_and_order_are_dvcs(repo: Repo, stages: dict[str, Cell]) -> None:
    found = {}
    for stage in repo.index.stages:
        found[stage.addressing] = {key for dep in stage.deps if hasattr(dep, "params") for key in dep.params}
    assert {name: set(cell.params) for name, cell in stages.items()} == found
    edges = {(after.addressing, before.addressing) for after, before in repo.index.graph.edges}
    ours = {
        (after, before)
        for before in stages
        for after in followed({name: stages[name] for name in stages}, [before]) - {before}
    }
    closure = set(edges)
    while more := {(a, d) for a, b in closure for c, d in closure if b == c} - closure:
        closure |= more
    assert ours == closure


def test_alpha_touches_the_soft_methods_and_what_follows_from_them(stages: dict[str, Cell]) -> None:
    soft = {f"tr_{loss}_soft" for loss in ("dpo", "ipo", "kto")}
    kinds = ("align", "generate", "ood", "judge", "score")
    assert touched(stages, "ref_update.alpha") == {f"{kind}@{name}" for kind in kinds for name in soft} | {"report"}
    # A section is as all of its settings; one that only some stage knows as a whole, too.
    assert touched(stages, "ref_update") >= {f"align@{name}" for name in METHODS if name.startswith("tr_")}
    assert touched(stages, "judge.max_usd") == {"report"}
    language = set(stages) - {"toy_mdp"}  # a world of its own
    assert touched(stages, "data.splits") == language  # `data` is one of prepare's
    assert touched(stages, "score.bootstrap") >= {"score_sft", "calibrate", "report"}
    assert touched(stages, "nothing.of.it") == set()
    # KTO's weights are no business of DPO's.
    assert "align@dpo" not in touched(stages, "kto.desirable_weight")
    assert touched(stages, "seed") == language
    assert touched(stages, "toy_mdp.steps") == {"toy_mdp", "report"}


def test_fewer_methods_are_fewer_cells() -> None:
    smoke = cells(load_params(ROOT / "presets" / "smoke.yaml"), ROOT / "dvc.yaml")
    assert "align@tr_dpo_soft" in smoke and "align@kto" not in smoke
    assert smoke["align@dpo"].params >= {"beta.dpo", "dpo", "align"}
    assert smoke["judge@tr_dpo_soft"].reads >= {"generations/dpo.jsonl", "generations/tr_dpo_soft.jsonl"}
    assert smoke["judge@dpo"].reads >= {PARAMS.judge.openai.prompts.rate}


def test_where_there_is_no_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dvc\.yaml: cannot be read"):
        cells(PARAMS)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    if not any((parent / ".dvc").exists() for parent in tmp_path.parents):
        with pytest.raises(UserError, match="DVC cannot tell"):
            pending()


def test_what_dvc_would_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """a -> b -> c, d alone: after a change of b's setting b and c, at first all."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("x: 1\n")
    copy = "mkdir -p out && cp {0} out/{1}"
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        f"  a: {{cmd: '{copy.format('params.yaml', 'a')}', outs: [out/a]}}\n"
        f"  b: {{cmd: '{copy.format('out/a', 'b')}', params: [x], deps: [out/a], outs: [out/b]}}\n"
        f"  c: {{cmd: '{copy.format('out/b', 'c')}', deps: [out/b], outs: [out/c]}}\n"
        f"  d: {{cmd: '{copy.format('params.yaml', 'd')}', outs: [out/d]}}\n"
    )
    Repo.init(str(tmp_path), no_scm=True)
    assert pending() == ["a", "b", "c", "d"]
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    with Repo(str(tmp_path)) as repo:
        repo.reproduce()
    assert pending() == []
    (tmp_path / "params.yaml").write_text("x: 2\n")
    assert pending() == ["b", "c"]
