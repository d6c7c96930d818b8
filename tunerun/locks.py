"""Per-sweep file locks, released by the operating system when their owner exits, each with a note of who owns it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tunerun.errors import LedgerError, LockedError
from tunerun.files import lacks_descriptors, private_folder

_PATIENCE_S = 0.5
"""Seconds that an owner waits for the lock: `holder_of` takes it for a moment to look."""


@contextmanager
def held(runs: Path, sweep: str) -> Iterator[None]:
    """Lock a sweep while the context lasts, so that only this process runs it.

    Args:
        runs: the folder of the ledger.
        sweep: its id; or another name of what one process may own at a time, such as a service's folder.

    Raises:
        LockedError: another process holds it; names the process, its machine and since when.
        LedgerError: the lock's file cannot be written.
    """
    file = _lock_file(runs, sweep)
    note = file.with_suffix(".holder")
    lock = FileLock(file)
    try:
        private_folder(runs)
        file.parent.mkdir(exist_ok=True)
        lock.acquire(timeout=_PATIENCE_S)
    except Timeout as error:
        raise LockedError(
            f"{sweep} is being run by {_noted(note)}; wait for it or stop it, then run the same command again"
        ) from error
    except OSError as error:
        raise _not_written(file, error) from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        try:
            note.write_text(f"process {os.getpid()} on {socket.gethostname()} since {since}", encoding="utf-8")
        except OSError as error:
            raise _not_written(note, error) from error
        yield
    finally:
        # The note first: with the lock free, another process may have written its own already.
        note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def held_if_free(runs: Path, sweep: str) -> Iterator[bool]:
    """Lock a sweep if it is free, to change what belongs to it while the context lasts.

    Args:
        runs: the folder of the ledger.
        sweep: its id.

    Yields:
        Whether it was free.
    """
    lock = FileLock(_lock_file(runs, sweep))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except OSError:  # a read-only archive: nothing can be running there
        yield True
        return
    try:
        yield True
    finally:
        lock.release()


def holder_of(runs: Path, sweep: str) -> str | None:
    """Return which process runs a sweep, on which machine and since when. No file is changed.

    Args:
        runs: the folder of the ledger.
        sweep: its id.

    Returns:
        None: no process runs it.
    """
    file = _lock_file(runs, sweep)
    # Not with a FileLock: it would create the file, and its exclusive lock could refuse a runner that starts just now.
    try:
        with file.open("rb") as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _noted(file.with_suffix(".holder"))
    except OSError:  # nothing has run here, or the file may not be read
        return None
    return None


def holders_in(runs: Path) -> list[str]:
    """Return a line for each held lock of a runs folder: the process, and what it runs."""
    names = sorted(file.stem for file in (runs / "locks").glob("*.lock"))
    return [f"{holder} (running {name})" for name in names if (holder := holder_of(runs, name)) is not None]


def _not_written(file: Path, error: OSError) -> LedgerError:
    advice = "check the disk and its permissions, or choose another paths.runs"
    if lacks_descriptors(error):
        advice = "raise the limit of open files (ulimit -n), then run the same command again"
    return LedgerError(f"{file}: {error.strerror}; {advice}")


def _noted(note: Path) -> str:
    try:
        return note.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # removed meanwhile, or half written
        return "another process"


def _lock_file(runs: Path, sweep: str) -> Path:
    return runs / "locks" / f"{sweep}.lock"
