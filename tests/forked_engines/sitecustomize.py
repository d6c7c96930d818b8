"""Run by every Python process that a test starts: an engine is forked from the server instead of importing."""

from __future__ import annotations

import os
import sys


def _as_fork(place: str) -> None:
    """Hand this process's arguments and streams to the server, and end as the engine that it forks ends."""
    import json
    import signal
    import socket

    server = _connected(place)
    asked = {"arguments": sys.orig_argv[4:], "environment": dict(os.environ), "directory": os.getcwd()}  # noqa: PTH109 - pathlib is slow to import
    socket.send_fds(server, [json.dumps(asked).encode() + b"\n"], [0, 1, 2])
    for stream in (0, 1, 2):  # else their other ends would not see that the engine closed them
        os.close(stream)
    code = int(server.recv(16) or b"1")
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _connected(place: str):  # type: ignore[no-untyped-def]  # typing is slow to import
    """A connection to the server, which the first process that needs it starts."""
    import fcntl
    import socket
    import subprocess

    owner, _, path = place.partition(" ")
    with open(f"{path}.lock", "w") as lock:  # noqa: PTH123 - as above
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):  # noqa: PTH110 - as above
            program = os.path.join(os.path.dirname(__file__), "server.py")  # noqa: PTH118, PTH120 - as above
            command = [sys.executable, "-P", program, path, owner]
            listens, ready = os.pipe()
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=ready, start_new_session=True)
            os.close(ready)
            os.read(listens, 1)  # the server closes its end when it listens, or dies
            os.close(listens)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


if "TUNERUN_TEST_ENGINES" in os.environ and sys.orig_argv[1:4] == ["-P", "-m", "tunerun.engine"]:
    _as_fork(os.environ["TUNERUN_TEST_ENGINES"])
