"""A run's state for each backend: its queue of trials, and the jobs being watched there."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from tunerun.backends.base import Backend
from tunerun.job import FailureKind, JobRef, JobState
from tunerun.ledger import JobRecord
from tunerun.planning import Trial


@dataclass
class BackendQueue:
    """A backend of this run with its own queue of trials, so that a full or silent backend does not block the others.

    Attributes:
        backend: the backend.
        max_in_flight: maximum number of unfinished jobs.
        poll_interval_s: seconds between two polls.
        ready: trials that may be submitted here, in the order of the plan.
        in_flight: number of submitted jobs that are not finished.
        polled_at: time of the last poll, in seconds of the monotonic clock.
        silent_since: time of the first failed call since the last answer, by the same clock; None: it answers.
        failures: number of consecutive calls without an answer.
        resume_at: time of the next permitted call, by the same clock.
        stopped: why no more trials are submitted to it; None: not stopped.
    """

    backend: Backend
    max_in_flight: int
    poll_interval_s: float
    ready: deque[Trial] = field(default_factory=deque)
    in_flight: int = 0
    polled_at: float = -math.inf
    silent_since: float | None = None
    failures: int = 0
    resume_at: float = 0.0
    stopped: str | None = None

    def enqueue(self, trial: Trial) -> None:
        """Add a trial to the queue, unless the backend is stopped."""
        if self.stopped is None:
            self.ready.append(trial)

    def takes_one(self, now: float) -> bool:
        """Return whether a queued trial can be submitted now, a time of the monotonic clock."""
        return bool(self.ready) and self.in_flight < self.max_in_flight and self.resume_at <= now

    def answered(self) -> None:
        """Reset the failure state after an answer."""
        self.silent_since, self.failures, self.resume_at = None, 0, 0.0

    def stop(self, reason: str) -> None:
        """Stop submitting here; running jobs are still watched. The first reason is kept."""
        self.stopped = self.stopped or reason
        self.ready.clear()


@dataclass
class InFlight:
    """A job that this run watches.

    Attributes:
        trial: the trial that it trains.
        place: the queue of its backend.
        job: its record in the ledger.
        ref: its reference at the backend.
        state: its last known state.
        last_step: the last recorded optimiser step; 0 before the first.
        stepped_at: time of the last new step, in seconds of the monotonic clock.
        is_stalled: whether it was reported as stalled.
        is_cancelled: whether the backend was asked to cancel it.
    """

    trial: Trial
    place: BackendQueue
    job: JobRecord
    ref: JobRef
    state: JobState
    last_step: int
    stepped_at: float
    is_stalled: bool = False
    is_cancelled: bool = False


def is_lost(job: JobRecord) -> bool:
    """Return whether a job failed because its worker was lost, so that it may simply be submitted again."""
    return job.failure is not None and job.failure.kind is FailureKind.LOST
