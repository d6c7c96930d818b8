"""Kills a run at a chosen instant, to test that the next run continues it.

A run is the real command line in its own process, forked from one that has already imported everything, so that a kill
costs a tenth of a second instead of four seconds. The instants:

- `write`: the n-th commit to the ledger is about to happen, and is lost;
- `shown`: the n-th commit to MLflow's store is about to happen, and is lost;
- `made`: the n-th statement that creates a new MLflow store is about to be executed;
- `received`: the service has read the n-th request, and does nothing with it;
- `applied`: the service has done what the n-th request asks, and its answer is lost;
- `answered`: the n-th answer is on its way to a process that is gone.

The first three are counted in the process that dies, the others in the service (`tests.rigs.http_service`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from tests.rigs.http_service import Dropped, HttpService, Request

PRELOADED = ("tests.crash.preload",)
TIMEOUT_S = 60.0


class Instant(StrEnum):
    """The event that is counted to choose the instant of a kill."""

    WRITE = "write"
    SHOWN = "shown"
    MADE = "made"
    RECEIVED = "received"
    APPLIED = "applied"
    ANSWERED = "answered"


IN_RUN = (Instant.WRITE, Instant.SHOWN, Instant.MADE)
"""Instants that are counted in the run's own process; the others are counted in the service."""


@dataclass(frozen=True)
class Kill:
    """When to kill: at the n-th occurrence of an instant, from 1."""

    instant: Instant
    number: int

    def __str__(self) -> str:
        return f"{self.instant} {self.number}"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        exit_code: the process's exit code; negative: the number of the signal that killed it.
        counts: number of occurrences of each instant that is counted in the run's process.
    """

    exit_code: int
    stdout: str
    stderr: str
    counts: Mapping[Instant, int]

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.exit_code == -signal.SIGKILL


class Run:
    """One tunerun command in its own process.

    Args:
        arguments: the command line after `tunerun`.
        folder: the working directory, where stdout and stderr are written to files.
        environment: environment variables to set.
        kill: the `write`, `shown` or `made` instant at which the process kills itself; None: it runs to its end.
    """

    def __init__(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], kill: Kill | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self._folder = folder
        self._process: ForkServerProcess = context.Process(
            target=_run, args=(list(arguments), str(folder), dict(environment), kill)
        )
        self._process.start()

    @property
    def process_id(self) -> int:
        """The PID."""
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait until it is dead."""
        os.kill(self.process_id, signal.SIGKILL)
        wait([self._process.sentinel])

    def interrupt(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        os.kill(self.process_id, number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Wait for the process, and return how it ended.

        Raises:
            TimeoutError: it did not end within `timeout_s` seconds, and was killed.
        """
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()
            raise TimeoutError(f"a run did not end within {timeout_s:g} s; see {self._folder}/stderr.txt")
        counts = {i: _counted(self._folder, i) for i in IN_RUN}
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("stdout.txt", "stderr.txt"))
        return Ended(self._process.exitcode, out, err, counts)


def run_until(
    kill: Kill | None, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], service: HttpService
) -> Ended:
    """Run a command that uses a scripted service, and kill it if it reaches an instant.

    Args:
        kill: the instant; None: run to the end.
        arguments, folder, environment: of the run; see `Run`.
    """
    at_service = kill is not None and kill.instant not in IN_RUN
    if kill is None or not at_service:
        return Run(arguments, folder, environment, kill).wait()
    started, before = threading.Event(), len(service.requests)
    victim: list[Run] = []

    def hook(request: Request) -> None:
        if request.number - before == kill.number:
            started.wait()
            victim[0].kill()
            raise Dropped

    name = f"on_{kill.instant}"
    nothing = getattr(service, name)
    setattr(service, name, hook)
    try:
        victim.append(Run(arguments, folder, environment))
        started.set()
        return victim[0].wait()
    finally:
        setattr(service, name, nothing)


def _counted(folder: Path, instant: Instant) -> int:
    file = folder / f"{instant}.count"
    return file.stat().st_size if file.exists() else 0


def _run(arguments: list[str], folder: str, environment: dict[str, str], kill: Kill | None) -> None:
    """The entry point of the forked process: run tunerun in the folder, with its output in files."""
    os.chdir(folder)
    os.environ.update(environment)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for instant in IN_RUN:
        Path(f"{instant}.count").unlink(missing_ok=True)
    _count_ledger_commits(_counter(Instant.WRITE, kill))
    _count_store_commits(_counter(Instant.SHOWN, kill))
    _count_statements_of_new_stores(_counter(Instant.MADE, kill))
    sys.argv = ["tunerun", *arguments]
    from tunerun.cli import main

    main()


def _counter(instant: Instant, kill: Kill | None) -> Callable[[], None]:
    """Return a function that counts an instant. The count is the length of a file, so that it survives the kill."""
    file = os.open(f"{instant}.count", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    fatal = kill.number if kill is not None and kill.instant is instant else None
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        os.write(file, b".")
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


def _count_ledger_commits(count: Callable[[], None]) -> None:
    """Count commits to ledgers by patching sqlite3, which is safe in a process that only lives for one run."""
    from tunerun.ledger import FILE_NAME

    connect: Any = sqlite3.connect

    class Counted(sqlite3.Connection):
        def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
            if sql == "COMMIT":
                count()
            return super().execute(sql, parameters)

    def counted(database: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        factory = {"factory": Counted} if str(database).endswith(FILE_NAME) else {}
        connection: sqlite3.Connection = connect(database, *arguments, **options, **factory)
        return connection

    sqlite3.connect = counted  # type: ignore[assignment]


def _count_store_commits(count: Callable[[], None]) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    event.listen(Engine, "commit", lambda _connection: count())


def _count_statements_of_new_stores(count: Callable[[], None]) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def executed(connection: Any, *_: object) -> None:
        if str(connection.engine.url).endswith(".new"):
            count()

    event.listen(Engine, "before_cursor_execute", executed)
