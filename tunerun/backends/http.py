"""JSON over HTTP to a service: credentials, timeouts, retries, and every way to fail as one of our errors.

The only importer of httpx, which takes a tenth of a second: it is imported with the first call, for a plan makes none.
Calls go to `base_url` and nowhere else: redirects are not followed, proxies of the environment are not used.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

import stamina
from pydantic import AfterValidator

from tunerun.errors import (
    AccessError,
    AmbiguousError,
    BackendError,
    InputError,
    MissingPackageError,
    StatusError,
    UnavailableError,
)
from tunerun.schema import LOOPBACK

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 256 * 2**20
"""A list page of 1,000 tuned models with 500 snapshots each has about 60 MB."""

ATTEMPTS = 4
RETRY_TIME_S = 20.0
MAX_RETRY_WAIT_S = 10.0
"""What is not over by then is the runner's business: it watches other jobs meanwhile."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")

Json = dict[str, Any]
Read = TypeVar("Read")

_JSON = {"content-type": "application/json"}
_NONE: Mapping[str, str] = MappingProxyType({})


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address such as http://127.0.0.1:8000 or https://example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("must hold no user, password or query; the API key goes by backend.api_key_env")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("must be https, for an API key is sent there; http is for this machine alone")
    return value.rstrip("/")


ServiceAddress = Annotated[str, AfterValidator(_address)]
"""A config's address of a service, without a path's trailing slash."""


class Credentials(Protocol):
    """What makes a call ours; never shown."""

    def headers(self) -> dict[str, str]:
        """The headers to send.

        Raises:
            AccessError: there is no key or token.
        """


@dataclass(frozen=True, repr=False)
class ApiKey:
    """An API key that stands in an environment variable, read when it is needed.

    Args:
        variable: the variable's name.
        header: the header that carries the key.
        scheme: what is before the key in it, such as `Bearer`; empty: nothing.
    """

    variable: str
    header: str
    scheme: str = ""

    def headers(self) -> dict[str, str]:
        """The key's header."""
        key = os.environ.get(self.variable, "").strip()
        if not key:
            raise AccessError(
                f"the environment variable {self.variable} holds no API key; set it, or backend.api_key_env"
            )
        if not key.isascii() or not key.isprintable():
            raise AccessError(f"the environment variable {self.variable} holds no API key but other text; set it anew")
        return {self.header: f"{self.scheme} {key}".lstrip()}

    def __repr__(self) -> str:
        return f"ApiKey({self.variable})"


class OAuth:
    """Google's application default credentials, through google-auth.

    Args:
        scope: what the token shall allow.
    """

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._credentials: Any = None

    def headers(self) -> dict[str, str]:
        """A bearer token, refreshed where it is about to expire."""
        try:
            import google.auth
            import google.auth.exceptions
            import google.auth.transport.requests
        except ImportError as error:
            raise MissingPackageError(
                "backend.oauth needs google-auth: pip install 'tunerun[google]', or set backend.oauth=false and a key"
            ) from error
        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=[self._scope])
            if not self._credentials.valid:
                self._credentials.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.GoogleAuthError as error:
            raise AccessError(
                f"no OAuth token: {type(error).__name__}; run `gcloud auth application-default login`"
            ) from error
        return {"authorization": f"Bearer {self._credentials.token}"}


class Refusal(Protocol):
    """What an answer with an error status means for the caller, in a service's own words."""

    def __call__(self, status: int, headers: Mapping[str, str], content: bytes, *, is_repeatable: bool) -> BackendError:
        """The error to raise.

        Args:
            is_repeatable: whether a server's error leaves no doubt, because the call may be made again.
        """


@dataclass(frozen=True)
class Upload:
    """A file that is sent as a form (multipart/form-data).

    Attributes:
        name: of the file. fields: of the form, besides the file.
    """

    name: str
    content: bytes
    fields: Mapping[str, str]


