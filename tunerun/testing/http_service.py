"""The server behind scripted services: real HTTP on loopback, a record of what was asked, and hooks to kill at.

A service subclasses `HttpService` and says how a body is read and what is answered.
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
    """What the service was asked.

    Attributes:
        number: of the request, from 1.
        path: as it was sent, still percent-encoded.
        parameters: of the query, the last of each name.
        key: the API key that came with it.
        headers: by name in lower case.
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
        applied: whether the request takes effect all the same.
        details: of Google's envelope. code, param: of OpenAI's.
    """

    status: int
    message: str = "scripted"
    applied: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    details: tuple[Json, ...] = ()
    code: str | None = None
    param: str | None = None


class Dropped(Exception):  # noqa: N818 - no error: what a hook raises
    """Raised by a hook: the connection is closed, and nothing more is done."""


Hook = Callable[[Request], None]
Answer = tuple[int, Json | bytes, dict[str, str]]
"""The status, the body and the headers of an answer."""


class HttpService(ABC):
    """The server; a context manager.

    Args:
        port: on 127.0.0.1; 0: any that is free.

    Attributes:
        script: how it behaves; each service has a class of its own for it.
        requests: every request, in order.
        created: what it was asked to create and did, in order, by a name that is the trial's.
        on_received, on_applied, on_answered: called with each request before anything is done, when its effect is
            done, and when its answer is written.
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
        """Its address, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def forget(self) -> None:
        """Reset the recorded requests and jobs."""
        with self._lock:
            self.requests: list[Request] = []
            self.created: list[str] = []

    @abstractmethod
    def answer(self, request: Request) -> Answer:
        """Do what is asked, or what the script has instead."""

    @abstractmethod
    def key_of(self, headers: Mapping[str, str]) -> str:
        """The API key of a request; empty: it has none."""

    def read_body(self, _headers: Mapping[str, str], content: bytes) -> Json:
        """A body; JSON, unless a service takes others."""
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
        """Write down a request."""
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
        """A client that was killed is what this server is for."""


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
