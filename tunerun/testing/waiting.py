"""Waits for a condition in another thread or process, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from tunerun.backends.base import Backend
from tunerun.job import JobRef, JobStatus

DEADLINE_S = 120.0
"""Seconds; long enough for an engine to start on a busy machine."""

PAUSE_S, LONGEST_PAUSE_S = 0.01, 0.1
"""Seconds between two checks; after the first second checks are rarer, since each may cost a request."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = DEADLINE_S) -> None:
    """Return as soon as a condition holds.

    Args:
        condition: called repeatedly.
        what: the condition in words, for the error.
        timeout_s: seconds to wait at most.

    Raises:
        TimeoutError: the condition does not hold in time.
    """
    start = time.monotonic()
    while not condition():
        waited_s = time.monotonic() - start
        if waited_s > timeout_s:
            raise TimeoutError(f"timed out after {timeout_s:.0f} s: {what}")
        time.sleep(min(max(PAUSE_S, waited_s / 20), LONGEST_PAUSE_S))


def wait_for_end(backend: Backend, ref: JobRef, timeout_s: float = DEADLINE_S) -> JobStatus:
    """Return a job's status once it is finished.

    Raises:
        TimeoutError: it does not finish in time.
    """
    wait_until(lambda: backend.poll([ref])[ref].state.is_finished, f"{ref} is finished", timeout_s)
    return backend.poll([ref])[ref]


def wait_for_steps(backend: Backend, ref: JobRef, steps: int, timeout_s: float = DEADLINE_S) -> None:
    """Return once a job has taken a number of steps.

    Raises:
        TimeoutError: it does not take them in time.
    """
    wait_until(lambda: len(backend.poll([ref])[ref].snapshots) >= steps, f"{ref} took {steps} steps", timeout_s)
