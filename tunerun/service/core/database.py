"""The service's database file: its schema, and a connection that all threads share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunerun.database import DatabaseFile, DatabaseFormat
from tunerun.errors import LedgerError

FILE_NAME = "service.db"

BUSY_TIMEOUT_S = 5.0
"""Seconds that a request waits if another program, such as a backup, locks the file; then it fails as UNAVAILABLE."""

# AUTOINCREMENT: without it, SQLite gives the number of the newest row again once that is deleted, and the page of a
# token would begin at another row.
MIGRATIONS = (
    """
CREATE TABLE tuned_model (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL UNIQUE,
    folder TEXT NOT NULL UNIQUE, display_name TEXT NOT NULL, description TEXT NOT NULL, base_model TEXT NOT NULL,
    source TEXT, source_folder TEXT, temperature REAL, top_p REAL, top_k INTEGER, reader_projects TEXT NOT NULL,
    state TEXT NOT NULL, created_at REAL NOT NULL, updated_at REAL NOT NULL, started_at REAL, completed_at REAL,
    epoch_count INTEGER NOT NULL, batch_size INTEGER NOT NULL, learning_rate REAL NOT NULL,
    learning_rate_multiplier REAL, total_steps INTEGER NOT NULL, operation TEXT NOT NULL,
    is_cancelling INTEGER NOT NULL DEFAULT 0, can_answer INTEGER NOT NULL DEFAULT 0, error_code INTEGER,
    error_message TEXT);
CREATE INDEX tuned_model_state ON tuned_model (state);
CREATE TABLE training_data (
    key TEXT PRIMARY KEY REFERENCES tuned_model (key) ON DELETE CASCADE, examples TEXT NOT NULL);
CREATE TABLE snapshot (
    key TEXT NOT NULL REFERENCES tuned_model (key) ON DELETE CASCADE, step INTEGER NOT NULL, epoch INTEGER NOT NULL,
    mean_loss REAL NOT NULL, compute_time REAL NOT NULL, PRIMARY KEY (key, step)) WITHOUT ROWID;
CREATE TABLE permission (
    tuned_model TEXT NOT NULL REFERENCES tuned_model (id) ON DELETE CASCADE, id TEXT NOT NULL, grantee TEXT NOT NULL,
    email TEXT, role TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (tuned_model, id),
    UNIQUE (tuned_model, grantee, email));
CREATE INDEX permission_email ON permission (email);
CREATE TABLE file (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, content BLOB NOT NULL, created_at REAL NOT NULL);
CREATE TABLE leftover (folder TEXT PRIMARY KEY)""",
    """
ALTER TABLE training_data ADD COLUMN validation TEXT NOT NULL DEFAULT '[]';
ALTER TABLE tuned_model ADD COLUMN validation_loss REAL;
ALTER TABLE tuned_model ADD COLUMN base_validation_loss REAL""",
    """
ALTER TABLE tuned_model ADD COLUMN seed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tuned_model ADD COLUMN suffix TEXT NOT NULL DEFAULT '';
ALTER TABLE tuned_model ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tuned_model ADD COLUMN notes TEXT NOT NULL DEFAULT '{}';
ALTER TABLE tuned_model ADD COLUMN keeps_epochs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tuned_model ADD COLUMN is_paused INTEGER NOT NULL DEFAULT 0;
CREATE TABLE epoch (
    key TEXT NOT NULL REFERENCES tuned_model (key) ON DELETE CASCADE, epoch INTEGER NOT NULL, step INTEGER NOT NULL,
    validation_loss REAL, folder TEXT NOT NULL, created_at REAL NOT NULL, PRIMARY KEY (key, epoch)) WITHOUT ROWID;
ALTER TABLE tuned_model ADD COLUMN trained_tokens INTEGER;
CREATE TABLE stored_file (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, name TEXT NOT NULL,
    purpose TEXT NOT NULL, size INTEGER NOT NULL, created_at REAL NOT NULL, expires_at REAL);
CREATE INDEX stored_file_owner ON stored_file (owner)""",
)
"""One script for each format; see `tunerun.database`."""

_FORMAT = DatabaseFormat(
    table="tuned_model",
    migrations=MIGRATIONS,
    place="--state",
    functions={"casefold": str.casefold},  # for the words of a filter
)


class ServiceDatabase:
    """One connection, one transaction at a time, each of a few milliseconds. Every method may raise LedgerError.

    Args:
        folder: the folder of the file; both are created if they do not exist.

    Raises:
        LedgerError: the file belongs to another program or a newer tunerun, is damaged, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = DatabaseFile(folder / FILE_NAME, _FORMAT, any_thread=True, busy_timeout_s=BUSY_TIMEOUT_S)
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._file.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        # The wait for this lock is limited too, or waits of several threads for the file would add up.
        if not self._lock.acquire(timeout=BUSY_TIMEOUT_S):
            raise LedgerError(f"{self._file.path}: busy for more than {BUSY_TIMEOUT_S:g} s; retry")
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[DatabaseFile]:
        """Return a context whose statements take effect together, or not at all if it raises."""
        with self._alone(), self._file.transaction():
            yield self._file

    def write(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Execute one statement as a transaction, and return how many rows it changed."""
        with self.transaction() as file:
            return file.write(statement, parameters)

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Return all rows of a query."""
        with self._alone():
            return self._file.rows(query, parameters)


def marks(values: Sequence[object]) -> str:
    """Return a placeholder for each value, for a list in a statement."""
    return ", ".join("?" * len(values))
