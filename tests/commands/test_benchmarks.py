"""The benchmarks' commands: what they print, and how they say that a file is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tr_align import cli
from tr_align.metrics.alpaca_eval import COEFFICIENTS

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    """The lines of a command that works; anything on stdout that is no JSON fails."""
    assert cli.main([str(argument) for argument in arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return [json.loads(line) for line in out.splitlines()]


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The message of a command that does not."""
    assert cli.main([str(argument) for argument in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    return err


def json_lines(path: Path, *rows: Any) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def duel(question: int, first: str, second: str, model: str = "m") -> dict[str, Any]:
    return {
        "question_id": f"q{question}",
        "model": model,
        "games": [{"judgment": f"[[{verdict}]]"} for verdict in (first, second)],
    }


def rating(question: int, turn: int, text: str) -> dict[str, Any]:
    return {"question_id": question, "model": "m", "turn": turn, "judgment": text}


@pytest.fixture
def alpaca(tmp_path: Path) -> dict[str, Path]:
    """Files of a benchmark of six instructions, with models called 7 and m and the baseline."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(size=6)
    annotations = ["model,row,preference,len_baseline,len_model,baseline"]
    for model in ("7", "m", "base"):
        for row in range(6):
            value = 1.5 if model == "base" else rng.uniform(1, 2)
            annotations.append(f"{model},{row},{value},{rng.integers(99)},{rng.integers(99)},base")
    gamed = ["preference,std_delta_len,instruction_difficulty"]
    gamed += [f"{rng.uniform()},{rng.normal()},{difficulty[row % 6]}" for row in range(12)]
    texts = {
        "annotations": annotations,
        "difficulty": ["eval_set_index,instruction_difficulty", *(f"{k},{v}" for k, v in enumerate(difficulty))],
        "gamed": gamed,
        "weights": [",".join(["", *COEFFICIENTS]), "7,-1,0,0", "base,0,0,0", "m,-1,0,1.0986122886681098"],
    }
    paths = {}
    for name, lines in texts.items():
        paths[name] = tmp_path / f"{name}.csv"
        paths[name].write_text("\n".join(lines) + "\n")
    return paths


def test_alpaca_eval_prints_a_line_a_model(capsys: pytest.CaptureFixture[str], alpaca: dict[str, Path]) -> None:
    files = ["--annotations", alpaca["annotations"], "--difficulty", alpaca["difficulty"]]
    lines = printed(capsys, "alpaca-eval", *files, "--gamed", alpaca["gamed"])
    assert [line["model"] for line in lines] == ["7", "m", "base"]
    for line in lines:
        assert list(line) == [
            "model", "win_rate", "standard_error", "length_controlled_winrate", "lc_standard_error", "avg_length",
            "n_total",
        ]  # fmt: skip
    assert (lines[2]["win_rate"], lines[2]["length_controlled_winrate"]) == (50, 50)


def test_alpaca_eval_predicts_with_weights(capsys: pytest.CaptureFixture[str], alpaca: dict[str, Path]) -> None:
    """c = 0 predicts ½, c = ln 3 predicts ¾; --gamed is not even opened."""
    files = ["--annotations", alpaca["annotations"], "--difficulty", alpaca["difficulty"]]
    both = [*files, "--weights", alpaca["weights"], "--gamed", "nowhere.csv"]
    lines = printed(capsys, "alpaca-eval", *both)
    assert [line["length_controlled_winrate"] for line in lines] == pytest.approx([50, 75, 50])


def test_alpaca_eval_complains(capsys: pytest.CaptureFixture[str], alpaca: dict[str, Path]) -> None:
    files = ["--annotations", alpaca["annotations"], "--difficulty", alpaca["difficulty"]]
    assert "needs --gamed to fit the regression with, or --weights" in complaint(capsys, "alpaca-eval", *files)
    text = alpaca["weights"].read_text()
    alpaca["weights"].write_text(text.replace("m,-1", "other,-1"))
    message = complaint(capsys, "alpaca-eval", *files, "--weights", alpaca["weights"])
    assert "weights.csv: has no coefficients of m; leave --weights out to fit them" in message
    alpaca["difficulty"].write_text("eval_set_index,instruction_difficulty\n0,1\n")
    message = complaint(capsys, "alpaca-eval", *files, "--gamed", alpaca["gamed"])
    assert "7: row 1 is not among the 1 instructions with a difficulty" in message


def test_arena_hard_reads_several_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Files plain and compressed; the seed and the number of resamples arrive."""
    one = json_lines(tmp_path / "one.jsonl", *(duel(number, "B>A", "A>B") for number in range(6)))
    two = json_lines(tmp_path / "two.jsonl.gz", *(duel(number, "A>>B", "?") for number in range(6, 9)))
    arguments = ["arena-hard", "--judgments", one, two, "--baseline", "old", "--bootstrap", "40"]
    lines = printed(capsys, *arguments, "--seed", "5")
    assert [list(line) for line in lines] == [["model", "score", "lower", "upper", "n_games", "n_missing"]] * 2
    assert lines[0] == {"model": "old", "score": 50, "lower": 50, "upper": 50, "n_games": 15, "n_missing": 3}
    assert lines[1]["score"] == pytest.approx(100 * 12 / 21)
    assert printed(capsys, *arguments, "--seed", "5") == lines
    assert printed(capsys, *arguments, "--seed", "6") != lines
    assert printed(capsys, *arguments[:-1], "41", "--seed", "5") != lines


def test_arena_hards_baseline_is_gpt_4_0314(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = json_lines(tmp_path / "one.jsonl", duel(1, "A>B", "A>B"))
    assert printed(capsys, "arena-hard", "--judgments", path, "--bootstrap", "5")[0]["model"] == "gpt-4-0314"


def test_mt_bench(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", rating(1, 1, "[[8]]"), rating(1, 2, "[[3]]"), rating(2, 1, "$ERROR$"))
    lines = printed(capsys, "mt-bench", "--judgments", path)
    assert lines == [
        {"model": "m", "score": 5.5, "ci": [5.5, 5.5], "turn_1": 8, "turn_2": 3, "n": 2, "n_missing": 1}
        | {"score_missing_as_0": 11 / 3}
    ]


@pytest.mark.parametrize("command", ["arena-hard", "mt-bench"])
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", "a.jsonl: is empty; it needs one JSON object a line"),
        ("a.jsonl", b"\n \n", "a.jsonl: is empty"),
        ("a.jsonl", b'\n{"model":\n', "a.jsonl:2: is not JSON"),
        ("a.jsonl", b"\xff\xfe", "a.jsonl: cannot be read"),
        ("a.jsonl.gz", b"{}", "a.jsonl.gz: cannot be read"),
        ("a.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:15], "a.jsonl.gz: cannot be read"),
        ("a.jsonl", b"\xef\xbb\xbf[]\n", "a.jsonl:1: is not a JSON object with model"),
    ],
)
def test_bad_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in complaint(capsys, command, "--judgments", tmp_path / name)
    assert "nowhere: there is no such file" in complaint(capsys, command, "--judgments", tmp_path / "nowhere")


@pytest.mark.parametrize("option", [["--bootstrap", "0"], ["--bootstrap", "x"], ["--seed", "-1"], ["--seed", "1.5"]])
@pytest.mark.parametrize("command", ["arena-hard", "mt-bench"])
def test_bad_numbers(capsys: pytest.CaptureFixture[str], command: str, option: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, "--judgments", "a.jsonl", *option])
    assert f"argument {option[0]}: has to be" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command, said",
    [
        ("alpaca-eval", "good to about 0.15 points only"),
        ("arena-hard", "the baseline as\nAssistant A in the first"),
        ("mt-bench", "n_missing counts them"),
    ],
)
def test_help_has_an_example(capsys: pytest.CaptureFixture[str], command: str, said: str) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert said in text
    assert f"example:\n  tr-align {command} --" in text


@pytest.mark.skipif(not REAL.is_dir(), reason="the benchmarks' real rows are not beside the repository")
def test_real_files(capsys: pytest.CaptureFixture[str]) -> None:
    weak = REAL / "arena_hard" / "zeppombal_gpt-3.5-turbo-0125_judges_Athene-V2-Chat.jsonl"
    (_, line) = printed(capsys, "arena-hard", "--judgments", weak, "--bootstrap", "100")
    assert 0 < line["lower"] < line["score"] < line["upper"] < 5
    rated = REAL / "mt_bench" / "judgment_gpt-4_single_llama3-8b.jsonl.gz"
    assert [round(line["score"], 2) for line in printed(capsys, "mt-bench", "--judgments", rated)] == [7.84, 2.7]
    folder = REAL / "alpaca_eval"
    lines = printed(
        capsys,
        *("alpaca-eval", "--annotations", folder / "annotations_20models.csv.gz"),
        *("--difficulty", folder / "instruction_difficulty_recovered.csv"),
        *("--weights", folder / "glm_weights_length_controlled_v1.csv"),
    )
    assert len(lines) == 20
    vicuna = next(line for line in lines if line["model"] == "vicuna-13b")
    assert (vicuna["win_rate"], vicuna["length_controlled_winrate"]) == pytest.approx((5.831103, 9.222060), abs=1e-6)
