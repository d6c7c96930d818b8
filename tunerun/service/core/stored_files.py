"""Files that clients have sent, on disk: written beside their place, brought to the disk, and renamed.

A file's id is its name on disk; the name that a client gave it is only ever shown. What a crash leaves is removed at
the next start: a file without a row was never answered for, and a row without a file cannot be, since a file is renamed
before its row is written and removed after it.
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

from tunerun.files import private_folder
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.core.records import StoredFile
from tunerun.service.core.state import State

FOLDER = "files"
PARTIAL = ".partial"
MAX_NAME = 80
"""Characters of a file's name; of a longer one the end is shown."""

log = logging.getLogger("tunerun.service")


class Draft:
    """A file that is being sent; a sink for its bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123, SIM115 - the mode from the first moment on; closed by `close`

    def write(self, content: bytes) -> None:
        """Add bytes.

        Raises:
            ServiceError: the disk is full, or cannot be written.
        """
        try:
            self._file.write(content)
        except OSError as error:
            raise _unwritten(error) from error
        self.size += len(content)

    def flush(self) -> None:
        """Make what was written readable under `path`, and bring it to the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritten(error) from error

    def close(self) -> None:
        """End writing."""
        with contextlib.suppress(OSError):  # of a full disk, which `flush` has reported
            self._file.close()


class StoredFiles:
    """The files of all users; from any thread."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._folder = state.folder / FOLDER
        private_folder(self._folder)
        self.clear()

    @contextmanager
    def draft(self) -> Iterator[Draft]:
        """A context in which a file is written; it is gone at the end unless `keep` has taken it.

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
        """Keep a file that was written; it is on disk when this returns.

        Args:
            life_s: after which it is gone; None: it stays.
        """
        draft.flush()
        # A letter that no result's id begins with: see the wire's names.
        identifier, now = f"file-u{secrets.token_hex(12)[:23]}", time.time()
        file = StoredFile(
            0, identifier, owner, name, purpose, draft.size, now, None if life_s is None else now + life_s
        )
        try:
            draft.path.rename(self._folder / identifier)
            _sync_folder(self._folder)
        except OSError as error:
            raise _unwritten(error) from error
        return self._state.add_stored_file(file)

    def find(self, owner: str, identifier: str) -> StoredFile | None:
        """A user's file; None: there is none, or its time is over."""
        return self._state.stored_file(identifier, owner, time.time())

    def of(self, owner: str, purpose: str | None = None) -> Sequence[StoredFile]:
        """All files of a user, the oldest first."""
        return self._state.stored_files(owner, purpose, time.time())

    def path_of(self, file: StoredFile) -> Path:
        """The path of its content."""
        return self._folder / file.id

    def delete(self, file: StoredFile) -> None:
        """Remove a file; a job that was made of it has its examples already."""
        self._state.drop_stored_file(file.id)
        self.path_of(file).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove what a crash has left, and what is past its time."""
        for file in self._state.expired_files(time.time()):
            self.delete(file)
        known = self._state.stored_file_ids()
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink(missing_ok=True)


def file_name(given: str | None) -> str:
    """The name of a sent file, without the folders that some browsers send, and nothing in it that cannot be shown."""
    last = (given or "").replace("\\", "/").rpartition("/")[2]
    return "".join(c for c in last if c.isprintable())[-MAX_NAME:].strip(" .") or "file"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(error: OSError) -> ServiceError:
    log.error("a file cannot be written", exc_info=error)
    words = "the service cannot write the file now; its log says why; ask again"
    return ServiceError(Code.UNAVAILABLE, words, retry_after_s=60)
