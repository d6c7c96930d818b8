"""A long-lived SQLite file: opened, migrated to this program's schema, written in transactions; or read unchanged.

The ledger is one, the state of `tunerun serve` another.

Settings, and why:

- `journal_mode = WAL`: readers do not block the writer, and the writer does not block them.
- `synchronous = FULL`: a commit is on disk when it returns, also through a power failure. With NORMAL, write-ahead
  logging may lose the last commits, and a job that was paid for with them.
- `foreign_keys = ON`: a loss curve without its job would be a bug; SQLite does not check by default.
- a wait of 30 s for another writer: transactions take milliseconds, so a longer wait means that something is stuck.

A reader must not change a byte, and SQLite cannot promise that: a connection with `mode=ro` still creates or writes the
`-shm` file beside a database in WAL mode, and an older schema would have to be migrated in place. So a reader works on
a copy (`tunerun.database_copy`).

Write-ahead logging needs shared memory, so the file belongs on a disk of the machine that writes it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType

from tunerun.database_copy import copied, opened_for_writing
from tunerun.errors import LedgerError
from tunerun.files import lacks_descriptors, no_descriptor_is_left
from tunerun.locks import holders_in

BUSY_TIMEOUT_S = 30.0

_CHECKED_BYTES = 1 << 26
"""Largest file whose indexes are checked whenever it is read: about 10 ms a MiB on a loaded machine (2026-11-26)."""


@dataclass(frozen=True)
class DatabaseFormat:
    """The schema of a kind of file.

    Attributes:
        table: the name of one that every file of the kind has, which distinguishes it from other programs' files.
        migrations: the schema as the steps that led to it: step n brings a file of version n to n + 1. A step is never
            changed once a release has written with it; its statements end in `;` and a line break.
        place: the setting that says where the file is, for messages.
        functions: what queries and migrations may call besides SQLite's own functions, by name.
    """

    table: str
    migrations: Sequence[str]
    place: str
    functions: Mapping[str, Callable[..., str | int]] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The `PRAGMA user_version` of a file that this program has written."""
        return len(self.migrations)

    @cached_property
    def columns(self) -> dict[str, list[str]]:
        """The columns of each table, by the table's name."""
        empty = sqlite3.connect(":memory:", isolation_level=None)
        _add_functions(empty, self)
        _migrate(empty, self, nullcontext())
        columns = _columns(empty)
        empty.close()
        return columns


def _add_functions(connection: sqlite3.Connection, format: DatabaseFormat) -> None:  # noqa: A002 - the field's word
    for name, function in format.functions.items():
        connection.create_function(name, -1, function, deterministic=True)


def _migrate(connection: sqlite3.Connection, format: DatabaseFormat, transaction: AbstractContextManager[None]) -> None:  # noqa: A002
    # All steps in one transaction, so that a killed process leaves the old schema.
    with transaction:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        for script in format.migrations[version:]:
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {format.version}")


def _columns(connection: sqlite3.Connection) -> dict[str, list[str]]:
    rows = connection.execute(
        "SELECT tables.name, columns.name FROM sqlite_master AS tables JOIN pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%' ORDER BY tables.name, columns.cid"
    )
    columns: dict[str, list[str]] = {}
    for table, column in rows:
        columns.setdefault(table, []).append(column)
    return columns


