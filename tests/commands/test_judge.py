"""`tr-align judge` against a server of the tests: what it prints, what it asks, and how it says what is wrong.

Four prompts, q0 to q3. The server's grades and verdicts are those of `GRADES` and `BETTER`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from judges.stub import ALL, Stub
from judges.stub_replies import Body, failure

from tr_align import cli
from tr_align.settings import AXES

KEY_ENV = "TR_ALIGN_TEST_KEY"
OURS = {"q0": "one two three", "q1": "one", "q2": "one two", "q3": "one two three"}
THEIRS = {"q0": "other", "q1": "other two", "q2": "other two", "q3": "other"}
GRADES = {"q0": 2, "q1": 4, "q2": 6, "q3": 10}
BETTER = {"q0": "ours", "q1": "theirs", "q2": "the first", "q3": "none"}
FENCE = re.compile(r"^<<<(REPLY A|REPLY B|REPLY|CONVERSATION) (\w+)\n(.*?)\n\2 \1>>>$", re.MULTILINE | re.DOTALL)


def says(body: Body) -> str:
    shown = {name: text for name, _, text in FENCE.findall(body["messages"][-1]["content"])}
    if not shown:  # the trial
        return '{"comparison": "5 is more.", "better": "B"}'
    prompt = shown["CONVERSATION"].rpartition("]\n")[2]
    if "REPLY" in shown:
        return json.dumps({axis: GRADES[prompt] for axis in AXES} | {"detail": 1})
    theirs_first = shown["REPLY A"].startswith("other")
    letter = {"ours": "AB"[theirs_first], "theirs": "BA"[theirs_first], "the first": "A", "none": "TIE"}
    return json.dumps({"comparison": "So it is.", "better": letter[BETTER[prompt]]})


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(KEY_ENV, "sk-very-secret-0123456789")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # Without log-probabilities a rating is the number that is written.
    with Stub(says, supports=ALL - {"logprobs"}) as stub:
        yield stub


@pytest.fixture
def run(stub: Stub, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    """Run the command against the server: its exit status, the lines it prints, and what it says beside."""

    def run(*arguments: str) -> tuple[int, list[str], str]:
        endpoint = ("--model", "stub-1", "--base-url", stub.url, "--api-key-env", KEY_ENV)
        status = cli.main(["judge", *endpoint, *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out.splitlines(), err

    return run


@pytest.fixture
def complaint(run: Callable[..., tuple[int, list[str], str]]) -> Callable[..., str]:
    """The message of a command that cannot do its work."""

    def complaint(*arguments: str) -> str:
        status, lines, err = run(*arguments)
        assert (status, lines) == (1, [])
        assert err.rpartition("error: ")[1]
        return err.rpartition("error: ")[2].strip()

    return complaint


def replies(path: str, texts: dict[str, str], **values: Any) -> str:
    return write(path, *({"prompt": prompt, "reply": text, **values} for prompt, text in texts.items()))


def write(path: str, *rows: Any) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def questions(stub: Stub) -> list[str]:
    """What was asked, without the trial."""
    asked = [str(request.body["messages"][-1]["content"]) for request in stub.chats if request.body]
    return [text for text in asked if FENCE.search(text)]


def columns(lines: list[str]) -> dict[str, str]:
    """What stands behind each name, without the intervals."""
    found = [(line[2:16].strip(), line[17:]) for line in lines if line.startswith("  ")]
    return {name: re.sub(r" \[.*?\] *", " ", rest).strip() for name, rest in found}


def test_check_says_what_the_endpoint_can_do_and_judges_nothing(stub: Stub, run: Any) -> None:
    status, lines, _ = run("--check")
    assert (status, len(lines)) == (0, 1)
    assert lines[0] == (
        f"stub-1 at {stub.url} answers; structured output: yes; log-probabilities: no; temperature 0: yes; "
        "price: unknown"
    )
    assert questions(stub) == []
    assert run("--check", "--replies", "nowhere.jsonl")[0] == 0


def test_replies_are_rated(stub: Stub, run: Any) -> None:
    """Grades of 2, 4, 6 and 10 on four axes, mean 5.5, and of 1 on the fifth: HC is (4 * 5.5 + 1) / 5 = 4.6."""
    status, lines, err = run("--replies", replies("ours.jsonl", OURS))
    assert status == 0 and len(lines) == 7
    assert lines[0].startswith("ratings, 1 to 10")
    assert columns(lines) == {
        "HC, their mean": "4.60 n = 4",
        **dict.fromkeys(AXES, "5.50 n = 4"),
        "detail": "1.00 n = 4",
    }
    assert re.fullmatch(r"  coherence      5\.50 \[\d+\.\d\d, \d+\.\d\d\]  n = 4", lines[2])
    assert re.fullmatch(r"  detail         1\.00 \[1\.00, 1\.00\]  n = 4", lines[6])
    assert "4 questions (rate), 0 answered before, 4 to ask" in err
    assert len(questions(stub)) == 4


def test_replies_are_compared_in_both_orders(stub: Stub, run: Any) -> None:
    """By hand: q0 is won (1), q1 lost (0), q2 flips with the order and q3 is a tie (0.5 each): a win rate of 2 / 4.

    The verdict is the same in both orders but for q2: 3 / 4. The reply shown first gets half of the points, all of
    them on q2: (0.5 + 0.5 + 1 + 0.5) / 4 = 62.5 %. The longer reply wins on q0 (ours) and q1 (theirs), ties on q3 and
    is not there on q2: 2.5 / 3 = 83.3 %.
    """
    ours, theirs = replies("ours.jsonl", OURS), replies("theirs.jsonl", THEIRS)
    status, lines, _ = run("--replies", ours, "--against", theirs)
    assert status == 0 and len(lines) == 12
    found = columns(lines)
    assert {name: found[name] for name in list(found)[6:]} == {
        "win rate": "50.00 % n = 4",
        "same verdict": "75.0 %",
        "to the first": "62.5 %",
        "to the longer": "83.3 %",
    }
    asked = questions(stub)
    assert len(asked) == 4 + 8
    pairs = {
        tuple(text for name, _, text in FENCE.findall(question) if name != "CONVERSATION") for question in asked[4:]
    }
    assert pairs == {(OURS[q], THEIRS[q]) for q in OURS} | {(THEIRS[q], OURS[q]) for q in OURS}


def test_a_repeat_asks_nothing_and_says_the_same(stub: Stub, run: Any, tmp_path: Path) -> None:
    arguments = ("--replies", replies("ours.jsonl", OURS), "--against", replies("theirs.jsonl", THEIRS))
    _, first, _ = run(*arguments)
    before = len(stub.chats)
    status, again, err = run(*arguments)
    assert (status, again) == (0, first)
    assert len(stub.chats) == before
    assert "4 of them known before" in err and "8 of them known before" in err
    assert (tmp_path / ".judge" / "answers.sqlite").exists()


def test_the_intervals_are_of_so_many_resamples_by_a_seed(run: Any) -> None:
    """Of one resample, both ends of the interval are its mean; other seeds draw other ones."""
    ends = []
    for seed in ("0", "0", "1", "2", "3"):
        _, lines, _ = run("--replies", replies("ours.jsonl", OURS), "--bootstrap", "1", "--seed", seed)
        match = re.search(r"\[(.*), (.*)\]", lines[1])
        assert match is not None and match[1] == match[2]
        ends.append(match[1])
    assert ends[0] == ends[1] and len(set(ends)) > 1


def test_only_the_first_prompts(stub: Stub, run: Any) -> None:
    """q0 (won) and q1 (lost): grades 2 and 4, four comparisons."""
    arguments = ("--replies", replies("ours.jsonl", OURS), "--against", replies("theirs.jsonl", THEIRS), "--limit", "2")
    _, lines, _ = run(*arguments)
    assert columns(lines)["coherence"] == "3.00 n = 2"
    assert columns(lines)["win rate"] == "50.00 % n = 2"
    assert len(questions(stub)) == 2 + 4
    assert run(*arguments[:-1], "99")[1][1].endswith("n = 4")


def test_every_rating_and_verdict_is_written(run: Any, tmp_path: Path) -> None:
    arguments = ("--replies", replies("ours.jsonl", OURS), "--against", replies("theirs.jsonl", THEIRS))
    _, lines, err = run(*arguments, "--out", "out.jsonl")
    assert "every answer: out.jsonl" in err and "every answer" not in "".join(lines)
    rows = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    ratings, duels = rows[:4], rows[4:]
    assert [(row["kind"], row["axes"]["coherence"]) for row in ratings] == [("rating", g) for g in (2, 4, 6, 10)]
    shown = [(row["kind"], row["against"], row["shown"], row["preference"]) for row in duels[:2]]
    assert shown == [("duel", "other", "first", "first"), ("duel", "other", "second", "second")]
    assert [row["preference"] for row in duels[2:]] == ["second", "first", "first", "first", "tie", "tie"]
    assert all(row["raw"]["answers"][0]["model"] == "stub-1" for row in rows)


def test_answers_that_cannot_be_read_are_counted(stub: Stub, run: Any) -> None:
    """q1 and q3 are never answered in the form asked for: left are grades 2 and 6, and q0 (won) and q2 (a flip)."""
    ours, theirs = replies("ours.jsonl", OURS), replies("theirs.jsonl", THEIRS)
    stub.say = lambda body: "So so." if re.search(r"\]\\nq[13]\\n", json.dumps(body["messages"])) else says(body)
    status, lines, _ = run("--replies", ours, "--against", theirs)
    assert status == 0
    found = columns(lines)
    assert found["coherence"] == "4.00 n = 4, 2 missing" and found["HC, their mean"] == "3.40 n = 4, 2 missing"
    assert (found["win rate"], found["same verdict"]) == ("75.00 % n = 4, 2 missing", "50.0 %")


def test_a_rating_without_one_axis_has_no_mean(stub: Stub, run: Any) -> None:
    """q3 has no number for detail: HC is the mean of (4 * 2 + 1, 4 * 4 + 1, 4 * 6 + 1) / 5 = 1.8, 3.4 and 5."""
    stub.say = lambda body: says(body).replace(', "detail": 1', "") if "10" in says(body) else says(body)
    _, lines, _ = run("--replies", replies("ours.jsonl", OURS))
    found = columns(lines)
    assert found["HC, their mean"] == "3.40 n = 4, 1 missing"
    assert (found["coherence"], found["detail"]) == ("5.50 n = 4", "1.00 n = 4, 1 missing")


def test_a_batch_asks_no_question_by_itself(stub: Stub, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tr_align.judges.batch.POLL_SECONDS", 0.01)
    status, lines, _ = run("--replies", replies("ours.jsonl", OURS), "--batch")
    assert (status, columns(lines)["coherence"]) == (0, "5.50 n = 4")
    assert questions(stub) == [] and [request.path for request in stub.requests].count("/v1/files") == 1


def test_without_one_readable_answer_there_is_no_mean(stub: Stub, run: Any) -> None:
    stub.say = lambda body: "So so."
    ours, theirs = replies("ours.jsonl", OURS), replies("theirs.jsonl", THEIRS)
    status, lines, _ = run("--replies", ours, "--against", theirs)
    assert status == 0
    found = columns(lines)
    assert {found[name] for name in ("HC, their mean", *AXES, "win rate")} == {"no readable answer (n = 4)"}
    assert len(lines) == 9  # no biases


@pytest.mark.parametrize(
    ("most", "enough"),
    [("0.000001", False), ("5", True)],
)
def test_no_more_is_spent_than_allowed(stub: Stub, run: Any, most: str, enough: bool) -> None:
    """At $1 a token, in and out, any question costs more than a millionth of a dollar; at $1 a million, 5 suffices."""
    price = 1 if enough else 1_000_000
    Path("prices.yaml").write_text(f"models: {{stub-1: {{input: {price}, output: {price}}}}}")
    arguments = ("--replies", replies("ours.jsonl", OURS), "--prices", "prices.yaml", "--max-usd", most)
    status, lines, err = run(*arguments)
    if enough:
        assert status == 0 and "of $5.00" in err and re.search(r"\$0\.00\d+ spent in all", err)
    else:
        assert (status, lines, questions(stub)) == (1, [], [])
        assert "judge.max_usd is $0.000001; raise it, or ask less" in err and "error: " in err
        assert "running again continues" in err


def test_a_limit_needs_a_price(complaint: Any, stub: Stub) -> None:
    message = complaint("--replies", replies("ours.jsonl", OURS), "--max-usd", "2")
    assert message.startswith("judge.max_usd: is 2, but src/tr_align/judges/prices.yaml has no price for stub-1")
    assert stub.requests == []


def test_of_several_steps_the_last_is_taken(stub: Stub, run: Any) -> None:
    """As under generations/: all prompts at the last step, fewer at those before; the rows may be in any order."""
    rows = [{"step": 3, "prompt": "q0", "reply": "early"}, {"step": 9, "prompt": "q0", "reply": "late"}]
    rows += [{"step": 9, "prompt": "q1", "reply": "late"}, {"step": 6, "prompt": "q1", "reply": "middle"}]
    rows += [{"step": 3, "prompt": "q2", "reply": "no longer asked"}]
    _, lines, _ = run("--replies", write("generations.jsonl", *rows))
    assert columns(lines)["coherence"] == "3.00 n = 2"
    assert all("\nlate\n" in text for text in questions(stub)) and len(questions(stub)) == 2


def test_a_prompt_may_be_text_or_messages(stub: Stub, run: Any) -> None:
    """Both are the same prompt; blank lines are none, and nothing else of a row matters."""
    messages = [{"role": "user", "content": "q0"}]
    ours = write("ours.jsonl", {"prompt": messages, "reply": OURS["q0"], "model": "x", "prompt_id": "y"})
    Path(ours).write_text("\n" + Path(ours).read_text() + "\n  \n")
    theirs = write("theirs.jsonl", {"prompt": "q0", "reply": "other"}, {"prompt": "q1", "reply": "of another prompt"})
    _, lines, _ = run("--replies", ours, "--against", theirs)
    assert columns(lines)["win rate"] == "100.00 % n = 1"
    assert len(questions(stub)) == 3


def test_half_of_a_surrogate_pair_in_a_reply_is_judged(stub: Stub, run: Any) -> None:
    status, lines, _ = run("--replies", replies("ours.jsonl", {"q0": "half \ud83d"}), "--out", "out.jsonl")
    assert (status, columns(lines)["coherence"]) == (0, "2.00 n = 1")
    assert "\nhalf ?\n" in questions(stub)[0]


ROW = '{"prompt": "q0", "reply": "r"}\n'
MANNER = 'is no reply; a line is {"prompt": text or messages, "reply": text}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "own.jsonl: is empty; it has to be JSON Lines with prompt and reply"),
        ("\n \n", "own.jsonl: is empty; it has to be JSON Lines with prompt and reply"),
        (ROW + "q1: r", f"own.jsonl:2: {MANNER}"),
        ("\n" + ROW + '{"prompt": "q1"}\n', f"own.jsonl:3: {MANNER}"),
        ('{"reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ('["q0", "r"]', f"own.jsonl:1: {MANNER}"),
        ('"q0"', f"own.jsonl:1: {MANNER}"),
        ("7", f"own.jsonl:1: {MANNER}"),
        ('{"prompt": "q0", "reply": null}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": "q0", "reply": ["r"]}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": 7, "reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": [], "reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": ["q0"], "reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": {"role": "user", "content": "q0"}, "reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": [{"role": "tool", "content": "q0"}], "reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": "q0", "reply": "r", "step": "last"}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": "q0", "reply": "r", "step": null}', f"own.jsonl:1: {MANNER}"),
        ('{"prompt": "\\ud83d", "reply": "r"}', f"own.jsonl:1: {MANNER}"),
        ("[" * 100_000, f"own.jsonl:1: {MANNER}"),
        (ROW + ROW, "own.jsonl:2: is a second reply to the same prompt; keep one"),
        (ROW + '{"prompt": "q0 ", "reply": "s"}', "own.jsonl:2: is a second reply to the same prompt; keep one"),
    ],
    ids=lambda value: value[:40],
)
@pytest.mark.parametrize("option", ["--replies", "--against"])
def test_a_file_that_holds_no_replies(complaint: Any, stub: Stub, option: str, content: str, message: str) -> None:
    """The file, the line and what a line has to be are named, before anything is asked."""
    Path("own.jsonl").write_text(content, encoding="utf-8")
    others = ("--replies", replies("ours.jsonl", OURS)) if option == "--against" else ()
    assert complaint(*others, option, "own.jsonl") == message
    assert stub.requests == []


@pytest.mark.parametrize("option", ["--replies", "--against"])
def test_a_file_that_cannot_be_read(complaint: Any, option: str) -> None:
    others = ("--replies", replies("ours.jsonl", OURS)) if option == "--against" else ()
    for path in ("nowhere.jsonl", "."):
        assert complaint(*others, option, path) == (
            f"{path}: there is no such file; it has to be JSON Lines with prompt and reply"
        )
    Path("own.jsonl").write_bytes(ROW.encode("utf-16"))
    assert complaint(*others, option, "own.jsonl").startswith("own.jsonl: cannot be read as UTF-8 text: ")


def test_files_that_answer_other_prompts(complaint: Any, stub: Stub) -> None:
    ours = replies("ours.jsonl", OURS)
    theirs = replies("theirs.jsonl", {"q0": "other", "q1": "other", "q9": "other"})
    assert complaint("--replies", ours, "--against", theirs) == (
        "theirs.jsonl: has no reply to 2 of the 4 prompts of ours.jsonl; both files have to answer the same prompts"
    )
    nothing = replies("nothing.jsonl", {"q9": "other"})
    assert "no reply to 4 of the 4 prompts" in complaint("--replies", ours, "--against", nothing)
    assert stub.requests == []


def test_what_is_missing_at_the_end_of_the_file_does_not_matter_to_the_first_prompts(run: Any) -> None:
    ours, theirs = replies("ours.jsonl", OURS), replies("theirs.jsonl", {"q0": "other"})
    assert run("--replies", ours, "--against", theirs, "--limit", "1")[0] == 0


@pytest.mark.parametrize("out", ["nowhere/out.jsonl", ".", "ours.jsonl/out.jsonl"])
def test_a_place_where_nothing_can_be_written_is_told_before_anything_is_asked(
    complaint: Any, stub: Stub, out: str
) -> None:
    message = complaint("--replies", replies("ours.jsonl", OURS), "--out", out)
    assert message == f"--out: {out} cannot be written; it has to be a file in a folder that is there"
    assert stub.requests == []


def test_nothing_to_do(complaint: Any, stub: Stub) -> None:
    assert complaint() == "judge: give it --replies FILE, or --check"
    assert complaint("--against", replies("theirs.jsonl", THEIRS)) == "judge: give it --replies FILE, or --check"
    assert stub.requests == []


def test_an_endpoint_that_does_not_answer(complaint: Any, stub: Stub) -> None:
    ours = replies("ours.jsonl", OURS)
    for arguments in (("--check",), ("--replies", ours)):
        message = complaint(*arguments, "--base-url", "http://127.0.0.1:9/v1", "--timeout", "2")
        assert "127.0.0.1:9" in message and "judge.openai.base_url" in message
    stub.key = "sk-another"
    assert f"export {KEY_ENV} with a key" in complaint("--check")
    stub.key = None
    stub.gate = lambda request: failure(404, "no such model") if request.method == "POST" else None
    assert "it has e.g. stub-1" in complaint("--check", "--model", "stub-l")


def test_without_an_address_a_key_has_to_be_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["judge", "--check", "--model", "m"]) == 1
    assert capsys.readouterr().err.startswith("error: judge.openai: the environment variable OPENAI_API_KEY is not set")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--rate-prompt", "--prefer-prompt", "--prices"])
def test_a_prompt_or_price_file_that_is_not_there(complaint: Any, option: str) -> None:
    assert "there is no file nowhere" in complaint("--check", option, "nowhere")


def test_prompt_files_of_ones_own_are_asked(stub: Stub, run: Any) -> None:
    Path("rate.txt").write_text("My own.\n{{conversation}}\n{{reply}}\nNow?", encoding="utf-8")
    run("--replies", replies("ours.jsonl", {"q0": "r"}), "--rate-prompt", "rate.txt", "--max-tokens", "77")
    (request,) = (chat for chat in stub.chats if chat.body and "My own." in chat.body["messages"][0]["content"])
    assert request.body is not None and request.body["max_tokens"] == 77


def test_so_many_calls_at_once(stub: Stub, run: Any) -> None:
    stub.latency = 0.03
    ours = replies("ours.jsonl", OURS)
    run("--replies", ours, "--concurrency", "2")
    assert stub.most_in_flight == 2


def test_an_answer_has_so_long(stub: Stub, complaint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tr_align.judges.endpoint.backoff", lambda attempt: 0.0)
    stub.latency = 5
    assert "did not answer within 0.05 s" in complaint("--check", "--timeout", "0.05")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--limit", "0"], "argument --limit: has to be a whole number of 1 or more, is 0"),
        (["--limit", "two"], "argument --limit: has to be a whole number of 1 or more, is two"),
        (["--bootstrap", "1.5"], "argument --bootstrap: has to be a whole number of 1 or more, is 1.5"),
        (["--seed", "-1"], "argument --seed: has to be a whole number of 0 or more, is -1"),
        (["--concurrency", "0"], "argument --concurrency: has to be a whole number of 1 or more"),
        (["--max-tokens", "0"], "argument --max-tokens: has to be a whole number of 1 or more"),
        (["--max-usd", "0"], "argument --max-usd: has to be a number above 0, is 0"),
        (["--max-usd", "nan"], "argument --max-usd: has to be a number above 0, is nan"),
        (["--max-usd", "inf"], "argument --max-usd: has to be a number above 0, is inf"),
        (["--max-usd", "$2"], "argument --max-usd: has to be a number above 0, is $2"),
        (["--timeout", "-3"], "argument --timeout: has to be a number above 0, is -3"),
        (["--replys", "x"], "unrecognized arguments: --replys"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_makes_no_sense(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["judge", "--model", "m", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_model_has_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["judge", "--check"])
    assert caught.value.code == 2
    assert "the following arguments are required: --model" in capsys.readouterr().err


def test_help_has_examples_that_can_be_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["judge", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    examples = re.findall(r"^  tr-align (judge .*)$", out.partition("examples:")[2], re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        assert cli.parser().parse_args(example.split()).command == "judge"
    assert '{"prompt": text or chat messages, "reply": text}' in out and ".judge/answers.sqlite" in out


def test_a_key_press_stops_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch, run: Any, stub: Stub) -> None:
    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("tr_align.judging.judge_replies", interrupted)
    status, lines, err = run("--replies", replies("ours.jsonl", OURS))
    assert (status, lines) == (130, [])
    assert err.endswith("stopped; the answers so far are kept\n")


def test_the_command_works_as_a_process(stub: Stub) -> None:
    command = [sys.executable, "-m", "tr_align.cli", "judge", "--model", "stub-1", "--base-url", stub.url]
    environment = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    for arguments, status in ((["--check"], 0), ([], 1)):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == status and "Traceback" not in done.stderr
        assert ("answers; structured output: yes" in done.stdout) == (status == 0)
