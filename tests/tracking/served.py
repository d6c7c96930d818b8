"""A real MLflow server, started as `tunerun ui` starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def free_port() -> int:
    """A port that is not in use now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def server(uri: str, port: int, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """`tunerun ui` in a process of its own, once it answers.

    Args:
        overrides: of the config; without one there is no ledger to look into.
    """
    command = ["-m", "tunerun", "ui", "--port", str(port), f"tracking.uri={uri}", *overrides]
    process = subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if overrides else subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ},
    )
    assert process.stdout is not None
    try:
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        if process.stderr is not None:
            process.stderr.close()
        process.wait()
