"""Run the service under uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from tunerun.errors import ConfigError
from tunerun.schema import LOOPBACK
from tunerun.service.app import Service
from tunerun.service.middleware import JsonLines, Middleware, log

KEEP_ALIVE_S = 30
"""How long a connection may be idle between two requests."""

MAX_OPEN_FILES = 65_536
"""Open files (connections) to allow, if the system permits so many."""


def listening(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    """Return a listening socket.

    Raises:
        ConfigError: the host is not this machine and that was not allowed, or the address is taken.
    """
    if host not in LOOPBACK and not allow_remote:
        raise ConfigError(
            f"--host {host}: others could reach the service, and its keys would travel over plain http; listen on "
            "127.0.0.1 behind a proxy that speaks https, or add --allow-remote"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"--port {port} on {host}: {error.strerror}; choose another one, or 0 for any") from error
    listener.listen(1024)
    return listener


def address_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def configuration(
    application: Middleware, proxies: Sequence[str] = (), connection: type[Connection] | None = None
) -> uvicorn.Config:
    """Return uvicorn's configuration.

    Args:
        proxies: addresses and networks whose X-Forwarded-For and X-Forwarded-Proto are believed; uvicorn's own default
            believes whatever runs on this machine.
        connection: the protocol class, which holds the timeouts.
    """
    return uvicorn.Config(
        application,
        lifespan="on",
        http=connection or Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=10,
    )


def serve(service: Service, listener: socket.socket, on_ready: Callable[[], None], proxies: Sequence[str] = ()) -> None:
    """Serve until SIGTERM or Ctrl-C; then running steps end, and queued jobs wait for the next start.

    Args:
        on_ready: called once requests are answered.
        proxies: as in `configuration`.
    """
    line = logging.StreamHandler(sys.stderr)
    line.setFormatter(JsonLines())
    for name, level in ((log.name, logging.INFO), ("uvicorn.error", logging.WARNING), ("asyncio", logging.CRITICAL)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [line], False
        logger.setLevel(level)
    _allow_open_files()
    config = configuration(service.application(), proxies)
    server = _Server(config, on_ready, service.answerer.refuse)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, lambda *_: None
        )  # uvicorn takes them while it serves, and raises them again when it is done
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Calls back when it is ready, and before it ends: waiting prompts are refused while clients are connected."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_ending: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._on_ending = on_ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_ending()
        await super().shutdown(sockets)


class Connection(H11Protocol):
    """Closes a connection on which no request arrives; uvicorn's own timeout starts after the first response.

    Attributes:
        header_timeout_s: seconds until a request's headers have to be complete.
    """

    header_timeout_s: float = 30.0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base does
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._await_request()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request."""
        super().on_response_complete()
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(self.header_timeout_s, self._close_unasked)

    def _close_unasked(self) -> None:
        is_asked = bool(self.cycle) and not self.cycle.response_complete
        if not is_asked:
            self.transport.close()


def _allow_open_files() -> None:
    """Raise the limit of open files as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
