"""A proxy on loopback that spoils what passes: for tests of what a client does when its service fails it.

It writes every request down and passes it on; what a fault is chosen for is disturbed instead. Answers are read whole
before they are passed on. The client is given the proxy's address in place of the service's:

    with FaultProxy(service.address) as proxy:
        proxy.choose = by_rules(Rule(ANSWER_LOST, "POST", "/v1beta/tunedModels"))
        ...  # backend.base_url=<proxy.address>

| fault | does it reach the service? | what the client is sent |
| --- | --- | --- |
| `refused(for_s)` | yes | the answer; then nobody listens for a while, so that what comes next is refused |
| `RESET_BEFORE` | no | TCP's reset |
| `ANSWER_LOST` | yes | TCP's reset |
| `error(status)` | no; `applied=True`: yes | an error, with `Retry-After` or google.rpc.RetryInfo if wanted |
| `slow(pause_s)` | yes | the answer, byte by byte |
| `NOT_HTTP`, `NOT_JSON`, `EMPTY` | yes | bytes that are no HTTP; 200 with bytes that are no JSON; 200 with nothing |
| `TRUNCATED` | yes | the first half of the answer's body, whose length is given as such |
| `CUT` | yes | the first half of the answer's body, whose length is given as the whole's; then the end |
| `redirect(address)` | no | 302 to that address |

All of them end the connection.
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
"""How long the service may take for an answer."""

_OWN_HEADERS = ("accept-encoding", "connection", "content-length", "date", "host", "keep-alive", "transfer-encoding")
"""Of each of the two connections by itself; without accept-encoding bodies are as they are."""


@dataclass(frozen=True)
class Answer:
    """An answer, with the headers that are not of the connection."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def as_sent(self, length: int | None = None) -> bytes:
        """Its bytes in HTTP/1.1.

        Args:
            length: what it gives as the length of its body; None: the length.
        """
        headers = {**self.headers, "content-length": str(len(self.body) if length is None else length)}
        lines = [f"HTTP/1.1 {self.status} {responses.get(self.status, '')}", *(f"{n}: {v}" for n, v in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + self.body


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request. Further ones can be made.

    Attributes:
        name: for people.
        applied: whether the request reaches the service all the same.
        sent: what the client is sent, given the service's answer; a status of 0 where it was not asked.
        is_reset: whether the connection then ends with TCP's reset, and not in good order.
        pause_s: seconds before each further byte; 0: all are sent at once.
        refused_s: how many seconds nobody listens afterwards, and every other connection is closed.
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
    """The request is answered, and then nobody listens for some seconds."""
    return Fault("refused afterwards", True, Answer.as_sent, refused_s=for_s)


def slow(pause_s: float) -> Fault:
    """The answer comes byte by byte, with a pause before each."""
    return Fault(f"a byte in {pause_s:g} s", True, Answer.as_sent, pause_s=pause_s)


def redirect(address: str) -> Fault:
    """The client is told to ask somebody else."""
    return Fault("redirect", False, lambda _: Answer(302, {"location": address}).as_sent())


def error(
    status: int, *, applied: bool = False, retry_after_s: int | None = None, retry_delay_s: float | None = None
) -> Fault:
    """An error of the service, in Google's envelope.

    Args:
        retry_after_s: stands in the header Retry-After; None: there is none.
        retry_delay_s: stands in a google.rpc.RetryInfo; None: there is none.
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
    """A request that came to the proxy.

    Attributes:
        number: of the request, from 1.
        parameters: of the query, the last of each name.
        fault: what was done to it; None: it was passed on, and so was the answer.
        status: what the service answered; None: it was not asked, has not answered yet, or did not.
    """

    number: int
    method: str
    path: str
    parameters: Mapping[str, str]
    fault: Fault | None = None
    status: int | None = None


Chooser = Callable[[Request], Fault | None]
"""The fault of a request, or None. It is called once for each, one at a time, in their order."""


@dataclass(frozen=True)
class Rule:
    """Which requests a fault is done to.

    Attributes:
        method: of these requests.
        path: a regular expression that the whole path matches, without the query.
        first: the number of the first match that it is done to, from 1.
        times: to how many it is done from there on; None: to all.
    """

    fault: Fault
    method: str
    path: str
    first: int = 1
    times: int | None = 1

    def matches(self, request: Request) -> bool:
        """Whether a request is one of them, whatever its number."""
        return request.method == self.method and re.fullmatch(self.path, request.path) is not None


def by_rules(*rules: Rule) -> Chooser:
    """Choose by rules; each counts its own matches, and where several apply, the first one does."""
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
    """The proxy; a context manager. Speaks plain HTTP to both sides.

    Args:
        target: the service's address, such as http://127.0.0.1:8000.
        port: on 127.0.0.1; 0: any that is free.

    Attributes:
        choose: the fault of each request; may be changed while it runs.
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
        """What the client is given as the service's address."""
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
        """Stop to listen, and close every connection but one."""
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

    # What passes

    def connected(self, connection: socket.socket) -> None:
        """Note a connection."""
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        """Forget a connection."""
        with self._lock:
            self._connections.discard(connection)

    def note(self, method: str, target: str) -> Request:
        """Write a request down with its fault."""
        parts = urlsplit(target)
        parameters = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        with self._lock:
            request = Request(len(self.requests) + 1, method, parts.path, parameters)
            request = replace(request, fault=self.choose(request))
            self.requests.append(request)
        return request

    def ask(self, request: Request, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Pass a request on to the service, and write the status down.

        Raises:
            OSError, HTTPException: the service did not answer.
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
        """Send a client what a fault leaves of an answer, and end the connection."""
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
    """Close a connection by TCP's reset: not to linger is to send one, and what is closed is the file itself."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, proxy: FaultProxy, port: int) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", port), _Connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is what this server is for."""
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
            except (OSError, HTTPException):  # as the service does to the proxy, the proxy does to the client
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
