"""Fine-tuning jobs, their events and their checkpoints."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Request

from tunerun.digest import digest
from tunerun.examples import Example
from tunerun.service.core.credentials import Key
from tunerun.service.core.new_model import MAX_DISPLAY_NAME, NewModel
from tunerun.service.core.problems import Code, Json, ServiceError
from tunerun.service.core.records import Role, TunedModelRow
from tunerun.service.openai import checkpoints, events, jobs, names, training_rows
from tunerun.service.openai.files import FilesApi
from tunerun.service.openai.hyperparameters import resolve
from tunerun.service.openai.job_request import MAX_SEED, CreateJob
from tunerun.service.openai.jobs import FineTuningStatus, Notes, notes_of, status_of
from tunerun.service.openai.method import After, JsonRoute, Limit, TuningCaller, not_of_list, page, size_of
from tunerun.service.openai.models import Models
from tunerun.service.openai.problems import OpenAiError, wrong

TWIN_S = 120.0
"""Seconds within which an SDK repeats a request: it retries twice, and waits at most 8 s before each
retry (its timeout of 600 s only applies to requests that were not answered)."""

MOST_CHECKPOINTS = 50
"""The most epochs with which a job keeps a checkpoint (an adapter on disk) per epoch; also OpenAI's limit of epochs."""

_TWINS = 20
"""How many of the newest jobs are searched for a repeated request."""

_PACE_STEPS = 50
"""How many of the newest steps the pace is computed from."""

_NO_STEP = 2**32
"""Above every step and epoch: lists start with the newest."""

_UNFINISHED = tuple(status for status in FineTuningStatus if not status.is_finished)


