"""What a training run needs to continue in another process: kept in a folder beside the tuned models while it trains.

    training.<digest>/state.safetensors   the adapter, its optimiser, and what is kept of earlier epochs
    training.<digest>/state.json          everything else, and the digest of the tensors

The folder is named for what the run's requests have in common, so any of them finds it, and appears whole or not at
all. A run does not depend on it: a state that is damaged, or that another version wrote, is ignored, and the run begins
again. That is why nothing is synced to the disk: after a power failure the digest shows that it is not whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunerun.engine import tuned_model
from tunerun.errors import NotFoundError
from tunerun.files import partial_folder, private_folder, remove_partial_folders
from tunerun.job import EpochLoss, Snapshot, TuningRequest

FORMAT_VERSION = 1

KEPT_S = 30 * 24 * 3600.0
"""How long a state is kept that nothing continues. Our choice: by then the experiment has changed, and it takes three
times the room of a tuned model."""

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
    private_folder(folder.parent.parent)
    with partial_folder(folder) as partial:
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(kept, partial / TENSORS_FILE)
        written = replace(state, tensors=_sha256(partial / TENSORS_FILE))
        (partial / STATE_FILE).write_bytes(_STATE.dump_json(written))
        remove(folder)
        partial.rename(folder)


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


def clean(tuned_models: Path) -> None:
    """Remove what nothing will continue: half-written folders of killed processes, and states of jobs that have ended.

    A state outlives its job where the process was killed between writing the tuned model and removing the state.
    """
    remove_partial_folders(tuned_models)
    now = time.time()
    states = {file.parent: file.stat().st_mtime for file in tuned_models.glob(f"training.*/{STATE_FILE}")}
    made = _made(tuned_models) if states else {}
    for folder, written in states.items():
        try:
            requests = _STATE.validate_json((folder / STATE_FILE).read_bytes()).requests
        except (OSError, ValidationError):
            requests = {}
        has_ended = all(made.get(key, 0.0) >= written for key in requests)
        if has_ended or now - written > KEPT_S:
            remove(folder)


def _made(tuned_models: Path) -> dict[str, float]:
    """Return when the tuned model of each key was written, the last one where there are several."""
    found: dict[str, float] = {}
    for file in tuned_models.glob(f"*/{tuned_model.STATUS_FILE}"):
        with contextlib.suppress(OSError, NotFoundError):
            key = tuned_model.read(file.parent).key
            found[key] = max(found.get(key, 0.0), file.stat().st_mtime)
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
