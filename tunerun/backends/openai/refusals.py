"""Translates error responses, in OpenAI's envelope and those of compatible servers, into tunerun's errors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tunerun.backends.http import Json, by_status, error_object, refused, retry_after_s
from tunerun.errors import AccessError, BackendError, StatusError

_QUOTA = frozenset(
    {"insufficient_quota", "exceeded_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated"}
)
_ADVICE: Mapping[int, str] = {
    401: "the key is missing or wrong: set the environment variable that backend.api_key_env names to a valid one",
    402: "payment is required: the account's owner has to add credit or raise the limit",
    403: "the key's organization or project may not do this: ask its owner for access, or set backend.organization and "
    "backend.project to one that may",
}
_QUOTA_USED_UP = "the quota is used up: the account's owner has to raise it or add credit; or wait until it renews"
# OpenAI says `Unrecognized request argument` or `Unsupported parameter`, servers with pydantic `Extra inputs are not
# permitted`. Neither has a code that all use.
_UNKNOWN = re.compile(
    r"unknown|unrecogni[sz]ed|unexpected|unsupported|not supported|not permitted|extra|additional", re.I
)


def refusal(
    status: int,
    headers: Mapping[str, str],
    content: bytes,
    *,
    is_repeatable: bool,
    advice: Mapping[int, str] = _ADVICE,
) -> BackendError:
    """Translate an error response of OpenAI or a compatible server; see `http.Refusal`.

    Args:
        advice: what the user can do, by the HTTP statuses that deny access.
    """
    envelope = _envelope(content)
    code = str(envelope.get("code") or envelope.get("type") or "")
    text = refused(status, code, envelope.get("message"))
    if envelope.get("param"):
        text += f"; field: {envelope['param']}"
    if request_id := headers.get("x-request-id"):
        text += f" (request {request_id})"
    if code in _QUOTA or envelope.get("type") in _QUOTA:
        return AccessError(f"{text}; {_QUOTA_USED_UP}")
    if status in advice:
        return AccessError(f"{text}; {advice[status]}")
    return by_status(status, text, _wait_s(headers), is_repeatable=is_repeatable)


def is_unknown_field(error: StatusError, field: str) -> bool:
    """Whether a request was refused because the service does not know the given field."""
    words = str(error)
    named = re.search(rf"\b{field}\b", words) is not None
    return error.status in (400, 422) and named and _UNKNOWN.search(words) is not None


def _envelope(content: bytes) -> Json:
    """Return the error object of a response: OpenAI's envelope, vLLM's flat one, FastAPI's `detail`, or plain text."""
    if envelope := error_object(content):
        return envelope
    document = json.loads(content)  # valid JSON: `error_object` has parsed it
    if not isinstance(document, dict):
        return {}
    message = next((document[name] for name in ("message", "detail", "error") if document.get(name)), None)
    return {**document, "message": message}


def _wait_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait; as in the SDKs, `retry-after-ms` takes precedence over `Retry-After`."""
    try:
        return float(headers["retry-after-ms"]) / 1000
    except (KeyError, ValueError):
        return retry_after_s(headers)
