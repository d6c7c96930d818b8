"""The statuses of jobs at the service: what a job says of itself, and its events, checkpoints and result files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from tunerun.backends.http import Json, JsonService
from tunerun.backends.openai import curves, jobs
from tunerun.backends.openai.curves import Curve
from tunerun.backends.openai.files import pages
from tunerun.errors import StatusError, UnavailableError
from tunerun.job import BaseModelRef, Checkpoint, JobState, JobStatus, TunedModel

PAGE = 100
"""Page size of list requests; the SDK states no limit for jobs and events (openai 3.57.0)."""


class JobStatuses:
    """Reads the statuses of jobs; remembers each curve as far as it was read. Not thread-safe.

    Args:
        service: the HTTP client.
        prefix: prefix of all paths, such as `/openai`; empty: none.
    """

    def __init__(self, service: JsonService, prefix: str) -> None:
        self._service = service
        self._jobs, self._files = f"{prefix}/fine_tuning/jobs", f"{prefix}/files"
        self._curves: dict[str, Curve] = {}
        self._final: dict[str, JobStatus] = {}

    def final(self, identifier: str) -> JobStatus | None:
        """Return the status of a job that was read after it had ended; None: it has to be requested."""
        return self._final.get(identifier)

    def of(self, job: Json) -> JobStatus:
        """Return the status of a job, after requesting what is new of its curve.

        Raises:
            UnavailableError: an answer is not one of OpenAI's API.
        """
        try:
            identifier, state = jobs.identifier_of(job), jobs.state_of(job)
            if state is JobState.QUEUED:
                return JobStatus(state)
            curve = self._curves.setdefault(identifier, Curve())
            self._read_events(identifier, curve)
            checkpoints = self._read_results(job, curve) if state is JobState.SUCCEEDED else []
            status = _status(job, state, curve, checkpoints)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self.unintelligible(str(job.get("id"))) from error
        if state.is_finished:
            self._final[identifier] = status
            del self._curves[identifier]
        return status

    def unintelligible(self, identifier: str) -> UnavailableError:
        """Return the error for an answer that is not a job."""
        return UnavailableError(f"{identifier} at {self._service.base_url}: the answer is not a job of OpenAI's API")

    def _read_events(self, identifier: str, curve: Curve) -> None:
        """Read new events: backwards until a known one, or, where the list is ascending, after the newest known one."""
        # The SDK does not state the order of the list: OpenAI's is descending, other hosts differ.
        parameters: dict[str, str | int] = {"limit": PAGE}
        if curve.is_ascending and curve.newest is not None:
            parameters["after"] = curve.newest
        read: list[Json] = []
        for event in pages(self._service, f"{self._jobs}/{quote(identifier)}/events", **parameters):
            if str(event.get("id")) in curve.event_ids:
                if not curve.is_ascending:
                    break
                continue
            read.append(event)
        times = [event.get("created_at") or 0 for event in read]
        if read and times[0] < times[-1]:
            curve.is_ascending = True
        if read:
            curve.newest = str(read[-1 if curve.is_ascending else 0].get("id"))
        curve.event_ids.update(str(event.get("id")) for event in read)
        curve.add(curves.of_events(read))

    def _read_results(self, job: Json, curve: Curve) -> list[Json]:
        """Complete the curve of a job that has succeeded, and return its checkpoints."""
        path = f"{self._jobs}/{quote(str(job['id']))}/checkpoints"
        try:
            checkpoints = list(pages(self._service, path, limit=PAGE))
        except StatusError as error:
            if error.status not in (404, 405):  # some services do not have checkpoints
                raise
            checkpoints = []
        curve.add(curves.of_checkpoints(checkpoints))
        for identifier in job.get("result_files") or ():
            try:
                curve.add(curves.of_file(self._service.content(f"{self._files}/{quote(str(identifier))}/content")))
            except StatusError as error:
                if error.status != 404:  # it was deleted; the events have most of the curve
                    raise
        return checkpoints


def _status(job: Json, state: JobState, curve: Curve, checkpoints: Sequence[Json]) -> JobStatus:
    """Translate a job with what was read of it."""
    epochs = jobs.epochs_of(job) or (1 if state.is_finished else None)
    total = curve.total(jobs.steps_of(job), is_whole=state is JobState.SUCCEEDED)
    status = JobStatus(state)
    # Services report steps alone; without the job's epochs and steps no snapshot can say its epoch.
    if epochs is not None and total is not None:
        last_time = float(job.get("finished_at") or job.get("created_at") or 0)
        named = [(int(each["step_number"]), str(each["fine_tuned_model_checkpoint"])) for each in checkpoints]
        kept = sorted((curve.epoch_of(step, epochs, total), step, name) for step, name in named)
        status = JobStatus(
            state,
            snapshots=curve.snapshots(epochs, total, last_time, is_whole=state.is_finished),
            validation=curve.validation(epochs, total),
            checkpoints=tuple(Checkpoint(*each) for each in kept),
        )
    if state is JobState.FAILED:
        return replace(status, failure=jobs.failure_of(job))
    if state is not JobState.SUCCEEDED:
        return status

    metrics = {"validation/loss": status.validation[-1].loss} if status.validation else {}
    ended_at = float(job.get("finished_at") or 0)
    # From the first event with a time: `created_at` would count the wait in the service's queue as training.
    if curve.first_at is not None and ended_at > curve.first_at:
        metrics["train/seconds"] = ended_at - curve.first_at
    # The base model as the service names it: an earlier process may have used another config.
    base = BaseModelRef(name=str(job["model"]), source=str(job["model"]))
    name = jobs.tuned_model_name(job)
    tuned = TunedModel(name, base, str(job["fine_tuned_model"]), checkpoints=status.checkpoints)
    return replace(status, metrics=metrics, tuned_model=tuned)