class JsonService:
    """A service that takes and gives JSON objects. May be used from any thread.

    Args:
        base_url: without a path's trailing slash.
        connect_timeout_s, read_timeout_s: how long to wait for a connection, and for each part of an answer.
        transport: where requests go; None: the network.
        refusal: reads answers with an error status; None: `refusal`, which knows Google's.
        headers, parameters: of every call.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        connect_timeout_s: float,
        read_timeout_s: float,
        transport: httpx.BaseTransport | None = None,
        refusal: Refusal | None = None,
        headers: Mapping[str, str] = _NONE,
        parameters: Mapping[str, str] = _NONE,
    ) -> None:
        self._base_url = base_url
        self._credentials = credentials
        self._connect_timeout_s, self._read_timeout_s = connect_timeout_s, read_timeout_s
        self._transport = transport
        self._refusal: Refusal = refusal or google_refusal
        self._headers = headers
        self._parameters = parameters
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None

    def _client(self) -> httpx.Client:
        """Made with the first call: loading certificates costs 50 ms, and a plan sends nothing."""
        import httpx

        with self._lock:
            if self._opened is None:
                self._opened = httpx.Client(
                    base_url=self._base_url,
                    timeout=httpx.Timeout(self._read_timeout_s, connect=self._connect_timeout_s),
                    follow_redirects=False,
                    trust_env=False,
                    transport=self._transport,
                )
            return self._opened

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def get(self, path: str, **parameters: str | int) -> Json:
        """Ask; asked again where that may help."""
        return self._repeated("GET", path, parameters, None, _object)

    def content(self, path: str) -> bytes:
        """Ask for a file's content; asked again where that may help."""
        return self._repeated("GET", path, {}, None, bytes)

    def repeat(self, path: str, body: Json) -> Json:
        """Post something that may be said twice, such as a prompt; sent again where that may help."""
        return self._repeated("POST", path, {}, body, _object)

    def delete(self, path: str) -> Json:
        """Delete; sent again where that may help."""
        return self._repeated("DELETE", path, {}, None, _object)

    def create(self, path: str, body: Json, **parameters: str | int) -> Json:
        """Post something that must not be said twice.

        Raises:
            AmbiguousError: it was sent, and nobody knows whether it took effect.
        """
        return self._call("POST", path, parameters, body, _object, is_repeatable=False)

    def upload(self, path: str, upload: Upload) -> Json:
        """Send a file once; the caller looks whether it is there before it is sent again.

        Raises:
            UnavailableError: the file may or may not be there.
        """
        return self._call("POST", path, {}, upload, _object, is_repeatable=True)

    def _repeated(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int],
        body: Json | None,
        read: Callable[[bytes], Read],
    ) -> Read:
        attempts = stamina.retry_context(
            on=_wait_before_retry, attempts=ATTEMPTS, timeout=RETRY_TIME_S, wait_max=MAX_RETRY_WAIT_S
        )
        for attempt in attempts:
            with attempt:
                return self._call(method, path, parameters, body, read, is_repeatable=True)
        raise AssertionError("stamina lets the last error through")

    def _call(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int],
        body: Json | Upload | None,
        read: Callable[[bytes], Read],
        *,
        is_repeatable: bool,
    ) -> Read:
        import httpx

        secrets = self._credentials.headers()
        what = f"{method} {self._base_url}{path}"
        try:
            with self._client().stream(
                method, path, params={**self._parameters, **parameters}, **_sent(body, {**self._headers, **secrets})
            ) as response:
                answer = _read(response)
            if response.is_success:
                return read(answer)
        except httpx.HTTPError as error:
            raise _unanswered(error, what, is_repeatable=is_repeatable) from error
        except _NoAnswerError as error:
            raise _no_result(f"{what}: {error}", is_repeatable=is_repeatable) from error
        for secret in secrets.values():  # a service may repeat it in its words
            answer = answer.replace(secret.removeprefix("Bearer ").encode(), b"***")
        raise self._refusal(response.status_code, response.headers, answer, is_repeatable=is_repeatable)


def _wait_before_retry(error: Exception) -> bool | float:
    """Whether a call is made again, and after how many seconds where the service said so."""
    if not isinstance(error, UnavailableError):
        return False
    return True if error.retry_after_s is None else min(error.retry_after_s, MAX_RETRY_WAIT_S)


class _NoAnswerError(Exception):
    """What came is none of the service's answers: somebody else's, spoiled, or cut."""


