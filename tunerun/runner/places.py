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
class Place:
    """A backend of this run, with a queue of its own: a place that is full or silent holds up no other.

    Attributes:
        ready: trials that may be submitted here, in the order of the plan.
        in_flight: jobs that it was given and that are not finished.
        silent_since: when it first failed to answer, by the monotonic clock; None: it answers.
        failures: how often in a row it did not answer.
        resume_at: when it may be asked again, by the same clock. polled_at: when it was polled last.
        stopped: why nothing more is submitted here; None: trials are.
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
        """Forget that it was silent."""
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
        is_stalled: whether that was told of. is_cancelled: whether the backend was asked to end it.
    """

    trial: Trial
    place: Place
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
