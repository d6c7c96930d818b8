"""The middleware in front of the application: authentication, limits on size and time, the log and the metrics.

Pure ASGI: it reads the body, whole and with a limit, so that neither a large nor a slow one occupies a thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

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
"""Limit of a request: 4 MiB of examples are up to three times as large where JSON escapes their characters."""

BODY_TIMEOUT_S = 60.0
"""Seconds until a request has to be complete."""

LEAST_BYTES_PER_S = 16 * 2**10
"""The lowest average rate of an upload after `BODY_TIMEOUT_S`: 512 MB may take nine hours."""

MAX_FORM_BYTES = 512 * 2**10
"""Limit of a form without a file: the longest prompt, with every character escaped."""

MAX_SIGN_IN_BYTES = 4 * 2**10
"""Limit of the sign-in form, the only body that is read from a caller with neither a key nor a session."""

COOKIE = "tunerun_session"
UPLOAD_PATH = "/files"
SIGN_IN_PATH = "/sign-in"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = logging.getLogger("tunerun.service")


class JsonLines(logging.Formatter):
    """Formats each log record as a JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the time, the level, the message as `event`, and the record's `fields`; with its traceback, if any."""
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
    """ASGI middleware: screens, authenticates and limits each request, and records it in the log and the metrics.

    Args:
        app: the application.
        keys: the API keys.
        metrics: counts the requests.
        is_signed_in: whether the value of the page's cookie is an open session.
        hosts: host names that requests may have; None: addresses and localhost only.
        origins: origins whose pages may call the wires; None: no others.
        max_body_bytes: limit of a request's body.
        body_timeout_s: seconds until a body has to be complete.
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
        started, status = time.perf_counter(), 0
        # After a request whose framing is refused, its body cannot be distinguished from the next one (RFC 9112, 6.3).
        # The unread body of any other refused request is discarded as it arrives: a client whose connection is closed
        # while it sends is reset, and loses the response. `Connection` ends that after half a minute.
        closes = True
        wire = wire_taking(scope)
        scope["state"] = {**scope.get("state", {}), "request_id": secrets.token_hex(8), "wire": wire}

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = scope["state"]["request_id"].encode()
                # nosniff: a browser must not take an answer or an uploaded file for a page or a script.
                headers = [(b"x-content-type-options", b"nosniff"), (b"x-request-id", request_id)]
                headers += [(b"connection", b"close")] if closes else []
                headers += [] if wire is None else self._origins.headers(scope)
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        async def refuse(error: ServiceError) -> None:
            if not status:  # else the application has sent a response, and logged the error
                code, body, headers = refusal(scope, error)
                await JSONResponse(body, code, headers)(scope, receive, send_noted)

        try:
            check_headers(scope["headers"])
            self._hosts.check(header(scope, b"host"))
            parameters = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            check_parameters(parameters)
            closes = header(scope, b"expect") is not None  # such a client may never send the body
            # Before the key is required: a browser never sends credentials with a preflight.
            if wire is not None and (allowed := self._origins.preflight(scope)) is not None:
                response = Response(status_code=204)
                response.raw_headers.extend(allowed)
                await response(scope, receive, send_noted)
                return
            if wire is not None:
                scope["state"]["key"] = self._key(wire.secret_of(scope, dict(parameters)))
            await self._app(scope, await self._body(scope, receive), send_noted)
        except ServiceError as error:
            closes = closes or error.code is Code.DEADLINE_EXCEEDED
            await refuse(error)
        except ConfigError:
            log.exception("the keys cannot be read")
            await refuse(ServiceError(Code.UNAVAILABLE, "the service cannot read its keys; its log says why"))
        except ConnectionError:
            return  # the client has disconnected
        except Exception:
            if not status:
                log.exception("request failed", extra={"fields": {"request": scope["state"]["request_id"]}})
            await refuse(ServiceError(Code.INTERNAL, "an error of the service; its log has it"))
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _key(self, secret: str | None) -> Key:
        if not secret:
            raise ServiceError(Code.UNAUTHENTICATED, "the request has no key", reason="CREDENTIALS_MISSING")
        key = self._keys.find(secret)
        if key is None:
            words = "API key not valid; `tunerun serve keys list` shows whose keys there are"
            raise ServiceError(Code.UNAUTHENTICATED, words, reason="API_KEY_INVALID")
        return key

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Return what gives the application the body: whole, or as it arrives where the route reads it itself."""
        wire: Wire | None = scope["state"]["wire"]
        if wire is not None and wire.reads_body_itself(scope):
            return _while_fast(receive, self._body_timeout_s)
        if "key" in scope["state"]:
            limit = self._max_body_bytes
        elif self._is_signed_in(Request(scope).cookies.get(COOKIE, "")):
            limit = self._max_body_bytes if scope["path"] == UPLOAD_PATH else min(MAX_FORM_BYTES, self._max_body_bytes)
        elif scope["path"] == SIGN_IN_PATH:
            limit = MAX_SIGN_IN_BYTES
        else:  # the caller is not authenticated, so the application gets neither the body nor the headers about it
            scope["headers"] = [pair for pair in scope["headers"] if not pair[0].startswith(b"content-")]
            return _replayed(b"", receive)

        # A declared length over the limit is refused before anything is read. One of 20 digits or more is not parsed,
        # since int() raises a ValueError for more than 4,300; h11 refuses more than 20, and the body is counted too.
        length = header(scope, b"content-length") or b""
        size = int(length) if length.isdigit() and len(length) < 20 else 0
        content, is_whole = bytearray(), False
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while size <= limit and not is_whole:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError("the client has disconnected")
                    content += message.get("body", b"")
                    size, is_whole = len(content), not message.get("more_body", False)
        except TimeoutError:
            words = f"the request did not arrive within {self._body_timeout_s:g} s; send it faster"
            raise ServiceError(Code.DEADLINE_EXCEEDED, words) from None
        if size > limit:
            raise ServiceError(Code.INVALID_ARGUMENT, f"Request payload size exceeds the limit: {limit} bytes.")
        return _replayed(bytes(content), receive)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request in the metrics, and write its line to the log."""
        wire: Wire | None = scope["state"]["wire"]
        wire_name = "page" if wire is None else wire.name
        # Methods and routes are labels, and each value of a label is a series that is kept: only known ones are.
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "other")
        version = scope["path"].strip("/").partition("/")[0]
        if wire is not None and route != "other" and not route.startswith(f"/{version}/"):
            route = f"/{version}{route}"  # FastAPI omits the prefix of an included router
        self._metrics.answered(wire_name, method, route, status, seconds)

        key = scope["state"].get("key")
        fields = {
            "wire": wire_name,
            "method": scope["method"],
            "path": scope["path"],  # without the query, which has filters' texts and, of a refused request, its key
            "status": status,
            "ms": round(1000 * seconds, 1),
            "key": key.id if key is not None else None,
            "request": scope["state"]["request_id"],
        }
        log.info("request", extra={"fields": fields})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return the body once, then the next messages, which say that the client has disconnected."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


def _while_fast(receive: Receive, timeout_s: float) -> Receive:
    """Return a body as it arrives while it is fast enough; then wait until the client disconnects.

    Raises:
        ServiceError: when called, if after `timeout_s` fewer than `LEAST_BYTES_PER_S` have arrived on average.
    """
    started, size, is_whole = time.monotonic(), 0, False

    async def next_message() -> Message:
        nonlocal size, is_whole
        if is_whole:
            return await receive()
        try:
            async with asyncio.timeout(started + timeout_s + size / LEAST_BYTES_PER_S - time.monotonic()):
                message = await receive()
        except TimeoutError:
            words = f"the request came too slowly: {size:,} bytes in {time.monotonic() - started:.0f} s; send it faster"
            raise ServiceError(Code.DEADLINE_EXCEEDED, words) from None
        size += len(message.get("body", b""))
        is_whole = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    return next_message
