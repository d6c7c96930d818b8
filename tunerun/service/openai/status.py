"""The state of a job in OpenAI's terms."""

from __future__ import annotations

import re
from enum import StrEnum

from tunerun.service.core.problems import Code
from tunerun.service.core.records import ModelState, TunedModelRow


class Status(StrEnum):
    """A job's state in OpenAI's terms.

    `validating_files` is missing, because files are checked before a job is taken. PAUSED is not in the SDK's own list
    of states, which its strict clients refuse: only a job that a client has paused is shown so.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        """Whether nothing can follow this state."""
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


def status_of(row: TunedModelRow) -> Status:
    """The state of the job that makes a tuned model; one that is to be cancelled is cancelled at once, as at OpenAI."""
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
"""Of an experiment's hyperparameters, and OpenAI's where it has another."""


def failure_of(row: TunedModelRow) -> str:
    """Why a job has failed: the engine's message, which names an experiment's keys, with this wire's names of them."""
    text = row.error_message or "the job failed; the service's log says why"
    return _HYPERPARAMETER.sub(lambda found: f"hyperparameters.{_NAMES.get(found[1], found[1])}", text)