class FineTuning:
    """The fine-tuning jobs of this wire. Every operation checks the caller's permissions.

    Args:
        models: resolves model names and ids of jobs.
        files: the training files.
    """

    def __init__(self, models: Models, files: FilesApi) -> None:
        self._models = models
        self._library = models.library
        self._files = files

    def create(self, caller: Key, body: CreateJob, *, is_repeat: bool) -> Json:
        """Create a job; a request that the client library repeats returns the job that it has already created.

        Args:
            caller: the key of the request.
            body: the body of the request.
            is_repeat: whether the client library marks the request as a retry.

        Raises:
            ServiceError: the request is invalid.
        """
        # openai for Python (3.57) and Node (7.57) repeat a create that was not answered, byte for byte and without an
        # idempotency key, but count the retries in `x-stainless-retry-count`. Without that mark an equal request is a
        # second job: a user may want two with the same settings.
        request = digest([caller.owner, body.model_dump(mode="json")])
        if is_repeat:
            since = time.time() - TWIN_S
            for row in self._library.jobs(caller, _TWINS, jobs.NOTED):
                if row.created_at >= since and notes_of(row).request == request:
                    return self.shown(row)

        settings, where = body.settings()
        suffix = body.slug()
        base, source = self._base_or_source(caller, body.model)
        training = self._examples(caller, body.training_file, "training_file")
        held_out = self._examples(caller, body.validation_file, "validation_file") if body.validation_file else ()
        resolved = resolve(
            settings.n_epochs, settings.batch_size, settings.learning_rate_multiplier, len(training), where
        )
        new = NewModel(
            base_model=base,
            source=source,
            training=training,
            validation=held_out,
            epoch_count=resolved.epoch_count,
            batch_size=resolved.batch_size,
            learning_rate=resolved.learning_rate,
            learning_rate_multiplier=resolved.multiplier,
            display_name=suffix[:MAX_DISPLAY_NAME],
            seed=secrets.randbelow(MAX_SEED) if body.seed is None else body.seed,  # random, as at OpenAI
            suffix=suffix,
            metadata=body.metadata or {},
            notes=asdict(Notes(body.training_file, body.validation_file, body.model, request)),
            keeps_epochs=resolved.epoch_count <= MOST_CHECKPOINTS,
        )
        try:
            return self.shown(self._library.create(caller, new))
        except ServiceError as error:
            raise error.renamed(lambda field: _request_field(field, where)) from error

    def _base_or_source(self, caller: Key, name: str) -> tuple[str, str]:
        """Return the base model of a job, or the id of the tuned model that it continues; the other one is empty."""
        try:
            named = self._models.find(caller, name)
        except OpenAiError as error:
            available = ", ".join(self._library.catalogue.offered)
            words = f"Model {name[:100]} is not available for fine-tuning or does not exist; available: {available}"
            raise OpenAiError(Code.INVALID_ARGUMENT, words, param="model", word="model_not_available") from error
        if named.step is not None:
            raise wrong("model", f"{name} is a checkpoint; a job continues a base model or a whole tuned model")
        return (name, "") if named.row is None else ("", named.row.id)

    def _examples(self, caller: Key, identifier: str, param: str) -> tuple[Example, ...]:
        file, path = self._files.to_train_on(caller, identifier, param)
        try:
            return training_rows.read(path, file.name)
        except FileNotFoundError as error:  # deleted meanwhile
            words = f"{file.id} was deleted before it could be read; send it again"
            raise wrong(param, words, "invalid_file") from error

    def page(self, caller: Key, after: str, size: int, metadata: Mapping[str, str] | None) -> Json:
        """Return a page of jobs, newest first.

        Args:
            caller: the key of the request.
            after: id of the last job of the previous page; empty: this is the first page.
            size: the most jobs to return.
            metadata: required pairs; None: only jobs without metadata.
        """
        number = self._row(caller, after, not_of_list(after)).number if after else 0
        rows = self._library.jobs(caller, size + 1, jobs.NOTED, number, metadata)
        return page([self.shown(row) for row in rows], size)

    def get(self, caller: Key, identifier: str) -> Json:
        """Return a job, by its id.

        Raises:
            ServiceError: the job does not exist, or is not visible to the caller.
        """
        return self.shown(self._row(caller, identifier))

    def cancel(self, caller: Key, identifier: str) -> Json:
        """Cancel a job; its status is `cancelled` immediately, although training ends after the current step.

        Raises:
            ServiceError: the job does not exist, the caller may not change it, or it has ended.
        """
        # A second request to cancel gets the same response as the first.
        before = (*_UNFINISHED, FineTuningStatus.CANCELLED)
        return self._change(caller, identifier, "cancelled", self._library.cancel, before, FineTuningStatus.CANCELLED)

    def pause(self, caller: Key, identifier: str) -> Json:
        """Stop a job until it is resumed.

        Raises:
            ServiceError: the job does not exist, the caller may not change it, or it has ended.
        """
        return self._change(caller, identifier, "paused", self._library.pause, _UNFINISHED, FineTuningStatus.PAUSED)

    def resume(self, caller: Key, identifier: str) -> Json:
        """Queue a paused job again.

        Raises:
            ServiceError: the job does not exist, the caller may not change it, or it is not paused.
        """
        before, after = (FineTuningStatus.PAUSED,), (FineTuningStatus.QUEUED, FineTuningStatus.RUNNING)
        return self._change(caller, identifier, "resumed", self._library.resume, before, *after)

    def _change(
        self,
        caller: Key,
        identifier: str,
        what: str,
        change: Callable[[Key, str], object],
        before: Sequence[FineTuningStatus],
        *after: FineTuningStatus,
    ) -> Json:
        """Change the state of a job that has one of the states `before`, and return it in one of `after`.

        Raises:
            ServiceError: the job does not exist, the caller may not change it, or it has another state.
        """
        row = self._row(caller, identifier, role=Role.WRITER)
        if status_of(row) in before:
            change(caller, row.id)
            row = self._row(caller, identifier)  # it may have ended before the change took effect
            if status_of(row) in after:
                return self.shown(row)
        words = f"{names.job_id(row)} is {status_of(row)}, so it cannot be {what}"
        # 400 by its code: the SDKs would repeat a 409 twice (see `problems`).
        raise OpenAiError(Code.FAILED_PRECONDITION, words, param="fine_tuning_job_id", word="invalid_job_state")

    def events(self, caller: Key, identifier: str, after: str, size: int) -> Json:
        """Return a page of a job's events, newest first.

        Args:
            caller: the key of the request.
            identifier: the id of the job.
            after: id of the last event of the previous page; empty: this is the first page.
            size: the most events to return.

        Raises:
            ServiceError: the job does not exist, or `after` is not one of its events.
        """
        row = self._row(caller, identifier)
        position = events.read_id(row, after) if after else events.AFTER_ALL
        if position is None:
            raise not_of_list(after)
        newest = events.newest(row, self._library.epochs(row), partial(self._library.steps, row), position, size + 1)
        return page([event.json(row) for event in newest], size)

    def checkpoints(self, caller: Key, identifier: str, after: str, size: int) -> Json:
        """Return a page of a job's checkpoints, newest first.

        Args:
            caller: the key of the request.
            identifier: the id of the job.
            after: id of the last checkpoint of the previous page; empty: this is the first page.
            size: the most checkpoints to return.

        Raises:
            ServiceError: the job does not exist, or `after` is not one of its checkpoints.
        """
        row = self._row(caller, identifier)
        before = names.read_checkpoint_id(row, after) if after else _NO_STEP
        if before is None:
            raise not_of_list(after)
        kept = [epoch for epoch in self._library.epochs(row) if epoch.folder and epoch.epoch < before]
        shown = [
            checkpoints.checkpoint(row, epoch, next(iter(self._library.steps(row, epoch.step + 1, 1)), None))
            for epoch in kept[: -size - 2 : -1]  # newest first, and one more than the page, for `has_more`
        ]
        return page(shown, size)

    def shown(self, row: TunedModelRow) -> Json:
        """Return a job as the wire's JSON."""
        is_running = status_of(row) is FineTuningStatus.RUNNING
        newest = self._library.steps(row, _NO_STEP, _PACE_STEPS) if is_running else ()
        return jobs.job(row, jobs.estimated_finish(row, newest))

    def _row(
        self, caller: Key, identifier: str, otherwise: OpenAiError | None = None, role: Role = Role.READER
    ) -> TunedModelRow:
        """Return the row of a job.

        Raises:
            ServiceError: the job does not exist or is not visible to the caller, or the caller lacks the role.
        """
        beginning = names.read_job_id(identifier)
        row = None if beginning is None else self._models.of_key(caller, beginning, role)
        if row is None or not jobs.is_job(row):
            words = f"Could not find fine tune: {identifier[:60]}"
            raise otherwise or OpenAiError(Code.NOT_FOUND, words, param="fine_tune_id", word="fine_tune_not_found")
        return row


