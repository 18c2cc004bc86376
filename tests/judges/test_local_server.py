"""End to end with a real model behind a real server: SmolLM2 and `transformers serve`, no network and no key."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tr_align import models
from tr_align.data.schema import Message
from tr_align.judges.base import Duel, Reply
from tr_align.judges.openai import OpenAIJudge
from tr_align.settings import AXES
from tr_align.settings import OpenAIJudge as Settings

pytestmark = pytest.mark.slow

MODEL = "packaged:smollm2-135m-instruct"
PROMPT = [Message(role="user", content="Why is the sky blue?")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of the server, and the folder that is the name of its model; it is gone after the fixture's end."""
    folder = tmp_path_factory.mktemp("smollm2")
    models.save(models.load_model(MODEL), models.load_tokenizer(MODEL), folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(folder), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen(
        [*command, "--port", str(port)], env=environment, stdout=log, stderr=log, start_new_session=True
    )
    try:
        for _ in range(240):
            assert process.poll() is None, (folder / "log.txt").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1", folder
    finally:
        process.kill()
        process.wait()


def test_a_judge_that_cannot_keep_to_the_form_gives_no_ratings_and_costs_nothing_twice(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """SmolLM2 with 135M parameters does not manage five grades in JSON: what it says is kept, read strictly, counted.

    Each question it answers unreadably is asked twice. The second judge has only the file: the server is not asked.
    """
    url, folder = server
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = Settings(model=str(folder), base_url=url, concurrency=1, max_tokens=24, timeout_seconds=120)
    judge = OpenAIJudge(settings, tmp_path / "answers.sqlite")
    # The server lists no such ability and passes over what it does not know.
    assert "structured output: no" in judge.check() and "log-probabilities: no" in judge.check()
    replies = [Reply("a", PROMPT, "Air scatters blue light more than red.")]
    duels = [Duel("b", PROMPT, "Air scatters blue light more than red.", "Bananas.")]
    ratings, verdicts = judge.rate(replies), judge.prefer(duels)
    assert [rating.id for rating in ratings] == ["a"] and [verdict.id for verdict in verdicts] == ["b"]
    for rating in ratings:
        rows = rating.raw["answers"]
        assert all(row["text"] and row["completion_tokens"] > 0 for row in rows)
        assert set(rating.axes) == set(AXES)
        if len(rows) == 2:
            assert None in rating.axes.values() or "{" in rows[1]["text"]
        for value in rating.axes.values():
            # A grade that was not written is not there.
            assert value is None or any(f"{value:g}" in row["text"] for row in rows)
    assert verdicts[0].preference is None or '"better"' in verdicts[0].raw["answers"][-1]["text"]
    assert "answers" in capfd.readouterr().err

    # A port nobody listens on: a call would fail.
    elsewhere = settings.model_copy(update={"base_url": "http://127.0.0.1:9/v1"})
    again = OpenAIJudge(elsewhere, tmp_path / "answers.sqlite")
    assert json.dumps([r.raw for r in again.rate(replies)]) == json.dumps([r.raw for r in ratings])
    assert [v.preference for v in again.prefer(duels)] == [verdicts[0].preference]
    assert "were given at another address" in capfd.readouterr().err
