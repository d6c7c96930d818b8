"""The state of the engine's process: base models in memory and the pack in training, and the execution of commands."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunerun.engine import base_model, messages, prepared_model, tuned_model
from tunerun.engine.failures import failure_of
from tunerun.engine.settings import EngineSettings
from tunerun.errors import InputError
from tunerun.job import (
    BaseModelRef,
    Checkpoint,
    EpochLoss,
    Failure,
    FailureKind,
    JobState,
    Snapshot,
    TrainedOn,
    TuningRequest,
)

if TYPE_CHECKING:
    from tunerun.engine.generation import Generation
    from tunerun.engine.lora import LearningAdapter
    from tunerun.engine.network import LoadedModel
    from tunerun.engine.observer import Trained, TrainingOutcome
    from tunerun.engine.pack import Pack


@dataclass(frozen=True)
class _Held:
    """A base model in memory, with the object that generates its answers."""

    base: LoadedModel
    generation: Generation


class Session:
    """Executes commands with one base model in memory, or two while a call needs another one than the pack's.

    Everything but `cancel` has to be called from one thread.

    Args:
        report: sends a report to the parent process.
        cache: the cache directory of base models.
        settings: of the engine.
        number: the engine's number among those of this machine, from 0.
    """

    def __init__(
        self,
        report: Callable[[messages.Report], None],
        cache: Path,
        settings: EngineSettings,
        number: int = 0,
    ) -> None:
        self._report = report
        self._cache = cache
        self._settings = settings
        self._number = number
        self._cancelled: set[str] = set()
        self._paused: set[str] = set()  # a subset of `_cancelled`
        self._held: dict[str, _Held] = {}  # by the base model's identity
        self._training: _Training | None = None

    def cancel(self, command: messages.Cancel) -> None:
        """Cancel a job before its next step or the next pass of a call, or answers at the next token.

        May be called from any thread.

        Args:
            command: its `job` is a job's id, or the id of answers.
        """
        if command.pauses:  # first: `_cancelled` is what the training thread looks at
            self._paused.add(command.job)
        self._cancelled.add(command.job)

    # Calls

    def follow(self, command: messages.Call) -> None:
        """Execute a command whose caller waits, and report its result or its error."""
        self._report(messages.Started())

        def failed(error: Exception) -> None:
            if isinstance(error, InputError):
                self._report(_refused(error))
            else:
                self._forget()
                self._report(messages.Refused(None, (failure_of(error).message,), traceback.format_exc()))

        with _isolated(failed):
            self._report(self._answer(command))

    def _answer(self, command: messages.Call) -> messages.Report:
        if isinstance(command, messages.Prepare):
            prepared_model.prepare(command.model, self._cache)
            return messages.Done()
        generation = self._load(command.model).generation
        if isinstance(command, messages.Generate):
            return self._generate(generation, command)
        adapter = None if command.adapter is None else Path(command.adapter)
        found = generation.measure(command.rows, adapter, command.examples, self._end_cancelled)
        return messages.Measured(tuple(map(tuple, found)))

    def _generate(self, generation: Generation, command: messages.Generate) -> messages.Answers:
        ids = {command.id, *(command.answer_id(position) for position in range(len(command.prompts)))}
        answers = generation.answer(
            command.prompts,
            (lambda position, part: self._report(messages.Piece(position, part))) if command.stream else None,
            lambda position: not self._cancelled.isdisjoint((command.id, command.answer_id(position))),
            (lambda position, answer: self._report(messages.Answered(position, answer)))
            if command.one_by_one
            else None,
            all_or_none=command.all_or_none,
            between_passes=self._end_cancelled,
        )
        self._cancelled -= ids
        return messages.Answers(
            tuple(_refused(answer) if isinstance(answer, InputError) else answer for answer in answers)
        )

    # Base models

    def _load(self, model: BaseModelRef) -> _Held:
        """Return a base model, loaded if necessary; then all models but the pack's are dropped first."""
        from tunerun.engine import generation, network

        found = base_model.find(model, self._cache)
        if found.identity not in self._held:
            self._forget()  # before loading, because two large models may not fit into memory
            import torch

            if self._settings.threads is not None:
                torch.set_num_threads(self._settings.threads)
            device = network.choose_device(self._settings.device, self._number)
            base = network.load(model, self._cache, device, self._settings)
            self._held[found.identity] = _Held(base, generation.Generation(base))
        return self._held[found.identity]

    def _forget(self) -> None:
        """Drop all base models except the pack's from memory."""
        kept = None if self._training is None else self._training.base
        self._held = {identity: held for identity, held in self._held.items() if held.base is kept}

    # The pack

    @property
    def is_training(self) -> bool:
        """Whether a pack is in training."""
        return self._training is not None

    def train(self, command: messages.Train) -> None:
        """Add jobs to the pack, or start one; jobs of another base model than the pack's are reported as failed."""

        def failed(error: Exception) -> None:
            self._forget()
            for packed in command.pack:
                self._report(messages.JobEnded(packed.job, JobState.FAILED, failure=failure_of(error)))

        training: _Training | None = None
        with _isolated(failed):
            training = self._pack_of(command)
        if training is not None:
            training.add(command.pack)
            self._end_if_empty()

    def _pack_of(self, command: messages.Train) -> _Training:
        """Return the pack that the command's jobs join, a new one if no pack is in training.

        Raises:
            InputError: the pack in training has another base model.
        """
        base = self._load(command.pack[0].request.model).base
        if self._training is None:
            from tunerun.engine import pack

            most = pack.most_members(base, command.pack[0].request)
            most = most if command.most is None else min(most, command.most)
            self._training = _Training(base, command, most, self._report, self._cancelled, self._paused)
        elif self._training.base is not base:
            raise InputError("a pack has one base model; jobs of another one wait for its end")
        return self._training

    def step(self) -> None:
        """Take one step of the pack and report its results; does nothing without a pack."""
        if self._training is not None:
            self._training.step()
            self._end_if_empty()

    def _end_cancelled(self) -> None:
        """End the pack's cancelled jobs while a call is executed: the next step comes only after the call's end."""
        if self._training is not None and self._cancelled:
            self._training.end_cancelled()
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        training = self._training
        if training is not None and training.is_over:
            self._training = None
            if training.is_suspect:  # the error may have left hooks or damaged state on the base model
                self._held.clear()


@contextmanager
def _isolated(failed: Callable[[Exception], None]) -> Iterator[None]:
    """Pass any exception inside the context to `failed`, and keep the engine alive.

    The process holds a loaded base model, the pack and other callers' work, which one failure must not end; so this
    catches every exception. `failed` drops the state that the exception may have damaged.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - isolates a call or the jobs of a pack; reported with its traceback
        failed(error)


def _refused(error: InputError) -> messages.Refused:
    return messages.Refused(type(error).__name__, error.problems)


class _Training:
    """The pack with the reports about its jobs and the files that it writes; the observer of its training.

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
        keeps, states = command.keep_cancelled, self._folder
        self._pack: Pack = Pack(base, self, most=most, keep_cancelled=keeps, states=states)

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

        with _isolated(failed):
            for outcome in outcomes:
                self._ended(outcome)

    def _ended(self, outcome: TrainingOutcome) -> None:
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
