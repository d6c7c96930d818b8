"""The node's side of a remote worker: an engine process, and its reports as numbered entries that can be read again.

Commands and reports travel with folders relative to the node's own folder: no path of one machine reaches another.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from tunerun import __version__
from tunerun.engine import messages, tuned_model
from tunerun.engine.process import END_TIMEOUT_S, EngineProcess
from tunerun.engine.settings import EngineSettings
from tunerun.job import Failure, FailureKind
from tunerun.workers import states

TUNED_MODELS = "tuned_models"
"""The folder of the engine's results, in the node's folder."""

ADAPTERS = "adapters"
"""The folder of tuned models that were sent to the node, each in a folder named by the digest of its content."""


@dataclass(frozen=True)
class NodeSettings:
    """The settings that an engine on a node is started with; see `workers.base.Place`.

    Attributes:
        cache: the folder of prepared base models on the node.
        engine: the engine's settings.
        version: of the tunerun that sends commands; a node with another version refuses them.
    """

    cache: str
    engine: EngineSettings
    version: str = __version__


@dataclass(frozen=True)
class Entry:
    """A report of the engine, or its end.

    Attributes:
        number: from 1, without gaps.
        report: a line of `messages.report_line`; empty: the engine has ended.
        folder: the tuned model that the report is about, relative to `TUNED_MODELS`; None: it is not about one.
        death: why the engine ended; None: it has not ended.
        states: the names of saved states that were written since the previous entry.
        gone: the names of saved states that were removed since the previous entry.
    """

    number: int
    report: str = ""
    folder: str | None = None
    death: Failure | None = None
    states: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()


ENTRY = TypeAdapter(Entry)


class OpenWork:
    """The unfinished work of an engine. Thread-safe.

    Attributes:
        jobs: the ids of jobs that have not ended.
        calls: the number of calls that the engine has got.
        calls_over: the number of calls that it has finished.
    """

    def __init__(self) -> None:
        self.jobs: frozenset[str] = frozenset()
        self.calls = 0
        self.calls_over = 0
        self._lock = threading.Lock()

    def sent(self, command: messages.Command) -> None:
        """Record a command; to be called before the engine receives it."""
        with self._lock:
            if isinstance(command, messages.Train):
                self.jobs |= {packed.job for packed in command.pack}
            elif not isinstance(command, messages.Cancel):
                self.calls += 1

    def reported(self, entry: Entry) -> None:
        """Record an entry; to be called where the entry becomes readable, so that both changes appear together."""
        report = messages.read_report(entry.report.encode()) if entry.report else None
        with self._lock:
            if isinstance(report, messages.JobEnded):
                self.jobs -= {report.job}
            elif isinstance(report, messages.FINAL):
                self.calls_over += 1

    @property
    def is_empty(self) -> bool:
        """Whether the engine has finished all jobs and calls."""
        return not self.jobs and self.calls == self.calls_over


class NodeEngine:
    """An engine on this node, started by the constructor.

    Args:
        folder: the node's own folder; created if it does not exist.
        settings: of the node and its engine.
        note: called with each entry, from one thread.
        work: records unfinished work for the caller; None: the caller does not need it.

    Attributes:
        commands: the number of the last command that the engine has received.
    """

    def __init__(
        self, folder: Path, settings: NodeSettings, note: Callable[[Entry], None], work: OpenWork | None = None
    ) -> None:
        self._root = folder / TUNED_MODELS
        self._note = note
        self._count = 0
        self.commands = 0
        self._work = work or OpenWork()
        self._early: dict[int, bytes] = {}  # commands that arrived before their predecessor did
        self._ordering = threading.Lock()
        self._ids: dict[str, str] = {}  # the tuned model's id of each job
        self._engine: EngineProcess | None = None
        if settings.version != __version__:
            words = f"the node {socket.gethostname()} has tunerun {__version__}, this machine {settings.version}"
            self._add(Entry(0, death=Failure(FailureKind.INVALID, f"{words}; install the same version on both")))
            return
        self._log = folder / "logs" / "engine.log"
        self._engine = EngineProcess(Path(settings.cache), settings.engine, self._log)
        self._listener = threading.Thread(target=self._listen, name="reports", args=(self._engine,), daemon=True)
        self._listener.start()

    def command(self, number: int, line: bytes) -> None:
        """Pass a command to the engine, in the order of the numbers; a repeated number is ignored.

        Args:
            number: of the command, from 1.
            line: the command, from `messages.command_line`.
        """
        # Ray runs the calls of an actor in several threads, so they may overtake each other.
        with self._ordering:
            if self._engine is None or number <= self.commands:
                return
            self._early[number] = line
            while (next_line := self._early.pop(self.commands + 1, None)) is not None:
                self.commands += 1
                command = messages.read_command(next_line)
                if isinstance(command, messages.Train):
                    self._ids |= {packed.job: packed.request.tuned_model_id for packed in command.pack}
                self._work.sent(command)
                self._engine.send(messages.with_folders(command, lambda name: str(self._root.parent / name)))

    def end(self) -> None:
        """End the engine within seconds, whatever it is doing, even if it hangs."""
        if self._engine is not None:
            self._engine.end()
            self._listener.join(END_TIMEOUT_S)  # the thread reads the engine's log, which the caller may remove next

    def _listen(self, engine: EngineProcess) -> None:
        """Make an entry of each report, with the tuned model that it is about and the states that have changed."""
        before: dict[str, int] = {}
        while (report := engine.receive()) is not None:
            folder: str | None = None
            if isinstance(report, messages.EpochKept):
                folder = Path(report.checkpoint.location).relative_to(self._root).as_posix()
                report = replace(report, checkpoint=replace(report.checkpoint, location=folder))
            elif isinstance(report, messages.JobEnded) and (identifier := self._ids.get(report.job)) is not None:
                # The folder may contain the tuned model of an earlier job of the same trial.
                finished = tuned_model.read_finished(self._root / identifier)
                folder = identifier if finished is not None and finished.job == report.job else None

            now = states.names(self._root)
            written = tuple(name for name, time in now.items() if before.get(name) != time)
            gone = tuple(name for name in before if name not in now)
            before = now
            line = self._without_paths(messages.report_line(report).decode())
            self._add(Entry(0, line, folder, states=written, gone=gone))
        failure = engine.death()
        self._add(Entry(0, death=replace(failure, message=self._without_paths(failure.message))))

    def _without_paths(self, text: str) -> str:
        """Return a text without this machine's folders, which mean nothing on the other one."""
        return text.replace(str(self._root.parent), f"a folder of the node {socket.gethostname()}")

    def _add(self, entry: Entry) -> None:
        self._count += 1
        self._note(replace(entry, number=self._count))


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    """Return the content of a tuned model's or a saved state's files by name.

    Args:
        folder: the node's folder.
        name: of the tuned model or state, relative to `TUNED_MODELS`.
    """
    place = folder / TUNED_MODELS / name
    return tuned_model.parts(place) | states.parts(place)
