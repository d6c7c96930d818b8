"""Retries: which errors, how many attempts, for how long; with jitter, and with the wait that a service asks for.

`retry` blocks its caller. The runner's loop watches other jobs meanwhile, so it schedules its next attempt by
`backoff_s` instead. What waits for a state rather than for an error to pass polls at an interval, and is not a retry.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import stamina

from tunerun.errors import UnavailableError

Result = TypeVar("Result")


def retry(
    call: Callable[[], Result],
    on: type[Exception] | Callable[[Exception], bool],
    *,
    attempts: int,
    within_s: float | None = None,
    first_wait_s: float = 0.1,
    max_wait_s: float = 10.0,
) -> Result:
    """Call a function until it succeeds, fails with another error, or a limit is reached.

    Args:
        call: what is safe to repeat.
        on: the errors after which it is called again.
        attempts: the most calls.
        within_s: no call starts later than this many seconds after the first; None: no limit.
        first_wait_s: before the second call; doubled for each further one, with up to a second of jitter.
        max_wait_s: the longest wait, also where a service asks for more with Retry-After.

    Raises:
        Exception: the last error of `call`.
    """
    is_passing = (lambda error: isinstance(error, on)) if isinstance(on, type) else on

    def wait_s(error: Exception) -> bool | float:
        requested_s = error.retry_after_s if isinstance(error, UnavailableError) else None
        if not is_passing(error) or requested_s is None:
            return is_passing(error)  # True: wait as the limits say
        return min(requested_s, max_wait_s)

    # stamina waits and counts; its own jitter is up to a second, which spreads callers that failed together.
    for attempt in stamina.retry_context(
        on=wait_s, attempts=attempts, timeout=within_s, wait_initial=first_wait_s, wait_max=max_wait_s
    ):
        with attempt:
            return call()
    raise AssertionError("unreachable: stamina raises the last error")


def backoff_s(attempt: int, first_s: float, max_s: float, error: Exception | None = None) -> float:
    """Return the seconds to wait after a number of failed attempts.

    Args:
        attempt: number of failed attempts, from 1.
        first_s: after the first one; doubled for each further one, with up to a tenth of jitter so that several
            callers do not retry in step.
        max_s: the longest wait before jitter, also where a service asks for more with Retry-After.
        error: of the last attempt; it may ask for a longer wait.
    """
    requested_s = error.retry_after_s if isinstance(error, UnavailableError) else None
    waits_s = min(max_s, first_s * 2.0 ** (attempt - 1)) * random.uniform(1.0, 1.1)
    return max(waits_s, min(requested_s or 0.0, max_s))
