"""The error tree."""

from __future__ import annotations

import pickle

import pytest

from tunerun import errors


def tree() -> list[type[errors.TunerunError]]:
    return [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.TunerunError)]


@pytest.mark.parametrize("error", tree())
def test_every_error_survives_pickling_and_is_in_the_drawn_tree(error: type[errors.TunerunError]) -> None:
    """An error crosses a process boundary with its text, and is in the module's drawing."""
    copied = pickle.loads(pickle.dumps(error("what; why; do this")))  # noqa: S301 - our own object
    assert (type(copied), str(copied)) == (error, "what; why; do this")
    assert error.__name__ in str(errors.__doc__)


def test_problems_are_kept_apart_and_said_once() -> None:
    """An input error holds all problems, one line each, without repeating one."""
    error = errors.ConfigError(["a", "b", "a"])
    assert error.problems == ("a", "b")
    assert str(error) == "a\nb"


def test_who_must_act_decides_the_exit_code() -> None:
    """Input is 2, a limit 3, everything else 1."""
    assert (errors.ConfigError("x").exit_code, errors.LimitError().exit_code, errors.LedgerError().exit_code) == (
        2,
        3,
        1,
    )
