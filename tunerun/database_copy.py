"""A consistent copy of a SQLite file that others may be writing, made without locks and without touching its folder."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tunerun.errors import LedgerError
from tunerun.files import private_folder

_ATTEMPTS = 1000
"""Attempts at a copy: one fails when a writer restarts its log meanwhile, about once in a thousand written pages."""

_LOGS = ("-wal", "-journal")
"""Files that SQLite keeps beside a database: committed pages that are not in it yet, or pages to roll back to."""

_LOG_HEADER_BYTES = 32
"""Of a write-ahead log. Its salts change whenever SQLite restarts the log (sqlite.org/fileformat2, section 4.1)."""

_opening = threading.Lock()
_written_here: Counter[Path] = Counter()


@contextmanager
def opened_for_writing(path: Path) -> Iterator[Path]:
    """Register that this process writes a file, while the context lasts; its folder is created.

    Args:
        path: the file; it need not exist yet.

    Raises:
        OSError: the folder cannot be made.
    """
    private_folder(path.parent)
    file = path.resolve()
    # Closing any descriptor of a file drops all POSIX locks of the process on it, those of SQLite too
    # (sqlite.org/howtocorrupt, section 2.2). So `copied` must not open a file that this process writes.
    with _opening:
        _written_here[file] += 1
    try:
        yield path
    finally:
        with _opening:
            _written_here[file] -= 1


@contextmanager
def copied(path: Path) -> Iterator[Path]:
    """Yield a file to read instead of another one: a copy, or the file itself if this process writes it.

    Args:
        path: the file.

    Raises:
        OSError: it cannot be read, or there is no room for the copy.
        LedgerError: it is written so fast that no consistent copy could be made.
    """
    file = path.resolve()  # SQLite keeps the logs beside the file that a link leads to
    with TemporaryDirectory(prefix="tunerun-") as folder:
        copy = Path(folder) / "copy.db"
        with _opening:
            if _written_here[file]:
                copy = file
            else:
                _copy(file, copy)
        yield copy


def _copy(file: Path, copy: Path) -> None:
    """Copy a file and its logs such that SQLite, opening the copy, recovers the last committed state."""
    # Without locks this is safe if the file is copied before its log. A page of the file changes only when it is copied
    # out of the log, which keeps it until it is restarted: a page that was read halfway is replaced by the log's. Half
    # a commit at the log's end fails its checksum and is ignored. Only a restart in between loses pages, and that
    # changes the log's header.
    for _ in range(_ATTEMPTS):
        before = _stamp(file)
        shutil.copyfile(file, copy)
        for log in _LOGS:
            copied_log = copy.with_name(copy.name + log)
            copied_log.unlink(missing_ok=True)
            try:
                shutil.copyfile(file.with_name(file.name + log), copied_log)
            except FileNotFoundError:
                continue
        if _stamp(file) == before:
            return
    raise LedgerError(f"{file}: other processes write it too fast for it to be read; try again")


def _stamp(file: Path) -> tuple[object, ...]:
    """Return what changes when pages may be lost: the headers of the logs; without a log the file's time and size."""
    headers = []
    for log in _LOGS:
        try:
            with file.with_name(file.name + log).open("rb") as opened:
                headers.append(opened.read(_LOG_HEADER_BYTES))
        except FileNotFoundError:
            headers.append(b"")
    stat = file.stat()
    return (stat.st_ino, *headers) if any(headers) else (stat.st_ino, stat.st_mtime_ns, stat.st_size)