class DatabaseFile:
    """A connection to a SQLite file, which is created with its folder if it does not exist.

    Args:
        path: the file.
        format: what kind of file it is.
        read_only: read the file as it is now, in this or an older format; nothing in its folder is changed.
        any_thread: whether the connection may be used from threads other than this one, one at a time.
        busy_timeout_s: seconds to wait for another writer.

    Raises:
        LedgerError: the file is of another kind, is damaged, was written by a newer tunerun, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        format: DatabaseFormat,  # noqa: A002 - the field's word
        *,
        read_only: bool = False,
        any_thread: bool = False,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
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
                _add_functions(self._connection, format)
                self._prepare(read_only=read_only)
            except (sqlite3.Error, OSError) as error:
                raise self._translated(error) from error
            self._closing = stack.pop_all()

    def _prepare(self, *, read_only: bool) -> None:
        # Before anything is written, a file of a newer format or of another kind is refused.
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
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

        if not read_only:
            self._connection.execute("PRAGMA journal_mode = WAL")
        # A reader migrates and recovers its own copy, which need not survive a power failure.
        self._connection.execute(f"PRAGMA synchronous = {'OFF' if read_only else 'FULL'}")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if version < self._format.version:
            _migrate(self._connection, self._format, self.transaction())
        if _columns(self._connection) != self._format.columns:
            raise sqlite3.DatabaseError("its schema has been changed or is damaged")
        if not read_only:
            return

        self._connection.execute("PRAGMA query_only = ON")
        pages, page_size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
        )
        if pages * page_size <= _CHECKED_BYTES:
            # Checksums do not cover indexes: a row that a damaged one misses looks as if it was never written.
            answer = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if answer != "ok":
                raise sqlite3.DatabaseError(f"it is damaged ({' '.join(answer.split())})")

    def _translated(self, error: Exception) -> LedgerError:
        """Translate an error of SQLite or the disk; a busy file, a full disk or a lack of descriptors is not damage."""
        text = " ".join(str(error).split())  # one that quotes the schema has its line breaks
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte of an extended code is the primary one
        place = self._format.place
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            who = " and ".join(holders_in(self.path.parent)) or "another process"
            return LedgerError(
                f"{self.path}: {text}: {who} is writing it; nothing was changed: wait until it is done, then run the "
                "same command again"
            )
        if lacks_descriptors(error) or no_descriptor_is_left():
            return LedgerError(
                f"{self.path}: cannot be opened, this process has too many files open; nothing was changed: raise the "
                "limit (ulimit -n), then run the same command again"
            )
        if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            return LedgerError(f"{self.path}: {text}; check the disk and its permissions, or choose another {place}")
        if isinstance(error, OSError):
            return LedgerError(
                f"{self.path}: {error.strerror}; check the disk and its permissions, or choose another {place}"
            )
        return LedgerError(
            f"{self.path}: {text}; the file was not changed: restore it from a backup, or choose another {place}"
        )

    def transaction(self) -> Transaction:
        """Return a context whose writes are atomic: on disk when it ends, or all rolled back by an error."""
        return Transaction(self._connection, self._translated)

    def write(self, statement: str, parameters: Sequence[object] = ()) -> int:
        """Execute one statement inside a transaction, and return how many rows it changed."""
        return self._connection.execute(statement, parameters).rowcount

    def insert(self, statement: str, parameters: Sequence[object]) -> int:
        """Insert one row, and return its id."""
        inserted = self._connection.execute(statement, parameters).lastrowid
        assert inserted is not None  # noqa: S101 - it is None only before the first insert
        return inserted

    def write_many(self, statement: str, rows: Iterable[Sequence[object]]) -> None:
        """Execute a statement inside a transaction, once for each row."""
        self._connection.executemany(statement, rows)

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Return all rows of a query.

        Args:
            query: may have placeholders.
            parameters: their values.

        Raises:
            LedgerError: the file is damaged, busy, or cannot be read.
        """
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def row(self, query: str, parameters: Sequence[object] = ()) -> sqlite3.Row | None:
        """Return the first row of a query; None: it has none."""
        rows = self.rows(query, parameters)
        return rows[0] if rows else None

    def close(self) -> None:
        """Close the connection; a transaction that is still open is rolled back."""
        self._closing.close()


class Transaction:
    """From BEGIN to COMMIT, or to ROLLBACK on any error; one that an interrupt cuts off ends with its connection.

    Not a generator: the rest of an abandoned generator runs late, when the connection may be closed already.
    """

    def __init__(self, connection: sqlite3.Connection, translated: Callable[[Exception], LedgerError]) -> None:
        self._connection = connection
        self._translated = translated

    def __enter__(self) -> None:
        # IMMEDIATE: a transaction that reads first and writes later would fail with SQLITE_BUSY, without any wait, if
        # another process has written in between (sqlite.org/lang_transaction).
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
