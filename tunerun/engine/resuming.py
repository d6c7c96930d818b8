"""What a training run needs to continue in another process: kept in a folder beside the tuned models while it trains.

    training.<digest>/state.safetensors   the adapter, its optimiser, and what is kept of earlier epochs
    training.<digest>/state.json          everything else, and the digest of the tensors

The folder is named for what the run's requests have in common, so any of them finds it, and appears whole or not at
all. It is a convenience: one that is damaged, or that another version wrote, is ignored, and the run begins again. That
is why nothing is synced to the disk: after a power failure the digest says that it is not whole.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunerun.files import private_folder
from tunerun.job import EpochLoss, Snapshot, TuningRequest

FORMAT_VERSION = 1
STATE_FILE = "state.json"
TENSORS_FILE = "state.safetensors"

_REQUEST = TypeAdapter(TuningRequest)


@dataclass(frozen=True)
class TrainingState:
    """What `state.json` holds.

    Attributes:
        requests: by the keys of the requests that have not ended: whether the tuned model after each epoch is kept.
        snapshots: of all steps by now.
        losses: on held-out examples, by the number of epochs that the measured adapter is the mean of.
        best: the epoch that is kept as the best one.
        seconds: what all steps by now took.
        packed_with: the keys of the requests that shared passes with it, sorted.
        tensors: SHA-256 of the file of tensors, hexadecimal.
    """

    requests: dict[str, bool]
    snapshots: tuple[Snapshot, ...]
    losses: dict[int, tuple[EpochLoss, ...]] = field(default_factory=dict)
    best: EpochLoss | None = None
    seconds: float = 0.0
    packed_with: tuple[str, ...] = ()
    tensors: str = ""
    format_version: int = FORMAT_VERSION


_STATE = TypeAdapter(TrainingState)


def state_folder(tuned_models: Path, common: TuningRequest, base_identity: str, form: str) -> Path:
    """Where the state of a training run is.

    Args:
        common: what its requests have in common.
        form: how its rows are laid out for a pass: another form gives other bits.
    """
    content = b"\0".join([_REQUEST.dump_json(common), base_identity.encode(), form.encode()])
    return tuned_models / f"training.{hashlib.sha256(content).hexdigest()[:24]}"


def write(folder: Path, state: TrainingState, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a state, whole or not at all; an earlier one is replaced.

    Raises:
        OSError, SafetensorError: the disk refuses; an earlier one stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    private_folder(folder.parent.parent)
    partial.mkdir(parents=True)
    try:
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(kept, partial / TENSORS_FILE)
        written = replace(state, tensors=_sha256(partial / TENSORS_FILE))
        (partial / STATE_FILE).write_bytes(_STATE.dump_json(written))
        remove(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read(folder: Path, device: torch.device) -> tuple[TrainingState, dict[str, torch.Tensor]] | None:
    """Read a state; None: there is none, or none that this version can continue from."""
    try:
        state = _STATE.validate_json((folder / STATE_FILE).read_bytes())
        if state.format_version != FORMAT_VERSION or state.tensors != _sha256(folder / TENSORS_FILE):
            return None
        return state, load_file(folder / TENSORS_FILE, device=str(device))
    except (OSError, ValidationError, SafetensorError):
        return None


def remove(folder: Path) -> None:
    """Remove a state, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_all(tuned_models: Path, key: str) -> None:
    """Remove the states of a request that will not be continued; one that others need as well stays."""
    for file in tuned_models.glob(f"training.*/{STATE_FILE}"):
        try:
            requests = _STATE.validate_json(file.read_bytes()).requests
        except (OSError, ValidationError):
            continue
        if set(requests) == {key}:
            remove(file.parent)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
