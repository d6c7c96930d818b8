"""A job's events, derived from its row and curve, with the texts of OpenAI's, which some clients parse.

Events are not stored: an id encodes the place of its event, so the events before and after follow from it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunerun.job import Snapshot
from tunerun.service.core.problems import Json
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow
from tunerun.service.openai import names
from tunerun.service.openai.checkpoints import losses_of
from tunerun.service.openai.status import Status, failure_of, status_of

PAGE = 20
"""The default page size, as OpenAI's."""

Steps = Callable[[int, int], Sequence[Snapshot]]
"""The steps of a job before one, the newest first, at most so many."""


class Place(NamedTuple):
    """The place of an event among those of its job; earlier ones are smaller."""

    phase: int
    step: int = 0
    kind: int = 0


_CREATED, _VALIDATING, _VALIDATED, _STARTED = Place(0), Place(0, 0, 1), Place(0, 0, 2), Place(1)
_STEP, _CHECKPOINT = 0, 1
_TRAINING, _END = 2, 3
AFTER_ALL = Place(15)
_NO_STEP = 2**32


@dataclass(frozen=True)
class Event:
    """An event; `metrics`: of a step, None: it is a message."""

    place: Place
    created_at: float
    message: str
    level: str = "info"
    metrics: Mapping[str, float] | None = None

    def json(self, row: TunedModelRow) -> Json:
        """The event as the wire's JSON."""
        return {
            "object": "fine_tuning.job.event",
            "id": _id(row, self.place),
            "created_at": int(self.created_at),
            "level": self.level,
            "message": self.message,
            "type": "message" if self.metrics is None else "metrics",
            "data": {} if self.metrics is None else dict(self.metrics),
        }


def read_id(row: TunedModelRow, text: str) -> Place | None:
    """The place of a job's event; None: the job does not have an event with that id."""
    found = re.fullmatch(rf"ftevent-{names.key_of(row)[:14]}([0-9a-f])([0-9a-f]{{8}})([0-9a-f])", text)
    return found and Place(*(int(part, 16) for part in found.groups()))


def _id(row: TunedModelRow, place: Place) -> str:
    return f"ftevent-{names.key_of(row)[:14]}{place.phase:x}{place.step:08x}{place.kind:x}"


def newest(row: TunedModelRow, epochs: Sequence[EpochRow], steps: Steps, before: Place, size: int) -> list[Event]:
    """The newest events of a job before a place, the newest first, at most `size`.

    Args:
        epochs: that have ended.
    """
    found = [event for event in _ending(row) if event.place < before]
    if len(found) < size and before > Place(_TRAINING):
        end = before.step + (before.kind > 0) if before.phase == _TRAINING else _NO_STEP
        shown = steps(min(end, _first_unfinished(row, epochs)), size - len(found))
        found += [event for event in _training(row, epochs, shown) if event.place < before]
    if len(found) < size:
        found += [event for event in _beginning(row) if event.place < before]
    return found[:size]


def _beginning(row: TunedModelRow) -> Iterator[Event]:
    """The first events, the newest first."""
    if row.started_at is not None:
        yield Event(_STARTED, row.started_at, "Fine-tuning job started")
    held_out = row.notes.get("validation_file")
    files = f"training file: {row.notes.get('training_file')}"
    files += f" and validation file: {held_out}" if held_out else ""
    yield Event(_VALIDATED, row.created_at, "Files validated, moving job to queued state")
    yield Event(_VALIDATING, row.created_at, f"Validating {files}")
    yield Event(_CREATED, row.created_at, f"Created fine-tuning job: {names.job_id(row)}")


def _first_unfinished(row: TunedModelRow, epochs: Sequence[EpochRow]) -> int:
    """The step before which events are whole: the last of an epoch waits until that epoch's loss has been measured."""
    waits = row.keeps_epochs or row.notes.get("validation_file")
    if row.state is not ModelState.CREATING or not waits:
        return _NO_STEP
    return (len(epochs) + 1) * (row.total_steps // row.epoch_count)


def _training(row: TunedModelRow, epochs: Sequence[EpochRow], shown: Sequence[Snapshot]) -> Iterator[Event]:
    ends = {epoch.step: epoch for epoch in epochs}
    for snapshot in shown:
        epoch = ends.get(snapshot.step)
        if epoch is not None and epoch.folder:
            name = names.model_name(row, epoch.step)
            text = f"Checkpoint created at step {epoch.step} with Snapshot ID: {name}"
            yield Event(Place(_TRAINING, snapshot.step, _CHECKPOINT), epoch.created_at, text)
        yield _step(row, snapshot, epoch)


def _step(row: TunedModelRow, snapshot: Snapshot, epoch: EpochRow | None) -> Event:
    losses = losses_of(snapshot, epoch)
    text = f"Step {snapshot.step}/{row.total_steps}: training loss={snapshot.mean_loss:.2f}"
    if "full_valid_loss" in losses:
        text += f", validation loss={losses['valid_loss']:.2f}, full validation loss={losses['full_valid_loss']:.2f}"
    metrics = {"step": snapshot.step, "total_steps": row.total_steps, **losses}
    return Event(Place(_TRAINING, snapshot.step, _STEP), snapshot.compute_time, text, metrics=metrics)


def _ending(row: TunedModelRow) -> Iterator[Event]:
    """The last events, the newest first."""
    ended = row.completed_at or row.updated_at
    match status_of(row):
        case Status.SUCCEEDED:
            yield Event(Place(_END, 0, 1), ended, "The job has successfully completed")
            yield Event(Place(_END), ended, f"New fine-tuned model created: {names.model_name(row)}")
        case Status.CANCELLED:
            yield Event(Place(_END), ended, "Fine tuning process stopping due to job cancellation", "warn")
        case Status.FAILED:
            yield Event(Place(_END), ended, f"The job failed: {failure_of(row)}", "error")
