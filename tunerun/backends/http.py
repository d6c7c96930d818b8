"""JSON over HTTP to a service: credentials, timeouts, retries, and every failure as one of our errors.

Knows no service: each backend's folder translates the refusals of its own. The only importer of httpx, whose import
takes a tenth of a second, so it is imported with the first call: a plan makes none.
Calls go to `base_url` and nowhere else: redirects are not followed, proxies of the environment are not used.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Protocol, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator

from tunerun.errors import (
    AccessError,
    AmbiguousError,
    BackendError,
    InputError,
    StatusError,
    UnavailableError,
)
from tunerun.retry import retry
from tunerun.section import LOOPBACK

if TYPE_CHECKING:
    import httpx

MAX_ANSWER_BYTES = 256 * 2**20
"""A list page of 1,000 tuned models with 500 snapshots each has about 60 MB."""

ATTEMPTS = 4
RETRY_TIME_S = 20.0
MAX_RETRY_WAIT_S = 10.0
"""Limits of the retries of one call, also where Retry-After is longer. After them the runner decides, which has other
jobs to watch meanwhile and backs off from the whole service. OpenAI's own clients honour up to 120 s in Python and 60 s
in Node (openai 3.57.0 and 7.57.0, recorded 2026-11-25)."""

Json = dict[str, Any]
Read = TypeVar("Read")

_JSON = {"content-type": "application/json"}
_NONE: Mapping[str, str] = MappingProxyType({})


def _address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address such as http://127.0.0.1:8000 or https://example.org")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "must not contain a user, password or query; name the variable with the API key in backend.api_key_env"
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError("must be https, because an API key is sent there; http is allowed for this machine only")
    return value.rstrip("/")


ServiceAddress = Annotated[str, AfterValidator(_address)]
"""The address of a service in a config section, without a trailing slash."""


class Credentials(Protocol):
    """Credentials of a request. Never logged or shown."""

    def headers(self) -> dict[str, str]:
        """Return the headers to send.

        Raises:
            AccessError: there is no key or token, or it has an invalid form.
        """


@dataclass(frozen=True, repr=False)
class ApiKey:
    """An API key in an environment variable, read with each request.

    Args:
        variable: the variable's name.
        header: the header that carries the key.
        scheme: the word before the key in the header, such as `Bearer`; empty: none.
    """

    variable: str
    header: str
    scheme: str = ""

    def headers(self) -> dict[str, str]:
        """Return the header with the key.

        Raises:
            AccessError: the variable is not set, or its value cannot be a key.
        """
        key = os.environ.get(self.variable, "").strip()
        if not key:
            raise AccessError(
                f"the environment variable {self.variable} is not set; set it to an API key, or change "
                "backend.api_key_env"
            )
        # Checked here: the error of httpx or h11 for such a header would contain the key.
        if not key.isascii() or not key.isprintable():
            raise AccessError(
                f"the environment variable {self.variable} does not contain a valid API key; set it again"
            )
        return {self.header: f"{self.scheme} {key}".lstrip()}

    def __repr__(self) -> str:
        return f"ApiKey({self.variable})"


class Refusal(Protocol):
    """Translates an error response of one kind of service into one of our errors."""

    def __call__(self, status: int, headers: Mapping[str, str], content: bytes, *, is_repeatable: bool) -> BackendError:
        """Return the error to raise.

        Args:
            status: the HTTP status.
            headers: of the response.
            content: the body of the response.
            is_repeatable: whether the call is safe to repeat; if not, it is unknown after a server error whether it
                took effect.
        """


@dataclass(frozen=True)
class Upload:
    """A file that is sent as a form (multipart/form-data).

    Attributes:
        name: of the file.
        content: of the file.
        fields: of the form, besides the file.
    """

    name: str
    content: bytes
    fields: Mapping[str, str]


class JsonService:
    """A service that takes and returns JSON objects. May be used from any thread.

    Args:
        base_url: address of the service, without a trailing slash; also an attribute, for messages.
        credentials: read with each request.
        connect_timeout_s, read_timeout_s: seconds to wait for a connection, and for each part of a response.
        refusal: translates error responses.
        transport: carries the requests; None: the network.
        headers, parameters: sent with every call.
    """

    def __init__(
        self,
        base_url: str,
        credentials: Credentials,
        connect_timeout_s: float,
        read_timeout_s: float,
        refusal: Refusal,
        transport: httpx.BaseTransport | None = None,
        headers: Mapping[str, str] = _NONE,
        parameters: Mapping[str, str] = _NONE,
    ) -> None:
        self.base_url = base_url
        self._credentials = credentials
        self._connect_timeout_s, self._read_timeout_s = connect_timeout_s, read_timeout_s
        self._transport = transport
        self._refusal = refusal
        self._headers = headers
        self._parameters = parameters
        self._lock = threading.Lock()
        self._opened: httpx.Client | None = None

    def _client(self) -> httpx.Client:
        """The HTTP client, opened by the first call: loading certificates costs 50 ms, and a plan makes no calls."""
        import httpx

        with self._lock:
            if self._opened is None:
                self._opened = httpx.Client(
                    base_url=self.base_url,
                    timeout=httpx.Timeout(self._read_timeout_s, connect=self._connect_timeout_s),
                    follow_redirects=False,  # the key must not go to another host
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
        """GET an object, with retries."""
        return self._repeated("GET", path, parameters, None, _object)

    def find(self, path: str) -> Json | None:
        """GET an object that may not exist, with retries; None: the service answers 404.

        Raises:
            StatusError: the service refuses the call for another reason.
        """
        try:
            return self.get(path)
        except StatusError as error:
            if error.status == 404:
                return None
            raise

    def content(self, path: str) -> bytes:
        """GET the content of a file, with retries."""
        return self._repeated("GET", path, {}, None, bytes)

    def repeat(self, path: str, body: Json) -> Json:
        """POST what is safe to repeat, such as a prompt, with retries."""
        return self._repeated("POST", path, {}, body, _object)

    def delete(self, path: str) -> Json:
        """DELETE, with retries."""
        return self._repeated("DELETE", path, {}, None, _object)

    def create(self, path: str, body: Json, **parameters: str | int) -> Json:
        """POST what must not be repeated, such as the creation of a job: it is sent once.

        Raises:
            AmbiguousError: it was sent, and it is unknown whether it took effect.
        """
        return self._call("POST", path, parameters, body, _object, is_repeatable=False)

    def upload(self, path: str, upload: Upload) -> Json:
        """Send a file, once.

        Raises:
            UnavailableError: it is unknown whether the file arrived; check before sending it again.
        """
        # Repeatable, although it is sent once: a second copy of a file costs nothing.
        return self._call("POST", path, {}, upload, _object, is_repeatable=True)

    def _repeated(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str | int],
        body: Json | None,
        read: Callable[[bytes], Read],
    ) -> Read:
        return retry(
            lambda: self._call(method, path, parameters, body, read, is_repeatable=True),
            on=UnavailableError,
            attempts=ATTEMPTS,
            within_s=RETRY_TIME_S,
            max_wait_s=MAX_RETRY_WAIT_S,
        )

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
        what = f"{method} {self.base_url}{path}"
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
        for secret in secrets.values():  # a service may quote the key in its error message
            answer = answer.replace(secret.removeprefix("Bearer ").encode(), b"***")
        raise self._refusal(response.status_code, response.headers, answer, is_repeatable=is_repeatable)


class _NoAnswerError(Exception):
    """The body is not an answer of the service: a proxy's page, corrupt, or truncated."""


