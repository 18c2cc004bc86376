"""What is wrong is said before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judges.stub import Stub

from tr_align import calibration, models
from tr_align.config import METHODS, Params, load_params
from tr_align.data.schema import Message, Pair
from tr_align.errors import UserError
from tr_align.preflight import check_machine, check_settings, check_splits, judge_calls
from tr_align.settings import Launch, RewardModel

ROOT = Path(__file__).parents[1]


def changed(section: str, **values: Any) -> Params:
    params = load_params(ROOT / "presets" / "smoke.yaml")
    return params.model_copy(update={section: getattr(params, section).model_copy(update=values)})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint's answers are kept under the repository's root: here, a folder of the test's own."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


def test_the_presets_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("embedded", "smoke"):
        check_settings(load_params(ROOT / "presets" / f"{name}.yaml"))
    # The probe costs nothing: nothing is said of calls, and no file of answers is made.
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


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
def test_a_model_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=r"model\.name"):
        check_settings(changed("model", name=name))


@pytest.mark.parametrize(("judge", "refused"), [("reward", True), ("probe", False)])
def test_the_model_of_a_reward_model_is_looked_for_where_it_is_the_judge(judge: str, refused: bool) -> None:
    params = changed("judge", name=judge, reward=RewardModel(model="./nowhere"))
    if not refused:
        return check_settings(params)
    with pytest.raises(UserError, match=r"^judge\.reward\.model: there is no folder"):
        check_settings(params)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"model\.name"):
        models.check(str(tmp_path / "empty"))


def foreign_texts(path: Path, count: int) -> Params:
    path.write_text('{"text": "a"}\n' * count)
    return changed("ood", texts=str(path))


def test_foreign_texts_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^ood\.texts: there is no file nowhere\.jsonl"):
        check_settings(changed("ood", texts="nowhere.jsonl"))
    params = foreign_texts(tmp_path / "own.jsonl", 5)
    with (tmp_path / "own.jsonl").open("a") as file:
        file.write('{"text": ""}\n')
    with pytest.raises(UserError, match=r"own\.jsonl, row 6: text is empty"):
        check_settings(params)


def test_fewer_foreign_texts_than_prompts_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The smoke preset measures 6 prompts, or all 12 where more are asked for."""
    params = foreign_texts(tmp_path / "own.jsonl", 5)
    check_settings(params)
    assert capsys.readouterr().err == (
        f"warning: ood.texts: {tmp_path}/own.jsonl has 5 texts, and 6 prompts are asked for (ood.prompts, or "
        "generate.curve_prompts): fixed texts are measured on the first 5, for each takes a text\n"
    )
    check_settings(foreign_texts(tmp_path / "own.jsonl", 6))
    assert capsys.readouterr().err == ""
    many = params.model_copy(update={"generate": params.generate.model_copy(update={"curve_prompts": 500})})
    foreign_texts(tmp_path / "own.jsonl", 11)
    check_settings(many)
    assert "has 11 texts, and 12 prompts are asked for (ood.prompts" in capsys.readouterr().err
    foreign_texts(tmp_path / "own.jsonl", 12)
    check_settings(many)
    assert capsys.readouterr().err == ""
    few = many.model_copy(update={"ood": many.ood.model_copy(update={"prompts": 4})})
    foreign_texts(tmp_path / "own.jsonl", 3)
    check_settings(few)
    assert "has 3 texts, and 4 prompts are asked for (ood.prompts" in capsys.readouterr().err
    foreign_texts(tmp_path / "own.jsonl", 4)
    check_settings(few)
    assert capsys.readouterr().err == ""


def endpoint(url: str, max_usd: float | None = None, **values: Any) -> Params:
    """The smoke preset with the judge at an address."""
    settings = {"base_url": url, "max_retries": 0, "timeout_seconds": 5.0, "model": "stub-1"} | values
    openai = changed("judge").judge.openai.model_copy(update=settings)
    return changed("judge", name="openai", openai=openai, max_usd=max_usd)


def test_a_judge_that_does_not_answer() -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9"):
        check_settings(endpoint("http://127.0.0.1:9/v1", timeout_seconds=2.0))


