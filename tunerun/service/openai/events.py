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
from tunerun.service.openai.jobs import FineTuningStatus, failure_of, status_of

PAGE = 20
"""The default page size, as OpenAI's."""

Steps = Callable[[int, int], Sequence[Snapshot]]
"""Returns up to a number of a job's steps before a given step, newest first."""


class EventPosition(NamedTuple):
    """The position of an event in its job; positions sort by time.

    Attributes:
        phase: 0 until the job is queued, 1 at its start, 2 while it trains, 3 at its end.
        step: the optimiser step; 0 in other phases than training.
        kind: distinguishes events of the same phase and step.
    """

    phase: int
    step: int = 0
    kind: int = 0


_CREATED, _VALIDATING, _VALIDATED = EventPosition(0), EventPosition(0, 0, 1), EventPosition(0, 0, 2)
_STARTED = EventPosition(1)
_TRAINING, _END = 2, 3
_STEP, _CHECKPOINT = 0, 1
AFTER_ALL = EventPosition(15)
_NO_STEP = 2**32


@dataclass(frozen=True)
class JobEvent:
    """An event.

    Attributes:
        position: its position in the job.
        created_at: in seconds since 1970 (UTC).
        level: `info`, `warn` or `error`; the SDK's strict mode rejects `warning`.
        metrics: the losses of a step; None: the event is a message.
    """

    position: EventPosition
    created_at: float
    message: str
    level: str = "info"
    metrics: Mapping[str, float] | None = None

    def json(self, row: TunedModelRow) -> Json:
        """Return the event as the wire's JSON."""
        phase, step, kind = self.position
        return {
            "object": "fine_tuning.job.event",
            "id": f"{_id_prefix(row)}{phase:x}{step:08x}{kind:x}",
            "created_at": int(self.created_at),
            "level": self.level,
            "message": self.message,
            "type": "message" if self.metrics is None else "metrics",
            # Losses that were not measured at a step are absent rather than null, as at OpenAI.
            "data": {} if self.metrics is None else dict(self.metrics),
        }


def _id_prefix(row: TunedModelRow) -> str:
    return f"ftevent-{names.key_of(row)[:14]}"


def read_id(row: TunedModelRow, text: str) -> EventPosition | None:
    """Return the position of a job's event; None: the job does not have an event with that id."""
    match = re.fullmatch(rf"{_id_prefix(row)}([0-9a-f])([0-9a-f]{{8}})([0-9a-f])", text)
    return match and EventPosition(*(int(part, 16) for part in match.groups()))


def newest(
    row: TunedModelRow, epochs: Sequence[EpochRow], steps: Steps, before: EventPosition, size: int
) -> list[JobEvent]:
    """Return up to `size` events of a job before a position, newest first.

    Args:
        row: the tuned model of the job.
        epochs: the epochs that have ended.
        steps: reads the job's steps.
        before: the position.
        size: the most to return.
    """
    events = [event for event in _ending(row) if event.position < before]

    if len(events) < size and before > EventPosition(_TRAINING):
        end = before.step + (before.kind > 0) if before.phase == _TRAINING else _NO_STEP
        if row.state is ModelState.CREATING and (row.keeps_epochs or row.notes.get("validation_file")):
            # An epoch's last step waits for its held-out loss or checkpoint: a client does not read an event twice.
            end = min(end, (len(epochs) + 1) * (row.total_steps // row.epoch_count))
        events += [one for one in _training(row, epochs, steps(end, size - len(events))) if one.position < before]

    if len(events) < size:
        events += [event for event in _beginning(row) if event.position < before]
    return events[:size]


def _beginning(row: TunedModelRow) -> Iterator[JobEvent]:
    """Yield the first events of a job, newest first."""
    if row.started_at is not None:
        yield JobEvent(_STARTED, row.started_at, "Fine-tuning job started")
    held_out = row.notes.get("validation_file")
    files = f"training file: {row.notes.get('training_file')}"
    files += f" and validation file: {held_out}" if held_out else ""
    yield JobEvent(_VALIDATED, row.created_at, "Files validated, moving job to queued state")
    yield JobEvent(_VALIDATING, row.created_at, f"Validating {files}")
    yield JobEvent(_CREATED, row.created_at, f"Created fine-tuning job: {names.job_id(row)}")


def _training(row: TunedModelRow, epochs: Sequence[EpochRow], curve: Sequence[Snapshot]) -> Iterator[JobEvent]:
    """Yield the events of steps, and of the checkpoints that were written after them; in the order of the steps."""
    ends = {epoch.step: epoch for epoch in epochs}
    for snapshot in curve:
        step, epoch = snapshot.step, ends.get(snapshot.step)
        if epoch is not None and epoch.folder:
            text = f"Checkpoint created at step {step} with Snapshot ID: {names.model_name(row, step)}"
            yield JobEvent(EventPosition(_TRAINING, step, _CHECKPOINT), epoch.created_at, text)

        losses = losses_of(snapshot, epoch)
        # OpenAI's wording, from which scripts read `Step a/b`.
        text = f"Step {step}/{row.total_steps}: training loss={snapshot.mean_loss:.2f}"
        if "full_valid_loss" in losses:
            held_out, whole = losses["valid_loss"], losses["full_valid_loss"]
            text += f", validation loss={held_out:.2f}, full validation loss={whole:.2f}"
        metrics = {"step": step, "total_steps": row.total_steps, **losses}
        yield JobEvent(EventPosition(_TRAINING, step, _STEP), snapshot.compute_time, text, metrics=metrics)


def _ending(row: TunedModelRow) -> Iterator[JobEvent]:
    """Yield the last events of a job, newest first."""
    ended = row.completed_at or row.updated_at
    match status_of(row):
        case FineTuningStatus.SUCCEEDED:
            yield JobEvent(EventPosition(_END, 0, 1), ended, "The job has successfully completed")
            yield JobEvent(EventPosition(_END), ended, f"New fine-tuned model created: {names.model_name(row)}")
        case FineTuningStatus.CANCELLED:
            yield JobEvent(EventPosition(_END), ended, "Fine tuning process stopping due to job cancellation", "warn")
        case FineTuningStatus.FAILED:
            yield JobEvent(EventPosition(_END), ended, f"The job failed: {failure_of(row)}", "error")
