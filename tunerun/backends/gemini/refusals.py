"""Errors in Google's envelope (google.rpc.Status), and who has to act."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tunerun.backends.http import Json, by_status, error_object, refused, retry_after_s
from tunerun.errors import AccessError, BackendError

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")

TUNING_SCOPES = (
    "https://www.googleapis.com/auth/cloud-platform,https://www.googleapis.com/auth/generative-language.tuning"
)

_NO_KEY = "the key is missing or wrong: set the environment variable that backend.api_key_env names to a valid one"
_ACCESS_ADVICE = {
    "CREDENTIALS_MISSING": _NO_KEY,
    "API_KEY_INVALID": _NO_KEY,
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": (
        "the scope for tuning is missing: use a key that has it, or, with backend.oauth, run "
        f"`gcloud auth application-default login --scopes={TUNING_SCOPES}`"
    ),
    "IAM_PERMISSION_DENIED": (
        "the permission is missing: the resource belongs to another account; ask its owner "
        "for access, or choose another name"
    ),
}
"""By the reason in google.rpc.ErrorInfo; the command for scopes is that of the Gemini API's tuning guide."""


def refusal(status: int, headers: Mapping[str, str], content: bytes, *, is_repeatable: bool) -> BackendError:
    """Translate a refusal in Google's envelope; see `http.Refusal` for the arguments."""
    envelope = error_object(content)
    details = _objects(envelope.get("details"))
    text = refused(status, str(envelope.get("status", "")), envelope.get("message"))
    for violations in (_objects(detail.get("fieldViolations")) for detail in details if _is(detail, "BadRequest")):
        text += "".join(f"; {each.get('field')}: {each.get('description')}" for each in violations)
    wait_s = _wait_s(headers, details)
    if status in (401, 403):
        reason = next((str(detail.get("reason")) for detail in details if _is(detail, "ErrorInfo")), "")
        if "insufficient authentication scopes" in text:
            reason = "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
        advice = _ACCESS_ADVICE.get(reason, "check the API key or the token and what it may do")
        return AccessError(f"{text}; {advice}")
    # 429 means two things: too fast, which says when to come back, and a quota that is used up, which does not.
    if status == 429 and wait_s is None and any(_is(detail, "QuotaFailure") for detail in details):
        return AccessError(f"{text}; the quota is used up: wait until it renews, or ask for a higher one")
    return by_status(status, text, wait_s, is_repeatable=is_repeatable)


def _is(detail: Json, kind: str) -> bool:
    return str(detail.get("@type", "")).endswith(f"google.rpc.{kind}")


def _objects(value: object) -> list[Json]:
    """The objects of a list; empty where it is not a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _wait_s(headers: Mapping[str, str], details: list[Json]) -> float | None:
    """The wait that the service asks for, in seconds: google.rpc.RetryInfo, else Retry-After; None: neither."""
    for detail in details:
        match = _DURATION.fullmatch(str(detail.get("retryDelay", ""))) if _is(detail, "RetryInfo") else None
        if match:
            return float(match[1])
    return retry_after_s(headers)
