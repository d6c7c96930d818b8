"""One engine process as the queue sees it: its current call, its jobs, and what caused its death."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tunerun.backends.local.engine_calls import EngineWork
from tunerun.engine import messages
from tunerun.job import BaseModelRef, Failure, FailureKind, TuningRequest
from tunerun.workers.base import Worker


class Job(Protocol):
    """A job in the queue or at an engine. Its methods are called while holding the queue's lock."""

    @property
    def id(self) -> str:
        """The job's id in commands and reports."""

    @property
    def request(self) -> TuningRequest:
        """The job as submitted."""

    def began(self) -> None:
        """The engine has started to train the job."""

    def waits(self) -> None:
        """The engine died, and the job is queued for the next one."""

    def take(self, report: messages.JobReport) -> None:
        """Apply a report of the engine; JobEnded is the last one."""

    def settle(self, failure: Failure) -> None:
        """The job failed: its engine died or could not take it."""

    def cancelled(self) -> None:
        """The job was cancelled on request, and will not be trained further."""


@dataclass
class Aftermath:
    """The work that is left after an engine died.

    Attributes:
        call: a call to repeat at the next engine; None: there is none.
        jobs: jobs to train at the next engine, in this order.
        most: limit of training runs per pass from now on; None: no limit beyond the engine's settings.
    """

    call: EngineWork | None = None
    jobs: list[Job] = field(default_factory=list)
    most: int | None = None


class EngineSession:
    """The unfinished work of one engine process.

    Args:
        worker: the process.

    Attributes:
        call: the call that is running; at most one.
        jobs: the jobs that are training, by id; all of one base model.
        reports: number of reports received, by which silence is detected.
        is_given_up: whether the queue killed the engine because it did not react; then no job caused its death.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.call: EngineWork | None = None
        self.jobs: dict[str, Job] = {}
        self.reports = 0
        self.is_given_up = False
        self._is_call_taken = False
        self._runs: dict[str, str] = {}  # training run of each started job

    @property
    def model(self) -> BaseModelRef | None:
        """The base model of its jobs; None: it has none."""
        return next((job.request.model for job in self.jobs.values()), None)

    def give_call(self, call: EngineWork) -> None:
        """Record the call that was sent to the engine."""
        self.call, self._is_call_taken = call, False

    def give_jobs(self, jobs: Sequence[Job]) -> None:
        """Record jobs that were sent to the engine."""
        self.jobs |= {job.id: job for job in jobs}

    def take(self, report: messages.Report) -> None:
        """Apply a report to the call or job that it belongs to."""
        self.reports += 1
        if isinstance(report, messages.RunBegan):
            for name in report.jobs:
                self._runs[name] = report.jobs[0]
                if name in self.jobs:
                    self.jobs[name].began()
        elif isinstance(report, messages.JobReport):
            if (job := self.jobs.get(report.job)) is not None:
                job.take(report)
            if isinstance(report, messages.JobEnded):
                self.jobs.pop(report.job, None)
                self._runs.pop(report.job, None)
        elif isinstance(report, messages.Started):
            self._is_call_taken = True
        elif self.call is not None and self.call.take(report):
            self.call = None

    def died(self, failure: Failure, *, stopped: Collection[str] = (), is_last_try: bool = False) -> Aftermath:
        """Fail the work that caused the engine's death, and return the rest.

        - A running call is the cause; no job is.
        - With several training runs the cause is unknown: all are retried, half as many per pass, until the failing
          one is alone.
        - If the queue killed the engine, or it was lost with its machine while it trained several runs, no job is the
          cause: all are retried, as many per pass as before.
        - A base model that cannot be loaded fails every job.
        - Work that the engine had not yet accepted is never the cause.

        Args:
            failure: how the process ended.
            stopped: ids of jobs with a request to stop; they end as cancelled, whatever killed the engine.
            is_last_try: whether to fail the jobs of a lost engine instead of retrying them.
        """
        left = Aftermath()
        # An engine that never reported may have died of its first call; repeated, that would kill each next engine too.
        if self.call is not None and not self._is_call_taken and self.worker.has_reported:
            left.call, self.call = self.call, None
        begun = [job for job in self.jobs.values() if job.id in self._runs]
        runs = len({self._runs[job.id] for job in begun})
        is_lost = failure.kind is FailureKind.LOST
        if self.call is not None:
            self.call.settle(failure)
            left.jobs = [*self.jobs.values()]
        elif self.is_given_up or (is_lost and runs > 1 and not is_last_try):
            left.jobs = [*self.jobs.values()]
        elif runs > 1 and not is_lost:
            left.jobs, left.most = [*self.jobs.values()], runs // 2
        else:
            # One run, the last try after lost engines, or no run yet: then the base model could not be loaded.
            to_blame = begun or ([] if self.worker.has_reported else [*self.jobs.values()])
            for job in to_blame:
                if job.id not in stopped:
                    job.settle(failure)
            left.jobs = [job for job in self.jobs.values() if job not in to_blame]
        # The engine cannot confirm the stop any more, so they end here.
        for job in self.jobs.values():
            if job.id in stopped:
                job.cancelled()
        left.jobs = [job for job in left.jobs if job.id not in stopped]
        return left

    def close(self, failure: Failure) -> None:
        """Fail all unfinished work."""
        if self.call is not None:
            self.call.settle(failure)
        for job in self.jobs.values():
            job.settle(failure)
