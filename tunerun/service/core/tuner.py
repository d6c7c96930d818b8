"""The queue of tuning jobs, in the order of creation, and the backend whose engines work it off.

The state's file is the queue: what is CREATING there is tuned, now or at the next start. A job that was running when
the process died is continued after its last whole epoch; so is one that was paused, when it is resumed: meanwhile its
engine works for others.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tunerun.backends.local import LocalBackend
from tunerun.engine.tuned_model import epochs_folder
from tunerun.errors import BackendError, InputError
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
"""Between two looks at the running jobs: a step of a small model takes longer."""

_TROUBLE_PAUSE_S = 1.0

log = logging.getLogger("tunerun.service")

_CODES = {FailureKind.OUT_OF_MEMORY: Code.RESOURCE_EXHAUSTED, FailureKind.INVALID: Code.INVALID_ARGUMENT}
_CANCELLED = "cancelled on request; the tuned model keeps what it learned by then, and its quality is unpredictable"


@dataclass
class _Running:
    model: TunedModelRow
    ref: JobRef
    steps: int = 0
    epochs: int = 0
    is_cancelled: bool = False


class Tuner:
    """Works off the queue in a thread of its own.

    Args:
        workers: how many jobs run at once.
        engines: has as many engines, and gives each job to the one with the least to do; it keeps what cancelled jobs
            have learned.
    """

    def __init__(self, state: State, catalogue: Catalogue, workers: int, engines: LocalBackend) -> None:
        self._state = state
        self._catalogue = catalogue
        self._workers = workers
        self._engines = engines
        self._running: dict[str, _Running] = {}  # by the keys of what is tuned
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._deadline = 0.0
        self._is_untidy = True
        self._thread = threading.Thread(target=self._work, name="tuner", daemon=True)
        self.steps = 0
        """Optimiser steps that were recorded since the start."""

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        return len(self._running)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def look(self) -> None:
        """Say that there is something new: a job, a request to cancel, a deletion."""
        self._changed.set()

    def end(self, timeout_s: float) -> None:
        """Start no further job, let each running one end the step it is at, and stop.

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
        """Whether the queue is worked off."""
        return self._thread.is_alive()

    def _work(self) -> None:
        while not self._ending.is_set():
            pause_s = self._turn()
            self._changed.wait(pause_s)
            self._changed.clear()
        before = {key: running.steps for key, running in self._running.items()}
        while time.monotonic() < self._deadline and any(
            self._running[key].steps == steps for key, steps in before.items() if key in self._running
        ):
            time.sleep(_PAUSE_S)
            self._watch()

    def _turn(self) -> float | None:
        """Look after everything once; how long to wait until the next time, None: until `look` is called."""
        try:
            self._watch()
            self._clear()
            self._assign()
            self._tidy()
        except Exception:  # a full disk, say, on which room is made while the queue waits
            log.exception("the queue was not looked after; trying again")
            return _TROUBLE_PAUSE_S
        return _PAUSE_S if self._running else None

    # The queue

    def _assign(self) -> None:
        """Give waiting jobs to the engines as far as some are free, and end those that are cancelled."""
        running = list(self._running)
        for model in self._state.cancelled(running):
            begun = bool(self._state.snapshots([model.key])[model.key])  # by a service that was killed
            when = "while it was not being tuned" if begun else "before its first step"
            self._finish(model, Code.CANCELLED, f"cancelled on request, {when}")
        free = self._workers - len(running)
        if free > 0:
            # What waits for a base model that is not offered now is taken up by a start that offers it.
            for model in self._state.waiting([*self._catalogue.offered], running, free):
                self._begin(model)

    def _begin(self, model: TunedModelRow) -> None:
        """Submit a job; one that is refused has failed, and the next turn takes the next one."""
        try:
            request = self._request(model, self._catalogue.offered[model.base_model])
            ref = self._engines.submit(request)
        except (InputError, BackendError, ValueError):
            log.exception("job refused", extra={"fields": {"tuned_model": model.id}})
            self._finish(model, Code.INTERNAL, "the job cannot begin; the service's log says why")
            self._changed.set()
            return
        self._state.started(model.key)
        self._running[model.key] = _Running(model, ref)

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
        """Where a tuned model lies, or a checkpoint, by the folder in its row."""
        return self._state.folder / TUNED_MODELS / name

    # Watching

    def _watch(self) -> None:
        for key, running in list(self._running.items()):
            now = self._state.tuned_model(running.model.id)
            is_wanted = now is not None and now.key == running.model.key and not (now.is_cancelling or now.is_paused)
            if not is_wanted and not running.is_cancelled:
                is_paused = now is not None and now.key == running.model.key and not now.is_cancelling
                stop = self._engines.pause if is_paused else self._engines.cancel
                stop(running.ref)
                running.is_cancelled = True
            status = self._engines.poll([running.ref], {running.ref: running.steps})[running.ref]
            epochs = self._epochs(running.model, status)
            if status.snapshots or len(epochs) > running.epochs:
                self._state.record(running.model.key, status.snapshots, epochs[running.epochs :])
                running.epochs = len(epochs)
                running.steps, self.steps = running.steps + len(status.snapshots), self.steps + len(status.snapshots)
            if status.state.is_finished:
                if status.state is not JobState.CANCELLED or self._is_to_end(running.model):
                    self._ended(running.model, status)
                else:
                    self._state.stopped(running.model.key)
                self._engines.forget(running.ref)
                del self._running[key]

    def _epochs(self, model: TunedModelRow, status: JobStatus) -> list[EpochRow]:
        """What a job has reached after each epoch: where it keeps checkpoints when those are there, else when the loss
        on the examples held out is measured."""
        losses = {one.epoch: one.loss for one in status.validation}
        per_epoch = model.total_steps // model.epoch_count
        found = {epoch: (epoch * per_epoch, "") for epoch in losses}
        if model.keeps_epochs:
            root = self._state.folder.absolute() / TUNED_MODELS
            found = {c.epoch: (c.step, str(Path(c.location).relative_to(root))) for c in status.checkpoints}
        now = time.time()
        return [EpochRow(model.key, n, step, losses.get(n), folder, now) for n, (step, folder) in sorted(found.items())]

    def _is_to_end(self, model: TunedModelRow) -> bool:
        """Whether a job that was stopped has ended; one that was paused waits for another turn."""
        now = self._state.tuned_model(model.id)
        return now is None or now.key != model.key or now.is_cancelling

    def _ended(self, model: TunedModelRow, status: JobStatus) -> None:
        if status.state is JobState.SUCCEEDED:
            losses = (status.metrics.get("validation/loss"), status.metrics.get("validation/base_loss"))
            tokens = status.metrics.get("tokens/train")
            trained_tokens = None if tokens is None else int(tokens)
            self._state.finish(
                model.key, ModelState.ACTIVE, can_answer=True, losses=losses, trained_tokens=trained_tokens
            )
        elif status.state is JobState.CANCELLED:
            self._finish(model, Code.CANCELLED, _CANCELLED, can_answer=status.tuned_model is not None)
        else:
            failure = status.failure or Failure(FailureKind.CRASHED, "the engine gave no reason")
            code = _CODES.get(failure.kind, Code.INTERNAL)
            lost = "the engine that tuned it has died; create it again"
            words = lost if failure.kind is FailureKind.LOST else failure.message
            self._finish(model, code, f"{failure.kind}: {words}")

    def _finish(self, model: TunedModelRow, code: Code, message: str, *, can_answer: bool = False) -> None:
        self._state.finish(model.key, ModelState.FAILED, can_answer=can_answer, error=(code.number, message))
        self._is_untidy = True

    def _clear(self) -> None:
        """Remove the folders of deleted tuned models, when no job makes them or starts from them any more."""
        busy = {running.model.folder for running in self._running.values()}
        for folder in self._state.leftovers():
            if folder not in busy and not self._state.is_source(folder):
                for each in (self.folder_of(folder), epochs_folder(self.folder_of(folder))):
                    shutil.rmtree(each, ignore_errors=True)
                self._state.cleared(folder)
                self._is_untidy = True

    def _tidy(self) -> None:
        """Remove what jobs have kept to continue that will not: they have ended, or their tuned models are deleted."""
        if self._is_untidy:
            tuned_models = self._state.folder / TUNED_MODELS
            for name, keys in states.keys(tuned_models).items():
                rows = [self._state.of_key(key) for key in keys]
                if all(row is None or row.state is not ModelState.CREATING for row in rows):
                    states.drop(tuned_models, name)
            self._is_untidy = False


def hyperparameters_of(model: TunedModelRow) -> TuningHyperparameters:
    """What the engine is given for a tuned model: its hyperparameters, and a new adapter's own defaults."""
    return TuningHyperparameters(
        epoch_count=model.epoch_count,
        batch_size=model.batch_size,
        learning_rate=model.learning_rate,
    )
