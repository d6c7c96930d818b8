"""An engine as the queue sees it: the call that it follows, the jobs that it trains, what is to blame if it dies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tunerun.backends.engine_calls import Work
from tunerun.engine import messages
from tunerun.job import BaseModelRef, Failure, FailureKind, TuningRequest
from tunerun.workers.base import Worker


class Job(Protocol):
    """A job on its way through an engine. Its methods are called under the queue's lock."""

    @property
    def id(self) -> str:
        """Its name in reports."""

    @property
    def request(self) -> TuningRequest:
        """What is trained."""

    def began(self) -> None:
        """It is trained from now on."""

    def waits(self) -> None:
        """The engine that trained it has died; another one will."""

    def take(self, report: messages.JobReport) -> None:
        """Note a report of the engine; with JobEnded it has ended."""

    def settle(self, failure: Failure) -> None:
        """End: the engine will not do it."""

    def cancelled(self) -> None:
        """End: nothing of it is done any more, on request."""


@dataclass
class Aftermath:
    """What becomes of the work of an engine that died.

    Attributes:
        call: is to be followed by another one.
        jobs: are to be trained by another one, in this order.
        most: training runs that may share a pass from now on; None: as many as before.
    """

    call: Work | None = None
    jobs: list[Job] = field(default_factory=list)
    most: int | None = None


class EngineSession:
    """What an engine was given and has not done.

    Attributes:
        call: what it follows; one at a time.
        jobs: by id, of one base model.
        reports: how many have come.
        is_given_up: whether the queue ended it because it did not react, so that none of its jobs is to blame.
    """

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.call: Work | None = None
        self.jobs: dict[str, Job] = {}
        self.reports = 0
        self.is_given_up = False
        self._is_call_taken = False
        self._runs: dict[str, str] = {}  # of each job that has begun

    @property
    def model(self) -> BaseModelRef | None:
        """The base model of its jobs; None: it has none."""
        return next((job.request.model for job in self.jobs.values()), None)

    def give_call(self, call: Work) -> None:
        """Note the call that it is to follow next."""
        self.call, self._is_call_taken = call, False

    def give_jobs(self, jobs: Sequence[Job]) -> None:
        """Note jobs that it is to train."""
        self.jobs |= {job.id: job for job in jobs}

    def take(self, report: messages.Report) -> None:
        """Note a report."""
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
        """Settle what is to blame for its death, and say what becomes of the rest.

        A call that was being followed is to blame, and no job. Of several training runs it is not known which one is:
        all are tried again, half as many at once, until one that is to blame is alone. If the engine was lost with its
        machine, or was killed, none of them is to blame: all are tried again, as many at once as before. A base model
        that cannot be loaded fails every job. What the engine had not taken is not to blame.

        Args:
            stopped: ids of the jobs that had to end: they are cancelled, whatever ended the engine.
            is_last_try: whether jobs of an engine that was lost are failed as lost instead.
        """
        found = Aftermath()
        if self.call is not None and not self._is_call_taken and self.worker.has_reported:
            found.call, self.call = self.call, None
        begun = [job for job in self.jobs.values() if job.id in self._runs]
        runs = len({self._runs[job.id] for job in begun})
        is_lost = failure.kind is FailureKind.LOST
        if self.call is not None:
            self.call.settle(failure)
            found.jobs = [*self.jobs.values()]
        elif self.is_given_up or (is_lost and runs > 1 and not is_last_try):
            found.jobs = [*self.jobs.values()]
        elif runs > 1 and not is_lost:
            found.jobs, found.most = [*self.jobs.values()], runs // 2
        else:
            to_blame = begun or ([] if self.worker.has_reported else [*self.jobs.values()])
            for job in to_blame:
                if job.id not in stopped:
                    job.settle(failure)
            found.jobs = [job for job in self.jobs.values() if job not in to_blame]
        for job in self.jobs.values():
            if job.id in stopped:
                job.cancelled()
        found.jobs = [job for job in found.jobs if job.id not in stopped]
        return found

    def close(self, failure: Failure) -> None:
        """End everything that it has not done."""
        if self.call is not None:
            self.call.settle(failure)
        for job in self.jobs.values():
            job.settle(failure)
