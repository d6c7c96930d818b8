"""Runs the queue of tuning jobs, in the order of creation, on a backend.

The database is the queue: a job that is CREATING there will be trained, now or after a restart. The backend gets as
many jobs as its engines can train at once, because jobs of one base model that are queued together share each pass. So
a submitted job may still be queued; it counts as running once the backend reports it. A job that was running when the
process died resumes after its last complete epoch. A paused job saves its state at the step that it has reached and
continues there when it is resumed; meanwhile its engine trains others.
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
from tunerun.service.core.catalogue import Catalogue
from tunerun.service.core.problems import Code
from tunerun.service.core.records import EpochRow, ModelState, TunedModelRow
from tunerun.service.core.state import State
from tunerun.workers import states

TUNED_MODELS = "tuned_models"

_PAUSE_S = 0.1
"""Seconds between two polls of the backend: a step of a small model takes longer."""

_TROUBLE_PAUSE_S = 1.0
"""Seconds until the next turn of the queue after one failed. Not a retry with limits (`tunerun.retry`): the queue has
to work again whenever the disk has room, for as long as the service runs."""

_MAX_ATTEMPTS = 3
"""How often a job is submitted if its engine or machine is lost. Our choice, equal to the runner's."""

log = logging.getLogger("tunerun.service")

_CODES = {FailureKind.OUT_OF_MEMORY: Code.RESOURCE_EXHAUSTED, FailureKind.INVALID: Code.INVALID_ARGUMENT}
_CANCELLED = "cancelled on request; the tuned model keeps what it learned by then, and its quality is unpredictable"


@dataclass
class _Submitted:
    """A job that was submitted to the backend.

    Attributes:
        steps, epochs: how many were recorded since it was submitted.
        is_running: whether an engine is training it; otherwise it is queued at the backend.
        is_stopped: whether the backend was asked to stop it.
    """

    model: TunedModelRow
    ref: JobRef
    steps: int = 0
    epochs: int = 0
    is_running: bool = False
    is_stopped: bool = False


