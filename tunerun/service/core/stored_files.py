"""Uploaded files on disk: written under a temporary name, synced, and renamed.

A file's name on disk is its id; the client's file name is only shown. The next start removes what a crash left: a file
without a row was never confirmed to a client. A row without a file cannot occur, since a file is renamed before its row
is inserted, and removed after its row was deleted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunerun.files import private_folder
from tunerun.service.core.database import marks
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.core.records import StoredFile
from tunerun.service.core.state import State

FOLDER = "files"
PARTIAL = ".partial"
MAX_NAME = 80
"""The most characters of a file's name; a longer one is cut at the start."""

log = logging.getLogger("tunerun.service")


class Draft:
    """A file during its upload, readable only by the service's user.

    Attributes:
        path: its temporary path.
        size: bytes written so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123, SIM115 - the mode from the first moment on; closed by `close`

    def write(self, content: bytes) -> None:
        """Append bytes.

        Raises:
            ServiceError: the disk is full, or cannot be written.
        """
        try:
            self._file.write(content)
        except OSError as error:
            raise _unwritten(error) from error
        self.size += len(content)

    def flush(self) -> None:
        """Flush and sync the written bytes, so that they can be read under `path`.

        Raises:
            ServiceError: the disk is full, or cannot be written.
        """
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritten(error) from error

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):  # a full disk, which `flush` has reported
            self._file.close()


class StoredFiles:
    """The uploaded files of all users. Safe to use from any thread.

    Args:
        state: the database with the files' rows.
    """

    def __init__(self, state: State) -> None:
        self._database = state.database
        self._folder = state.folder / FOLDER
        private_folder(self._folder)
        self.clear()

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """Return a context in which a file is written; at its end the file is deleted unless `keep` was called.

        Raises:
            ServiceError: the disk cannot be written.
        """
        try:
            draft = Draft(self._folder / f"{secrets.token_hex(12)}{PARTIAL}")
        except OSError as error:
            raise _unwritten(error) from error
        try:
            yield draft
        finally:
            draft.close()
            draft.path.unlink(missing_ok=True)

    def keep(self, draft: Draft, owner: str, name: str, purpose: str, life_s: int | None = None) -> StoredFile:
        """Store a written file permanently; it is synced to disk when this returns.

        Args:
            draft: the file.
            owner: the user.
            name: the client's file name; only shown.
            purpose: the purpose that the client stated.
            life_s: seconds until the file expires; None: never.

        Raises:
            ServiceError: the disk is full, or cannot be written.
        """
        draft.flush()
        # "u" distinguishes uploads from result files, whose ids begin with file-r (`service.openai.names`).
        identifier, now = f"file-u{secrets.token_hex(12)[:23]}", time.time()
        expires_at = None if life_s is None else now + life_s
        values: list[Any] = [identifier, owner, name, purpose, draft.size, now, expires_at]
        try:
            draft.path.rename(self._folder / identifier)
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # the new name is on disk only once its folder is synced
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unwritten(error) from error
        # Last, so that no row is without its file; a crash before this leaves a file that `clear` removes.
        with self._database.transaction() as database:
            number = database.insert(
                "INSERT INTO stored_file (id, owner, name, purpose, size, created_at, expires_at) "
                f"VALUES ({marks(values)})",
                values,
            )
        return StoredFile(number, *values)

    def find(self, owner: str, identifier: str) -> StoredFile | None:
        """Return a user's file; None: it does not exist, or has expired."""
        # `coalesce`: a comparison with NULL, of a file that never expires, is NULL in SQL.
        rows = self._database.rows(
            "SELECT * FROM stored_file WHERE id = ? AND owner = ? AND coalesce(expires_at > ?, 1)",
            [identifier, owner, time.time()],
        )
        return StoredFile(**rows[0]) if rows else None

    def of(self, owner: str, purpose: str | None = None) -> Sequence[StoredFile]:
        """Return all files of a user, oldest first; with `purpose`, only those that have it."""
        rows = self._database.rows(
            "SELECT * FROM stored_file WHERE owner = ? AND coalesce(purpose = ?, 1) AND coalesce(expires_at > ?, 1) "
            "ORDER BY number",
            [owner, purpose, time.time()],
        )
        return [StoredFile(**row) for row in rows]

    def path_of(self, file: StoredFile) -> Path:
        """Return the path of a file's content."""
        return self._folder / file.id

    def delete(self, file: StoredFile) -> None:
        """Delete a file; jobs that were created from it have copied its examples."""
        self._database.write("DELETE FROM stored_file WHERE id = ?", [file.id])
        self.path_of(file).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove leftovers of a crash, and expired files."""
        for row in self._database.rows("SELECT * FROM stored_file WHERE expires_at <= ?", [time.time()]):
            self.delete(StoredFile(**row))
        stored = {row["id"] for row in self._database.rows("SELECT id FROM stored_file")}
        for path in self._folder.iterdir():
            if path.name not in stored:
                path.unlink(missing_ok=True)


def file_name(sent: str | None) -> str:
    """Return a file's name to show: without folders, which some browsers send, and without unprintable characters."""
    last = (sent or "").replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[-MAX_NAME:].strip(" .") or "file"


def _unwritten(error: OSError) -> ServiceError:
    log.error("a file cannot be written", exc_info=error)
    words = "the service cannot write the file at the moment; see its log, and retry"
    return ServiceError(Code.UNAVAILABLE, words, retry_after_s=60)
