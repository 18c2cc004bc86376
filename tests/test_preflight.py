"""What is wrong is said before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tr_align import models
from tr_align.config import Params, load_params
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError
from tr_align.preflight import check_settings, check_splits

ROOT = Path(__file__).parents[1]


def changed(section: str, **values: Any) -> Params:
    params = load_params(ROOT / "presets" / "smoke.yaml")
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


def test_the_presets_pass(tmp_path: Path) -> None:
    for name in ("embedded", "smoke"):
        check_settings(load_params(ROOT / "presets" / f"{name}.yaml"), tmp_path / "answers.jsonl")


def test_an_interval_as_long_as_the_run_is_a_warning(tmp_path: Path) -> None:
    text = (ROOT / "presets" / "smoke.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("every: 2 ", "every: 4 "))
    (warning,) = load_params(path).warnings()
    assert warning.startswith("ref_update.every: is 4, but align.steps is 4: the reference of tr_dpo_soft never moves")
    # tau may be anything while no hard method runs
    path.write_text(text.replace("tau: 2 ", "tau: 512 "))
    assert load_params(path).ref_update.tau == 512
    assert load_params(path).warnings() == []


@pytest.mark.parametrize("name", ["./nowhere", "packaged:something", "nowhere.gguf"])
def test_a_model_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.name"):
        check_settings(changed("model", name=name), tmp_path / "answers.jsonl")


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"model\.name"):
        models.check(str(tmp_path / "empty"))


def test_a_judge_that_does_not_answer(tmp_path: Path) -> None:
    endpoint = changed("judge").judge.openai.model_copy(
        update={"base_url": "http://127.0.0.1:9/v1", "max_retries": 0, "timeout_seconds": 2.0}
    )
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        check_settings(changed("judge", name="openai", openai=endpoint), tmp_path / "answers.jsonl")


def test_a_split_smaller_than_a_batch() -> None:
    pair = Pair(prompt=[Message(role="user", content="x")], chosen="a", rejected="b")
    params = load_params(ROOT / "presets" / "smoke.yaml")
    check_splits(params, {"sft": [pair] * 4, "preferences": [pair] * 2})
    with pytest.raises(UserError, match=r"sft\.batch_size: is 4, but the sft split has only 3"):
        check_splits(params, {"sft": [pair] * 3, "preferences": [pair] * 2})
    with pytest.raises(UserError, match=r"align\.batch_size"):
        check_splits(params, {"sft": [pair] * 4, "preferences": [pair]})
