"""Everything tunerun raises, split by who must act.

    TunerunError
    ├── InputError               the user: what was given is wrong; exit code 2, nothing was submitted
    │   ├── ConfigError          a key, a value, a group or an override
    │   ├── DatasetError         a file of examples
    │   ├── TemplateError        a prompt template
    │   ├── BaseModelError       a base model that cannot be found or read
    │   ├── NoTurnsError         a base model whose chat format has no place for earlier turns
    │   ├── NotFoundError        the name of a run, a tuned model or a sweep that the ledger does not hold
    │   ├── RecordError          a portable record that is damaged, is not one, or was written by a newer tunerun
    │   ├── MismatchError        what is here differs from what a record says: rows, a base model, a version
    │   └── MissingPackageError  a package of an extra that is not installed
    ├── LimitError               the user: a limit or a budget refused; exit code 3, nothing was submitted
    ├── LockedError              the user: another process holds the sweep; wait for it or stop it
    ├── LedgerError              the user: the ledger is damaged, busy, newer than this program, or cannot be written
    ├── BackendError             the backend: a call failed; the runner decides about the trial
    │   ├── AmbiguousError       the backend: it is unknown whether the call took effect; look, then decide
    │   ├── UnavailableError     the runner, later: the network, a rate limit or an overloaded server
    │   ├── StatusError          us or the user: a service refused one call; holds the HTTP status
    │   └── AccessError          the user: credentials or a quota refuse every call; stops the sweep
    ├── MetricError              the user: the code of a metric of their own failed; the answers are kept
    ├── TrackingError            the tracker: it missed something; the next command brings it up to date
    ├── ServiceError             a client of `tunerun serve`: its request is refused (`tunerun.service.core.problems`)
    └── TransitionError          us: a state that cannot follow another

Errors of hydra, pydantic, httpx, sqlite3, mlflow and torch are translated in the one module that calls them.
All of them survive pickling.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TunerunError(Exception):
    """The root of the tree; its text is meant for the person at the terminal."""

    exit_code = 1


class InputError(TunerunError):
    """The user's input is wrong.

    Args:
        problems: every problem that was found, one line each; a problem that occurs twice is held once.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(dict.fromkeys(problems))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class ConfigError(InputError):
    """A key, a value, a group or an override of the config is wrong."""


class DatasetError(InputError):
    """A file of examples cannot be read, or its rows cannot be used."""


class TemplateError(InputError):
    """A prompt template is not valid Jinja2, or does not fit the rows it is given."""


class BaseModelError(InputError):
    """A base model cannot be found or read."""


class NoTurnsError(InputError):
    """A base model's chat format has no place for the turns before an input."""


class NotFoundError(InputError):
    """The ledger holds no run, tuned model or sweep of the given name."""


class RecordError(InputError):
    """A portable record is damaged, is not one, or was written by a newer tunerun."""


class MismatchError(InputError):
    """Rows, a base model or a version differ from a record, so a rerun would not repeat it; nothing was started."""


class MissingPackageError(InputError):
    """A package that an extra of tunerun brings is not installed."""


class LimitError(TunerunError):
    """A limit or a budget refused the plan; nothing was submitted."""

    exit_code = 3


class LockedError(TunerunError):
    """Another process holds what this one needs."""


class LedgerError(TunerunError):
    """The ledger is damaged, busy, was written by a newer tunerun, or cannot be written."""


class BackendError(TunerunError):
    """A call to a backend failed and is known to have had no effect."""


class AmbiguousError(BackendError):
    """A call to a backend failed, and it is unknown whether it had an effect."""


class UnavailableError(BackendError):
    """A call had no effect and may succeed later.

    Args:
        message: what happened.
        retry_after_s: how long the service asked to wait before the next call, in seconds; None: it did not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message, retry_after_s)  # both, because unpickling calls the class with `args`

    def __str__(self) -> str:
        return str(self.args[0])


class StatusError(BackendError):
    """A service refused a call.

    Args:
        message: the service's own words.
        status: the HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        self.status = status
        super().__init__(message, status)

    def __str__(self) -> str:
        return str(self.args[0])


class AccessError(BackendError):
    """The service refuses every call: the credentials are missing or wrong, or the quota is used up."""


class MetricError(TunerunError):
    """The code of a user's own metric failed, or returned what is not a score; the answers are kept."""


class TrackingError(TunerunError):
    """The tracker could not be reached or refused a write; the ledger holds what it missed."""


class TransitionError(TunerunError):
    """A job cannot go from its state to the requested one."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; the name of its class if the message is empty."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def close_name(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most similar to an unknown one; None: none is similar."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), None)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Return a suggestion of the most similar name for an unknown one; empty if none is similar."""
    # `epochs` shares too few letters with `epoch_count`, but has one of its words. Not in `close_name`: for a column of
    # a file, the template that fits the file is the better advice.
    word = name.removesuffix("s")
    with_word = (each for each in names if word and word in each.split("_"))
    close = close_name(name, names) or next(with_word, None)
    return "" if close is None else f"did you mean {close!r}?"
