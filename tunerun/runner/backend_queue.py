"""What a run knows of its backends and of the jobs that it watches there."""

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
        ready: trials that may be submitted here, in the order of the plan.
        in_flight: number of submitted jobs that are not finished.
        silent_since: when it first failed to answer, in seconds of the monotonic clock; None: it answers.
        failures: consecutive calls without an answer.
        resume_at: when it may be asked again, by the same clock. polled_at: when it was polled last.
        stopped: why nothing more is submitted to it; None: not stopped.
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
        """Add a trial to the queue, unless nothing more is submitted here."""
        if self.stopped is None:
            self.ready.append(trial)

    def takes_one(self, now: float) -> bool:
        """Whether a trial waits here that can be submitted now."""
        return bool(self.ready) and self.in_flight < self.max_in_flight and self.resume_at <= now

    def answered(self) -> None:
        """Reset the record of its silence."""
        self.silent_since, self.failures, self.resume_at = None, 0, 0.0

    def stop(self, reason: str) -> None:
        """Submit nothing more here; what is under way is still watched."""
        self.stopped = self.stopped or reason
        self.ready.clear()


@dataclass
class InFlight:
    """A job that is watched.

    Attributes:
        last_step: of its curve, as far as it is recorded.
        stepped_at: when that grew last, by the monotonic clock.
        is_stalled: whether it was reported as stalled. is_cancelled: whether the backend was asked to end it.
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
    """Whether a job failed by no fault of its own."""
    return job.failure is not None and job.failure.kind is FailureKind.LOST
