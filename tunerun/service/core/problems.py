"""What a client is answered when something is not done: google.rpc.Status, in the envelope of every Google API."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from tunerun.errors import LedgerError, TunerunError

log = logging.getLogger("tunerun.service")

Json = dict[str, Any]

DOMAIN = "tunerun"
"""The domain of google.rpc.ErrorInfo: who gives its reasons their meaning."""


STATE_RETRY_S = 5


class Code(Enum):
    """google.rpc.Code: its number on the wire of operations, and the HTTP status that goes with it."""

    CANCELLED = (1, 499)
    INVALID_ARGUMENT = (3, 400)
    DEADLINE_EXCEEDED = (4, 408)  # of a request that did not arrive in time; Google's 504 would blame the server
    NOT_FOUND = (5, 404)
    ALREADY_EXISTS = (6, 409)
    PERMISSION_DENIED = (7, 403)
    RESOURCE_EXHAUSTED = (8, 429)
    FAILED_PRECONDITION = (9, 400)
    INTERNAL = (13, 500)
    UNAVAILABLE = (14, 503)
    UNAUTHENTICATED = (16, 401)

    @property
    def number(self) -> int:
        """As it is in an operation's error."""
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
        fields: of the request that are wrong, and why; google.rpc.BadRequest.
        reason: one word for programs; google.rpc.ErrorInfo.
        retry_after_s: when to ask again; google.rpc.RetryInfo.
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

    def headers(self) -> dict[str, str]:
        """The headers of the answer that belong to it."""
        headers = {"retry-after": str(self.retry_after_s)} if self.retry_after_s is not None else {}
        return headers | ({"www-authenticate": "Bearer"} if self.code is Code.UNAUTHENTICATED else {})

    def envelope(self) -> Json:
        """The body of the answer."""
        error: Json = {"code": self.code.http_status, "message": self.message, "status": self.code.name}
        details = [*self._info(), *self._violations(), *self._retry()]
        return {"error": error | ({"details": details} if details else {})}

    def _info(self) -> Sequence[Json]:
        return [_detail("ErrorInfo", reason=self.reason, domain=DOMAIN)] if self.reason else []

    def _violations(self) -> Sequence[Json]:
        violations = [{"field": field, "description": text} for field, text in self.fields.items()]
        return [_detail("BadRequest", fieldViolations=violations)] if violations else []

    def _retry(self) -> Sequence[Json]:
        return [] if self.retry_after_s is None else [_detail("RetryInfo", retryDelay=f"{self.retry_after_s}s")]


def _detail(kind: str, **values: object) -> Json:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **values}


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
