"""The middleware in front of the application: authentication, limits on size and time, the log and the metrics.

Pure ASGI: it reads the body, whole and with a limit, so that neither a large nor a slow one occupies a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

from tunerun.errors import ConfigError
from tunerun.service.core.credentials import Key, KeyFile
from tunerun.service.core.problems import Code, ServiceError
from tunerun.service.origins import Origins
from tunerun.service.prometheus import ServiceMetrics
from tunerun.service.screening import Hosts, check_headers, check_parameters, header
from tunerun.service.wires import Wire, refusal, wire_taking

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES = 16 * 2**20
"""Limit of a request. 4 MiB of examples are up to three times as large where JSON escapes their characters."""

BODY_TIMEOUT_S = 60.0
"""Seconds until a request has to be complete."""

LEAST_BYTES_PER_S = 16 * 2**10
"""The lowest rate of a body that its route reads, after `BODY_TIMEOUT_S`: 512 MB may take nine hours."""

MAX_FORM_BYTES = 512 * 2**10
"""Limit of a form without a file: the longest prompt, with every character escaped."""

MAX_SIGN_IN_BYTES = 4 * 2**10
"""Limit of the form that signs in: the only body that is read from a caller with neither a key nor a session."""

COOKIE = "tunerun_session"
UPLOAD_PATH = "/files"
SIGN_IN_PATH = "/sign-in"

_CLOSE = (b"connection", b"close")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger("tunerun.service")


class JsonLines(logging.Formatter):
    """Log records as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level and event, and what is in `fields`; a traceback where there is one."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class Middleware:
    """ASGI middleware.

    Args:
        is_signed_in: tells whether the value of the page's cookie is an open session.
        hosts: the host names that requests may have.
        origins: the origins whose pages may call the wires.
        max_body_bytes, body_timeout_s: limits of each request.
    """

    def __init__(
        self,
        app: App,
        keys: KeyFile,
        metrics: ServiceMetrics,
        is_signed_in: Callable[[str], bool] = lambda _session: False,
        hosts: Hosts | None = None,
        origins: Origins | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        body_timeout_s: float = BODY_TIMEOUT_S,
    ) -> None:
        self._app = app
        self._keys = keys
        self._metrics = metrics
        self._is_signed_in = is_signed_in
        self._hosts = hosts or Hosts()
        self._origins = origins or Origins()
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, statuses = time.perf_counter(), []
        # After a request whose framing is refused, its body and the next request cannot be told apart (RFC 9112, 6.3).
        # The unread body of any other refused request is discarded as it arrives: a client whose connection is closed
        # while it sends is reset, and loses the response. `Connection` ends that after half a minute.
        closes = True

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                request = scope["state"]["request_id"].encode()
                more = [(b"x-content-type-options", b"nosniff"), (b"x-request-id", request)]
                more += [_CLOSE] if closes else []
                more += [] if wire is None else self._origins.headers(scope)
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        wire = wire_taking(scope)
        scope["state"] = {**scope.get("state", {}), "request_id": secrets.token_hex(8), "wire": wire}
        try:
            check_headers(scope["headers"])
            self._hosts.check(header(scope, b"host"))
            parameters = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            check_parameters(parameters)
            closes = header(scope, b"expect") is not None  # its body may never come
            if wire is not None and (allowed := self._origins.preflight(scope)) is not None:
                await _allow(allowed, noted)
                return
            if wire is not None:
                scope["state"]["key"] = self._key(wire.secret_of(scope, dict(parameters)))
            limit = self._limit(scope)
            if wire is not None and wire.reads_body_itself(scope):
                await self._app(scope, _patient(receive, self._body_timeout_s), noted)
            elif limit is None:
                scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith(b"content-")]
                await self._app(scope, _replayed(b"", receive), noted)
            else:
                await self._app(scope, _replayed(await self._body(scope, receive, limit), receive), noted)
        except ServiceError as error:
            closes = closes or error.code is Code.DEADLINE_EXCEEDED
            await _refuse(scope, error, noted)
        except ConfigError:
            log.exception("the keys cannot be read")
            if not statuses:
                words = "the service cannot read its keys; its log says why"
                await _refuse(scope, ServiceError(Code.UNAVAILABLE, words), noted)
        except ConnectionError:
            return  # the client is gone
        except Exception:
            if not statuses:  # else the application has answered and logged it
                log.exception("request failed", extra={"fields": {"request": scope["state"]["request_id"]}})
                await _refuse(scope, ServiceError(Code.INTERNAL, "an error of the service; its log has it"), noted)
        finally:
            self._note(scope, statuses[0] if statuses else 0, time.perf_counter() - started)

    def _key(self, secret: str | None) -> Key:
        if not secret:
            raise ServiceError(Code.UNAUTHENTICATED, "the request has no key", reason="CREDENTIALS_MISSING")
        key = self._keys.find(secret)
        if key is None:
            raise ServiceError(
                Code.UNAUTHENTICATED,
                "API key not valid; `tunerun serve keys list` shows whose keys there are",
                reason="API_KEY_INVALID",
            )
        return key

    async def _body(self, scope: Scope, receive: Receive, limit: int) -> bytes:
        content = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                _check_size(_stated_length(scope), limit)
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError("the client is gone")
                    content += message.get("body", b"")
                    _check_size(len(content), limit)
                    if not message.get("more_body", False):
                        return bytes(content)
        except TimeoutError:
            raise ServiceError(
                Code.DEADLINE_EXCEEDED, f"the request was not here within {self._body_timeout_s:g} s; send it faster"
            ) from None

    def _limit(self, scope: Scope) -> int | None:
        """The most bytes to read of a body; None: it is not read, because the caller is not authenticated."""
        if "key" in scope["state"]:
            return self._max_body_bytes
        if self._is_signed_in(_session(scope)):
            return self._max_body_bytes if scope["path"] == UPLOAD_PATH else min(MAX_FORM_BYTES, self._max_body_bytes)
        return MAX_SIGN_IN_BYTES if scope["path"] == SIGN_IN_PATH else None

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.answered(_wire_name(scope), method, _route(scope), status, seconds)
        key = scope["state"].get("key")
        fields = {
            "wire": _wire_name(scope),
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds, 1),
            "key": key.id if key is not None else None,
            "request": scope["state"]["request_id"],
        }
        log.info("request", extra={"fields": fields})


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ServiceError(Code.INVALID_ARGUMENT, f"Request payload size exceeds the limit: {limit} bytes.")


