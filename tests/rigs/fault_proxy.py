"""A loopback proxy that injects faults, to test how a client handles a failing service.

It records every request, and forwards it unless a fault is chosen for it. Responses are read completely before they are
forwarded. The client uses the proxy's address instead of the service's:

    with FaultProxy(service.address) as proxy:
        proxy.choose = by_rules(Rule(ANSWER_LOST, "POST", "/v1beta/tunedModels"))
        ...  # backend.base_url=<proxy.address>

| fault | reaches the service | what the client receives |
| --- | --- | --- |
| `refused(for_s)` | yes | the response; then connections are refused for some seconds |
| `RESET_BEFORE` | no | a TCP reset |
| `ANSWER_LOST` | yes | a TCP reset |
| `error(status)` | no; `applied=True`: yes | an error, optionally with `Retry-After` or google.rpc.RetryInfo |
| `slow(pause_s)` | yes | the response, byte by byte |
| `NOT_HTTP`, `NOT_JSON`, `EMPTY` | yes | bytes that are not HTTP; 200 with a non-JSON body; 200 without a body |
| `TRUNCATED` | yes | the first half of the body, with a matching Content-Length |
| `CUT` | yes | the first half of the body, with the Content-Length of the whole; then the connection ends |
| `redirect(address)` | no | 302 to that address |

Every fault ends the connection.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException, responses
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, urlsplit

SERVICE_TIMEOUT_S = 60.0
"""Seconds that the service may take for a response."""

_OWN_HEADERS = ("accept-encoding", "connection", "content-length", "date", "host", "keep-alive", "transfer-encoding")
"""Headers that are not forwarded: they belong to one connection, and accept-encoding would compress the bodies."""


@dataclass(frozen=True)
class Answer:
    """A response, without the headers that belong to one connection."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def as_sent(self, length: int | None = None) -> bytes:
        """Serialise the response as HTTP/1.1.

        Args:
            length: the Content-Length to send; None: the body's true length.
        """
        headers = {**self.headers, "content-length": str(len(self.body) if length is None else length)}
        lines = [f"HTTP/1.1 {self.status} {responses.get(self.status, '')}", *(f"{n}: {v}" for n, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True)
class Fault:
    """A fault to inject. Tests may define their own.

    Attributes:
        name: shown in failure messages.
        applied: whether the request is still forwarded to the service.
        sent: returns the bytes for the client, given the service's response; that has the status 0 if the request was
            not forwarded.
        is_reset: whether the connection ends with a TCP reset instead of an orderly shutdown.
        pause_s: seconds before each byte; 0: all bytes are sent at once.
        refused_s: seconds for which connections are then refused; every other open connection is closed.
    """

    name: str
    applied: bool
    sent: Callable[[Answer], bytes]
    is_reset: bool = False
    pause_s: float = 0.0
    refused_s: float = 0.0

    def __str__(self) -> str:
        return self.name


def _nothing(_answer: Answer) -> bytes:
    return b""


def _json(content: bytes) -> Answer:
    return Answer(200, {"content-type": "application/json"}, content)


def _halved(answer: Answer) -> Answer:
    return replace(answer, body=answer.body[: len(answer.body) // 2])


RESET_BEFORE = Fault("reset before it reaches the service", False, _nothing, is_reset=True)
ANSWER_LOST = Fault("answer lost", True, _nothing, is_reset=True)
NOT_HTTP = Fault("no HTTP", True, lambda _: b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n")  # a TLS alert
NOT_JSON = Fault("no JSON", True, lambda _: _json(b"<html>\xff\x00 Welcome to this network</html>").as_sent())
EMPTY = Fault("empty body", True, lambda _: _json(b"").as_sent())
TRUNCATED = Fault("truncated JSON", True, lambda answer: _halved(answer).as_sent())
CUT = Fault("cut in the middle of the body", True, lambda answer: _halved(answer).as_sent(len(answer.body)))


def refused(for_s: float) -> Fault:
    """Return a fault that answers the request, and then refuses connections for some seconds."""
    return Fault("refused afterwards", True, Answer.as_sent, refused_s=for_s)


def slow(pause_s: float) -> Fault:
    """Return a fault that sends the response byte by byte, with a pause before each byte."""
    return Fault(f"a byte in {pause_s:g} s", True, Answer.as_sent, pause_s=pause_s)


def redirect(address: str) -> Fault:
    """Return a fault that redirects the client to another address."""
    return Fault("redirect", False, lambda _: Answer(302, {"location": address}).as_sent())


def error(
    status: int, *, applied: bool = False, retry_after_s: int | None = None, retry_delay_s: float | None = None
) -> Fault:
    """Return a fault that answers with an error in Google's envelope.

    Args:
        retry_after_s: value of the header Retry-After; None: the header is absent.
        retry_delay_s: delay in a google.rpc.RetryInfo; None: the detail is absent.
    """
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_delay_s or 0:g}s"}
    details = [] if retry_delay_s is None else [delay]
    body = {"error": {"code": status, "message": "injected", "status": "UNKNOWN", "details": details}}
    headers = {"content-type": "application/json"}
    if retry_after_s is not None:
        headers["retry-after"] = str(retry_after_s)
    asked_s = retry_delay_s if retry_after_s is None else retry_after_s
    asks = "" if asked_s is None else f", asks for {asked_s:g} s"
    answer = Answer(status, headers, json.dumps(body).encode()).as_sent()
    return Fault(f"{status}{asks}{', applied' if applied else ''}", applied, lambda _: answer)


@dataclass(frozen=True)
class Request:
    """A request that the proxy received.

    Attributes:
        number: the number of the request, from 1.
        parameters: the query parameters; of a repeated name, the last value.
        fault: the injected fault; None: request and response were forwarded.
        status: the service's HTTP status; None: the request was not forwarded, or there is no response (yet).
    """

    number: int
    method: str
    path: str
    parameters: Mapping[str, str]
    fault: Fault | None = None
    status: int | None = None


Chooser = Callable[[Request], Fault | None]
"""Returns the fault for a request, or None. Called once per request, one at a time, in their order."""


@dataclass(frozen=True)
class Rule:
    """Selects the requests into which a fault is injected.

    Attributes:
        fault: the fault.
        method: the HTTP method to match.
        path: a regular expression for the whole path, without the query.
        first: number of the first matching request that is affected, from 1.
        times: number of affected requests from there on; None: all.
    """

    fault: Fault
    method: str
    path: str
    first: int = 1
    times: int | None = 1

    def matches(self, request: Request) -> bool:
        """Whether method and path of a request match, whatever its number."""
        return request.method == self.method and re.fullmatch(self.path, request.path) is not None


def by_rules(*rules: Rule) -> Chooser:
    """Return a chooser that follows rules. Each rule counts its own matches; the first rule that applies wins."""
    matches: Counter[int] = Counter()

    def applies(number: int, rule: Rule) -> bool:
        if matches[number] < rule.first:
            return False
        return rule.times is None or matches[number] < rule.first + rule.times

    def choose(request: Request) -> Fault | None:
        matching = [number for number, rule in enumerate(rules) if rule.matches(request)]
        matches.update(matching)
        return next((rules[number].fault for number in matching if applies(number, rules[number])), None)

    return choose


def no_fault(_request: Request) -> None:
    """Choose none."""


class FaultProxy:
    """The proxy, a context manager. Speaks plain HTTP on both sides.

    Args:
        target: the service's address, such as http://127.0.0.1:8000.
        port: port on 127.0.0.1; 0: any free one.

    Attributes:
        choose: returns the fault for each request; may be replaced while the proxy runs.
        requests: every request, in order.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        parts = urlsplit(target)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self.choose: Chooser = no_fault
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._listening = threading.Lock()
        self._ended = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server: _Server | None = _Server(self, port)
        self._own_port: int = self._server.server_address[1]

    @property
    def address(self) -> str:
        """The address for the client to use instead of the service's."""
        return f"http://127.0.0.1:{self._own_port}"

    def forget(self) -> None:
        """Forget all requests and faults."""
        with self._lock:
            self.choose, self.requests = no_fault, []

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse every connection while the context lasts."""
        self._close()
        try:
            yield
        finally:
            self._open()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._close()

    # Listening

    def _start(self) -> None:
        if self._server is not None:
            threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    def _open(self) -> None:
        with self._listening:
            if self._server is None and not self._ended.is_set():
                self._server = _Server(self, self._own_port)
                self._start()

    def _close(self, spared: socket.socket | None = None) -> None:
        """Stop listening, and close every connection except one."""
        with self._listening:
            if self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                self._server = None
        with self._lock:
            others = self._connections - {spared}
        for connection in others:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # Forwarding

    def connected(self, connection: socket.socket) -> None:
        """Record an open connection."""
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)

    def note(self, method: str, target: str) -> Request:
        """Record a request, and choose its fault."""
        parts = urlsplit(target)
        parameters = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            request = Request(len(self.requests) + 1, method, parts.path, parameters)
            request = replace(request, fault=self.choose(request))
            self.requests.append(request)
        return request

    def ask(self, request: Request, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Forward a request to the service, and record the status.

        Raises:
            OSError, HTTPException: the service did not respond.
        """
        service = HTTPConnection(self._host, self._port, timeout=SERVICE_TIMEOUT_S)
        try:
            service.request(request.method, target, body or None, _passed(headers))
            response = service.getresponse()
            answer = Answer(response.status, _passed(dict(response.headers)), response.read())
        finally:
            service.close()
        with self._lock:
            if self.requests[request.number - 1 : request.number] == [request]:  # it was not forgotten meanwhile
                self.requests[request.number - 1] = replace(request, status=answer.status)
        return answer

    def send(self, connection: socket.socket, fault: Fault, answer: Answer) -> None:
        """Send the response as the fault changes it, and end the connection."""
        content = fault.sent(answer)
        if fault.refused_s > 0:
            self._close(spared=connection)
            reopening = threading.Timer(fault.refused_s, self._open)
            reopening.daemon = True
            reopening.start()
        pieces = (content[i : i + 1] for i in range(len(content))) if fault.pause_s > 0 else iter([content])
        for number, piece in enumerate(pieces):
            if number > 0 and self._ended.wait(fault.pause_s):
                break
            connection.sendall(piece)
        if fault.is_reset:
            _reset(connection)


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _OWN_HEADERS}


def _reset(connection: socket.socket) -> None:
    """Close a connection with a TCP reset: SO_LINGER with a timeout of 0 sends one on close."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, port: int) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", port), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients that disconnect are the purpose of this server."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True

    def setup(self) -> None:
        super().setup()
        self.server.proxy.connected(self.connection)

    def finish(self) -> None:
        self.server.proxy.disconnected(self.connection)
        super().finish()

    def _serve(self) -> None:
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        request = proxy.note(self.command, self.path)
        answer = Answer(0)
        if request.fault is None or request.fault.applied:
            try:
                answer = proxy.ask(request, self.path, dict(self.headers), body)
            except (
                OSError,
                HTTPException,
            ):  # the proxy fails its client as the service failed it
                self.close_connection = True
                _reset(self.connection)
                return
        if request.fault is None:
            self.connection.sendall(answer.as_sent())
        else:
            self.close_connection = True
            proxy.send(self.connection, request.fault, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the names that the base class looks for

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the method that is overridden
        """The record is in `requests`."""
