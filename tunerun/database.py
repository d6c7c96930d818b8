"""A long-lived SQLite file: opened, migrated to this program's schema, written in transactions; or read unchanged.

The ledger is one, the state of `tunerun serve` another.

Settings, and why:

- `journal_mode = WAL`: others read while one writes, and nobody waits for a reader.
- `synchronous = FULL`: a commit is on disk when it returns, also through a power failure. With NORMAL, write-ahead
  logging may lose the last commits, and a job that was paid for with them.
- `foreign_keys = ON`: a loss curve without its job would be a fault of ours; SQLite does not look by itself.
- a wait of 30 s for another writer: transactions take milliseconds, so a longer wait means that something is stuck.

A reader must not change a byte, and SQLite cannot promise that: a connection with `mode=ro` still creates or writes the
`-shm` file beside a database in WAL mode, and an older schema would have to be migrated in place. So a reader works on
a copy (`tunerun.database_copy`).

Write-ahead logging needs shared memory, so the file belongs on a disk of the machine that writes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tunerun.database_copy import copied, opened_for_writing
from tunerun.errors import LedgerError

_BUSY_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Format:
    """What a kind of file looks like.

    Attributes:
        table: one that every file of the kind has.
        migrations: the schema as the steps that led to it: step n brings a file of version n to n + 1. A step is never
            changed once a release has written with it; its statements end in `;` and a line break.
        place: the setting that says where the file is, for messages.
    """

    table: str
    migrations: Sequence[str]
    place: str

    @property
    def version(self) -> int:
        """What `PRAGMA user_version` says of a file that this program has written."""
        return len(self.migrations)


class DatabaseFile:
    """A connection to the file; made with its folder if it is not there.

    Args:
        read_only: read the file as it is now, in this or an older format; nothing in its folder is changed.
        any_thread: whether the connection may be used from threads other than this one, one at a time.
        busy_timeout_s: how long to wait for another writer.

    Raises:
        LedgerError: the file is of another kind, is damaged, was written by a newer tunerun, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        format: Format,  # noqa: A002 - the field's word
        *,
        read_only: bool = False,
        any_thread: bool = False,
        busy_timeout_s: float = _BUSY_TIMEOUT_S,
    ) -> None:
        self.path = path
        self._format = format
        with ExitStack() as stack:
            try:
                file = stack.enter_context(copied(path) if read_only else opened_for_writing(path))
                self._connection = sqlite3.connect(
                    file, timeout=busy_timeout_s, isolation_level=None, check_same_thread=not any_thread
                )
                stack.callback(self._connection.close)
                self._connection.row_factory = sqlite3.Row
                self._check()
                self._prepare(read_only=read_only)
            except (sqlite3.Error, OSError) as error:
                raise self._translated(error) from error
            self._closing = stack.pop_all()

    def _prepare(self, *, read_only: bool) -> None:
        if not read_only:
            self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {'OFF' if read_only else 'FULL'}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if self._version() < self._format.version:
            self._migrate()
        if read_only:
            self._connection.execute("PRAGMA query_only = ON")

    def _version(self) -> int:
        version: int = self._connection.execute("PRAGMA user_version").fetchone()[0]
        return version

    def _check(self) -> None:
        """Refuse what is of another kind or newer, before anything is written into it."""
        version = self._version()
        if version > self._format.version:
            raise LedgerError(
                f"{self.path}: written by a newer tunerun (format {version}, this one knows {self._format.version}); "
                f"update tunerun, or choose another {self._format.place}"
            )
        tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if (self._format.table not in tables) if version else tables:
            raise LedgerError(
                f"{self.path}: a database of another program; move it away, or choose another {self._format.place}"
            )

    def _migrate(self) -> None:
        """Bring the schema up to date: all steps in one transaction, so that a killed process leaves the old one."""
        with self.transaction():
            for script in self._format.migrations[self._version() :]:
                for statement in script.split(";\n"):
                    self._connection.execute(statement)
            self._connection.execute(f"PRAGMA user_version = {self._format.version}")

    def _translated(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"{self.path}: {error}; the file was left as it is: check the disk and its rights, restore it from a "
            f"backup, or choose another {self._format.place}"
        )

    def function(self, name: str, of: Callable[[str], str]) -> None:
        """Let queries call a function of a text that always gives the same for the same."""
        self._connection.create_function(name, 1, of, deterministic=True)

    def transaction(self) -> Transaction:
        """A context in which all writes are one: on disk when it is left, or undone by an error."""
        return Transaction(self._connection, self._translated)

    def write(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Execute one statement of a transaction, and return how many rows it changed."""
        return self._connection.execute(statement, parameters).rowcount

    def write_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Execute a statement of a transaction for each row."""
        self._connection.executemany(statement, rows)

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def row(self, query: str, parameters: Sequence[object] = ()) -> sqlite3.Row | None:
        """The first row of a query; None: it has none."""
        rows = self.rows(query, parameters)
        return rows[0] if rows else None

    def close(self) -> None:
        """Close the connection."""
        self._closing.close()


class Transaction:
    """BEGIN to COMMIT, or ROLLBACK on any error; a transaction that an interrupt cuts off ends with its connection.

    No generator, for what is left of one runs late, on a connection that is closed by then.
    """

    def __init__(self, connection: sqlite3.Connection, translated: Callable[[Exception], LedgerError]) -> None:
        self._connection = connection
        self._translated = translated

    def __enter__(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._execute("COMMIT")
            return
        if self._connection.in_transaction:  # SQLite rolls back by itself when the disk is full
            self._execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise self._translated(error) from error

    def _execute(self, statement: str) -> None:
        try:
            self._connection.execute(statement)
        except sqlite3.Error as error:
            raise self._translated(error) from error
