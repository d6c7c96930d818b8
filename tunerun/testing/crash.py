"""Kills a run at a chosen instant, for tests that the next run continues it.

A run is the real command line in a process of its own, forked from one that has imported everything, so that a kill
costs a tenth of a second and not four. What can be killed at:

- `write`: the n-th commit to the ledger is about to happen, and is lost;
- `shown`: the same for the n-th commit to MLflow's store;
- `made`: the n-th statement that makes a new store for MLflow is about to be executed;
- `received`: the service has read the n-th request, and does nothing with it;
- `applied`: the service has done what the n-th request asks, and its answer is lost;
- `answered`: the n-th answer is on its way to a process that is gone.

The first three are counted in the process that dies, the others in the service (`tunerun.testing.http_service`).
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

from tunerun.testing.http_service import Dropped, HttpService, Request

PRELOADED = ("tunerun.testing.crash_preload",)
TIMEOUT_S = 60.0


class Instant(StrEnum):
    """What a kill is counted by."""

    WRITE = "write"
    SHOWN = "shown"
    MADE = "made"
    RECEIVED = "received"
    APPLIED = "applied"
    ANSWERED = "answered"


IN_RUN = (Instant.WRITE, Instant.SHOWN, Instant.MADE)
"""What is counted in the run's own process; the others in the service."""


@dataclass(frozen=True)
class Kill:
    """The n-th of something, from 1."""

    instant: Instant
    number: int

    def __str__(self) -> str:
        return f"{self.instant} {self.number}"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        exit_code: its exit code; minus the signal's number where it was killed.
        counts: how often each instant came that is counted in the run's process.
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
    """One command line of tunerun in a process of its own.

    Args:
        arguments: as typed behind `tunerun`.
        folder: where it runs, and where what it prints goes.
        environment: set in the process.
        kill: a `write`, a `shown` or a `made` at which it kills itself.
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
        """The operating system's number of the process."""
        assert self._process.pid is not None  # noqa: S101 - it was started
        return self._process.pid

    def kill(self) -> None:
        """Kill it, and return when it is dead."""
        os.kill(self.process_id, signal.SIGKILL)
        wait([self._process.sentinel])

    def interrupt(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.process_id, number)

    def wait(self, timeout_s: float = TIMEOUT_S) -> Ended:
        """Return how it ended.

        Raises:
            TimeoutError: it has not ended in time; it is killed.
        """
        self._process.join(timeout_s)
        if self._process.exitcode is None:
            self.kill()
            self._process.join()
            raise TimeoutError(f"a run has not ended within {timeout_s:g} s; see {self._folder}/stderr.txt")
        counts = {i: _counted(self._folder, i) for i in IN_RUN}
        out, err = ((self._folder / name).read_text(encoding="utf-8") for name in ("stdout.txt", "stderr.txt"))
        return Ended(self._process.exitcode, out, err, counts)


def run_until(
    kill: Kill | None, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], service: HttpService
) -> Ended:
    """Run a command line that talks to a scripted service, and kill it at an instant, if it comes.

    Args:
        kill: None: let it end by itself.
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
    """The process: becomes a tunerun that was started in the folder, with its output in files."""
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
    """Counts by the length of a file, which survives the kill."""
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
    """Count in connections to ledgers; the standard library is changed, in a process that lives for one run."""
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
