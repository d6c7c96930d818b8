"""A record on this machine of the jobs that a cluster's worker got, so that a later program can find it and continue.

Each worker has a folder of its name:

    owner.lock     held by the program that uses the worker (`owner_lock`)
    trains.jsonl   every Train command with this machine's folders, after its number
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from filelock import FileLock

from tunerun.engine import messages
from tunerun.files import private_folder
from tunerun.workers import owner_lock

TRAINS_FILE = "trains.jsonl"


class Journal:
    """The folder of one worker, whose lock this program holds. Make one with `begin` or `left`.

    Attributes:
        name: of the worker.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self.name = folder.name
        self._folder = folder
        self._lock = lock

    @classmethod
    def begin(cls, parent: Path, name: str) -> Self:
        """Create the folder of a new worker and take its lock.

        Args:
            parent: the folder of all journals.
            name: of the worker.

        Raises:
            OSError: the folder cannot be created.
        """
        folder = private_folder(private_folder(parent) / name)
        return cls(folder, owner_lock.take(folder))

    @classmethod
    def left(cls, parent: Path, prefix: str) -> Iterator[Self]:
        """Yield the journals of workers whose program was killed, with their locks taken.

        Args:
            parent: the folder of all journals.
            prefix: of the workers' names.
        """
        for folder in sorted(parent.glob(f"{prefix}*")):
            if (lock := owner_lock.take_if_free(folder)) is not None:
                yield cls(folder, lock)

    def note(self, number: int, train: messages.Train) -> None:
        """Append a command; to be called before the command is sent."""
        with (self._folder / TRAINS_FILE).open("ab") as file:
            file.write(b"%d " % number + messages.command_line(train))

    def trains(self, up_to: int) -> Iterator[messages.Train]:
        """Yield the recorded commands.

        Args:
            up_to: the number of the last command that the worker has received; later ones never reached it.
        """
        with contextlib.suppress(FileNotFoundError):
            for line in (self._folder / TRAINS_FILE).read_bytes().splitlines(keepends=True):
                number, _, command = line.partition(b" ")
                # An incomplete line: the program was killed while it wrote it, and so before it sent the command.
                if not line.endswith(b"\n") or int(number) > up_to:
                    return
                if isinstance(recorded := messages.read_command(command), messages.Train):
                    yield recorded

    def remove(self) -> None:
        """Remove the folder and release its lock; may be called again."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.release()
