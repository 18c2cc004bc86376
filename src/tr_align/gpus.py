"""A GPU a worker: stages that run at once on a machine, as under `dvc queue start -j 4`, take one of its GPUs each."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Variables that torchrun and accelerate set: their processes have their GPUs already."""

_held: list[FileLock] = []


def claim(count: int = 1, found: Sequence[tuple[str, str]] | None = None, seconds: float = 1.0) -> None:
    """Make only `count` GPUs visible that no other stage of this user has; wait, and say for whom, until they are free.

    To be called before CUDA is first used. A claim ends with its process, however that ends. Nothing is done without a
    GPU, and nothing under torchrun or accelerate. Of a CUDA_VISIBLE_DEVICES that is set, only its GPUs are taken.

    Args: `found`: the machine's GPUs, see :func:`visible`. `seconds`: between two looks at GPUs that are all taken.
    """
    if _held or any(name in os.environ for name in LAUNCHED):
        return
    gpus = visible() if found is None else list(found)
    if not gpus:
        return
    count = min(count, len(gpus))
    waiting = False
    while len(taken := _free(gpus, count)) < count:
        _release(taken)
        if not waiting:
            names = ", ".join(_holder(identity) for _, identity in gpus)
            print(f"all GPUs are taken, by {names}: waiting for {count} to be free", file=sys.stderr, flush=True)
            waiting = True
        time.sleep(seconds)
    for identity, lock in taken.items():
        _held.append(lock)
        _file(identity, "holder").write_text(f"{os.environ.get('DVC_STAGE', Path(sys.argv[0]).name)} {os.getpid()}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(name for name, identity in gpus if identity in taken)


def visible() -> list[tuple[str, str]]:
    """(name, identity) of the GPUs this process may use: what CUDA_VISIBLE_DEVICES calls one, and what it is.

    MIG's parts count as GPUs. Without CUDA_VISIBLE_DEVICES the two are the same, the UUID.
    """
    indexed = _listed()
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return [(identity, identity) for identity in indexed]
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    if "-1" in names:  # as CUDA does: what follows is hidden
        names = names[: names.index("-1")]
    known = dict(enumerate(indexed))
    return [(name, known.get(int(name), name) if name.isdigit() else name) for name in names]


def _listed() -> list[str]:
    """UUIDs of the machine's GPUs, by index, from the driver's own tool: no CUDA is started for it."""
    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse(listing)


def parse(listing: str) -> list[str]:
    """UUIDs in the output of `nvidia-smi -L`; of a GPU that MIG divides, those of its parts."""
    whole: list[list[str]] = []
    for line in listing.splitlines():
        match = re.search(r"\(UUID: ((GPU|MIG)-[^)]+)\)", line)
        if match and match[2] == "GPU":
            whole.append([match[1]])
        elif match:
            whole[-1].append(match[1])
    return [identity for gpu, *parts in whole for identity in parts or [gpu]]


def _free(gpus: Sequence[tuple[str, str]], count: int) -> dict[str, FileLock]:
    """Locks of up to `count` GPUs that nobody has, by identity."""
    taken: dict[str, FileLock] = {}
    for _, identity in gpus:
        if len(taken) == count:
            break
        lock = FileLock(_file(identity, "lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        taken[identity] = lock
    return taken


def _release(taken: dict[str, FileLock]) -> None:
    """Give up a part of what is needed: two stages that each keep one of two would wait for ever."""
    for lock in taken.values():
        lock.release()


def _holder(identity: str) -> str:
    try:
        stage, process = _file(identity, "holder").read_text().split()
    except (OSError, ValueError):
        return "another process"
    return f"{stage} (process {process})"


def _file(identity: str, kind: str) -> Path:
    """A file beside a GPU's lock. On this machine, not in the repository: two repositories share its GPUs."""
    folder = Path(tempfile.gettempdir()) / f"tr-align-gpus-{getpass.getuser()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{identity}.{kind}"
