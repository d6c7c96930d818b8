"""Jobs of the embedded engine: what is known of one in memory, and what it leaves on the disk."""

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
    """A job of this process; changed under the queue's lock alone.

    Attributes:
        folder: its tuned model's.
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
        """It is trained from now on."""
        self.state = JobState.RUNNING

    def waits(self) -> None:
        """The engine that trained it has died; another one will."""
        self.state = JobState.QUEUED

    def take(self, report: messages.JobReport) -> None:
        """Note a report of the engine.

        What comes again after an engine has died is known: that one continued after the last epoch that was kept.
        """
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
            self.notes = (self._without_state(report.reason),)
        else:
            self.trained_on = report.trained_on
            self._end(report.state, report.metrics, report.failure)

    def _without_state(self, reason: str) -> str:
        return (
            f"what it needs to continue cannot be written to {self.folder.parent.name}/ ({reason}); it is trained, but "
            "starts again from its first step if its engine ends before it does; make room or give access there"
        )

    def settle(self, failure: Failure) -> None:
        """End: the engine will not do it; it has died, unless between the last write and its report."""
        if self.state.is_finished:
            return
        finished = tuned_model.read_finished(self.folder)
        if finished is not None and finished.job == self.id:
            self.trained_on = finished.trained_on
            self.validation, self.checkpoints = list(finished.validation), list(finished.checkpoints)
            self._end(finished.state, finished.metrics)
        else:
            self._end(JobState.FAILED, failure=failure)

    def cancelled(self) -> None:
        """End on request: nothing of it is done any more."""
        self._end(JobState.CANCELLED)

    def _end(self, state: JobState, metrics: Mapping[str, float] | None = None, failure: Failure | None = None) -> None:
        self.state, self.metrics, self.failure = state, metrics or {}, failure
        # A service that runs for months has many finished jobs; none needs its examples any more.
        self.request = replace(self.request, training=(), validation=())

    def status(self, tuned: TunedModel | None) -> JobStatus:
        """What is known of it."""
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
    """The folders of tuned models, by which a later process knows what became of a job.

    A job's id begins with its tuned model's, which follows from the trial's key.

    Args:
        root: the folder that they are in.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def of_job(self, job_id: str) -> Path:
        """The folder of a job's tuned model."""
        return self.root / job_id.partition(".")[0]

    def check_free(self, request: TuningRequest) -> None:
        """Refuse a request whose folder is another trial's.

        Raises:
            InputError: it is.
        """
        folder = self.root / request.tuned_model_id
        if folder.exists() and tuned_model.read(folder).key != request.key:
            raise InputError(
                f"{folder} holds a tuned model of another trial; an id belongs to one trial; "
                "move that folder away, or choose another name"
            )

    def succeeded(self, key: str, tuned_model_id: str) -> str | None:
        """The id of the job that has made the tuned model of a key; None: there is none."""
        folder = self.root / tuned_model_id
        finished = tuned_model.read_finished(folder)
        if finished is None or finished.state is not JobState.SUCCEEDED or tuned_model.read(folder).key != key:
            return None
        return finished.job

    def made(self, job_id: str) -> FinishedJob | None:
        """How a job went, if the tuned model that is there is its own."""
        finished = tuned_model.read_finished(self.of_job(job_id))
        return finished if finished is not None and finished.job == job_id else None

    def status(self, job_id: str) -> JobStatus | None:
        """The status of an earlier process' job; None: it has left nothing."""
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
        """The tuned model of a job."""
        folder = self.of_job(job_id)
        try:
            weights = tuned_model.read(folder).weights
        except errors.NotFoundError:  # removed since; the error comes when it is loaded
            weights = None
        return TunedModel(f"tunedModels/{folder.name}", model, str(folder), weights)
