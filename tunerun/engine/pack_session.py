"""The pack in training with the reports about its jobs and the files that it writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.engine import messages, tuned_model
from tunerun.engine.failures import failure_of
from tunerun.errors import InputError
from tunerun.job import Checkpoint, EpochLoss, Failure, FailureKind, JobState, Snapshot, TrainedOn, TuningRequest

if TYPE_CHECKING:
    from tunerun.engine.lora import LearningAdapter
    from tunerun.engine.network import LoadedModel
    from tunerun.engine.observer import Trained, TrainingOutcome
    from tunerun.engine.pack import Pack


@contextmanager
def isolated(failed: Callable[[Exception], None]) -> Iterator[None]:
    """Pass any exception inside the context to `failed`, and keep the engine alive.

    Args:
        failed: reports the exception, and drops the state that it may have damaged.
    """
    # The process holds a loaded base model, the pack and other callers' work, which one failure must not end.
    try:
        yield
    except Exception as error:  # noqa: BLE001 - isolates a call or the jobs of a pack; reported with its traceback
        failed(error)


class PackSession:
    """The pack in training; as the observer of its training it reports on its jobs and writes their tuned models.

    Args:
        base: the base model of all jobs.
        command: the first command; its settings hold for all jobs that join.
        most: the most training runs in a pass.
        report: sends a report to the parent process.
        cancelled: the ids of cancelled jobs, which another thread adds to.
        paused: those of them that will be resumed.

    Attributes:
        is_suspect: whether an unexpected error occurred, after which the state of the base model is unknown.
    """

    def __init__(
        self,
        base: LoadedModel,
        command: messages.Train,
        most: int,
        report: Callable[[messages.Report], None],
        cancelled: set[str],
        paused: set[str],
    ) -> None:
        from tunerun.engine import machine, resuming
        from tunerun.engine.pack import Pack

        self.base = base
        self.is_suspect = False
        self._report = report
        self._cancelled = cancelled
        self._paused = paused
        self._folder = Path(command.tuned_models)
        resuming.clean(self._folder)
        self._machine = machine.trained_on(base.device, base.number_format)
        self._jobs: dict[str, str] = {}  # by key
        self._checkpoints: dict[str, list[Checkpoint]] = {}
        self._not_written: dict[str, Failure] = {}
        self._pack: Pack = Pack(base, self, most=most, keep_cancelled=command.keep_cancelled, states=self._folder)

    @property
    def is_over(self) -> bool:
        """Whether all jobs have ended."""
        return not self._jobs

    def add(self, pack: Sequence[messages.PackedJob]) -> None:
        """Add jobs; those that were planned for other weights are reported as failed."""
        requests = []
        for packed in pack:
            self._jobs[packed.request.key] = packed.job
            try:
                self.base.check_planned(packed.request)
            except InputError as error:
                self._end(packed.request.key, JobState.FAILED, failure=failure_of(error))
            else:
                requests.append(packed.request)
        self._pack.add(requests)

    def step(self) -> None:
        """Take one step."""
        self._report_ended(self._pack.step())

    def end_cancelled(self) -> None:
        """End the cancelled jobs without taking a step."""
        self._report_ended(self._pack.leave_cancelled())

    def _report_ended(self, outcomes: Iterator[TrainingOutcome]) -> None:
        def failed(error: Exception) -> None:
            self.is_suspect = True
            for key in [*self._jobs]:
                self._end(key, JobState.FAILED, failure=failure_of(error))

        with isolated(failed):
            for outcome in outcomes:
                key = outcome.request.key
                failure = self._not_written.pop(key, None) or outcome.failure
                self.is_suspect = self.is_suspect or (failure is not None and failure.traceback is not None)
                trained_on = self._machine if outcome.trained is None else self._trained_on(outcome.trained)
                state = outcome.state if failure is None else JobState.FAILED
                self._end(key, state, outcome.metrics, failure, trained_on)

    def _end(
        self,
        key: str,
        state: JobState,
        metrics: Any = None,
        failure: Failure | None = None,
        trained_on: TrainedOn | None = None,
    ) -> None:
        job = self._jobs.pop(key)
        self._cancelled.discard(job)
        self._paused.discard(job)
        self._checkpoints.pop(key, None)
        self._report(messages.JobEnded(job, state, metrics or {}, failure, trained_on))

    def _trained_on(self, trained: Trained) -> TrainedOn:
        return replace(
            self._machine, form=trained.form, training_run=trained.training_run, packed_with=trained.packed_with
        )

    # The methods of `observer.Observer`

    def began(self, requests: Sequence[TuningRequest]) -> None:
        """Report that jobs start training."""
        self._report(messages.RunBegan(tuple(self._jobs[request.key] for request in requests)))

    def snapshot(self, request: TuningRequest, snapshot: Snapshot) -> None:
        """Report a step."""
        self._report(messages.SnapshotTaken(self._jobs[request.key], snapshot))

    def validated(self, request: TuningRequest, loss: EpochLoss) -> None:
        """Report the loss after an epoch."""
        self._report(messages.EpochMeasured(self._jobs[request.key], loss))

    def kept(self, request: TuningRequest, trained: Trained) -> None:
        """Write the tuned model of an epoch that is not the last."""
        step = trained.snapshots[-1]
        folder = tuned_model.epochs_folder(self._folder / request.tuned_model_id) / str(step.epoch)
        # A job of that many epochs would have the same adapter, bit for bit, so the record describes that job.
        settings = replace(request.hyperparameters, epoch_count=step.epoch)
        finished = tuned_model.FinishedJob("", trained.snapshots, validation=trained.validation)
        if self._write(folder, replace(request, hyperparameters=settings), trained.adapter, finished):
            self._note_kept(request, Checkpoint(step.epoch, step.step, str(folder)))

    def kept_before(self, request: TuningRequest, ends: Sequence[Snapshot]) -> None:
        """Report the checkpoints that an earlier process wrote."""
        folder = tuned_model.epochs_folder(self._folder / request.tuned_model_id)
        for step in ends:
            self._note_kept(request, Checkpoint(step.epoch, step.step, str(folder / str(step.epoch))))

    def state_not_kept(self, request: TuningRequest, reason: str) -> None:
        """Report that the job would start from the beginning if this process died."""
        self._report(messages.StateNotKept(self._jobs[request.key], reason))

    def is_paused(self, request: TuningRequest) -> bool:
        """Whether a cancelled job will be resumed."""
        return self._jobs[request.key] in self._paused

    def is_cancelled(self, request: TuningRequest) -> bool:
        """Whether a job has to end, because it was cancelled or its tuned model cannot be written."""
        return self._jobs[request.key] in self._cancelled or request.key in self._not_written

    def trained(self, request: TuningRequest, trained: Trained) -> None:
        """Write the tuned model of a job that has ended."""
        if request.key in self._not_written:
            return
        folder = self._folder / request.tuned_model_id
        end = trained.snapshots[-1]
        last = Checkpoint(end.epoch, end.step, str(folder))
        is_kept = request.keeps_epochs and trained.state is JobState.SUCCEEDED
        finished = tuned_model.FinishedJob(
            self._jobs[request.key],
            trained.snapshots,
            trained.metrics,
            trained.state,
            trained.validation,
            self._trained_on(trained),
            (*self._checkpoints.get(request.key, ()), *([last] if is_kept else [])),
        )
        if self._write(folder, request, trained.adapter, finished) and is_kept:
            self._note_kept(request, last)

    def _write(
        self, folder: Path, request: TuningRequest, adapter: LearningAdapter, finished: tuned_model.FinishedJob
    ) -> bool:
        """Write a tuned model's folder; if that fails, only its job fails. Returns whether it was written."""
        from safetensors import SafetensorError

        from tunerun.engine.layers import without_adapter

        left_alone = without_adapter(self.base.network, adapter.matrices)
        record = tuned_model.record_of(request, self.base.identity, self.base.chat, left_alone, self.base.turns)
        try:
            tuned_model.write(folder, record, finished, lambda partial: adapter.save(self.base.public_name, partial))
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            self._not_written[request.key] = Failure(
                FailureKind.CRASHED,
                f"the tuned model cannot be written to {folder.parent.name}/{folder.name}: {reason}; make room or give "
                "access there, then run with --retry-failed",
            )
            return False
        return True

    def _note_kept(self, request: TuningRequest, checkpoint: Checkpoint) -> None:
        self._checkpoints.setdefault(request.key, []).append(checkpoint)
        self._report(messages.EpochKept(self._jobs[request.key], checkpoint))
