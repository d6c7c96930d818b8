"""Folders that hold what only their owner may read."""

from __future__ import annotations

from pathlib import Path


def private_folder(folder: Path) -> Path:
    """Make a folder for its owner alone, where there is none: training data and answers are kept in it.

    One that is there keeps its rights: its owner may have opened it to others.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder
