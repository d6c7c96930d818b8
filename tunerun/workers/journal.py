"""What a worker on a cluster was given to train, kept on this machine, so that the next program can find it and
continue.

A folder for each worker, named like it:

    owner.lock     held by the program that gives the worker its work
    trains.jsonl   each command to train, as it is called here, behind its number

The kernel releases the lock when the program ends, however that ends: a folder whose lock is free is that of a program
that was killed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from tunerun.engine import messages
from tunerun.files import private_folder

LOCK_FILE = "owner.lock"
TRAINS_FILE = "trains.jsonl"


class Journal:
    """The folder of one worker, whose lock this program holds.

    Attributes:
        name: the worker's.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.name = folder.name
        self._folder = folder
        self._lock = lock

    @classmethod
    def begin(cls, parent: Path, name: str) -> Self:
        """Make the folder of a new worker.

        Raises:
            OSError: the disk refuses.
        """
        folder = private_folder(private_folder(parent) / name)
        lock = FileLock(folder / LOCK_FILE, thread_local=False)
        lock.acquire()
        return cls(folder, lock)

    @classmethod
    def left(cls, parent: Path, prefix: str) -> Iterator[Self]:
        """Take over the folders of workers whose program was killed.

        Args:
            prefix: what the names of the workers begin with.
        """
        for folder in sorted(parent.glob(f"{prefix}*")):
            lock = FileLock(folder / LOCK_FILE, thread_local=False)
            with contextlib.suppress(Timeout, OSError):  # its program runs, or it is gone at this moment
                lock.acquire(blocking=False)
                yield cls(folder, lock)

    def note(self, number: int, train: messages.Train) -> None:
        """Write a command down, before it is sent."""
        with (self._folder / TRAINS_FILE).open("ab") as file:
            file.write(b"%d " % number + messages.command_line(train))

    def trains(self, up_to: int) -> Iterator[messages.Train]:
        """The commands that were written down.

        Args:
            up_to: the number of the last command that the worker has received.
        """
        with contextlib.suppress(FileNotFoundError):
            for line in (self._folder / TRAINS_FILE).read_bytes().splitlines(keepends=True):
                number, _, command = line.partition(b" ")
                if not line.endswith(b"\n") or int(number) > up_to:  # its program was killed while it wrote this
                    return
                if isinstance(found := messages.read_command(command), messages.Train):
                    yield found

    def remove(self) -> None:
        """Remove the folder; may be called again."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()
