"""`python server.py SOCKET OWNER`: forks an engine for each connection, until the process OWNER ends."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

PRELOADED = (
    "tunerun.engine.worker",
    "tunerun.engine.generation",
    "tunerun.engine.pack",
    "tunerun.engine.training_run",
    "peft",
    "safetensors.torch",
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
)
REQUEST_BYTES = 1 << 20


class Server:
    """Forks engines, ends those whose starter has ended, and reports how each ended."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()

    def serve(self, owner: int) -> None:
        """Exit when the owner has ended."""
        self._selector.register(os.pidfd_open(owner), selectors.EVENT_READ, sys.exit)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while True:
            for key, _events in self._selector.select():
                key.data()

    def _accept(self) -> None:
        starter, _address = self._listener.accept()
        asked, streams, _flags, _from = socket.recv_fds(starter, REQUEST_BYTES, 3)
        while asked and not asked.endswith(b"\n"):
            part = starter.recv(REQUEST_BYTES)
            asked = asked + part if part else b""
        if not asked:  # the starter was killed before it had asked
            starter.close()
            return
        process = os.fork()
        if not process:
            for each in list(self._selector.get_map().values()):
                os.close(each.fd)
            starter.close()
            become_engine(json.loads(asked), streams)
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(process)
        # What a starter sends after its request is its end.
        self._selector.register(starter, selectors.EVENT_READ, lambda: self._left(process, starter))
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._report(process, ended, starter))

    def _left(self, process: int, starter: socket.socket) -> None:
        self._selector.unregister(starter)
        os.kill(process, signal.SIGKILL)  # the PID cannot have been reused: only `_report` reaps the process

    def _report(self, process: int, ended: int, starter: socket.socket) -> None:
        self._selector.unregister(ended)
        os.close(ended)
        _process, status = os.waitpid(process, 0)
        with contextlib.suppress(KeyError):  # the starter has ended
            self._selector.unregister(starter)
        with starter, contextlib.suppress(BrokenPipeError):
            starter.send(str(os.waitstatus_to_exitcode(status)).encode())


def become_engine(asked: Any, streams: Sequence[int]) -> NoReturn:
    """Act as `python -m tunerun.engine`, with the arguments, environment, directory and streams of its starter."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.setsid()
        os.chdir(asked["directory"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv[1:] = asked["arguments"]
        from tunerun.engine.worker import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - as Python itself does at a process's end
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    path, owner = Path(sys.argv[1]), int(sys.argv[2])
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # otherwise each fork's first full collection visits, and so copies, the memory of every import
    assert threading.active_count() == 1, threading.enumerate()  # a fork would not have them
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)  # closes the pipe on which the first starter waits
        Server(listener).serve(owner)


if __name__ == "__main__":
    main()
