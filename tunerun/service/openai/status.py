"""The state of a job in OpenAI's terms."""

from __future__ import annotations

import re
from enum import StrEnum

from tunerun.service.core.problems import Code
from tunerun.service.core.records import ModelState, TunedModelRow


class Status(StrEnum):
    """A job's state in OpenAI's terms.

    `validating_files` does not occur, because files are checked before a job is accepted. PAUSED is not in the SDK's
    list of states, so strict clients reject it; only jobs that a client has paused have it.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether the state is final."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


def status_of(row: TunedModelRow) -> Status:
    """Return the state of a tuned model's job; CANCELLED as soon as cancellation was requested, as at OpenAI."""
    match row.state:
        case ModelState.ACTIVE:
            return Status.SUCCEEDED
        case ModelState.FAILED:
            return Status.CANCELLED if row.error_code == Code.CANCELLED.number else Status.FAILED
    if row.is_cancelling:
        return Status.CANCELLED
    if row.is_paused:
        return Status.PAUSED
    return Status.QUEUED if row.started_at is None else Status.RUNNING


_HYPERPARAMETER = re.compile(r"\bhyperparameters\.([a-z_]+)")
_NAMES = {"epoch_count": "n_epochs", "learning_rate": "learning_rate_multiplier"}
"""OpenAI's names of an experiment's hyperparameters, where they differ."""


def failure_of(row: TunedModelRow) -> str:
    """Return why a job failed: the engine's message, with config keys replaced by this wire's field names."""
    text = row.error_message or "the job failed; see the service's log"
    return _HYPERPARAMETER.sub(lambda found: f"hyperparameters.{_NAMES.get(found[1], found[1])}", text)
