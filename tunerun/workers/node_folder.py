"""The folder of a worker in a node's temporary directory, and the removal of folders that killed workers left there."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Self

from filelock import FileLock

from tunerun.workers import owner_lock

PREFIX = "tunerun-worker-"

_UNLOCKED_PREFIX = "tunerun-new-"
"""The prefix of a folder whose lock is not held yet. It is renamed once it is, so that a folder in use is never taken
for a leftover."""


class NodeFolder:
    """The folder of one worker, whose lock is held for the lifetime of its process.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, parent: Path | None = None) -> Self:
        """Create a folder, after removing the folders that this user's killed workers have left next to it.

        Args:
            parent: the folder to create it in; None: the machine's temporary directory.
        """
        parent = Path(tempfile.gettempdir()) if parent is None else parent
        remove_leftovers(parent)
        unlocked = Path(tempfile.mkdtemp(prefix=_UNLOCKED_PREFIX, dir=parent))
        lock = owner_lock.take(unlocked)
        path = unlocked.rename(parent / unlocked.name.replace(_UNLOCKED_PREFIX, PREFIX, 1))
        return cls(path, lock)

    def remove(self) -> None:
        """Remove the folder and release its lock; may be called again."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.release()


def remove_leftovers(parent: Path) -> None:
    """Remove the folders of killed workers, but not those in use or of other users.

    Args:
        parent: the folder that contains them.
    """
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another worker is removing it too, or it is not permitted
            # lstat: a link must not lead out of the temporary directory.
            state = folder.lstat()
            is_ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
            # Without its lock's file the folder is just being removed; taking the lock would create the file again.
            has_lock = is_ours and (folder / owner_lock.LOCK_FILE).exists()
            if has_lock and (lock := owner_lock.take_if_free(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()
