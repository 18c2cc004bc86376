"""Every answer an endpoint ever gave, in one SQLite file: nothing is asked, or paid for, twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from filelock import FileLock

from tr_align.errors import UserError
from tr_align.scratch import root

Row = dict[str, Any]
WAIT_SECONDS = 60
"""How long a writer waits for another process to finish its own write."""

COLUMNS = (
    "key",  # sha256 of model, messages and parameters
    "kind",
    "id",  # of the question
    "endpoint",
    "asked",  # the model by the name in the request ...
    "model",  # ... and as the endpoint calls it
    "date",
    "prompt_tokens",
    "completion_tokens",
    "usd",  # null where the price is not known
    "finish",
    "text",
    "tokens",  # JSON: [token, {alternative: log-probability} or null], or null
    "error",  # why the endpoint refused to answer this question, or null
)


def default_path() -> Path:
    """`.judge/answers.sqlite` in the repository's root, shared by its experiments."""
    return root() / ".judge" / "answers.sqlite"


def request_key(request: Mapping[str, Any]) -> str:
    """The name of a request: model, messages and parameters. The address it goes to is no part of it."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class Answers:
    """The file of answers. Any number of processes and threads may read and write it at a time (on a local disk).

    Every row is written in a transaction of its own before it is used: a killed process loses none.

    Raises:
        UserError: the file is not such a database, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        names = ", ".join(f"{name} PRIMARY KEY" if name == "key" else name for name in COLUMNS)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The lock: two processes that switch a new file to write-ahead logging at once get in each other's way.
            with FileLock(f"{path}.lock"):
                self._database = sqlite3.connect(path, WAIT_SECONDS, isolation_level=None, check_same_thread=False)
                self._database.row_factory = sqlite3.Row
                self._run("PRAGMA journal_mode = WAL")
                self._run("PRAGMA synchronous = NORMAL")
                self._run(f"CREATE TABLE IF NOT EXISTS answers ({names}) WITHOUT ROWID")
                self._run("CREATE TABLE IF NOT EXISTS features (asked PRIMARY KEY, value)")
                self._run("CREATE TABLE IF NOT EXISTS batches (id PRIMARY KEY, asked, keys, date)")
        except (OSError, sqlite3.Error) as error:
            raise self._useless(error) from error

    def _run(self, statement: str, values: Iterable[Any] = ()) -> list[sqlite3.Row]:
        try:
            with self._lock:  # a thread that writes while another is half through reading finds the database locked
                return self._database.execute(statement, tuple(values)).fetchall()
        except sqlite3.Error as error:
            raise self._useless(error) from error

    def _useless(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path}: the answers cannot be kept there ({error}); if the disk is full make room, "
            "if the file is damaged move it away, and run again"
        )

    def get(self, key: str) -> Row | None:
        """The row of a request, or None if it was never answered."""
        found = self._run("SELECT * FROM answers WHERE key = ?", [key])
        if not found:
            return None
        row = dict(found[0])
        return row | {"tokens": json.loads(row["tokens"]) if row["tokens"] else None}

    def add(self, row: Row) -> Row:
        """Keep a row; returns the kept one, which is another process's if that was first."""
        values = row | {"tokens": json.dumps(row["tokens"]) if row["tokens"] else None}
        places = ", ".join("?" for _ in COLUMNS)
        # Half of a surrogate pair, which JSON can carry, is no text for SQLite.
        kept = [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in map(values.get, COLUMNS)]
        self._run(f"INSERT OR IGNORE INTO answers VALUES ({places})", kept)
        found = self.get(row["key"])
        assert found is not None
        return found

    def spent(self) -> float:
        """Dollars that all answers in the file have cost, as far as their price was known."""
        return float(self._run("SELECT COALESCE(SUM(usd), 0) FROM answers")[0][0])

    def mean_completion_tokens(self, asked: str, kind: str) -> float | None:
        """How long this model's answers to such questions have been."""
        found = self._run("SELECT AVG(completion_tokens) FROM answers WHERE asked = ? AND kind = ?", [asked, kind])
        return None if found[0][0] is None else float(found[0][0])

    def has_answer(self, asked: str) -> bool:
        """Whether this model ever answered anything."""
        return bool(self._run("SELECT 1 FROM answers WHERE asked = ? AND error IS NULL LIMIT 1", [asked]))

    def features(self, asked: str) -> Row | None:
        """Which parameters this model takes, if that is known."""
        found = self._run("SELECT value FROM features WHERE asked = ?", [asked])
        return dict(json.loads(found[0][0])) if found else None

    def remember_features(self, asked: str, value: Row) -> None:
        self._run("INSERT OR REPLACE INTO features VALUES (?, ?)", [asked, json.dumps(value)])

    def batches(self, asked: str) -> dict[str, set[str]]:
        """Batches that were sent: by id, the keys of those of their requests that are not yet settled."""
        rows = self._run("SELECT id, keys FROM batches WHERE asked = ? ORDER BY date", [asked])
        return {row["id"]: set(json.loads(row["keys"])) for row in rows}

    def remember_batch(self, batch: str, asked: str, keys: Iterable[str]) -> None:
        date = datetime.now(UTC).isoformat()
        self._run("INSERT OR IGNORE INTO batches VALUES (?, ?, ?, ?)", [batch, asked, json.dumps(sorted(keys)), date])

    def settle_batch(self, batch: str, keys: Iterable[str]) -> None:
        """Nothing more is to come for these requests of a batch. The batch stays: it is not to be found anew."""
        for row in self._run("SELECT keys FROM batches WHERE id = ?", [batch]):
            left = sorted(set(json.loads(row["keys"])) - set(keys))
            self._run("UPDATE batches SET keys = ? WHERE id = ?", [json.dumps(left), batch])

    def forget_batch(self, batch: str) -> None:
        self._run("DELETE FROM batches WHERE id = ?", [batch])

    def close(self) -> None:
        self._database.close()
