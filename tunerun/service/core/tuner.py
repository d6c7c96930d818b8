"""The queue of tuning jobs, in the order of creation, and the backend whose engines train them.

The state's file is the queue: a job that is CREATING there is trained, now or after the next start. The backend is
given as many jobs as its engines can train at once, because those of one base model that wait together share each pass;
a job is running once the backend says so, and not already when it was submitted. A job that was running when the
process died continues after its last whole epoch; so does one that was paused, when it is resumed: meanwhile its engine
trains others.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tunerun.backends.local import LocalBackend
from tunerun.engine.tuned_model import epochs_folder
from tunerun.errors import AccessError, BackendError, InputError
from tunerun.job import (
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    TemplateText,
    TuningHyperparameters,
    TuningRequest,
)
from tunerun.service.core.catalogue import Catalogue, OfferedModel
from tunerun.service.core.problems import Code
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow
from tunerun.service.core.state import State
from tunerun.workers import states

TUNED_MODELS = "tuned_models"

_PAUSE_S = 0.1
"""Between two polls of the backend: a step of a small model takes longer."""

_TROUBLE_PAUSE_S = 1.0

_MAX_ATTEMPTS = 3
"""Times that a job is submitted whose engine, or the machine it ran on, is lost. Our choice, as the runner's."""

log = logging.getLogger("tunerun.service")

_CODES = {FailureKind.OUT_OF_MEMORY: Code.RESOURCE_EXHAUSTED, FailureKind.INVALID: Code.INVALID_ARGUMENT}
_CANCELLED = "cancelled on request; the tuned model keeps what it learned by then, and its quality is unpredictable"


@dataclass
class _Submitted:
    """A job that the backend has.

    Attributes:
        steps, epochs: that are recorded since it was submitted.
        is_running: whether an engine trains it; it else waits for one, or for room in a pack.
        is_stopped: whether the backend was asked to end it.
    """

    model: TunedModelRow
    ref: JobRef
    steps: int = 0
    epochs: int = 0
    is_running: bool = False
    is_stopped: bool = False


