"""Errors for clients, with gRPC's canonical codes; each wire serialises them in its own envelope.

Errors that the core raises use tunerun's field names (`epoch_count`, `training[3]`), which the wires translate; errors
that a wire raises use that wire's names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from tunerun.errors import LedgerError, TunerunError

log = logging.getLogger("tunerun.service")

Json = dict[str, Any]

STATE_RETRY_S = 5

MAX_PROBLEMS = 20
"""The most fields that one response reports."""


class Code(Enum):
    """A canonical gRPC code, with its number and the corresponding HTTP status."""

    CANCELLED = (1, 499)
    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 408)  # the request did not arrive in time; Google's 504 would blame the server
    NOT_FOUND = (5, 404)
    ALREADY_EXISTS = (6, 409)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 400)
    UNIMPLEMENTED = (12, 405)  # the path does not support the HTTP method
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    UNAUTHENTICATED = (16, 401)

    @property
    def number(self) -> int:
        """The gRPC number, stored with a failed job."""
        return self.value[0]

    @property
    def http_status(self) -> int:
        """The HTTP status of the response."""
        return self.value[1]


class ServiceError(TunerunError):
    """A client's request fails.

    Args:
        code: the kind of error.
        message: what was given, what is allowed, what to do.
        fields: the message for each invalid field of the request.
        reason: a constant for programs, such as the reason in google.rpc.ErrorInfo; None: there is none.
        retry_after_s: seconds after which a retry may succeed; None: a retry does not help.
    """

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        reason: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.fields = dict(fields or {})
        self.reason = reason
        self.retry_after_s = retry_after_s
        super().__init__(code, message)

    def __str__(self) -> str:
        return self.message

    def renamed(self, name: Callable[[str], str]) -> ServiceError:
        """Return a copy with translated field names, also at the start of the message.

        Args:
            name: translates a field name.
        """
        message = self.message
        first = next(iter(self.fields), None)
        if first is not None and message.startswith(f"{first}: "):
            message = name(first) + message.removeprefix(first)
        fields = {name(field): text for field, text in self.fields.items()}
        return ServiceError(self.code, message, fields=fields, reason=self.reason, retry_after_s=self.retry_after_s)


def invalid(field: str, text: str, code: Code = Code.INVALID_ARGUMENT) -> ServiceError:
    """Return the error for one invalid field of a request.

    Args:
        field: the field's name, in the core's terms or in those of the wire that calls.
        text: what is wrong with it.
        code: the kind of error.
    """
    return ServiceError(code, f"{field}: {text}", fields={field: text})


def not_found(name: str) -> ServiceError:
    """Return the error for a resource that does not exist, or is not visible to the caller."""
    return ServiceError(Code.NOT_FOUND, f"{name}: not found; list the collection to see what exists")


def state_unavailable(error: LedgerError) -> ServiceError:
    """Return the error for an unusable database (locked by another program, or its disk is full), and log the cause."""
    log.error("the state cannot be used", exc_info=error)
    words = "the service's database is temporarily unavailable; see its log, and retry"
    return ServiceError(Code.UNAVAILABLE, words, retry_after_s=STATE_RETRY_S)
