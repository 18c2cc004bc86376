"""A small stand-in for the Hugging Face hub on loopback: repositories, commits, large files, one valid token."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_onlyThisOneIsValid"


class FakeHub:
    """Use it as a context; `files` has what was committed, by repository and path, `private` and `calls` the rest."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.calls: list[str] = []
        self.large: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                hub.calls.append(f"{method} {path}")
                if not path.startswith("/large/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    status, reply = 401, {"error": "Invalid username or password."}
                else:
                    status, reply = hub.respond(method, path, body)
                text = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self) -> None:
                self.answer("GET")

            def do_POST(self) -> None:
                self.answer("POST")

            def do_PUT(self) -> None:
                self.answer("PUT")

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> FakeHub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.shutdown()
        self.server.server_close()

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if parts[0] == "large":
            self.large[parts[1]] = body
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [self.upload(entry) for entry in json.loads(body)["objects"]]
            return 200, {"transfer": "basic", "objects": objects}
        name = "/".join(parts[2:4])
        if name not in self.files:
            return 404, {"error": "Repository not found"}
        if parts[4:5] == ["preupload"]:
            return 200, {"files": [self.mode(entry["path"]) for entry in json.loads(body)["files"]]}
        if parts[4:5] == ["commit"]:
            self.commit(name, [json.loads(line) for line in body.splitlines()])
            return 200, {"commitUrl": f"{self.url}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40}
        siblings = [{"rfilename": file} for file in self.files[name]]
        return 200, {"id": name, "sha": "1" * 40, "private": self.private[name], "siblings": siblings}

    def create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "alice":
            return 403, {"error": f"You don't have the rights to create a model under the namespace {name}"}
        address = f"{self.url}/{name}"
        if name in self.files:
            return 409, {"error": "You already created this model repo", "url": address}
        self.files[name], self.private[name] = {}, wanted.get("visibility") == "private"
        return 200, {"url": address, "name": name, "id": name}

    def upload(self, entry: dict[str, Any]) -> dict[str, Any]:
        return {**entry, "actions": {"upload": {"href": f"{self.url}/large/{entry['oid']}", "header": {}}}}

    def mode(self, path: str) -> dict[str, Any]:
        large = path.endswith((".safetensors", ".png"))
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[name][value["path"]] = self.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[name][value["path"]]
