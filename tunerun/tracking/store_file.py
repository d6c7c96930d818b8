"""The SQLite file of an MLflow store: made aside and renamed into place; one that is half made or damaged is replaced.

MLflow creates its 65 tables in place, in 67 steps: killed in between, it left a file that no later start could open in
5 of 8 tries (3.17.2). What is replaced is kept beside the new file where it may hold runs, and the runs of tunerun come
back from the ledger.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from tunerun.tracking import mlflow_internals

BUSY_TIMEOUT_S = 5.0
"""Seconds to wait for a file that another process has locked, before the next turn tries again."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_IMPOSSIBLE = (*_DAMAGED, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)
"""Errors of finishing a copy that the disk does not cause, such as a table that exists already."""


class UnusableError(Exception):
    """The file must not be touched: it belongs to another program, or to a newer MLflow."""


class _Kind(Enum):
    READY = auto()
    ABSENT = auto()
    UNFINISHED = auto()
    """Half made, or of an older MLflow, which only finishing a copy of it can distinguish."""
    DAMAGED = auto()


@dataclass(frozen=True)
class _Examination:
    kind: _Kind
    why: str = ""
    runs: int = 0


def make_ready(file: Path, *, thorough: bool, before_new: Callable[[], None]) -> str | None:
    """Make sure that MLflow can open a SQLite store; the caller must hold the file's lock.

    Args:
        file: the store's file.
        thorough: look at every page, as after an error that speaks of damage.
        before_new: called before an empty store takes the place of nothing, or of one that cannot be used.

    Returns:
        What was done about a file that was there, in a sentence; None: nothing.

    Raises:
        UnusableError: the file is another program's, or a newer MLflow's.
        sqlite3.Error, sqlalchemy.exc.SQLAlchemyError, OSError: it is locked, the disk is full, or no rights.
    """
    old = _examine(file, thorough=thorough)
    if old.kind is _Kind.READY:
        return None
    if old.kind is _Kind.UNFINISHED and _finish(file, old):
        return f"{file} was of an older MLflow: brought up to date, the old file kept beside it" if old.runs else None
    with Aside(file) as aside:
        mlflow_internals.create_tables(aside)
        before_new()
        _clear_beside(file)
        kept = None if old.kind is _Kind.ABSENT else _keep(file)
        aside.replace(file)
    return None if kept is None else f"{file} was {old.why}: made again, the old file kept as {kept.name}"


def _examine(file: Path, *, thorough: bool) -> _Examination:
    if not file.exists() or file.stat().st_size == 0:
        return _Examination(_Kind.ABSENT)
    try:
        # Not read-only: what a killed writer left in the journal has to be undone first, as any opener does.
        address = f"{file.absolute().as_uri()}?mode=rw"
        with closing(sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if thorough and (answer := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                return _Examination(_Kind.DAMAGED, f"damaged ({str(answer).splitlines()[0]})")
            # Whose file it is before its rows are read: a damaged one of another program is left alone too.
            expected = mlflow_internals.table_names()
            own = {table for table in tables if not table.startswith(("alembic_", "sqlite_"))}
            if own and not own & expected:
                raise UnusableError(f"{file} is a database of another program; choose another tracking.uri")
            row = None
            if "alembic_version" in tables:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            versions, newest = mlflow_internals.schema_versions()
            if row is not None and row[0] not in versions:
                raise UnusableError(
                    f"{file} was written by a newer MLflow (schema {row[0]}); install that version, or choose another "
                    "tracking.uri"
                )
            if row is not None and row[0] == newest and expected <= tables:
                return _Examination(_Kind.READY)
            runs = connection.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
            return _Examination(_Kind.UNFINISHED, "half made, as by a process that was killed", runs)
    except sqlite3.DatabaseError as error:
        # The low byte is the error's class: 11 of SQLITE_CORRUPT_INDEX, 267, too.
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            return _Examination(_Kind.DAMAGED, f"damaged ({error})")
        raise


def _finish(file: Path, old: _Examination) -> bool:
    """Bring a copy to the newest schema and put it in the file's place; return False if that cannot be done."""
    # A copy: of 8 half-made files an open by MLflow repaired 3 and left 5 broken, and it migrates an older file in
    # place without asking (3.17.2).
    import sqlalchemy
    from alembic.util import CommandError

    with Aside(file) as aside:
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(aside)) as copy:
            source.backup(copy)
        try:
            mlflow_internals.create_tables(aside)
        except (CommandError, KeyError, ValueError):
            return False
        except sqlalchemy.exc.DBAPIError as error:
            if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF not in _IMPOSSIBLE:
                raise
            return False
        if _examine(aside, thorough=False).kind is not _Kind.READY:
            return False
        if old.runs:
            _keep(file)
        aside.replace(file)
    return True


class Aside:
    """A path beside the file: nothing is there at first, and nothing is left in the end that was not renamed."""

    def __init__(self, file: Path) -> None:
        self._path = file.with_name(f"{file.name}.new")

    def __enter__(self) -> Path:
        self._clear()
        return self._path

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._clear()

    def _clear(self) -> None:
        _clear_beside(self._path)
        self._path.unlink(missing_ok=True)


def _clear_beside(file: Path) -> None:
    """Remove the journals of a file: SQLite would apply one that is left to the next file of that name."""
    for ending in ("-journal", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)


def _keep(file: Path) -> Path:
    """Give a file that is about to be replaced a second name, and return that."""
    kept = file.with_name(f"{file.name}.replaced-{time.strftime('%Y%m%d-%H%M%S')}")
    kept.unlink(missing_ok=True)
    # A link and not a rename: at every instant the first name is a file: without one MLflow would create a store.
    try:
        kept.hardlink_to(file)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, kept)
    return kept