class Tuner:
    """Has the jobs of the queue trained, in a thread of its own.

    Args:
        engines: trains the jobs, and keeps what cancelled ones have learned.
    """

    def __init__(self, state: State, catalogue: Catalogue, engines: LocalBackend) -> None:
        self._state = state
        self._catalogue = catalogue
        self._engines = engines
        self._submitted: dict[str, _Submitted] = {}  # by the tuned models' keys
        self._losses: Counter[str] = Counter()  # of engines, by the keys of the jobs that they trained
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._deadline = 0.0
        self._is_untidy = True
        self._thread = threading.Thread(target=self._work, name="tuner", daemon=True)
        self.steps = 0
        """Optimiser steps recorded since the start."""

    @property
    def running(self) -> int:
        """How many jobs are trained now."""
        return len(self._running_keys())

    @property
    def waiting(self) -> int:
        """How many jobs wait to be trained; paused ones, and those of base models that are not offered, do not."""
        return len(self._state.waiting([*self._catalogue.offered], self._running_keys(), -1))

    def _running_keys(self) -> list[str]:
        return [key for key, job in list(self._submitted.items()) if job.is_running]

    def start(self) -> None:
        """Start the thread. No job is running yet, whatever an earlier process noted before it was killed."""
        self._state.interrupted()
        self._thread.start()

    def look(self) -> None:
        """Note that the state has changed: a new job, a request to cancel, a deletion."""
        self._changed.set()

    def end(self, timeout_s: float) -> None:
        """Start no further job, let each running one finish its current step, and stop.

        Args:
            timeout_s: how long to wait for these steps.
        """
        self._deadline = time.monotonic() + timeout_s
        self._ending.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join()
        self._engines.__exit__(None, None, None)

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _work(self) -> None:
        while not self._ending.is_set():
            pause_s = self._turn()
            self._changed.wait(pause_s)
            self._changed.clear()
        for job in self._submitted.values():
            if not job.is_running:
                self._engines.pause(job.ref)
        before = {key: self._submitted[key].steps for key in self._running_keys()}
        while time.monotonic() < self._deadline and any(
            self._submitted[key].steps == steps for key, steps in before.items() if key in self._submitted
        ):
            time.sleep(_PAUSE_S)
            self._watch()

    def _turn(self) -> float | None:
        """Do everything that is due once; return how long to wait for the next turn, None: until `look` is called."""
        try:
            self._watch()
            self._clear()
            self._assign()
            self._tidy()
        except Exception:  # a full disk, for example: the queue waits until there is room
            log.exception("a turn of the queue failed; trying again")
            return _TROUBLE_PAUSE_S
        return _PAUSE_S if self._submitted else None

    # The queue

    def _assign(self) -> None:
        """Submit waiting jobs while the engines have room for them, and end those that are to be cancelled."""
        submitted = list(self._submitted)
        for model in self._state.cancelled(submitted):
            self._finish(model, Code.CANCELLED, self._cancelled_idle(model))
        free = self._engines.jobs_at_once - len(submitted)
        if free > 0:
            # A job of a base model that is not offered now waits for a start that offers it.
            for model in self._state.waiting([*self._catalogue.offered], submitted, free):
                self._submit(model)

    def _submit(self, model: TunedModelRow) -> None:
        """Submit a job; one that is refused has failed, and the next turn submits the next one."""
        try:
            request = self._request(model, self._catalogue.offered[model.base_model])
            ref = self._engines.submit(request)
        except AccessError:  # of a cluster that cannot be reached now: the job waits
            raise
        except (InputError, BackendError, ValueError):
            log.exception("job refused", extra={"fields": {"tuned_model": model.id}})
            self._finish(model, Code.INTERNAL, "the job cannot begin; the service's log says why")
            self._changed.set()
            return
        self._submitted[model.key] = _Submitted(model, ref)

    def _request(self, model: TunedModelRow, offered: OfferedModel) -> TuningRequest:
        return TuningRequest(
            key=model.key,
            tuned_model_id=model.folder,
            model=offered.model,
            hyperparameters=hyperparameters_of(model),
            seed=model.seed,
            template=TemplateText(),
            training=self._state.examples(model.key),
            validation=self._state.held_out(model.key),
            start_from=None if model.source_folder is None else str(self.folder_of(model.source_folder)),
            keeps_epochs=model.keeps_epochs,
        )

    def folder_of(self, name: str) -> Path:
        """The path of a tuned model or a checkpoint, by the folder in its row."""
        return self._state.folder / TUNED_MODELS / name

    # Submitted jobs

    def _watch(self) -> None:
        """Stop the jobs that are not wanted any more, and record what is new of each."""
        for job in self._submitted.values():
            self._stop_unwanted(job)
        cursors = {job.ref: job.steps for job in self._submitted.values()}
        statuses = self._engines.poll([*cursors], cursors) if cursors else {}
        for job in list(self._submitted.values()):
            self._note(job, statuses[job.ref])

    def _stop_unwanted(self, job: _Submitted) -> None:
        """Ask the backend to end a job that is deleted, cancelled or paused."""
        now = self._state.tuned_model(job.model.id)
        is_there = now is not None and now.key == job.model.key
        if job.is_stopped or (now is not None and is_there and not (now.is_cancelling or now.is_paused)):
            return
        pauses = now is not None and is_there and not now.is_cancelling
        (self._engines.pause if pauses else self._engines.cancel)(job.ref)
        job.is_stopped = True

    def _note(self, job: _Submitted, status: JobStatus) -> None:
        """Record what is new of a job."""
        key = job.model.key
        # A job may begin and end between two polls, so its steps say as well that it has begun.
        if not job.is_running and (status.state is JobState.RUNNING or status.snapshots):
            self._state.started(key)
            job.is_running = True
        elif job.is_running and status.state is JobState.QUEUED:  # its engine has died, and another one continues it
            self._state.stopped(key)
            job.is_running = False
        epochs = self._epochs(job.model, status)
        if status.snapshots or len(epochs) > job.epochs:
            self._state.record(key, status.snapshots, epochs[job.epochs :])
            job.epochs = len(epochs)
            job.steps, self.steps = job.steps + len(status.snapshots), self.steps + len(status.snapshots)
        if status.state.is_finished:
            if self._is_to_continue(job.model, status):
                self._state.stopped(key)
            else:
                self._ended(job.model, status)
                del self._losses[key]
            self._engines.forget(job.ref)
            del self._submitted[key]

    def _epochs(self, model: TunedModelRow, status: JobStatus) -> list[EpochRow]:
        """What a job has reached after each epoch; where it keeps checkpoints once they are written, else once the loss
        on the held-out examples is measured."""
        losses = {one.epoch: one.loss for one in status.validation}
        per_epoch = model.total_steps // model.epoch_count
        found = {epoch: (epoch * per_epoch, "") for epoch in losses}
        if model.keeps_epochs:
            root = self._state.folder.absolute() / TUNED_MODELS
            found = {c.epoch: (c.step, str(Path(c.location).relative_to(root))) for c in status.checkpoints}
        now = time.time()
        return [EpochRow(model.key, n, step, losses.get(n), folder, now) for n, (step, folder) in sorted(found.items())]

    def _is_to_continue(self, model: TunedModelRow, status: JobStatus) -> bool:
        """Whether a job whose status is finished is to be submitted again: it was paused, or its engine is lost."""
        now = self._state.tuned_model(model.id)
        if now is None or now.key != model.key or now.is_cancelling:
            return False
        if status.failure is not None and status.failure.kind is FailureKind.LOST:
            self._losses[model.key] += 1
            return self._losses[model.key] < _MAX_ATTEMPTS
        return status.state is JobState.CANCELLED

    def _ended(self, model: TunedModelRow, status: JobStatus) -> None:
        if status.state is JobState.SUCCEEDED:
            losses = (status.metrics.get("validation/loss"), status.metrics.get("validation/base_loss"))
            tokens = status.metrics.get("tokens/train")
            trained_tokens = None if tokens is None else int(tokens)
            self._state.finish(
                model.key, ModelState.ACTIVE, can_answer=True, losses=losses, trained_tokens=trained_tokens
            )
        elif status.state is JobState.CANCELLED:
            is_kept = status.tuned_model is not None
            self._finish(
                model, Code.CANCELLED, _CANCELLED if is_kept else self._cancelled_idle(model), can_answer=is_kept
            )
        else:
            failure = status.failure or Failure(FailureKind.CRASHED, "the engine gave no reason")
            code = _CODES.get(failure.kind, Code.INTERNAL)
            lost = f"the engine that trained it was lost {_MAX_ATTEMPTS} times; create it again"
            words = lost if failure.kind is FailureKind.LOST else failure.message
            self._finish(model, code, f"{failure.kind}: {words}")

    def _cancelled_idle(self, model: TunedModelRow) -> str:
        """What is said of a job that was cancelled while no engine trained it."""
        has_steps = bool(self._state.snapshots([model.key])[model.key])  # before a pause, or of an earlier process
        return f"cancelled on request, {'while it was not being tuned' if has_steps else 'before its first step'}"

    def _finish(self, model: TunedModelRow, code: Code, message: str, *, can_answer: bool = False) -> None:
        self._state.finish(model.key, ModelState.FAILED, can_answer=can_answer, error=(code.number, message))
        self._is_untidy = True

    def _clear(self) -> None:
        """Remove the folders of deleted tuned models, once no job writes them or starts from them any more."""
        busy = {job.model.folder for job in self._submitted.values()}
        for folder in self._state.leftovers():
            if folder not in busy and not self._state.is_source(folder):
                for each in (self.folder_of(folder), epochs_folder(self.folder_of(folder))):
                    shutil.rmtree(each, ignore_errors=True)
                self._state.cleared(folder)
                self._is_untidy = True

    def _tidy(self) -> None:
        """Remove the saved training states of jobs that have ended or whose tuned models are deleted."""
        if self._is_untidy:
            tuned_models = self._state.folder / TUNED_MODELS
            for name, keys in states.keys(tuned_models).items():
                rows = [self._state.of_key(key) for key in keys]
                if all(row is None or row.state is not ModelState.CREATING for row in rows):
                    states.drop(tuned_models, name)
            self._is_untidy = False


def hyperparameters_of(model: TunedModelRow) -> TuningHyperparameters:
    """The hyperparameters of a tuned model's job; those that the wires do not have keep their defaults."""
    return TuningHyperparameters(
        epoch_count=model.epoch_count,
        batch_size=model.batch_size,
        learning_rate=model.learning_rate,
    )
