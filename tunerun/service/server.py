"""Listen: uvicorn on an address, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn

from tunerun.errors import ConfigError
from tunerun.schema import LOOPBACK
from tunerun.service.app import Service
from tunerun.service.guard import JsonLines, log

HEADER_TIMEOUT_S = 30
"""How long a connection may be idle between two requests."""


def listening(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    """A socket that listens.

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
    """The address that clients are told."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(service: Service, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then running steps end, and what is queued waits for the next start.

    Args:
        on_ready: called once requests are answered.
    """
    line = logging.StreamHandler(sys.stderr)
    line.setFormatter(JsonLines())
    log.handlers, log.propagate = [line], False
    log.setLevel(logging.INFO)
    config = uvicorn.Config(
        service.application(),
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=HEADER_TIMEOUT_S,
        timeout_graceful_shutdown=10,
    )
    server = _Server(config, on_ready)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, lambda *_: None
        )  # uvicorn takes them while it serves, and raises them again when it is done
    server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()
