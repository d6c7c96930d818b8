"""The folder of a worker on a cluster's node, in its temporary directory, and those that killed workers have left
there."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

PREFIX = "tunerun-worker-"
LOCK_FILE = "owner.lock"

_UNLOCKED_PREFIX = "tunerun-new-"
"""Of a folder whose lock is not held yet; it gets its name when it is, so a folder in use is never taken for a
leftover."""


class NodeFolder:
    """A folder for one worker, as long as its process lives.

    The kernel releases the lock on it when the process ends, however that ends: a lock that is free is that of a worker
    which was killed. A process id would not say so: after a restart of the node it may be another program's.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, parent: Path | None = None) -> Self:
        """Make a folder, after removing what killed workers of this user have left beside it.

        Args:
            parent: where; None: the machine's temporary directory.
        """
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        remove_leftovers(parent)
        unlocked = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
        lock = FileLock(unlocked / LOCK_FILE, thread_local=False)
        lock.acquire()
        path = unlocked.rename(parent / unlocked.name.replace(_UNLOCKED_PREFIX, PREFIX, 1))
        return cls(path, lock)

    def remove(self) -> None:
        """Remove the folder; may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of workers that were killed; one that is in use, or another user's, stays."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # it is gone at this moment, or not allowed
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or not (folder / LOCK_FILE).exists():
                continue
            lock = FileLock(folder / LOCK_FILE, thread_local=False)
            try:
                lock.acquire(blocking=False)
            except Timeout:  # its worker lives
                continue
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()
