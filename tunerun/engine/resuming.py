"""The state from which another process resumes a training run, saved next to the tuned models while the run trains.

    training.<digest>/state.safetensors   the adapter, its optimiser, and adapters of earlier epochs that it needs
    training.<digest>/state.json          everything else, and the digest of the tensors

The folder's name is a digest of what the run's requests have in common, so that each of them finds it. The folder
appears by a rename, complete or not at all. A run does not depend on it: a state that is damaged or was written by
another version is ignored, and the run starts from the beginning. That is why nothing is synced to the disk: after a
power failure the digest shows that the files are incomplete.
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

from tunerun.digest import digest_of_file
from tunerun.engine import tuned_model
from tunerun.errors import NotFoundError
from tunerun.files import partial_folder, private_folder, remove_partial_folders
from tunerun.job import EpochLoss, Snapshot, TuningRequest

FORMAT_VERSION = 1

KEPT_S = 30 * 24 * 3600.0
"""How long a state is kept that no run resumes. Our choice: by then the experiment has changed, and a state takes three
times the space of a tuned model."""

STATE_FILE = "state.json"
TENSORS_FILE = "state.safetensors"

_REQUEST = TypeAdapter(TuningRequest)


@dataclass(frozen=True)
class TrainingState:
    """The content of `state.json`.

    Attributes:
        requests: for the key of each request that has not ended, whether its tuned model after each epoch is kept.
        snapshots: of all steps so far.
        losses: on held-out examples, by the number of epochs that the measured adapter is the mean of.
        best: the epoch with the lowest loss, whose adapter is among the tensors; None: not tracked, or none yet.
        seconds: the time of all steps so far.
        packed_with: the keys of the requests that shared passes with the run, sorted.
        tensors: the SHA-256 of the file of tensors, hexadecimal.
        format_version: `FORMAT_VERSION` of the version that wrote it.
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
    """Return the folder of a training run's state.

    Args:
        tuned_models: the folder of the tuned models.
        common: what the run's requests have in common; see `job.in_common`.
        base_identity: the digest or commit of the base model's weights.
        form: the layout of rows in a pass; part of the digest because another form rounds differently.
    """
    content = b"\0".join([_REQUEST.dump_json(common), base_identity.encode(), form.encode()])
    return tuned_models / f"training.{hashlib.sha256(content).hexdigest()[:24]}"


def write(folder: Path, state: TrainingState, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a state completely or not at all, in place of an earlier one.

    Args:
        folder: from `state_folder`.
        state: its `tensors` is set here.
        tensors: by name.

    Raises:
        OSError, SafetensorError: a file cannot be written; an earlier state is still there.
    """
    private_folder(folder.parent.parent)
    with partial_folder(folder) as partial:
        kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(kept, partial / TENSORS_FILE)
        written = replace(state, tensors=digest_of_file(partial / TENSORS_FILE))
        (partial / STATE_FILE).write_bytes(_STATE.dump_json(written))
        # A rename cannot replace a folder that is not empty. The earlier state is moved and then removed, because a
        # process that is killed while it removes files would leave none.
        with partial_folder(folder.with_name(f"{folder.name}.earlier")) as earlier:
            if folder.exists():
                folder.rename(earlier / folder.name)
            partial.rename(folder)


def read(folder: Path, device: torch.device) -> tuple[TrainingState, dict[str, torch.Tensor]] | None:
    """Read a state.

    Args:
        folder: from `state_folder`.
        device: where to put the tensors.

    Returns:
        The state and its tensors by name; None if it is missing, damaged or from another format version.
    """
    try:
        state = _STATE.validate_json((folder / STATE_FILE).read_bytes())
        if state.format_version != FORMAT_VERSION or state.tensors != digest_of_file(folder / TENSORS_FILE):
            return None
        return state, load_file(folder / TENSORS_FILE, device=str(device))
    except (OSError, ValidationError, SafetensorError):
        return None


def remove(folder: Path) -> None:
    """Remove a state if it exists."""
    shutil.rmtree(folder, ignore_errors=True)


def clean(tuned_models: Path) -> None:
    """Remove incomplete folders of killed processes, and states that no run will resume.

    A state is removed if every job in it has a tuned model that is at least as new, or if it is older than `KEPT_S`.

    Args:
        tuned_models: the folder of the tuned models.
    """
    # A state outlives its jobs if the process was killed between writing the last tuned model and removing the state.
    remove_partial_folders(tuned_models)
    now = time.time()
    states = {file.parent: file.stat().st_mtime for file in tuned_models.glob(f"training.*/{STATE_FILE}")}
    written_models = _modification_times(tuned_models) if states else {}
    for folder, written in states.items():
        try:
            requests = _STATE.validate_json((folder / STATE_FILE).read_bytes()).requests
        except (OSError, ValidationError):
            requests = {}
        has_ended = all(written_models.get(key, 0.0) >= written for key in requests)
        if has_ended or now - written > KEPT_S:
            remove(folder)


def _modification_times(tuned_models: Path) -> dict[str, float]:
    """Return the modification time of each key's latest tuned model."""
    times: dict[str, float] = {}
    for file in tuned_models.glob(f"*/{tuned_model.STATUS_FILE}"):
        with contextlib.suppress(OSError, NotFoundError):
            key = tuned_model.read(file.parent).key
            times[key] = max(times.get(key, 0.0), file.stat().st_mtime)
    return times
