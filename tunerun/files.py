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
    aside = target.with_name(f".{target.name}.{os.getpid()}")  # beside it: a rename is atomic within a file system only
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())  # else a power failure may leave the new name with an empty file
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """Yield a folder that is removed at the end of the context.

    Args:
        purpose: a word of its name.
    """
    with tempfile.TemporaryDirectory(prefix=f"tunerun-{purpose}-") as name:
        folder = Path(name)
        _temporary.add(folder)  # an interrupted command ends the process without leaving its contexts
        try:
            yield folder
        finally:
            _temporary.discard(folder)


def remove_temporary_folders() -> None:
    """Remove every temporary folder of this process, which is about to end without leaving their contexts."""
    for folder in _temporary:
        shutil.rmtree(folder, ignore_errors=True)


def private_folder(folder: Path) -> Path:
    """Create a folder that only its owner can read, for training data and answers, unless it exists.

    Args:
        folder: its parents are created with the usual permissions.

    Raises:
        OSError: it cannot be created.
    """
    # One that exists keeps its permissions: its owner may have opened it to others.
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Create the folder in which the content of another one is prepared; the caller renames it when it is complete.

    It is locked, so that `remove_partial_folders` of another process leaves it alone. What is left of it at the end of
    the context is removed.

    Args:
        folder: what it will be renamed to.

    Raises:
        OSError: it cannot be created.
    """
    partial = folder.with_name(f".{folder.name}{_PARTIAL}")
    if partial.is_symlink():  # its target is not ours to remove
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: no process can lock it, so none removes it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield partial
    finally:
        os.close(descriptor)
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial_folders(parent: Path) -> None:
    """Remove partial folders that killed processes left; what a live process prepares stays.

    Args:
        parent: the folder that they are in.
    """
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
    """Whether no further file can be opened now."""
    # Libraries do not pass the system's own error on: SQLite says "unable to open database file".
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return lacks_descriptors(error)
    return False