def test_what_the_judge_will_cost_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One small question is asked. At $1000 a token nothing suffices; that is a warning, for answers may be known."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Stub() as stub:
        check_settings(endpoint(stub.url))
        assert (len(stub.chats), capsys.readouterr().out) == (1, "")
        check_settings(endpoint(stub.url))
        out, err = capsys.readouterr()
        assert len(stub.chats) == 1  # what the server takes is known by now
        assert out == "" and err.startswith("judge: 96 ratings and 216 comparisons ahead, up to ")
        assert err.endswith("; no price is known for stub-1\n")
        (tmp_path / "prices.yaml").write_text("models: {stub-1: {input: 1.0e+9, output: 0}}")
        check_settings(endpoint(stub.url, max_usd=5, prices=str(tmp_path / "prices.yaml")))
        assert "\nwarning: judge.max_usd is $5.00, $0.00 spent: it may not suffice" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"judge\.max_usd"):
            check_settings(endpoint(stub.url, max_usd=5))


def test_the_calls_of_the_whole_run_by_hand() -> None:
    """params.yaml: 64 prompts, 20 of them at two points before the end, nine methods, a calibration on 100 pairs.

    Ratings: 64 of the SFT model's replies, and 64 + 2 * 20 = 104 a method: 64 + 936 = 1000. The calibration adds two
    a pair and four of each of 24 pairs: 200 + 96. Comparisons, each in both orders: 64 prompts with the SFT model for
    nine methods and with the base method for six of them, 2 * 64 * 15 = 1920; the calibration adds 2 * 100 and
    2 * 8 * 24.
    """
    assert judge_calls(load_params(ROOT / "params.yaml")) == (1000 + 296, 1920 + 584)


def test_the_calls_of_the_smoke_preset_by_hand() -> None:
    """12 prompts, 6 of them at one point before the end, DPO and its soft variant, a calibration on 8 pairs.

    Ratings: 12 + 2 * (12 + 6) = 48, and 2 * 8 + 4 * 8 = 48. Comparisons: 2 * 12 * (1 + 2) = 72, and
    2 * (8 + 8 * 8) = 144.
    """
    assert judge_calls(load_params(ROOT / "presets" / "smoke.yaml")) == (48 + 48, 72 + 144)


def test_the_calls_that_a_setting_takes_or_saves() -> None:
    """From the smoke preset: one method with one base; no point before the end; more points than prompts."""
    params = load_params(ROOT / "presets" / "smoke.yaml")
    ratings, comparisons = judge_calls(params)
    alone = params.model_copy(update={"methods": {"dpo": METHODS["dpo"]}})
    assert judge_calls(alone) == (ratings - 18, comparisons - 48)
    at_the_end = changed("align", evaluate_at=[1.0])
    assert judge_calls(at_the_end) == (ratings - 12, comparisons)
    # All 12 prompts at the point before the end, and no more: 2 * 6 more ratings.
    assert judge_calls(changed("generate", curve_prompts=500)) == (ratings + 12, comparisons)
    # The calibration counts as much as it asks.
    more = calibration.questions(9)[0] - calibration.questions(8)[0]
    assert more > 0 and judge_calls(changed("calibrate", pairs=9))[0] == ratings + more


