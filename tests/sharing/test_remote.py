"""A finished run goes to an S3 bucket and comes back in a fresh clone, which then has nothing to train."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sharing.conftest import change, dvc, git

pytest.importorskip("dvc_s3", reason="DVC's S3 support is not installed: pip install 'tr-align[s3]'")
moto_server = pytest.importorskip(
    "moto.server", reason="moto is not installed: pip install 'moto[s3]' flask flask-cors"
)

BUCKET = "runs"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDTESTKEY", "AWS_SECRET_ACCESS_KEY": "a-secret-that-nobody-sees"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server with one empty bucket."""
    import boto3

    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )
    client.create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


def set_remote(folder: Path, endpoint: str, bucket: str = BUCKET) -> None:
    """What `dvc remote add -d` and `modify` write; the first test calls those themselves."""
    config = folder / ".dvc" / "config"
    remote = f"['remote \"storage\"']\n    url = s3://{bucket}/tr-align\n    endpointurl = {endpoint}\n"
    config.write_text(config.read_text("utf-8").replace("[core]", "[core]\n    remote = storage") + remote, "utf-8")


def test_fresh_clones_pull_a_run_and_train_nothing(workspace: Path, s3: str, tmp_path: Path) -> None:
    for command in (
        ("add", "-d", "storage", f"s3://{BUCKET}/tr-align"),
        ("modify", "storage", "endpointurl", s3),
    ):
        assert dvc(workspace, "remote", *command).returncode == 0
    pushed = dvc(workspace, "push", **KEYS)
    assert pushed.returncode == 0, pushed.stderr
    git(workspace, "commit", "-qam", "a remote")
    whole, part = tmp_path / "whole", tmp_path / "part"
    for clone in (whole, part):
        git(tmp_path, "clone", "-q", str(workspace), clone.name)
        assert not (clone / "models").exists()

    pulled = dvc(whole, "pull", **KEYS)
    assert pulled.returncode == 0, pulled.stderr
    for path in workspace.glob("models/*/step-00004/model.safetensors"):
        assert (whole / path.relative_to(workspace)).read_bytes() == path.read_bytes()
    again = dvc(whole, "repro")
    assert again.returncode == 0, again.stderr
    assert "Running stage" not in again.stdout
    assert "Stage 'align@tr_dpo_soft' didn't change, skipping" in again.stdout
    # What was pulled belongs to these settings and no others.
    change(whole, "ref_update.alpha", 0.7)
    changed = dvc(whole, "status", "align@tr_dpo_soft", "align@dpo").stdout
    assert "ref_update.alpha" in changed and "align@dpo" not in changed

    pulled = dvc(part, "pull", "models/dpo", **KEYS)
    assert pulled.returncode == 0, pulled.stderr
    assert sorted(path.name for path in (part / "models").iterdir()) == ["dpo"]
    assert_no_secret(workspace, pushed.stdout + pushed.stderr)


def test_keys_of_this_machine_alone_stay_out_of_git(workspace: Path, s3: str) -> None:
    set_remote(workspace, s3)
    for name, value in zip(("access_key_id", "secret_access_key"), KEYS.values(), strict=True):
        assert dvc(workspace, "remote", "modify", "--local", "storage", name, value).returncode == 0
    pushed = dvc(workspace, "push", "align@dpo")
    assert pushed.returncode == 0, pushed.stderr
    git(workspace, "add", "-A")
    git(workspace, "commit", "-qm", "a remote")
    assert_no_secret(workspace, pushed.stdout + pushed.stderr)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("bucket", "The specified bucket does not exist"),
        ("keys", "Unable to locate credentials"),
        ("network", "Could not connect to the endpoint URL"),
    ],
)
def test_what_is_wrong_is_said_and_the_secret_is_not(workspace: Path, s3: str, case: str, said: str) -> None:
    with socket.socket() as unused:  # bound, and nobody answers
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}"
        set_remote(workspace, nobody if case == "network" else s3, "elsewhere" if case == "bucket" else BUCKET)
        keys = {} if case == "keys" else KEYS
        failed = dvc(workspace, "push", "align@dpo", **keys, AWS_EC2_METADATA_DISABLED="true", AWS_MAX_ATTEMPTS="1")
    assert failed.returncode != 0
    assert said in failed.stderr
    assert_no_secret(workspace, failed.stdout + failed.stderr)


def assert_no_secret(folder: Path, printed: str) -> None:
    """Not on the screen, and in no file of the commit."""
    secret = KEYS["AWS_SECRET_ACCESS_KEY"]
    assert secret not in printed
    assert secret not in git(folder, "log", "-p", "--all", "--", ".dvc")
    tracked = [folder / name for name in git(folder, "ls-files", ".dvc").split()]
    assert tracked and all(secret not in path.read_text(encoding="utf-8") for path in tracked)
