"""Saved states of training runs (`engine.resuming`) on their way between machines, handled without torch."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

from tunerun.files import partial_folder, private_folder

STATE_FILE = "state.json"
TENSORS_FILE = "state.safetensors"

_NAME = re.compile(r"training\.[0-9a-f]{24}")


def names(tuned_models: Path) -> dict[str, int]:
    """Return the names of the saved states among tuned models, each with its modification time in nanoseconds."""
    times = {}
    for file in tuned_models.glob(f"training.*/{STATE_FILE}"):
        try:
            times[file.parent.name] = file.stat().st_mtime_ns
        except FileNotFoundError:  # being replaced just now; the next call returns it
            continue
    return times


def of_keys(tuned_models: Path, keys: Set[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield the saved states from which requests with some of the keys can resume.

    Args:
        tuned_models: the folder of tuned models.
        keys: of the requests.

    Yields:
        The name of a state, and the content of its files by name.
    """
    for name in names(tuned_models):
        files = parts(tuned_models / name)
        if not keys.isdisjoint(_requests(files)):
            yield name, files


def keys(tuned_models: Path) -> dict[str, list[str]]:
    """Return for each saved state, by name, the keys of the requests that can resume from it."""
    return {name: _requests(parts(tuned_models / name)) for name in names(tuned_models)}


def parts(folder: Path) -> dict[str, bytes]:
    """Return the content of a state's files by name; missing files are omitted."""
    files = (folder / name for name in (STATE_FILE, TENSORS_FILE))
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def keep(tuned_models: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write a state from another machine, completely or not at all; a damaged one is ignored.

    Args:
        tuned_models: the folder of tuned models.
        name: of the state.
        files: from `parts`.

    Raises:
        OSError: a file cannot be written.
    """
    # The name comes from another machine: anything but the pattern could be a path out of the folder.
    digest = hashlib.sha256(files.get(TENSORS_FILE, b"")).hexdigest()
    if not _NAME.fullmatch(name) or digest != _read(files).get("tensors"):
        return
    folder = tuned_models / name
    private_folder(tuned_models.parent)
    with partial_folder(folder) as partial:
        for part in (STATE_FILE, TENSORS_FILE):
            (partial / part).write_bytes(files[part])
        drop(tuned_models, name)
        partial.rename(folder)


def drop(tuned_models: Path, name: str) -> None:
    """Remove a state if it exists."""
    if _NAME.fullmatch(name):
        shutil.rmtree(tuned_models / name, ignore_errors=True)


def _requests(files: Mapping[str, bytes]) -> list[str]:
    requests = _read(files).get("requests")
    return [*requests] if isinstance(requests, dict) else []


def _read(files: Mapping[str, bytes]) -> dict[str, object]:
    try:
        state = json.loads(files.get(STATE_FILE, b""))
    except ValueError:
        return {}
    return state if isinstance(state, dict) else {}
