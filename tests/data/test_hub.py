"""Data sets from a hub: a stand-in on loopback that the library takes for the real one, in a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fake_hub import COMMIT, TOKEN, Repository, fake_hub

from tr_align.data.hub import PINNED, choose
from tr_align.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ASK = "\n\nHuman: Hi?\n\nAssistant:"

READ = """
import json, sys
from tr_align.data import anthropic_hh, demonstrations, hub, tldr, ultrafeedback
from tr_align.errors import UserError
from tr_align.settings import SftData

hub.PINNED["owner/pinned"] = "main"
answers = []
for call in json.load(sys.stdin):
    try:
        if call["source"] == "sft":
            loaded = demonstrations.load(SftData(source="ultrachat", path=call["path"]), None)
            rows = [[row.prompt[0].content, len(row.completion)] for _, row in loaded.pairs]
        else:
            module = {"hh": anthropic_hh, "tldr": tldr, "uf": ultrafeedback}[call["source"]]
            loaded = module.load(call["path"], None, call.get("revision"), call.get("subsets"))
            rows = [[where, pair.chosen] for where, pair in loaded.pairs]
        answers.append({"rows": rows, "origin": loaded.origin, "dropped": [row.where for row in loaded.dropped]})
    except UserError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""


def read(environment: dict[str, str], *calls: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a fresh process, which knows no other hub."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        input=json.dumps([{"path": None, **call} for call in calls]),
        env=keep | {"PYTHONPATH": str(ROOT / "src")} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def hh(text: str) -> bytes:
    return (json.dumps({"chosen": f"{ASK} {text}", "rejected": f"{ASK} no"}) + "\n").encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    content = io.BytesIO()
    pd.DataFrame(rows).to_parquet(content)
    return content.getvalue()


def chat(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def uf(name: str, score: float = 1.0) -> dict[str, Any]:
    return {"chosen": chat("q", name), "rejected": chat("q", "b"), "score_chosen": 2.0, "score_rejected": score}


REPOSITORIES = {
    "datasets/Anthropic/hh-rlhf": Repository(
        {
            "README.md": b"---\nlicense: mit\n---\n",
            "helpful-base/train.jsonl": hh("helpful"),
            "helpful-base/test.jsonl": hh("held out"),
            "harmless-base/train.jsonl": hh("harmless"),
        }
    ),
    "datasets/owner/prefs": Repository(
        {
            "data/train_prefs-00000-of-00001.parquet": parquet([uf("train"), uf("tie", 2.0)]),
            "data/test_prefs-00000-of-00001.parquet": parquet([uf("test")]),
        }
    ),
    "datasets/owner/pinned": Repository({"train.jsonl": b'{"prompt": "p TL;DR:", "chosen": " s", "rejected": " r"}\n'}),
    "datasets/owner/chats": Repository({"train.jsonl": json.dumps({"messages": chat("a", "b", "c", "d")}).encode()}),
    "datasets/owner/gated": Repository({"train.jsonl": json.dumps(uf("secret")).encode()}, gated=True),
    "datasets/owner/script": Repository({"README.md": b"# x", "script.py": b"raise SystemExit"}),
}


def test_data_sets_of_a_hub(tmp_path: Path) -> None:
    """All in one process, for starting one takes most of the time; then the same without a hub."""
    calls: dict[str, dict[str, Any]] = {
        "all folders": {"source": "hh", "revision": "main"},
        "a folder": {"source": "hh", "revision": "main", "subsets": ["helpful-base"]},
        "no folder": {"source": "hh", "revision": "main", "subsets": ["helpful"]},
        "vanished": {"source": "hh"},
        "default split": {"source": "uf", "path": "owner/prefs"},
        "a split": {"source": "uf", "path": "owner/prefs", "revision": COMMIT[:7], "subsets": ["test_prefs"]},
        "no split": {"source": "uf", "path": "owner/prefs", "subsets": ["prefs"]},
        "tldr": {"source": "tldr", "path": "owner/pinned"},
        "sft": {"source": "sft", "path": "owner/chats"},
        "gated": {"source": "uf", "path": "owner/gated"},
        "script": {"source": "uf", "path": "owner/script"},
        "unknown": {"source": "uf", "path": "owner/nothing"},
    }
    with fake_hub(REPOSITORIES) as hub:
        found = dict(zip(calls, read(hub.environment(tmp_path), *calls.values()), strict=True))
        hh_requests = [line for line in hub.requests if "hh-rlhf" in line]
        token = read(hub.environment(tmp_path / "other", "hf_of_somebody"), calls["gated"])
        allowed = read(hub.environment(tmp_path / "third", TOKEN), calls["gated"])
    origin = {"name": "Anthropic/hh-rlhf", "commit": COMMIT}
    assert found["all folders"]["origin"] == origin
    assert [text for _, text in found["all folders"]["rows"]] == ["harmless", "helpful"]
    assert found["a folder"] == {
        "rows": [["Anthropic/hh-rlhf/helpful-base:1", "helpful"]], "origin": origin, "dropped": [],
    }  # fmt: skip
    assert found["no folder"]["error"] == (
        "data.subsets: Anthropic/hh-rlhf has no 'helpful'; it has harmless-base, helpful-base"
    )
    pin = PINNED["Anthropic/hh-rlhf"]
    assert f"GET /api/datasets/Anthropic/hh-rlhf/revision/{pin}" in hh_requests
    assert f"data.path: the data set 'Anthropic/hh-rlhf' has no revision '{pin}'; https" in found["vanished"]["error"]
    assert found["default split"] == {
        "rows": [["owner/prefs/train_prefs:1", "train"]],
        "origin": {"name": "owner/prefs", "commit": COMMIT},
        "dropped": ["owner/prefs/train_prefs:2"],
    }
    assert found["a split"]["rows"] == [["owner/prefs/test_prefs:1", "test"]]
    assert found["a split"]["origin"]["commit"] == COMMIT
    assert found["no split"]["error"] == "data.subsets: owner/prefs has no 'prefs'; it has test_prefs, train_prefs"
    assert found["tldr"]["rows"] == [["owner/pinned/train:1", "s"]]
    assert found["sft"]["rows"] == [["a", 3]]
    assert re.match(
        r"data\.path: 'owner/gated' is a gated data set: accept its licence on "
        r"https://huggingface\.co/datasets/owner/gated, make a token .* and export it as HF_TOKEN\. Or give data\.path",
        found["gated"]["error"],
    )
    assert token[0]["error"] == found["gated"]["error"] and "somebody" not in token[0]["error"]
    assert [text for _, text in allowed[0]["rows"]] == ["secret"]
    assert "'owner/script' can only be read by running its own code, which is never done" in found["script"]["error"]
    assert found["unknown"]["error"].startswith(
        "data.path: there is no data set 'owner/nothing' on the hub (nor a file"
    )

    # Offline, what the library has kept is used, if it is of the commit that is asked for.
    offline = hub.environment(tmp_path) | {"HF_HUB_OFFLINE": "1"}
    kept, newer, other, fresh = read(
        offline,
        calls["default split"] | {"revision": COMMIT},
        calls["default split"] | {"revision": "d" + COMMIT[1:]},
        calls["a folder"] | {"subsets": ["harmless-base"]},
        calls["unknown"],
    )
    assert kept == found["default split"]
    assert newer["error"].startswith(
        f"data.revision: the hub cannot be reached, and of 'owner/prefs' only the revision {COMMIT} is kept here, not d"
    )
    assert other["error"].startswith(
        "data.path: the hub cannot be reached, and of 'Anthropic/hh-rlhf' only other parts"
    )
    assert re.match(
        r"data\.path: the hub cannot be reached for the data set 'owner/nothing' .*no file or folder of that name here"
        r"\. Or give data\.path a local copy of its files$",
        fresh["error"],
    )


def test_every_pin_is_a_full_commit() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{40}", commit) for commit in PINNED.values())


def test_the_first_usual_subset_is_the_default() -> None:
    assert choose(None, ["test", "train"], ("train_prefs", "train"), "x", "data") == ["train"]
    assert choose(None, ["train", "train_prefs"], ("train_prefs", "train"), "x", "data") == ["train_prefs"]
    assert choose(None, ["a"], ("train",), "x", "data") == []
    assert choose(["b", "a", "b"], ["a", "b"], (), "x", "data") == ["b", "a"]
    with pytest.raises(UserError, match=r"^data\.sft\.subsets: x has no 'c'; it has none$"):
        choose(["c"], [], (), "x", "data.sft")
