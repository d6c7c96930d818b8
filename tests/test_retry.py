"""Retries and their waits."""

from __future__ import annotations

import pytest
import stamina
from hypothesis import given
from hypothesis import strategies as st

from tunerun.errors import UnavailableError
from tunerun.retry import backoff_s, retry


class Calls:
    """Fails with each error in turn, then returns the number of calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.count


def test_a_call_is_repeated_until_it_succeeds() -> None:
    """After errors that may pass the result of the first successful call is returned."""
    with stamina.set_testing(True, attempts=4):
        assert retry(Calls(UnavailableError("1"), UnavailableError("2", 99.0)), UnavailableError, attempts=4) == 3


def test_another_error_is_raised_at_once() -> None:
    """Only the stated errors are retried."""
    calls = Calls(ValueError("wrong"), UnavailableError("never raised"))
    with pytest.raises(ValueError, match="wrong"):
        retry(calls, UnavailableError, attempts=4)
    assert calls.count == 1


def test_the_last_error_is_raised_at_the_limit_of_attempts() -> None:
    """The caller gets the service's own words."""
    calls = Calls(*(UnavailableError(f"error {number}") for number in range(9)))
    with stamina.set_testing(True, attempts=3), pytest.raises(UnavailableError, match="error 2"):
        retry(calls, UnavailableError, attempts=3)


def test_a_wait_that_a_service_asks_for_is_capped() -> None:
    """A day in Retry-After does not stop the caller for a day."""
    waits: list[float] = []

    def note(details: stamina.instrumentation.RetryDetails) -> None:
        waits.append(details.wait_for)

    hooks = stamina.instrumentation.get_on_retry_hooks()
    stamina.instrumentation.set_on_retry_hooks([note])
    try:
        assert retry(Calls(UnavailableError("busy", 86_400.0)), UnavailableError, attempts=2, max_wait_s=0.01) == 2
    finally:
        stamina.instrumentation.set_on_retry_hooks(hooks)
    assert waits == [0.01]


@given(
    attempt=st.integers(1, 50),
    first_s=st.floats(0.0, 100.0),
    max_s=st.floats(0.0, 100.0),
    asked_s=st.none() | st.floats(0.0, 1e6),
)
def test_a_backoff_stays_within_its_limits(attempt: int, first_s: float, max_s: float, asked_s: float | None) -> None:
    """It is as long as the doubled wait or the one that the service asks for, and neither exceeds the limit."""
    wait_s = backoff_s(attempt, first_s, max_s, UnavailableError("busy", asked_s))
    lowest = max(min(max_s, first_s * 2.0 ** (attempt - 1)), min(asked_s or 0.0, max_s))
    assert lowest <= wait_s <= max_s * 1.1 + 1e-9
