"""Names of repositories, and uploads to a server that keeps what it gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from sharing.fake_hub import TOKEN, FakeHub
from tr_align.errors import UserError
from tr_align.sharing import hub


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield fake


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path | bytes]:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"weights" * 1000)
    return {"model.safetensors": weights, "README.md": b"---\nlicense: mit\n---\n# Model\n"}


def test_the_pattern_names_a_repository_a_method() -> None:
    assert hub.repository("alice/hh-{method}-s{seed}", "tr_dpo_soft", 3) == "alice/hh-tr_dpo_soft-s3"
    assert hub.repository("alice/model", "dpo", 0) == "alice/model"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("alice/{name}", "{name} is unknown; there are {method} and {seed}"),
        ("alice/{}", "{} is unknown"),
        ("{method}", "write OWNER/NAME"),
        ("alice/a/{method}", "write OWNER/NAME"),
        ("alice/ {method}", "write OWNER/NAME"),
        ("https://huggingface.co/alice/{method}", "write OWNER/NAME"),
        ("alice/--{method}", "gives no repository of the hub"),
        ("alice/{method}.git", "gives no repository of the hub"),
        ("alice/ä{method}", "gives no repository of the hub"),
        ("alice/{method", "gives no repository of the hub"),
        ("alice/{method[}", "gives no repository of the hub"),
    ],
)
def test_a_name_that_the_hub_refuses_is_refused_here(pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=r"^--to: ") as raised:
        hub.repository(pattern, "dpo", 0)
    assert said in str(raised.value)


@pytest.mark.parametrize("private", [False, True])
def test_what_is_uploaded_is_what_the_hub_has(server: FakeHub, files: dict[str, Path | bytes], private: bool) -> None:
    address = hub.upload("alice/model", files, private, "a test")
    assert address.startswith(f"{server.url}/alice/model/commit/")
    weights = files["model.safetensors"]
    assert isinstance(weights, Path)
    assert server.files["alice/model"] == {
        "README.md": files["README.md"],
        "model.safetensors": weights.read_bytes(),
    }
    assert server.private == {"alice/model": private}


def test_a_second_upload_removes_old_weights_and_nothing_else(server: FakeHub, files: dict[str, Path | bytes]) -> None:
    hub.upload("alice/model", files, False, "one file")
    mine = {"notes.md": b"mine", "other/model.safetensors": b"mine", "pytorch_model.bin": b"old"}
    server.files["alice/model"] |= mine
    shards = {name: b"half" for name in ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")}
    # The server keeps .safetensors aside, so these have to be files of their own.
    for name in shards:
        path = Path(str(files["model.safetensors"])).with_name(name)
        path.write_bytes(shards[name])
        files[name] = path
    del files["model.safetensors"]
    hub.upload("alice/model", files, False, "two files")
    assert set(server.files["alice/model"]) == {"README.md", "notes.md", "other/model.safetensors", *shards}


def test_a_public_repository_takes_nothing_private(server: FakeHub, files: dict[str, Path | bytes]) -> None:
    server.files["alice/model"], server.private["alice/model"] = {}, False
    with pytest.raises(UserError, match="alice/model: exists and is public"):
        hub.upload("alice/model", files, True, "a test")
    assert server.files == {"alice/model": {}}


def test_a_token_that_is_refused_is_told_and_not_shown(
    server: FakeHub, files: dict[str, Path | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_aWrongOne")
    with pytest.raises(UserError, match=r"the hub refuses the token \(status 401\).* to alice") as raised:
        hub.upload("alice/model", files, False, "a test")
    assert "hf_" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(UserError, match=r"\(status 403\); it needs the right to write to bob"):
        hub.upload("bob/model", files, False, "a test")
    assert server.files == {}


def test_a_hub_that_is_away(server: FakeHub, files: dict[str, Path | bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"alice/model: http://127\.0\.0\.1:1 cannot be reached"):
        hub.upload("alice/model", files, False, "a test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"cannot be reached .*offline"):
        hub.upload("alice/model", files, False, "a test")


def test_what_the_hub_says_of_an_upload_is_passed_on(
    server: FakeHub, files: dict[str, Path | bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = 413, {"error": "Storage limit reached"}
    respond = server.respond
    monkeypatch.setattr(
        server, "respond", lambda how, path, body: full if "commit" in path else respond(how, path, body)
    )
    with pytest.raises(UserError, match="alice/model: the hub does not take the upload: Storage limit reached"):
        hub.upload("alice/model", files, False, "a test")


def test_without_a_token_nothing_starts(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.check_token()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="set HF_TOKEN or log in with `hf auth login`"):
        hub.check_token()
    assert server.calls == []
