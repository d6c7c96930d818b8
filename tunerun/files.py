"""Temporary and private folders, and running out of file descriptors."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_temporary: set[Path] = set()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file atomically: yields a path beside it, which replaces the file when the context ends.

    The content is on disk before the name is; if the context fails, the file keeps its old content.

    Args:
        target: the file; its folder must exist.

    Raises:
        OSError: the file cannot be replaced.
    """
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder that is removed at the end, also where an interruption ends the process at once.

    Args:
        purpose: a word of its name.
    """
    with tempfile.TemporaryDirectory(prefix=f"tunerun-{purpose}-") as name:
        folder = Path(name)
        _temporary.add(folder)
        try:
            yield folder
        finally:
            _temporary.discard(folder)


def remove_temporary_folders() -> None:
    """Remove every temporary folder of this process: it ends without leaving their contexts."""
    for folder in _temporary:
        shutil.rmtree(folder, ignore_errors=True)


def private_folder(folder: Path) -> Path:
    """Make a folder that only its owner can read, unless it exists: it will hold training data and answers.

    A folder that exists keeps its permissions: its owner may have opened it to others.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def lacks_descriptors(error: BaseException) -> bool:
    """Whether an error says that this process, or the machine, has too many files open."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def no_descriptor_is_left() -> bool:
    """Whether no further file can be opened now; libraries do not pass the system's own error on."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return lacks_descriptors(error)
    return False