class Tuner:
    """Trains the queued jobs, in its own thread.

    Args:
        state: the database with the queue.
        catalogue: the base models that can be tuned.
        engines: the backend; configured to keep the tuned models of cancelled jobs.
    """

    def __init__(self, state: State, catalogue: Catalogue, engines: LocalBackend) -> None:
        self._state = state
        self._catalogue = catalogue
        self._engines = engines
        self._submitted: dict[str, _Submitted] = {}  # by the tuned models' keys
        self._losses: Counter[str] = Counter()  # lost engines, by the key of the job that they trained
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._deadline = 0.0
        self._is_untidy = True
        self._thread = threading.Thread(target=self._work, name="tuner", daemon=True)
        self.steps = 0
        """Optimiser steps recorded since the start."""

    @property
    def running(self) -> int:
        """Number of jobs that are training now."""
        return len(self._running_keys())

    @property
    def waiting(self) -> int:
        """Number of queued jobs, without paused ones and those whose base model is not offered."""
        return len(self._state.waiting([*self._catalogue.offered], self._running_keys(), -1))

    def _running_keys(self) -> list[str]:
        # A copy: the metrics are read in other threads, while the queue's thread adds and removes jobs.
        return [key for key, job in list(self._submitted.items()) if job.is_running]

    def start(self) -> None:
        """Start the thread. First, jobs that a killed process left as running are marked as queued."""
        self._state.interrupted()
        self._thread.start()

    def look(self) -> None:
        """Wake the thread after a change in the database: a new job, a request to cancel, a deletion."""
        self._changed.set()

    def end(self, timeout_s: float) -> None:
        """Stop the thread after the current step of each running job, start no further job, and close the backend.

        Args:
            timeout_s: the most seconds to wait for these steps.
        """
        with self._engines:
            self._deadline = time.monotonic() + timeout_s
            self._ending.set()
            self._changed.set()
            if self._thread.is_alive():
                self._thread.join()

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _work(self) -> None:
        """Do everything that is due, again and again; at the end, wait until each running job has taken its step."""
        while not self._ending.is_set():
            try:
                self._watch()  # first: jobs that have ended make room for those that are submitted below
                self._clean_up()
                self._submit_waiting()
                # None: wait until `look` is called.
                pause_s = _PAUSE_S if self._submitted or self._is_untidy else None
            except Exception:  # a full disk, for example: the queue waits until there is room
                log.exception("a turn of the queue failed; trying again")
                pause_s = _TROUBLE_PAUSE_S
            self._changed.wait(pause_s)
            self._changed.clear()

        # Jobs that only wait at the backend would start as others end; they are queued again at the next start.
        for job in self._submitted.values():
            if not job.is_running:
                self._engines.pause(job.ref)
        before = {key: self._submitted[key].steps for key in self._running_keys()}
        while time.monotonic() < self._deadline and any(
            self._submitted[key].steps == steps for key, steps in before.items() if key in self._submitted
        ):
            time.sleep(_PAUSE_S)
            self._watch()

    def _submit_waiting(self) -> None:
        """End queued jobs that were cancelled, and submit others up to the backend's capacity, in order of creation."""
        submitted = list(self._submitted)
        for model in self._state.cancelled(submitted):
            self._fail(model, Code.CANCELLED, self._cancelled_idle(model))
        free = self._engines.jobs_at_once - len(submitted)
        # A job whose base model is not offered stays queued until the service is started with that model.
        for model in self._state.waiting([*self._catalogue.offered], submitted, free) if free > 0 else ():
            try:
                ref = self._engines.submit(self._request(model))
            except AccessError:  # the cluster cannot be reached: the job stays queued
                raise
            except (InputError, BackendError, ValueError):
                log.exception("job refused", extra={"fields": {"tuned_model": model.id}})
                self._fail(model, Code.INTERNAL, "the job cannot be started; see the service's log")
            else:
                self._submitted[model.key] = _Submitted(model, ref)

    def _request(self, model: TunedModelRow) -> TuningRequest:
        return TuningRequest(
            key=model.key,
            tuned_model_id=model.folder,
            model=self._catalogue.offered[model.base_model].model,
            # Hyperparameters that no wire supports keep their defaults.
            hyperparameters=TuningHyperparameters(
                epoch_count=model.epoch_count,
                batch_size=model.batch_size,
                learning_rate=model.learning_rate,
            ),
            seed=model.seed,
            template=TemplateText(),
            training=self._state.examples(model.key),
            validation=self._state.held_out(model.key),
            start_from=None if model.source_folder is None else str(self.folder_of(model.source_folder)),
            keeps_epochs=model.keeps_epochs,
        )

    def folder_of(self, name: str) -> Path:
        """Return the path of a tuned model or checkpoint from the `folder` of its row."""
        return self._state.folder / TUNED_MODELS / name

    def _watch(self) -> None:
        """Stop submitted jobs that were deleted, cancelled or paused, and record the progress of all."""
        for job in self._submitted.values():
            now = self._stored(job.model)
            if job.is_stopped or (now is not None and not (now.is_cancelling or now.is_paused)):
                continue
            # A deleted or cancelled job ends for good; a paused one keeps its training state.
            if now is not None and not now.is_cancelling:
                self._engines.pause(job.ref)
            else:
                self._engines.cancel(job.ref)
            job.is_stopped = True

        cursors = {job.ref: job.steps for job in self._submitted.values()}
        statuses = self._engines.poll([*cursors], cursors) if cursors else {}
        for job in list(self._submitted.values()):
            status = statuses[job.ref]
            self._record_progress(job, status)
            if status.state.is_finished:
                if self._is_to_continue(job.model, status):
                    self._state.stopped(job.model.key)
                else:
                    self._record_end(job.model, status)
                    del self._losses[job.model.key]
                self._engines.forget(job.ref)
                del self._submitted[job.model.key]

    def _stored(self, model: TunedModelRow) -> TunedModelRow | None:
        """Return the current row of a tuned model; None: it was deleted, even if another one has its id now."""
        now = self._state.tuned_model(model.id)
        return now if now is not None and now.key == model.key else None

    def _record_progress(self, job: _Submitted, status: JobStatus) -> None:
        """Record a job's progress since the last poll: that it runs, its steps, and its complete epochs."""
        key = job.model.key
        # A job may start and end between two polls, so steps also show that it has started.
        if not job.is_running and (status.state is JobState.RUNNING or status.snapshots):
            self._state.started(key)
            job.is_running = True
        elif job.is_running and status.state is JobState.QUEUED:  # its engine died, and the next one resumes it
            self._state.stopped(key)
            job.is_running = False

        losses = {measured.epoch: measured.loss for measured in status.validation}
        if job.model.keeps_epochs:
            # An epoch is complete once its checkpoint was written: a client that sees it may call it.
            root = self._state.folder.absolute() / TUNED_MODELS
            complete = {c.epoch: (c.step, str(Path(c.location).relative_to(root))) for c in status.checkpoints}
        else:
            per_epoch = job.model.total_steps // job.model.epoch_count
            complete = {epoch: (epoch * per_epoch, "") for epoch in losses}
        now = time.time()
        epochs = [
            EpochRow(key, epoch, step, losses.get(epoch), folder, now)
            for epoch, (step, folder) in sorted(complete.items())
        ]
        if status.snapshots or len(epochs) > job.epochs:
            self._state.record(key, status.snapshots, epochs[job.epochs :])
            job.epochs = len(epochs)
            job.steps, self.steps = job.steps + len(status.snapshots), self.steps + len(status.snapshots)

    def _is_to_continue(self, model: TunedModelRow, status: JobStatus) -> bool:
        """Whether to submit a stopped job again: it was paused, or its engine was lost."""
        now = self._stored(model)
        if now is None or now.is_cancelling:
            return False
        if status.failure is not None and status.failure.kind is FailureKind.LOST:
            self._losses[model.key] += 1
            return self._losses[model.key] < _MAX_ATTEMPTS
        return status.state is JobState.CANCELLED

    def _record_end(self, model: TunedModelRow, status: JobStatus) -> None:
        if status.state is JobState.SUCCEEDED:
            tokens = status.metrics.get("tokens/train")
            self._state.finish(
                model.key,
                ModelState.ACTIVE,
                can_answer=True,
                losses=(status.metrics.get("validation/loss"), status.metrics.get("validation/base_loss")),
                trained_tokens=None if tokens is None else int(tokens),
            )
        elif status.state is JobState.CANCELLED:
            is_kept = status.tuned_model is not None
            self._fail(
                model, Code.CANCELLED, _CANCELLED if is_kept else self._cancelled_idle(model), can_answer=is_kept
            )
        else:
            failure = status.failure or Failure(FailureKind.CRASHED, "the engine gave no reason")
            lost = f"the engine that trained it was lost {_MAX_ATTEMPTS} times; create it again"
            words = lost if failure.kind is FailureKind.LOST else failure.message
            self._fail(model, _CODES.get(failure.kind, Code.INTERNAL), f"{failure.kind}: {words}")

    def _cancelled_idle(self, model: TunedModelRow) -> str:
        """Return the message for a job that was cancelled while it was not training."""
        has_steps = bool(self._state.snapshots([model.key])[model.key])  # before a pause, or of an earlier process
        return f"cancelled on request, {'while it was not being tuned' if has_steps else 'before its first step'}"

    def _fail(self, model: TunedModelRow, code: Code, message: str, *, can_answer: bool = False) -> None:
        self._state.finish(model.key, ModelState.FAILED, can_answer=can_answer, error=(code.number, message))
        self._is_untidy = True

    def _clean_up(self) -> None:
        """Remove folders of deleted tuned models, and saved training states of jobs that have ended."""
        busy = {job.model.folder for job in self._submitted.values()}
        for folder in self._state.leftovers():
            # A running job may still write to the folder, and an unfinished one may start from the adapter in it.
            if folder not in busy and not self._state.is_source(folder):
                for each in (self.folder_of(folder), epochs_folder(self.folder_of(folder))):
                    shutil.rmtree(each, ignore_errors=True)
                self._state.cleared(folder)
                self._is_untidy = True
        if self._is_untidy:
            tuned_models = self._state.folder / TUNED_MODELS
            for name, keys in states.keys(tuned_models).items():  # a pack's state belongs to several jobs
                rows = [self._state.of_key(key) for key in keys]
                if all(row is None or row.state is not ModelState.CREATING for row in rows):
                    states.drop(tuned_models, name)
            self._is_untidy = False
