"""Temporary and private folders, folders that appear whole, and running out of file descriptors."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_temporary: set[Path] = set()

_PARTIAL = ".partial"


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


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Make the folder in which the content of another one is prepared; the caller renames it when it is whole.

    It is locked while it is prepared, so that `remove_partial_folders` of another process leaves it alone. What is left
    of it at the end is removed.

    Args:
        folder: what it will be renamed to.

    Raises:
        OSError: the disk refuses.
    """
    partial = folder.with_name(f".{folder.name}{_PARTIAL}")
    if partial.is_symlink():  # what it leads to is not ours
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: no process can lock it there, so none removes it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield partial
    finally:
        os.close(descriptor)
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial_folders(parent: Path) -> None:
    """Remove what processes that were killed left of `partial_folder`; what a live process prepares stays."""
    for partial in parent.glob(f".*{_PARTIAL}"):
        with suppress(OSError):
            descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(partial, ignore_errors=True)
            finally:
                os.close(descriptor)


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
