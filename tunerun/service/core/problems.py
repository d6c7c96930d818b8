"""Why a request of a client is refused; each wire writes it in its own envelope.

The codes are gRPC's canonical ones. A field is named as tunerun does (`epoch_count`, `training[3]`) where the core
refuses it, and as the wire does where the wire itself refuses it.
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
"""Fields that one answer names."""


class Code(Enum):
    """A canonical code: its number, and the HTTP status that goes with it."""

    CANCELLED = (1, 499)
    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 408)  # of a request that did not arrive in time; Google's 504 would blame the server
    NOT_FOUND = (5, 404)
    ALREADY_EXISTS = (6, 409)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 400)
    UNIMPLEMENTED = (12, 405)  # of a path that does not take the method
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    UNAUTHENTICATED = (16, 401)

    @property
    def number(self) -> int:
        """As the state keeps it of a job that has failed."""
        return self.value[0]

    @property
    def http_status(self) -> int:
        """As it is in the first line of the answer."""
        return self.value[1]


class ServiceError(TunerunError):
    """A request of a client is refused.

    Args:
        code: what kind of refusal.
        message: what was given, what is allowed, what to do.
        fields: of the request that are wrong, and why.
        reason: one word for programs.
        retry_after_s: when to ask again.
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
        """The same with other names of the fields, also where its message begins with one."""
        message = self.message
        first = next(iter(self.fields), None)
        if first is not None and message.startswith(f"{first}: "):
            message = name(first) + message.removeprefix(first)
        fields = {name(field): text for field, text in self.fields.items()}
        return ServiceError(self.code, message, fields=fields, reason=self.reason, retry_after_s=self.retry_after_s)


def invalid(field: str, text: str) -> ServiceError:
    """The refusal of one field of a request."""
    return ServiceError(Code.INVALID_ARGUMENT, f"{field}: {text}", fields={field: text})


def not_found(name: str) -> ServiceError:
    """There is nothing of that name."""
    return ServiceError(Code.NOT_FOUND, f"{name}: there is nothing of that name; the list shows what there is")


def state_unavailable(error: LedgerError) -> ServiceError:
    """The state cannot be used now: another program locks it, or its disk is full; the log has the reason."""
    log.error("the state cannot be used", exc_info=error)
    words = "the service cannot use its stored state now; its log says why; ask again"
    return ServiceError(Code.UNAVAILABLE, words, retry_after_s=STATE_RETRY_S)
