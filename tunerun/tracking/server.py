"""`tunerun ui`: MLflow's own server on this project's store, in the foreground and on this machine only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tunerun.errors import ConfigError, TrackingError
from tunerun.tracking.address import Address, parse_address
from tunerun.tracking.store import Store
from tunerun.tracking.view import runs_path

HOST = "127.0.0.1"
START_TIMEOUT_S = 90
POOL_SIZE = 50
"""Database connections. One `log_batch` holds two at once, and MLflow's own pool has 5 and 10 more: with 32 clients a
server refused 45 of 96 requests; with this pool none, also with 64 clients (3.18.0)."""

_POLL_S = 0.2


def serve_ui(uri: str, port: int) -> int:
    """Run MLflow's server until it is stopped, and print the link once it answers.

    Args:
        uri: a tracking URI; of one that is a server already only the link is printed.
        port: on 127.0.0.1.

    Returns:
        The server's exit code; 0 after Ctrl-C.

    Raises:
        ConfigError: MLflow cannot keep runs at the URI, or the port is taken.
        TrackingError: the store cannot be opened, or the server did not answer in time.
    """
    address = parse_address(uri, Path.cwd())
    if address.uri.startswith("http"):
        _say(f"MLflow is a server already: {address.name}")
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"--port {port}: {error.strerror} on {HOST}; choose another, for example --port {port + 1}"
            ) from error

    links = [f"  {name}: http://{HOST}:{port}/{runs_path(i)}" for i, name in Store(address).experiments()]
    ending = threading.Event()
    server = _start(address, port, ending)
    with _stopped_with_us(server):
        _await_answer(server, port)
        _say("\n".join([f"MLflow: http://{HOST}:{port}   (Ctrl-C stops it)", *links]))
        try:
            return server.wait()
        except KeyboardInterrupt:
            ending.set()
            server.wait()
            return 0


def _start(address: Address, port: int, ending: threading.Event) -> subprocess.Popen[str]:
    """Start the server, and copy its output to stderr until `ending` is set: stdout is for the link."""
    # One worker and no job runner: 2 processes with 0.36 GiB instead of 15 with 2.2 GiB, and 2 ms a request instead of
    # 44, since sockets that uvicorn shares between workers have no TCP_NODELAY (3.18.0; Kludex/uvicorn issue 3149).
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    environment = {
        # Not in the command line, which shows passwords to all users of the machine.
        "MLFLOW_BACKEND_STORE_URI": address.uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": str(POOL_SIZE),
        "MLFLOW_DISABLE_TELEMETRY": os.environ.get("MLFLOW_DISABLE_TELEMETRY", "true"),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore"),
        "MLFLOW_LOGGING_LEVEL": os.environ.get("MLFLOW_LOGGING_LEVEL", "WARNING"),
        "MLFLOW_UVICORN_OPTS": os.environ.get("MLFLOW_UVICORN_OPTS", "--log-level=warning"),
    }
    if address.artifacts is not None:
        environment["MLFLOW_ARTIFACTS_DESTINATION"] = address.artifacts.as_uri()
    server = subprocess.Popen(
        command, env={**os.environ, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        # Output in another encoding must not end the thread that copies it: the server would block.
        encoding="utf-8", errors="replace",
    )  # fmt: skip

    def relay() -> None:
        for line in server.stdout or ():
            if not ending.is_set():  # after Ctrl-C it is a traceback
                sys.stderr.write(line)
                sys.stderr.flush()

    threading.Thread(target=relay, daemon=True).start()
    return server


def _await_answer(server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TrackingError(f"mlflow server ended with exit code {server.returncode}; see its output above")
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(_POLL_S)
    raise TrackingError(f"mlflow server has not answered on port {port} for {START_TIMEOUT_S} s; it was stopped")


@contextmanager
def _stopped_with_us(server: subprocess.Popen[str]) -> Iterator[None]:
    """Stop the server when this process receives SIGTERM, or leaves the context for any reason."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal's receiver
        server.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if server.poll() is None:
            server.terminate()
            server.wait()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
