"""Base of the scripted services: a real HTTP server on loopback that records requests and has hooks to kill a client.

A service subclasses `HttpService`, and implements `answer`, `key_of` and, for bodies other than JSON, `read_body`.
"""

from __future__ import annotations

import json
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """A recorded request.

    Attributes:
        number: the number of the request, from 1.
        path: the path as sent, percent-encoded.
        parameters: the query parameters; of a repeated name, the last value.
        key: the API key of the request; empty: none.
        headers: by lower-case name.
    """

    number: int
    method: str
    path: str
    parameters: dict[str, str]
    body: Json
    key: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """An error response.

    Attributes:
        status: the HTTP status; 0: the connection is closed without an answer.
        applied: whether the request still takes effect.
        details: the details in Google's envelope.
        code, param: the fields of the same names in OpenAI's envelope.
    """

    status: int
    message: str = "scripted"
    applied: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    details: tuple[Json, ...] = ()
    code: str | None = None
    param: str | None = None


class Dropped(Exception):  # noqa: N818 - control flow of a hook, not an error
    """Raised by a hook to close the connection without any further effect."""


Hook = Callable[[Request], None]
Answer = tuple[int, Json | bytes, dict[str, str]]
"""The status, the body and the headers of an answer."""


class HttpService(ABC):
    """The server, a context manager.

    Args:
        port: port on 127.0.0.1; 0: any free one.

    Attributes:
        script: the behaviour; each service has its own class for it.
        requests: every request, in order.
        created: names of the jobs that were created, in order; each identifies its trial.
        on_received, on_applied, on_answered: hooks called with each request: before it has any effect, after its
            effect, and after its response was written.
    """

    script: Any

    def __init__(self, port: int = 0) -> None:
        self.on_received: Hook = _nothing
        self.on_applied: Hook = _nothing
        self.on_answered: Hook = _nothing
        self._lock = threading.RLock()
        self.forget()
        self._server = _Server(self, port)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True)

    @property
    def address(self) -> str:
        """The base URL, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def forget(self) -> None:
        """Reset the recorded requests and jobs."""
        with self._lock:
            self.requests: list[Request] = []
            self.created: list[str] = []

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """Serve a request, or answer with the script's fault."""

    @abstractmethod
    def key_of(self, headers: Mapping[str, str]) -> str:
        """Return the API key of a request; empty: it has none."""

    def read_body(self, _headers: Mapping[str, str], content: bytes) -> Json:
        """Parse a request body; JSON, unless a subclass overrides this."""
        found: Json = json.loads(content)
        return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        """Serve in this thread until interrupted."""
        self._server.serve_forever()

    def note(self, method: str, target: str, content: bytes, headers: Mapping[str, str]) -> Request:
        """Record a request."""
        parts = urlsplit(target)
        parameters = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        body = self.read_body(headers, content) if content else {}
        with self._lock:
            number = len(self.requests) + 1
            request = Request(number, method, parts.path, parameters, body, self.key_of(headers), headers)
            self.requests.append(request)
        return request


def _nothing(_request: Request) -> None:
    """A hook that does nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, service: HttpService, port: int) -> None:
        self.service = service
        super().__init__(("127.0.0.1", port), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: killed clients are the purpose of this server."""


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True
    wbufsize = -1

    def _serve(self) -> None:
        service = self.server.service
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = service.note(self.command, self.path, content, headers)
        try:
            service.on_received(request)
            status, answer, more = service.answer(request)
            service.on_applied(request)
        except Dropped:
            status = 0
        if status == 0:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json" if isinstance(answer, dict) else "application/octet-stream")
        self.send_header("content-length", str(len(sent)))
        for name, value in more.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        self.wfile.flush()
        try:
            service.on_answered(request)
        except Dropped:
            self.close_connection = True

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815 - the names that the base class looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that is overridden
        """The record is in `requests`."""
