"""A small project to start from: what `tunerun init` writes."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tunerun.errors import InputError


def write_project(folder: Path) -> list[Path]:
    """Write a conf directory, examples and an experiment into a folder, and return the files.

    Args:
        folder: is created if it does not exist.

    Raises:
        InputError: a file of that name exists already, or the folder cannot be written; nothing was written.
    """
    sources = dict(_sources(files(__package__) / "project", Path()))
    # Before anything is written: a refused command leaves nothing behind.
    present = [folder / path for path in sources if (folder / path).exists()]
    if present:
        raise InputError([f"{path}: exists already; choose another folder" for path in present])
    try:
        for path, source in sources.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(source.read_bytes())
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; choose a folder that can be written") from error
    return [folder / path for path in sources]


def _sources(folder: Traversable, prefix: Path) -> list[tuple[Path, Traversable]]:
    files_below: list[tuple[Path, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        path = prefix / entry.name
        files_below.extend(_sources(entry, path) if entry.is_dir() else [(path, entry)])
    return files_below