def _session(scope: Scope) -> str:
    """The value of the page's cookie; empty: the request has none."""
    text = (header(scope, b"cookie") or b"").decode("latin-1")
    cookies = (part.strip().partition("=") for part in text.split(";"))
    return next((value for name, _, value in cookies if name == COOKIE), "")


def _wire_name(scope: Scope) -> str:
    """The name of a request's wire; `page` for everything else."""
    wire: Wire | None = scope["state"]["wire"]
    return "page" if wire is None else wire.name


def _route(scope: Scope) -> str:
    """The path with parameter names instead of values; `other` where no route matches."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is None:
        return "other"
    version = scope["path"].strip("/").partition("/")[0]  # which FastAPI leaves out of the path of an included router
    return path if scope["state"]["wire"] is None or path.startswith(f"/{version}/") else f"/{version}{path}"


def _stated_length(scope: Scope) -> int:
    text = header(scope, b"content-length") or b"0"
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return the body once, then the next messages, which say that the client has disconnected."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


def _patient(receive: Receive, timeout_s: float) -> Receive:
    """Return a body as it arrives while it is fast enough; then wait until the client disconnects."""
    started, size, is_whole = time.monotonic(), 0, False

    async def next_message() -> Message:
        nonlocal size, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(started + timeout_s + size / LEAST_BYTES_PER_S - time.monotonic()):
                message = await receive()
        except TimeoutError:
            raise ServiceError(
                Code.DEADLINE_EXCEEDED,
                f"the request came too slowly: {size:,} bytes in {time.monotonic() - started:.0f} s; send it faster",
            ) from None
        size += len(message.get("body", b""))
        is_whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    return next_message


async def _allow(headers: Sequence[tuple[bytes, bytes]], send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": [*headers]})
    await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, error: ServiceError, send: Send) -> None:
    status, body, more = refusal(scope, error)
    content = json.dumps(body).encode()
    headers: Mapping[str, str] = {"content-type": "application/json", "content-length": str(len(content)), **more}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})
