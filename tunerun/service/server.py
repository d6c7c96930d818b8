"""Run the service under uvicorn until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import resource
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn

from tunerun.errors import ConfigError
from tunerun.section import LOOPBACK
from tunerun.service.app import Service
from tunerun.service.connection import Connection
from tunerun.service.middleware import JsonLines, Middleware, log

KEEP_ALIVE_S = 30
"""How long a connection may be idle between two requests."""

MAX_OPEN_FILES = 65_536
"""Open files (connections) to allow, if the system permits so many."""


def listening(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address or a name of this machine.
        port: 0: any free one.
        allow_remote: whether other machines may connect.

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
    # Else a restart fails for as long as connections of the last run are in TIME_WAIT.
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
    application: Middleware, proxies: Sequence[str] = (), connection: type[Connection] = Connection
) -> uvicorn.Config:
    """Return uvicorn's configuration.

    Args:
        application: the ASGI application.
        proxies: addresses and networks whose X-Forwarded-For and X-Forwarded-Proto headers are trusted; none by
            default, whereas uvicorn's own default trusts every process on this machine.
        connection: the protocol class, which defines the timeouts.
    """
    return uvicorn.Config(
        application,
        lifespan="on",  # `auto` serves an application that fails before it answers, here without its queue
        http=connection,
        ws="none",
        log_config=None,
        access_log=False,  # the middleware writes a line for each request, without its query, which may hold a key
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=10,
    )


def serve(service: Service, listener: socket.socket, on_ready: Callable[[], None], proxies: Sequence[str] = ()) -> None:
    """Serve until SIGTERM or Ctrl-C; then let running steps end, and leave queued jobs for the next start.

    Args:
        service: the service.
        listener: the socket to accept connections on; see `listening`.
        on_ready: called once requests are answered.
        proxies: as in `configuration`.
    """
    line = logging.StreamHandler(sys.stderr)
    line.setFormatter(JsonLines())
    for name, level in ((log.name, logging.INFO), ("uvicorn.error", logging.WARNING), ("asyncio", logging.CRITICAL)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [line], False
        logger.setLevel(level)
    # Each connection is an open file; the usual soft limit of 1,024 is few for a service.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    config = configuration(service.application(), proxies)
    server = _Server(config, on_ready, service.answerer.refuse)
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn handles them while it serves, and raises them again afterwards: ignored, so that the exit is orderly.
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Calls back once it is ready, and before it ends: queued prompts are refused while clients are still connected."""

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
