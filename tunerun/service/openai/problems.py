"""Errors of the wire, in OpenAI's envelope.

The client libraries send a request up to three times where the status is 408, 409, 429 or from 500, also one that
creates something. A refusal that another try does not change is therefore a 400, and an error of the service itself
says that it is not to be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

from tunerun.service.core.problems import Code, Json, ServiceError

_STATUSES = {Code.ALREADY_EXISTS: 400}
"""Where the status differs from the core's."""

_TYPES = {Code.INTERNAL: "server_error", Code.UNAVAILABLE: "server_error", Code.RESOURCE_EXHAUSTED: "requests"}

_CODES = {
    Code.UNAUTHENTICATED: "invalid_api_key",
    Code.PERMISSION_DENIED: "insufficient_permissions",
    Code.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
}

WITHOUT_VERSION = "the base URL of this service ends in /v1"


class OpenAiError(ServiceError):
    """A refusal of this wire alone.

    Args:
        param: the field of the request that is wrong; None: none is.
        word: OpenAI's `code`, one word for programs; None: it has none.
    """

    def __init__(self, code: Code, message: str, *, param: str | None = None, word: str | None = None) -> None:
        super().__init__(code, message, fields={param: message} if param else None)
        self.param = param
        self.word = word


def wrong(param: str, text: str, word: str | None = None) -> OpenAiError:
    """The refusal of one field of a request."""
    return OpenAiError(Code.INVALID_ARGUMENT, f"{param}: {text}", param=param, word=word)


def no_such_model(name: str) -> OpenAiError:
    """The caller may not see a model of that name."""
    return OpenAiError(
        Code.NOT_FOUND,
        f"The model {name!r} does not exist or you do not have access to it; GET /v1/models lists what there is",
        param="model",
        word="model_not_found",
    )


def no_such_path(method: str, path: str, advice: str = "") -> OpenAiError:
    """The path does not exist."""
    more = f"; {advice}" if advice else ""
    return OpenAiError(Code.NOT_FOUND, f"Invalid URL ({method} {path}){more}")


def refusal(error: ServiceError) -> tuple[int, Json, Mapping[str, str]]:
    """The status, body and headers of an error response."""
    param = error.param if isinstance(error, OpenAiError) else next(iter(error.fields), None)
    word = error.word if isinstance(error, OpenAiError) else None
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else {}
    if error.code is Code.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    if error.code is Code.INTERNAL:
        headers["x-should-retry"] = "false"  # what was asked may have been done
    return _STATUSES.get(error.code, error.code.http_status), envelope(error, param, word), headers


def envelope(error: ServiceError, param: str | None = None, word: str | None = None) -> Json:
    """The body of an error response."""
    return {
        "error": {
            "message": _words(error),
            "type": _TYPES.get(error.code, "invalid_request_error"),
            "param": param,
            "code": word or _CODES.get(error.code),
        }
    }


def _words(error: ServiceError) -> str:
    """The message, with every field that is wrong: the envelope has room for the name of one."""
    if len(error.fields) < 2:
        return error.message
    return "; ".join(f"{field}: {text}" for field, text in error.fields.items())
