"""A Hugging Face hub on loopback: it serves what it is given, and refuses with the real one's status and headers."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" * 6 + "c0de"
TOKEN = "hf_let_me_in"

_ROUTE = re.compile(
    r"^(?P<api>/api)?/(?P<kind>datasets/|models/)?(?P<name>[^/]+/[^/]+)"
    r"(?:/(?P<verb>resolve|revision|tree|paths-info|auth-check)(?:/(?P<revision>[^/]+))?(?:/(?P<path>.*))?)?$"
)


@dataclass
class Repository:
    files: dict[str, bytes]
    gated: bool = False


@dataclass
class Hub:
    """`repositories` by "datasets/owner/name" or "models/owner/name"; `requests` came, as `GET /path`."""

    repositories: dict[str, Repository]
    url: str = ""
    requests: list[str] = field(default_factory=list)

    def environment(self, folder: Path, token: str | None = None) -> dict[str, str]:
        """What a process needs to take this hub for the real one, with its caches below `folder`."""
        made = {"HF_ENDPOINT": self.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "CI": "1"}
        return made | ({"HF_TOKEN": token} if token else {})


@contextmanager
def fake_hub(repositories: dict[str, Repository]) -> Iterator[Hub]:
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            found = _ROUTE.match(path)
            if not found:
                return self._refuse(404, "EntryNotFound")
            kind = found["kind"] or "models/"
            repository = hub.repositories.get(kind + found["name"])
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repository is None:
                return self._refuse(404 if token else 401, "RepoNotFound")
            if repository.gated and token != TOKEN and found["verb"] in ("resolve", "auth-check"):
                return self._refuse(403 if token else 401, "GatedRepo")
            if found["revision"] not in (None, "main", COMMIT, COMMIT[:7]):
                return self._refuse(404, "RevisionNotFound")
            if found["verb"] == "resolve":
                content = repository.files.get(found["path"])
                return self._refuse(404, "EntryNotFound") if content is None else self._send(content)
            if found["verb"] == "auth-check":
                return self._json({})
            if found["verb"] == "tree":
                return self._json(_tree(repository, found["path"] or "", "recursive=true" in self.path.lower()))
            if found["verb"] == "paths-info":
                return self._json(_paths(repository, self.body))
            siblings = [{"rfilename": name} for name in repository.files]
            self._json({"id": found["name"], "sha": COMMIT, "siblings": siblings, "tags": [], "private": False})

        def _json(self, content: Any) -> None:
            self._send(json.dumps(content).encode(), "application/json")

        def _send(self, content: bytes, kind: str = "application/octet-stream") -> None:
            whole, status = len(content), 200
            wanted = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                first = int(wanted[1])
                content, status = content[first : int(wanted[2]) + 1 if wanted[2] else None], 206
            self.send_response(status)
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{whole}")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", f"{code} (fake hub)")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _entry(repository: Repository, path: str) -> dict[str, Any]:
    content = repository.files[path]
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


def _folders(repository: Repository) -> set[str]:
    return {str(folder) for path in repository.files for folder in list(Path(path).parents)[:-1]}


def _tree(repository: Repository, below: str, recursive: bool) -> list[dict[str, Any]]:
    start = f"{below}/" if below else ""
    names = [*repository.files, *sorted(_folders(repository))]
    inside = [name for name in names if name.startswith(start)]
    if not recursive:
        inside = [name for name in inside if "/" not in name[len(start) :]]
    return [
        _entry(repository, name) if name in repository.files else {"type": "directory", "path": name, "oid": "0" * 40}
        for name in inside
    ]


def _paths(repository: Repository, body: bytes) -> list[dict[str, Any]]:
    text = body.decode()
    asked = (
        json.loads(text)["paths"] if text.startswith("{") else [unquote(p) for p in re.findall(r"paths=([^&]+)", text)]
    )
    folders = _folders(repository)
    return [
        _entry(repository, path) if path in repository.files else {"type": "directory", "path": path, "oid": "0" * 40}
        for path in asked
        if path in repository.files or path in folders
    ]
