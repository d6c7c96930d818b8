"""The Protocol of a worker: a connection to an engine, on whichever machine it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunerun.engine import messages
from tunerun.engine.settings import DEFAULT, EngineSettings
from tunerun.job import Failure


@dataclass(frozen=True)
class Place:
    """Folders and settings that every kind of worker starts its engine with.

    Attributes:
        runs: the runs directory of this machine, absolute.
        cache: the folder of prepared base models.
        settings: of the engine.
    """

    runs: Path
    cache: Path
    settings: EngineSettings = DEFAULT

    def log(self, number: int) -> Path:
        """Return the log file of a worker's engine; the first worker's is `engine.log`.

        Args:
            number: of the worker, from 0.
        """
        return self.runs / "logs" / ("engine.log" if number == 0 else f"engine-{number}.log")


class Worker(Protocol):
    """A connection to one engine. It can be used as soon as it exists; the engine may start later.

    - `send` may be called from any thread and does not block; `receive` is called from one thread.
    - Reports arrive in the order in which the engine made them; the first report for every call is Started.
    - Once `receive` has returned None it always returns None, and `death` gives the reason without blocking.
    - `end` stops the engine whatever it is doing, even if it hangs or its machine does not answer, and blocks for half
      a minute at most; it may be called again.
    - Folders in commands and reports are this machine's, wherever the engine runs.
    """

    @property
    def has_reported(self) -> bool:
        """Whether the engine has reported anything."""

    @property
    def process_id(self) -> int | None:
        """The process id of the engine; None: it is on another machine."""

    @property
    def has_ended(self) -> bool:
        """Whether the engine is known to have ended."""

    def send(self, command: messages.Command) -> None:
        """Send a command; if the engine has died, the command is dropped.

        Raises:
            ValueError: a text of the command cannot be written as UTF-8.
        """

    def receive(self) -> messages.Report | None:
        """Wait for the next report and return it; None: the engine has ended."""

    def end(self) -> None:
        """Stop the engine."""

    def death(self) -> Failure:
        """Return why the engine ended without a call of `end`, and release its resources."""


@dataclass(frozen=True)
class RecoveredWorker:
    """A worker that outlived the program that started it.

    Attributes:
        worker: the connection to it.
        jobs: the jobs from that program whose results it has not handed over. All of their reports are sent again,
            from the first one.
    """

    worker: Worker
    jobs: tuple[messages.PackedJob, ...]


@dataclass(frozen=True)
class DeadWorker:
    """A worker that could not be opened. It conforms to `Worker`, so that this is handled like a death of the engine.

    Attributes:
        failure: why it could not be opened.
    """

    failure: Failure
    has_reported: bool = False
    process_id: None = None
    has_ended: bool = True

    def send(self, command: messages.Command) -> None:
        """Drop the command."""

    def receive(self) -> None:
        """Return None: there is no engine."""

    def end(self) -> None:
        """Do nothing."""

    def death(self) -> Failure:
        """Return why it could not be opened."""
        return self.failure
