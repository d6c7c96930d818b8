"""The lock in a worker's folder. Its owner holds it while it runs, so a free lock means that the owner was killed.

The kernel releases the lock when the owner's process ends, however it ends. A process id in a file would not be
reliable: after a restart of the machine it may belong to another program.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = "owner.lock"


def take(folder: Path) -> FileLock:
    """Take the lock of a new folder, and hold it until it is released or this process ends.

    Raises:
        OSError: the folder cannot be written.
    """
    lock = _lock_of(folder)
    lock.acquire()
    return lock


def take_if_free(folder: Path) -> FileLock | None:
    """Take the lock of a folder that an owner may have left; None: its owner is running, or is just removing it."""
    lock = _lock_of(folder)
    try:
        lock.acquire(blocking=False)
    except (Timeout, OSError):
        return None
    return lock


def _lock_of(folder: Path) -> FileLock:
    # Not thread-local, which is filelock's default: a worker is ended by another thread than the one that started it.
    return FileLock(folder / LOCK_FILE, thread_local=False)
