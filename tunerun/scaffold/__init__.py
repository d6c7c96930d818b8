"""A small project to start from: what `tunerun init` writes."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tunerun.errors import InputError


def write_project(directory: Path) -> list[Path]:
    """Write a conf directory, examples and an experiment into a directory, and return the files.

    Raises:
        InputError: a file of that name exists already, or the directory cannot be written; nothing was written.
    """
    sources = dict(_sources(files(__package__) / "project", Path()))
    present = [directory / path for path in sources if (directory / path).exists()]
    if present:
        raise InputError([f"{path}: exists already; choose another directory" for path in present])
    try:
        for path, source in sources.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(source.read_bytes())
    except OSError as error:
        raise InputError(f"{directory}: {error.strerror}; choose a directory that can be written") from error
    return [directory / path for path in sources]


def _sources(folder: Traversable, prefix: Path) -> list[tuple[Path, Traversable]]:
    found: list[tuple[Path, Traversable]] = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        path = prefix / entry.name
        found.extend(_sources(entry, path) if entry.is_dir() else [(path, entry)])
    return found
