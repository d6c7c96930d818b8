"""A fine-tuning job in OpenAI's terms: its state and its JSON, built from the row of its tuned model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from tunerun.job import Snapshot
from tunerun.service.core.problems import Code, Json
from tunerun.service.core.records import ModelState, TunedModelRow
from tunerun.service.openai import names
from tunerun.stored import read_stored

PAGE = 20
"""The default page size, as OpenAI's."""

ERROR_CODES = {
    Code.INVALID_ARGUMENT.number: "invalid_hyperparameters",
    Code.RESOURCE_EXHAUSTED.number: "out_of_memory",
}
"""Our error codes of failed jobs; any other failure is `server_error`. OpenAI's codes concern files, which this service
checks before it accepts a job."""


NOTED = "training_file"
"""The key in `TunedModelRow.notes` that identifies jobs of this wire."""


class FineTuningStatus(StrEnum):
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
        return self in (FineTuningStatus.SUCCEEDED, FineTuningStatus.FAILED, FineTuningStatus.CANCELLED)


def status_of(row: TunedModelRow) -> FineTuningStatus:
    """Return the state of a tuned model's job; CANCELLED as soon as cancellation was requested, as at OpenAI."""
    match row.state:
        case ModelState.ACTIVE:
            return FineTuningStatus.SUCCEEDED
        case ModelState.FAILED:
            return FineTuningStatus.CANCELLED if row.error_code == Code.CANCELLED.number else FineTuningStatus.FAILED
    if row.is_cancelling:
        return FineTuningStatus.CANCELLED
    if row.is_paused:
        return FineTuningStatus.PAUSED
    return FineTuningStatus.QUEUED if row.started_at is None else FineTuningStatus.RUNNING


@dataclass(frozen=True)
class Notes:
    """The parts of a job's request that are stored in `TunedModelRow.notes`.

    Attributes:
        training_file, validation_file: ids of the files.
        model: the model name in the request.
        request: digest of the body, to recognise an SDK's retry.
    """

    training_file: str = ""
    validation_file: str | None = None
    model: str = ""
    request: str = ""


def notes_of(row: TunedModelRow) -> Notes:
    """Return the notes of a row."""
    return read_stored(Notes, row.notes)


def is_job(row: TunedModelRow) -> bool:
    """Whether a tuned model was created by a job of this wire; the Gemini wire has no training files."""
    return bool(notes_of(row).training_file)


_HYPERPARAMETER = re.compile(r"\bhyperparameters\.([a-z_]+)")
_NAMES = {"epoch_count": "n_epochs", "learning_rate": "learning_rate_multiplier"}
"""OpenAI's names of an experiment's hyperparameters, where they differ."""


def failure_of(row: TunedModelRow) -> str:
    """Return why a job failed: the engine's message, with config keys replaced by this wire's field names."""
    text = row.error_message or "the job failed; see the service's log"
    return _HYPERPARAMETER.sub(lambda match: f"hyperparameters.{_NAMES.get(match[1], match[1])}", text)


def estimated_finish(row: TunedModelRow, newest: Sequence[Snapshot]) -> int | None:
    """Estimate when a running job will have taken all its steps.

    Args:
        row: the tuned model of the job.
        newest: its newest steps, newest first; the pace between the first and the last of them is assumed to continue.

    Returns:
        The time in seconds since 1970 (UTC); None: there are fewer than two steps.
    """
    if len(newest) < 2:
        return None
    last, first = newest[0], newest[-1]
    seconds, steps = last.compute_time - first.compute_time, last.step - first.step
    return round(last.compute_time + (row.total_steps - last.step) * seconds / steps)


def job(row: TunedModelRow, estimate: int | None = None) -> Json:
    """Return a tuned model's job as the wire's JSON.

    Args:
        row: the tuned model.
        estimate: from `estimated_finish`; None: unknown. Only shown while the job is running.
    """
    status, notes = status_of(row), notes_of(row)
    succeeded = status is FineTuningStatus.SUCCEEDED

    hyperparameters = {
        "n_epochs": row.epoch_count,
        "batch_size": row.batch_size,
        "learning_rate_multiplier": row.learning_rate_multiplier,
    }
    error = None
    if status is FineTuningStatus.FAILED:
        code = ERROR_CODES.get(row.error_code or 0, "server_error")
        error = {"code": code, "message": failure_of(row), "param": None}

    # No key is omitted: openai-python's strict mode rejects a job without `seed`, or with an `error` that is an empty
    # object; LiteLLM (1.110) one without `organization_id`, `result_files` or `hyperparameters`.
    return {
        "object": "fine_tuning.job",
        "id": names.job_id(row),
        "created_at": int(row.created_at),
        "finished_at": int(row.completed_at or row.updated_at) if status.is_finished else None,
        "estimated_finish": estimate if status is FineTuningStatus.RUNNING else None,
        "status": status,
        "model": notes.model or row.base_model,  # as requested; OpenAI shows the dated snapshot of an alias
        "fine_tuned_model": names.model_name(row) if succeeded else None,
        "organization_id": names.ORGANIZATION,
        "training_file": notes.training_file,
        "validation_file": notes.validation_file,
        "result_files": [names.result_file_id(row)] if succeeded else [],
        "trained_tokens": row.trained_tokens if succeeded else None,
        "hyperparameters": hyperparameters,
        "method": {"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        "seed": row.seed,
        "error": error,
        "integrations": [],
        "metadata": dict(row.metadata) or None,
    }
