"""Errors of the wire, in OpenAI's envelope.

The client libraries send a request, even one that creates something, up to three times if the status is 408, 409, 429
or at least 500, unless a header of the response prevents it.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.service.core.problems import Code, Json, ServiceError

# The client libraries would send a request that is answered with 409 again, although a retry cannot succeed.
_STATUSES = {Code.ALREADY_EXISTS: 400}
"""HTTP statuses that differ from the core's."""

# "requests" is OpenAI's type for its limit of requests per minute; the other is "tokens".
_TYPES = {Code.INTERNAL: "server_error", Code.UNAVAILABLE: "server_error", Code.RESOURCE_EXHAUSTED: "requests"}

_CODES = {
    Code.UNAUTHENTICATED: "invalid_api_key",
    Code.PERMISSION_DENIED: "insufficient_permissions",
    Code.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
}

WITHOUT_VERSION = "the base URL of this service ends in /v1"


class OpenAiError(ServiceError):
    """An error that the wire itself raises.

    Args:
        code: the kind of error.
        message: what was given, what is allowed, what to do.
        param: the invalid field of the request; None: the error does not concern a field.
        word: OpenAI's `code`, a constant for programs; None: there is none.
    """

    def __init__(self, code: Code, message: str, *, param: str | None = None, word: str | None = None) -> None:
        super().__init__(code, message, fields={param: message} if param else None)
        self.param = param
        self.word = word


def wrong(param: str, text: str, word: str | None = None) -> OpenAiError:
    """Return the error for one invalid field of a request.

    Args:
        param: the path of the field.
        text: what is wrong with it, and what to do.
        word: OpenAI's `code`; None: there is none.
    """
    return OpenAiError(Code.INVALID_ARGUMENT, f"{param}: {text}", param=param, word=word)


def no_such_model(name: str) -> OpenAiError:
    """Return the error for a model that does not exist or is not visible to the caller."""
    return OpenAiError(
        Code.NOT_FOUND,
        f"The model {name!r} does not exist or you do not have access to it; GET /v1/models lists all models",
        param="model",
        word="model_not_found",
    )


def no_such_path(method: str, path: str, advice: str = "") -> OpenAiError:
    """Return the error for a path that does not exist.

    Args:
        method: the HTTP method of the request.
        path: the path of the request.
        advice: what to use instead; empty: unknown.
    """
    more = f"; {advice}" if advice else ""
    return OpenAiError(Code.NOT_FOUND, f"Invalid URL ({method} {path}){more}")


def refusal(error: ServiceError) -> tuple[int, Json, Mapping[str, str]]:
    """Return the status, body and headers of an error response."""
    param = error.param if isinstance(error, OpenAiError) else next(iter(error.fields), None)
    word = error.word if isinstance(error, OpenAiError) else None
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.code is Code.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"  # RFC 9110, 15.5.2: a 401 has to name a scheme
    if error.code is Code.INTERNAL:
        headers["x-should-retry"] = "false"  # it may have created a job; the SDKs obey this header over the status
    # The envelope can name one field only, so the message has all of them.
    fields = "; ".join(f"{field}: {text}" for field, text in error.fields.items())
    body = {
        "message": fields if len(error.fields) > 1 else error.message,
        "type": _TYPES.get(error.code, "invalid_request_error"),
        "param": param,
        "code": word or _CODES.get(error.code),
    }
    return _STATUSES.get(error.code, error.code.http_status), {"error": body}, headers
