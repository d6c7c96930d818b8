"""Jobs of the embedded engine: their state in memory, and the folders of their tuned models on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tunerun import errors
from tunerun.engine import messages, tuned_model
from tunerun.engine.tuned_model import FinishedJob
from tunerun.errors import InputError
from tunerun.job import (
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    Failure,
    JobState,
    JobStatus,
    Snapshot,
    TrainedOn,
    TunedModel,
    TuningRequest,
)


@dataclass(eq=False)
class LocalJob:
    """A job of this process. Only modified while holding the queue's lock.

    Attributes:
        id: the job's id, which begins with its tuned model's id.
        request: the job as submitted.
        folder: the folder of its tuned model.
    """

    id: str
    request: TuningRequest
    folder: Path
    state: JobState = JobState.QUEUED
    snapshots: list[Snapshot] = field(default_factory=list)
    validation: list[EpochLoss] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: Failure | None = None
    trained_on: TrainedOn | None = None
    notes: tuple[str, ...] = ()

    def began(self) -> None:
        """Mark the job as running."""
        self.state = JobState.RUNNING

    def waits(self) -> None:
        """Mark the job as queued again, after the engine that trained it died."""
        self.state = JobState.QUEUED

    def take(self, report: messages.JobReport) -> None:
        """Apply a report of the engine; what was reported before is skipped."""
        # After an engine died, the next one resumes from the last saved epoch and repeats the steps after it.
        if isinstance(report, messages.SnapshotTaken):
            if not self.snapshots or report.snapshot.step > self.snapshots[-1].step:
                self.snapshots.append(report.snapshot)
        elif isinstance(report, messages.EpochMeasured):
            if not self.validation or report.loss.epoch > self.validation[-1].epoch:
                self.validation.append(report.loss)
        elif isinstance(report, messages.EpochKept):
            if not self.checkpoints or report.checkpoint.epoch > self.checkpoints[-1].epoch:
                self.checkpoints.append(report.checkpoint)
        elif isinstance(report, messages.StateNotKept):
            note = (
                f"its training state cannot be written to {self.folder.parent.name}/ ({report.reason}); training "
                "continues, but restarts from the first step if the engine dies; free disk space or fix the "
                "permissions there"
            )
            self.notes = (note,)
        else:
            self.trained_on = report.trained_on
            self._end(report.state, report.metrics, report.failure)

    def settle(self, failure: Failure) -> None:
        """End the job as failed, unless the engine died after writing the tuned model and before reporting it."""
        if self.state.is_finished:
            return
        # The folder may have the tuned model of an earlier job of the same key.
        finished = tuned_model.read_finished(self.folder)
        if finished is not None and finished.job == self.id:
            self.trained_on = finished.trained_on
            self.validation, self.checkpoints = list(finished.validation), list(finished.checkpoints)
            self._end(finished.state, finished.metrics)
        else:
            self._end(JobState.FAILED, failure=failure)

    def cancelled(self) -> None:
        """End the job as cancelled."""
        self._end(JobState.CANCELLED)

    def _end(self, state: JobState, metrics: Mapping[str, float] | None = None, failure: Failure | None = None) -> None:
        self.state, self.metrics, self.failure = state, metrics or {}, failure
        # Free the examples: a service that runs for months has many finished jobs.
        self.request = replace(self.request, training=(), validation=())

    def status(self, tuned: TunedModel | None) -> JobStatus:
        """Return the job's status.

        Args:
            tuned: its tuned model; None: it has none.
        """
        return JobStatus(
            self.state,
            tuple(self.snapshots),
            dict(self.metrics),
            tuned,
            self.failure,
            tuple(self.validation),
            self.trained_on,
            tuple(self.checkpoints),
            self.notes,
        )


class TunedModelFolders:
    """The folders of tuned models, from which a later process reads how a job ended.

    A job's id begins with its tuned model's id, which is a function of the trial's key.

    Args:
        root: the parent of all tuned models' folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def of_job(self, job_id: str) -> Path:
        """Return the folder of a job's tuned model."""
        return self.root / job_id.partition(".")[0]

    def check_free(self, request: TuningRequest) -> None:
        """Check that a request's folder does not belong to another trial.

        Raises:
            InputError: it has a tuned model of another trial.
        """
        folder = self.root / request.tuned_model_id
        if folder.exists() and tuned_model.read(folder).key != request.key:
            raise InputError(
                f"{folder} contains the tuned model of another trial; every trial needs its own id; "
                "move that folder elsewhere, or choose another name"
            )

    def succeeded(self, key: str, tuned_model_id: str) -> str | None:
        """Return the id of the job that produced the tuned model of a key; None: there is none."""
        # The key is compared too: an id has only the beginning of it.
        folder = self.root / tuned_model_id
        finished = tuned_model.read_finished(folder)
        if finished is None or finished.state is not JobState.SUCCEEDED or tuned_model.read(folder).key != key:
            return None
        return finished.job

    def made(self, job_id: str) -> FinishedJob | None:
        """Return the record of a finished job, if its tuned model's folder is the job's own; else None."""
        finished = tuned_model.read_finished(self.of_job(job_id))
        return finished if finished is not None and finished.job == job_id else None

    def status(self, job_id: str) -> JobStatus | None:
        """Return the status of a job of an earlier process; None: it left no folder."""
        finished = self.made(job_id)
        if finished is None:
            return None
        tuned = self.tuned_model(job_id, tuned_model.read(self.of_job(job_id)).base_model)
        return JobStatus(
            finished.state,
            finished.snapshots,
            finished.metrics,
            tuned,
            validation=finished.validation,
            trained_on=finished.trained_on,
            checkpoints=finished.checkpoints,
        )

    def tuned_model(self, job_id: str, model: BaseModelRef) -> TunedModel:
        """Return the tuned model of a job."""
        folder = self.of_job(job_id)
        try:
            weights = tuned_model.read(folder).weights
        except errors.NotFoundError:  # removed since; the error comes when it is loaded
            weights = None
        return TunedModel(f"tunedModels/{folder.name}", model, str(folder), weights)
