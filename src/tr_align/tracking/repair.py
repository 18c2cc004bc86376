"""A local store that MLflow cannot use: what is wrong with it, and a place for it out of the way."""

from __future__ import annotations

import datetime
import sqlite3
from contextlib import closing
from pathlib import Path

from tr_align.errors import UserError


def flaw(path: Path) -> str | None:
    """What makes a database useless to the installed MLflow, or None if nothing does or there is no file.

    Raises:
        UserError: it may be sound, but another program holds it or it cannot be opened.
    """
    if not path.exists():
        return None
    if not path.is_file():
        return "is no file"
    try:
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if state != "ok":
                return f"is damaged ({state})"
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            versions = (
                [version for (version,) in connection.execute("SELECT version_num FROM alembic_version")]
                if "alembic_version" in tables
                else []
            )
    except sqlite3.OperationalError as error:  # locked, or not to be written
        raise UserError(
            f"{path}: {error}; end what uses it (`make ui`, a running stage), or see to its permissions, and try again"
        ) from error
    except sqlite3.DatabaseError as error:
        return f"is damaged ({error})"
    if not tables:
        return None  # MLflow fills an empty file
    from mlflow.store.db import utils
    from mlflow.store.db.base_sql_model import Base

    # SQLAlchemy knows the tables only once their modules are there.
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401

    if versions != [utils._get_latest_schema_revision()]:  # type: ignore[no-untyped-call]
        return "was made by another version of MLflow, or only in part"
    missing = set(Base.metadata.tables) - tables
    return f"lacks the table {sorted(missing)[0]}" if missing else None


def move_aside(path: Path) -> Path:
    """Give it another name beside the old one, which is free for a new store then.

    Returns: where it is now.
    """
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.aside-{now}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.aside-{now}-{number}")
    for suffix in ("-journal", "-wal"):  # without them, what it held in the middle of a write is lost
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return path.rename(aside)
