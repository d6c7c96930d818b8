"""What a training run needs to continue elsewhere (`engine.resuming`), on its way between machines, without torch."""

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
    """The folders of states beside tuned models, each with when it was written, in nanoseconds."""
    found = {}
    for file in tuned_models.glob(f"training.*/{STATE_FILE}"):
        try:
            found[file.parent.name] = file.stat().st_mtime_ns
        except FileNotFoundError:  # replaced at this moment; it is seen the next time
            continue
    return found


def of_keys(tuned_models: Path, keys: Set[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The states from which requests of some keys can continue, by their folders' names."""
    for name in names(tuned_models):
        files = parts(tuned_models / name)
        if not keys.isdisjoint(_requests(files)):
            yield name, files


def keys(tuned_models: Path) -> dict[str, list[str]]:
    """The keys of the requests that can continue from each state, by their folders' names."""
    return {name: _requests(parts(tuned_models / name)) for name in names(tuned_models)}


def parts(folder: Path) -> dict[str, bytes]:
    """The content of a state's files, by name; what is not there is left out."""
    there = (folder / name for name in (STATE_FILE, TENSORS_FILE))
    return {file.name: file.read_bytes() for file in there if file.is_file()}


def keep(tuned_models: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Write a state that another machine made, whole or not at all; one that is damaged is not written.

    Raises:
        OSError: the disk refuses.
    """
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
    """Remove a state, if there is one."""
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
