"""A real `tunerun serve` on loopback, in a thread of this process, to test its clients."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvicorn

from tunerun.service.app import Service, Settings
from tunerun.service.connection import Connection
from tunerun.service.core.answerer import Answerer
from tunerun.service.core.credentials import Key
from tunerun.service.server import address_of, configuration, listening
from tunerun.testing.waiting import wait_until


class RunningService:
    """The service, a context manager. A second one on the same folder continues with the state of the first.

    Args:
        settings: the settings of the service.
        port: port on 127.0.0.1; 0: any free one.
        connection: the protocol class, which defines the timeouts.
        proxies: the peers whose X-Forwarded-* headers are trusted.
        answerer: the class that queues prompts.
        limits: limits of the middleware, such as `body_timeout_s`.

    Attributes:
        service: the components of the service.
    """

    def __init__(
        self,
        settings: Settings,
        port: int = 0,
        connection: type[Connection] = Connection,
        proxies: Sequence[str] = (),
        answerer: type[Answerer] = Answerer,
        **limits: Any,
    ) -> None:
        self.service = Service(settings, answerer)
        self._listener = listening("127.0.0.1", port, allow_remote=False)
        config = configuration(self.service.application(**limits), proxies, connection)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)

    @property
    def address(self) -> str:
        """The base URL, for `backend.base_url`."""
        return address_of(self._listener)

    @property
    def state(self) -> Path:
        """The folder of all stored state."""
        return self.service.state.folder

    @property
    def key(self) -> Key:
        """The first API key."""
        return self.service.keys.keys()[0]

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started, "the service listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._listener.close()