def test_a_split_smaller_than_a_batch() -> None:
    pair = Pair(prompt=[Message(role="user", content="x")], chosen="a", rejected="b")
    params = load_params(ROOT / "presets" / "smoke.yaml")
    others = [Pair(prompt=[Message(role="user", content=str(i))], chosen="a", rejected="b") for i in range(8)]
    splits = {"sft": [pair] * 4, "preferences": [pair] * 6, "judge": others}
    check_splits(params, splits)
    with pytest.raises(
        UserError, match=r"sft\.batch_size: an optimizer step takes 4 rows, but the sft split has only 3; lower"
    ):
        check_splits(params, splits | {"sft": [pair] * 3})
    with pytest.raises(UserError, match=r"align\.batch_size: .* takes 2 rows, .* only 5, 4 of them held out; lower"):
        check_splits(params, splits | {"preferences": [pair] * 5})
    # Every process has a batch of its own, and so has every part of an accumulated step.
    two = params.model_copy(update={"launch": Launch(train="torchrun --nproc_per_node 2")})
    with pytest.raises(UserError, match=r"sft\.batch_size: an optimizer step of 2 processes takes 8 rows"):
        check_splits(two, splits)
    twice = params.model_copy(update={"align": params.align.model_copy(update={"gradient_accumulation": 2})})
    with pytest.raises(UserError, match=r"align\.batch_size: an optimizer step takes 4 rows"):
        check_splits(twice, splits)
    # The base model as the SFT model takes no rows.
    as_it_is = params.model_copy(update={"sft": params.sft.model_copy(update={"steps": 0})})
    check_splits(as_it_is, splits | {"sft": [pair]})
    # A quarter of the probe's prompts measures it: of eight two, of five one.
    with pytest.raises(UserError, match=r"data\.splits\.judge: is 24, which leaves 1 prompts .*calibrate\.path"):
        check_splits(params, splits | {"judge": others[:5]})
    endpoint = params.model_copy(update={"judge": params.judge.model_copy(update={"name": "openai"})})
    check_splits(endpoint, splits | {"judge": others[:2]})
    with pytest.raises(UserError, match=r"leaves 1 prompts"):
        check_splits(endpoint, splits | {"judge": others[:1] * 3})
    own = endpoint.model_copy(update={"calibrate": params.calibrate.model_copy(update={"path": "own.jsonl"})})
    check_splits(own, splits | {"judge": []})


class Machine:
    """Stands in for torch.cuda: so many GPUs of so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: int, size: float) -> None:
        for name, value in {
            "is_available": lambda: gpus > 0,
            "device_count": lambda: gpus,
            "mem_get_info": lambda: (0, size),
            "get_device_name": lambda: "Toy 1",
            "is_bf16_supported": lambda including_emulation=False: True,
        }.items():
            monkeypatch.setattr(f"torch.cuda.{name}", value)


EIGHT = "accelerate launch --config_file presets/accelerate/fsdp2.yaml"


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    Machine(monkeypatch, 2, 80e9)
    with pytest.raises(UserError, match=r"launch\.train: starts 8 processes a machine, and this one has 2 GPUs; set"):
        check_machine(changed("launch", train=EIGHT))
    with pytest.raises(UserError, match=r"launch\.generate: starts 3 processes"):
        check_machine(changed("launch", generate="torchrun --nproc_per_node 3"))
    # Eight on four machines are two a machine.
    check_machine(changed("launch", generate="torchrun --nnodes 4 --nproc_per_node 2"))


def test_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Pythia 12B: 16 bytes a parameter are 190 GB, split over eight still 24."""
    params = changed("model", name="EleutherAI/pythia-12b")
    Machine(monkeypatch, 8, 80e9)
    with pytest.raises(
        UserError, match=r"launch\.train: sft holds 189\.\d GB on a GPU beside its passes, and this Toy 1 "
    ):
        check_machine(params)
    monkeypatch.chdir(ROOT)
    align = params.align.model_copy(update={"gradient_checkpointing": True})
    sft = params.sft.model_copy(update={"gradient_checkpointing": True})
    eight = params.model_copy(update={"launch": Launch(train=EIGHT), "align": align, "sft": sft})
    check_machine(eight)
    assert capsys.readouterr().err == ""
    Machine(monkeypatch, 8, 34.5e9)
    check_machine(eight)
    # It holds less, and with the longest replies it takes more.
    assert "warning: align, soft takes up to " in capsys.readouterr().err


def test_a_cpu_with_too_little_memory_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import psutil

    class Free:
        available = 1e5

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    check_machine(load_params(ROOT / "presets" / "smoke.yaml"))
    assert "warning: sft takes up to 0." in capsys.readouterr().err
    # Eight processes start elsewhere.
    monkeypatch.chdir(ROOT)
    check_machine(changed("launch", train=EIGHT))
    assert capsys.readouterr().err == ""


def test_a_launch_command_and_an_engine_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"launch\.generate: is 'mpirun"):
        check_settings(changed("launch", generate="mpirun python"))
    with pytest.raises(UserError, match=r"launch\.train"):
        check_settings(changed("launch", train="sh -c"))
    with pytest.raises(UserError, match=r"generate\.engine"):
        check_settings(changed("generate", engine="vllm"))
