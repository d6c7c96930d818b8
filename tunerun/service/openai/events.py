"""A job's events, derived from its row and curve, with OpenAI's texts, which some clients parse.

Events are not stored. An id encodes the position of its event, from which the events before and after it are computed.
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
"""Returns up to a number of a job's steps before a given step, newest first."""


class Place(NamedTuple):
    """The position of an event in its job; positions sort by time."""

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
    """An event.

    Attributes:
        place: its position.
        created_at: in seconds since 1970 (UTC).
        metrics: the losses of a step; None: the event is a message.
    """

    place: Place
    created_at: float
    message: str
    level: str = "info"
    metrics: Mapping[str, float] | None = None

    def json(self, row: TunedModelRow) -> Json:
        """Return the event as the wire's JSON."""
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
    """Return the position of a job's event; None: the job does not have an event with that id."""
    found = re.fullmatch(rf"ftevent-{names.key_of(row)[:14]}([0-9a-f])([0-9a-f]{{8}})([0-9a-f])", text)
    return found and Place(*(int(part, 16) for part in found.groups()))


def _id(row: TunedModelRow, place: Place) -> str:
    return f"ftevent-{names.key_of(row)[:14]}{place.phase:x}{place.step:08x}{place.kind:x}"


def newest(row: TunedModelRow, epochs: Sequence[EpochRow], steps: Steps, before: Place, size: int) -> list[Event]:
    """Return up to `size` events of a job before a position, newest first.

    Args:
        row: the tuned model of the job.
        epochs: the epochs that have ended.
        steps: reads the job's steps.
        before: the position.
        size: the most to return.
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
    """Yield the first events of a job, newest first."""
    if row.started_at is not None:
        yield Event(_STARTED, row.started_at, "Fine-tuning job started")
    held_out = row.notes.get("validation_file")
    files = f"training file: {row.notes.get('training_file')}"
    files += f" and validation file: {held_out}" if held_out else ""
    yield Event(_VALIDATED, row.created_at, "Files validated, moving job to queued state")
    yield Event(_VALIDATING, row.created_at, f"Validating {files}")
    yield Event(_CREATED, row.created_at, f"Created fine-tuning job: {names.job_id(row)}")


def _first_unfinished(row: TunedModelRow, epochs: Sequence[EpochRow]) -> int:
    """Return the first step whose event is not final: an epoch's last step waits until the epoch's loss is measured."""
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
    """Yield the last events of a job, newest first."""
    ended = row.completed_at or row.updated_at
    match status_of(row):
        case Status.SUCCEEDED:
            yield Event(Place(_END, 0, 1), ended, "The job has successfully completed")
            yield Event(Place(_END), ended, f"New fine-tuned model created: {names.model_name(row)}")
        case Status.CANCELLED:
            yield Event(Place(_END), ended, "Fine tuning process stopping due to job cancellation", "warn")
        case Status.FAILED:
            yield Event(Place(_END), ended, f"The job failed: {failure_of(row)}", "error")