def _sent(body: Json | Upload | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """A call's headers and what it sends, as httpx takes them."""
    if isinstance(body, Upload):
        files = {"file": (body.name, body.content, "application/octet-stream")}
        return {"headers": headers, "data": dict(body.fields), "files": files}
    return {"headers": {**headers, **_JSON}, "content": _written(body)}


def _written(body: Json | None) -> bytes | None:
    """A body as JSON.

    Raises:
        InputError: a text of it is no Unicode.
    """
    try:
        return None if body is None else json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError("a text holds half a character (a lone surrogate), which cannot be sent; mend it") from error


def _read(response: httpx.Response) -> bytes:
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise _NoAnswerError(f"the answer has more than {MAX_ANSWER_BYTES:,} bytes")
    return bytes(content)


def _object(content: bytes) -> Json:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _NoAnswerError("the answer is no JSON; is base_url the service's address?") from error
    if not isinstance(document, dict):
        raise _NoAnswerError("the answer is no JSON object; is base_url the service's address?")
    return document


def _unanswered(error: httpx.HTTPError, what: str, *, is_repeatable: bool) -> BackendError:
    """A call that got no answer: without effect for certain where no connection was made."""
    import httpx

    had_no_effect = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return _no_result(f"{what}: {str(error) or type(error).__name__}", is_repeatable=is_repeatable or had_no_effect)


def _no_result(text: str, *, is_repeatable: bool) -> BackendError:
    """A call of which nobody knows what came of it, which matters where it may not be made again."""
    if is_repeatable:
        return UnavailableError(text)
    return AmbiguousError(f"{text}; nobody knows whether it took effect")


def google_refusal(status: int, headers: Mapping[str, str], content: bytes, *, is_repeatable: bool) -> BackendError:
    """A refusal in Google's error envelope; see `Refusal`."""
    envelope = error_object(content)
    details = _objects(envelope.get("details"))
    text = f"{refused(status, str(envelope.get('status', '')), envelope.get('message'))}{_fields(details)}"
    retry_after_s = _retry_after_s(headers, details)
    if status in (401, 403):
        return AccessError(f"{text}; {_access_advice(text, details)}")
    if status == 429 and retry_after_s is None and any(_is(detail, "QuotaFailure") for detail in details):
        return AccessError(f"{text}; the quota is used up: wait until it is renewed, or have it raised")
    return by_status(status, text, retry_after_s, is_repeatable=is_repeatable)


def refused(status: int, word: str, message: object) -> str:
    """What a service answered, in its own words, of which the first 500 characters are shown."""
    words = " ".join(str(message or "no reason given").split())[:500]
    return f"the service answered {status} {word}".rstrip() + f": {words}"


def by_status(status: int, text: str, retry_after_s: float | None, *, is_repeatable: bool) -> BackendError:
    """What an error status means where the service's own words do not say more.

    Args:
        is_repeatable: whether a server's error (5xx) leaves no doubt, because the call may be made again. So it is with
            a redirect (3xx), by which most likely somebody between us and the service has answered.
    """
    match status:
        case 408 | 429 | 503:
            return UnavailableError(text, retry_after_s)
        case _ if status < 400:
            return _no_result(
                f"{text}; redirects are not followed; is base_url the service's address?", is_repeatable=is_repeatable
            )
        case _ if status >= 500:
            return UnavailableError(text, retry_after_s) if is_repeatable else AmbiguousError(text)
        case _:
            return StatusError(text, status)


def error_object(content: bytes) -> Json:
    """The object `error` of an answer; its beginning as the message where it is no JSON."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {"message": content.decode("utf-8", errors="replace")[:200]}
    if isinstance(document, list) and document:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def _objects(value: object) -> list[Json]:
    """The objects of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


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
        "the permission is missing: what is asked for is somebody else's; ask its owner for one, or choose another name"
    ),
}
"""By the reason of google.rpc.ErrorInfo; that for scopes as the Gemini API's tuning guide gives it."""


def _access_advice(words: str, details: list[Json]) -> str:
    """Which of key, scope and permission is missing, and what to do."""
    reason = next((str(d.get("reason")) for d in details if _is(d, "ErrorInfo")), "")
    if "insufficient authentication scopes" in words:
        reason = "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
    return _ACCESS_ADVICE.get(reason, "check the API key or the token and what it may do")


def _is(detail: Json, kind: str) -> bool:
    return str(detail.get("@type", "")).endswith(f"google.rpc.{kind}")


def _fields(details: list[Json]) -> str:
    violations = [v for detail in details if _is(detail, "BadRequest") for v in _objects(detail.get("fieldViolations"))]
    return "".join(f"; {v.get('field')}: {v.get('description')}" for v in violations)


def _retry_after_s(headers: Mapping[str, str], details: list[Json]) -> float | None:
    """What the service asks for, in seconds: by google.rpc.RetryInfo, else by Retry-After; None: nothing."""
    for detail in details:
        match = _DURATION.fullmatch(str(detail.get("retryDelay", ""))) if _is(detail, "RetryInfo") else None
        if match:
            return float(match[1])
    return retry_after_s(headers)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """What Retry-After asks for, in seconds; None: nothing."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