_FIELDS = {
    "epoch_count": "{where}.n_epochs",
    "batch_size": "{where}.batch_size",
    "learning_rate": "{where}.learning_rate_multiplier",
    "learning_rate_multiplier": "{where}.learning_rate_multiplier",
    "base_model": "model",
    "source": "model",
}
"""The core's field names, and those of the request."""


def _request_field(field: str, where: str) -> str:
    """Return the path in the request of a field that the core names; `where` is that of the hyperparameters."""
    name, bracket, place = field.partition("[")
    if name in ("training", "validation"):
        return f"{name}_file{bracket}{place}"
    return _FIELDS.get(name, field).format(where=where)


_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


def routes(tuning: FineTuning) -> APIRouter:
    """Return the routes of fine-tuning jobs."""
    router = APIRouter(prefix="/fine_tuning/jobs", route_class=JsonRoute, tags=["fine_tuning"])

    @router.post("")
    def create_job(
        body: CreateJob, caller: TuningCaller, x_stainless_retry_count: Annotated[str, Header()] = "0"
    ) -> Json:
        return tuning.create(caller, body, is_repeat=x_stainless_retry_count not in ("", "0"))

    @router.get("")
    def list_jobs(request: Request, caller: TuningCaller, limit: Limit = None, after: After = "") -> Json:
        sent = request.query_params
        pairs = ((_METADATA.fullmatch(name), value) for name, value in sent.items())
        metadata = {match[1]: value for match, value in pairs if match is not None}
        # Null asks for jobs without metadata. Node sends `metadata=` for it, and Python drops it.
        is_null = sent.get("metadata") in ("null", "")
        return tuning.page(caller, after, size_of(limit, jobs.PAGE), None if is_null else metadata)

    @router.get("/{job_id}")
    def retrieve_job(job_id: str, caller: TuningCaller) -> Json:
        return tuning.get(caller, job_id)

    @router.post("/{job_id}/cancel")
    def cancel_job(job_id: str, caller: TuningCaller) -> Json:
        return tuning.cancel(caller, job_id)

    @router.post("/{job_id}/pause")
    def pause_job(job_id: str, caller: TuningCaller) -> Json:
        return tuning.pause(caller, job_id)

    @router.post("/{job_id}/resume")
    def resume_job(job_id: str, caller: TuningCaller) -> Json:
        return tuning.resume(caller, job_id)

    @router.get("/{job_id}/events")
    def list_events(job_id: str, caller: TuningCaller, limit: Limit = None, after: After = "") -> Json:
        return tuning.events(caller, job_id, after, size_of(limit, events.PAGE))

    @router.get("/{job_id}/checkpoints")
    def list_checkpoints(job_id: str, caller: TuningCaller, limit: Limit = None, after: After = "") -> Json:
        return tuning.checkpoints(caller, job_id, after, size_of(limit, checkpoints.PAGE))

    return router
