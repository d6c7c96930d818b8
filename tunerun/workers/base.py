"""The Protocol of a connection to an engine, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tunerun.engine import messages
from tunerun.engine.settings import DEFAULT, EngineSettings
from tunerun.job import Failure


@dataclass(frozen=True)
class Place:
    """What an engine is started with, whatever the kind of its worker.

    Attributes:
        runs: the runs directory of this machine, absolute.
        cache: the folder of prepared base models.
        settings: how it computes.
    """

    runs: Path
    cache: Path
    settings: EngineSettings = DEFAULT

    def log(self, number: int) -> Path:
        """The file that a worker's engine prints to; the first worker's is `engine.log`."""
        return self.runs / "logs" / ("engine.log" if number == 0 else f"engine-{number}.log")


class Worker(Protocol):
    """A connection to one engine. It is usable from when it is made; the engine may start later.

    - `send` may be called from any thread and does not wait; `receive` is called from one thread.
    - Reports come in the order in which the engine made them; every call is answered by Started first.
    - After `receive` has returned None it returns nothing else, and `death` says why; `death` waits for nothing then.
    - `end` ends the engine in the middle of whatever it does, also one that hangs or whose machine does not answer, and
      waits for that, half a minute at most; it may be called again.
    - The folders that a command or a report names are this machine's, wherever the engine is.
    """

    @property
    def has_reported(self) -> bool:
        """Whether the engine has reported anything."""

    @property
    def process_id(self) -> int | None:
        """The operating system's number of the engine's process; None: it is not on this machine."""

    @property
    def has_ended(self) -> bool:
        """Whether the engine is known to have ended."""

    def send(self, command: messages.Command) -> None:
        """Send a command; if the engine has died, the command is lost.

        Raises:
            ValueError: a text of the command cannot be written as UTF-8.
        """

    def receive(self) -> messages.Report | None:
        """Wait for the next report; None: the engine has ended."""

    def end(self) -> None:
        """End the engine."""

    def death(self) -> Failure:
        """Why the engine ended that this program did not end; releases what is left of it."""


@dataclass(frozen=True)
class Found:
    """A worker whose program was killed, and which outlived it.

    Attributes:
        jobs: what it was given to train by that program and has not handed over; their reports come again, from the
            first.
    """

    worker: Worker
    jobs: tuple[messages.PackedJob, ...]


@dataclass(frozen=True)
class DeadWorker:
    """A worker that could not be opened; see `Worker`.

    Attributes:
        failure: why.
    """

    failure: Failure
    has_reported: bool = False
    process_id: None = None
    has_ended: bool = True

    def send(self, command: messages.Command) -> None:
        """The command is lost."""

    def receive(self) -> None:
        """It has ended."""

    def end(self) -> None:
        """It has ended."""

    def death(self) -> Failure:
        """Why it could not be opened."""
        return self.failure
