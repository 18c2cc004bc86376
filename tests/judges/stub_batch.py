"""The stub's files and batches: OpenAI's Batch API as far as a judge uses it, with its ways to fail."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Body = dict[str, Any]
# What a line's request gets, as (status, body), or None where no response was to be had.
Ask = Callable[[Body], tuple[int, Any] | None]


def error(
    status: int, message: str, code: str | None = None, param: str | None = None, type: str = "invalid_request_error"
) -> tuple[int, Body]:
    """An error as OpenAI words it."""
    return status, {"error": {"message": message, "type": type, "param": param, "code": code}}


@dataclass(frozen=True)
class Plan:
    """What happens to a batch."""

    polls: int = 2
    """At which look it has ended; before, it is in progress. At the first, if it fails validation."""
    end: Literal["completed", "expired", "failed"] = "completed"
    done: int | None = None
    """How many lines, from the first, were answered when it expired or was cancelled: by default half."""
    errors: Sequence[Body] = ({"code": "token_limit_exceeded", "message": "Enqueued token limit reached"},)
    """Of a batch that fails: `code` and `message`, perhaps `line` and `param`."""
    error_lines: Collection[int] = ()
    """Lines that end in the error file, besides those for which `say` gives an error; the first is 0."""
    lost_lines: Collection[int] = ()
    """Lines that end in neither file."""
    shuffle: int | None = None
    """Seed of the order in the output file; OpenAI promises none."""


@dataclass
class Batch:
    object: Body
    plan: Plan
    lines: list[Body]
    errors: Sequence[Body]
    polls: int = 0


@dataclass
class Batches:
    """Files and batches by id; `handle` is all that the server calls."""

    ask: Ask
    plans: list[Plan] = field(default_factory=lambda: [Plan()])
    """The nth batch gets the nth; those after the last get the last."""
    most_lines: int = 50_000
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    lines: list[Body] = field(default_factory=list)
    """Every line that was answered, over all batches."""

    def handle(self, method: str, path: str, headers: Mapping[str, str], raw: bytes) -> tuple[int, Any]:
        """Status and body (JSON, or the bytes of a file) of a request whose path begins at /files or /batches."""
        match [method, *path.strip("/").split("/")]:
            case ["POST", "files"]:
                return self._upload(headers, raw)
            case ["GET", "files", id, "content"] if id in self.files:
                return 200, self.files[id]
            case ["DELETE", "files", id] if id in self.files:
                del self.files[id]
                return 200, {"id": id, "object": "file", "deleted": True}
            case ["POST", "batches"]:
                return self._create(json.loads(raw))
            case ["GET", "batches"]:
                newest = [batch.object for batch in reversed(self.batches.values())]
                return 200, {"object": "list", "data": newest, "has_more": False}
            case ["GET", "batches", id] if id in self.batches:
                return 200, self._poll(self.batches[id])
            case ["POST", "batches", id, "cancel"] if id in self.batches:
                return self._cancel(self.batches[id].object)
        return error(404, f"No such thing: {method} {path}")

    def _upload(self, headers: Mapping[str, str], raw: bytes) -> tuple[int, Any]:
        boundary = headers["content-type"].partition("boundary=")[2].strip('"').encode()
        parts: dict[str, bytes] = {}
        filename = ""
        for part in raw.split(b"--" + boundary)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            names = dict(re.findall(r'\b(name|filename)="([^"]*)"', head.decode()))
            parts[names["name"]] = content[:-2]
            filename = names.get("filename", filename)
        if parts.get("purpose") != b"batch" or "file" not in parts:
            return error(400, "the stub takes a file for purpose=batch only", param="purpose")
        if not filename.endswith(".jsonl"):
            return error(400, "Invalid file format for Batch API. Must be .jsonl")
        return 200, self._keep(parts["file"], filename, "batch")

    def _keep(self, content: bytes, filename: str, purpose: str) -> Body:
        id = f"file-{len(self.files) + 1}-{len(content)}"
        self.files[id] = content
        about = {"bytes": len(content), "created_at": int(time.time()), "filename": filename, "purpose": purpose}
        return {"id": id, "object": "file", "status": "processed", **about}

    def _create(self, request: Body) -> tuple[int, Any]:
        if request["input_file_id"] not in self.files:
            return error(400, f"No such File object: {request['input_file_id']}", param="input_file_id")
        lines, errors = self._read(self.files[request["input_file_id"]], request["endpoint"])
        plan = self.plans[min(len(self.batches), len(self.plans) - 1)]
        if plan.end == "failed":
            errors = [*plan.errors]
        now = int(time.time())
        moments = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
        batch: Body = {
            **{"id": f"batch_{len(self.batches) + 1}", "object": "batch", "endpoint": request["endpoint"]},
            **{"errors": None, "input_file_id": request["input_file_id"], "output_file_id": None},
            **{"error_file_id": None, "completion_window": request["completion_window"], "status": "validating"},
            **{"created_at": now, "expires_at": now + 86_400, "metadata": request.get("metadata")},
            **{"request_counts": {"total": 0, "completed": 0, "failed": 0}},
            **{f"{moment}_at": None for moment in moments},
        }
        self.batches[batch["id"]] = Batch(batch, plan, lines, errors)
        return 200, dict(batch)

    def _read(self, content: bytes, endpoint: str) -> tuple[list[Body], Sequence[Body]]:
        """The requests of an input file, and what validation finds wrong: reported at a look, never at creation."""
        lines: list[Body] = []
        errors: list[Body] = []
        seen: set[str] = set()
        for number, text in enumerate(content.splitlines(), 1):
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            keys = ("custom_id", "method", "url", "body")
            missing = [key for key in keys if not isinstance(line, dict) or key not in line]
            if line is None:
                found = ("invalid_json_line", "This line is not parseable as valid JSON.")
            elif missing:
                found = ("missing_required_parameter", f"Missing required parameter: '{missing[0]}'.")
            elif line["custom_id"] in seen:
                found = ("duplicate_custom_id", f"The custom_id '{line['custom_id']}' is used more than once.")
            elif line["url"] != endpoint or line["method"] != "POST":
                found = ("mismatched_url", "The URL of this line is not the batch's endpoint.")
            elif lines and line["body"].get("model") != lines[0]["body"].get("model"):
                found = ("mismatched_model", "All requests of a batch must be for one model.")
            else:
                seen.add(line["custom_id"])
                lines.append(line)
                continue
            errors.append({"code": found[0], "line": number, "message": found[1], "param": None})
        if not lines and not errors:
            errors.append({"code": "empty_file", "line": None, "message": "The file is empty.", "param": None})
        if len(lines) > self.most_lines:
            errors = [{"code": "too_many_tasks", "message": f"The limit is {self.most_lines} requests.", "line": None}]
        return lines, errors

    def _poll(self, batch: Batch) -> Body:
        """Another look at the batch, which moves it on."""
        batch.polls += 1
        about = batch.object
        counts = about["request_counts"]
        if about["status"] == "cancelling":
            self._finish(batch, "cancelled")
        elif about["status"] not in ("validating", "in_progress", "finalizing"):
            pass
        elif batch.errors:
            self._move(about, "failed")
            about["errors"] = {"object": "list", "data": [*batch.errors]}
        elif batch.polls >= batch.plan.polls:
            self._finish(batch, batch.plan.end)
        else:
            last = batch.polls == batch.plan.polls - 1 and batch.polls > 1
            self._move(about, "finalizing" if last else "in_progress")
            counts["total"] = len(batch.lines)
            counts["completed"] = len(batch.lines) * batch.polls // batch.plan.polls
        return about

    def _move(self, about: Body, status: str) -> None:
        about |= {"status": status, f"{status}_at": int(time.time())}

    def _cancel(self, about: Body) -> tuple[int, Any]:
        if about["status"] not in ("validating", "in_progress", "finalizing"):
            return error(409, f"Cannot cancel a batch with status '{about['status']}'.")
        self._move(about, "cancelling")
        return 200, about

    def _finish(self, batch: Batch, status: str) -> None:
        """Answer the lines and write both files."""
        plan = batch.plan
        done = len(batch.lines) if status == "completed" else len(batch.lines) // 2 if plan.done is None else plan.done
        output: list[Body] = []
        errors: list[Body] = []
        for number, line in enumerate(batch.lines):
            row: Body = {"id": f"batch_req_{number}", "custom_id": line["custom_id"], "response": None, "error": None}
            if number >= done:
                row["error"] = {"code": f"batch_{status}", "message": "This request could not be executed in time."}
            else:
                failed = error(500, "The server had an error.", type="server_error")
                said = failed if number in plan.error_lines else self.ask(line["body"])
                if said is None:
                    row["error"] = {"code": "server_error", "message": "The connection was lost."}
                else:
                    row["response"] = {"status_code": said[0], "request_id": f"req_{number}", "body": said[1]}
                self.lines.append(line)
            good = row["response"] is not None and row["response"]["status_code"] == 200
            if number not in plan.lost_lines:
                (output if good else errors).append(row)
        about = batch.object
        about["request_counts"] = {"total": len(batch.lines), "completed": len(output), "failed": len(errors)}
        for name, rows in (("output", output), ("error", errors)):
            if plan.shuffle is not None:
                random.Random(plan.shuffle).shuffle(rows)
            if rows:  # as at OpenAI, an empty file does not exist
                content = "".join(json.dumps(row) + "\n" for row in rows).encode()
                about[f"{name}_file_id"] = self._keep(content, f"{name}.jsonl", "batch_output")["id"]
        self._move(about, status)