def _sent(body: Json | Upload | None, headers: Mapping[str, str]) -> dict[str, Any]:
    """A call's headers and what it sends, as httpx takes them.

    Raises:
        InputError: a text contains an unpaired surrogate.
    """
    if isinstance(body, Upload):
        files = {"file": (body.name, body.content, "application/octet-stream")}
        return {"headers": headers, "data": dict(body.fields), "files": files}
    try:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            "a text contains an unpaired surrogate (such as \\ud800), which cannot be sent; fix or remove it"
        ) from error
    return {"headers": {**headers, **_JSON}, "content": content}


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
    except (ValueError, RecursionError) as error:  # RecursionError: nested too deeply
        raise _NoAnswerError("the answer is not JSON; is base_url the service's address?") from error
    if not isinstance(document, dict):
        raise _NoAnswerError("the answer is not a JSON object; is base_url the service's address?")
    return document


def _unanswered(error: httpx.HTTPError, what: str, *, is_repeatable: bool) -> BackendError:
    """Return the error of a call without an answer."""
    import httpx

    # Where no connection was made, not even a create can have had an effect.
    had_no_effect = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
    return _no_result(f"{what}: {str(error) or type(error).__name__}", is_repeatable=is_repeatable or had_no_effect)


def _no_result(text: str, *, is_repeatable: bool) -> BackendError:
    """Return the error of a call whose effect is unknown: ambiguous unless the call is safe to repeat."""
    if is_repeatable:
        return UnavailableError(text)
    return AmbiguousError(f"{text}; it is unknown whether it took effect")


def refused(status: int, word: str, message: object) -> str:
    """Return the text of an error: the status and the first 500 characters of the service's message.

    Args:
        status: the HTTP status.
        word: the service's own code for the error; empty: none.
        message: as the service sent it; empty or None: no reason.
    """
    words = " ".join(str(message or "no reason given").split())[:500]
    return f"the service answered {status} {word}".rstrip() + f": {words}"


def by_status(status: int, text: str, retry_after_s: float | None, *, is_repeatable: bool) -> BackendError:
    """Return the error for an HTTP status, where the service's own message does not say more.

    Args:
        status: 300 or above. A redirect (3xx) counts as a server error (5xx): most likely a proxy answered, and the
            service may have received the call.
        text: of the error.
        retry_after_s: seconds after which the service asks to be called again; None: it does not say.
        is_repeatable: see `Refusal`.
    """
    match status:
        # The service says that it did not process the call, so even a create had no effect. Should one have had an
        # effect after all, the next `submit` finds its job before it creates another.
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
    """Return the object `error` of a response; if the response is not JSON, its first 200 characters as the message."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return {"message": content.decode("utf-8", errors="replace")[:200]}
    if isinstance(document, list) and document:  # Google's own client accepts this form too (google-genai 3.4.0)
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, dict) else {}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the wait of the header Retry-After in seconds; None: it is absent or malformed."""
    value = headers.get("retry-after", "")
    if value.isdecimal():  # seconds, else a date (RFC 9110, 10.2.3)
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
