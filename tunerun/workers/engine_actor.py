"""The Ray actor on a cluster's node: it runs an engine and keeps the reports that no program has read yet.

The actor is detached: it outlives the program that made it, and the next program finds it by its name. To leave nothing
behind on the cluster, it ends itself when no program has called it for a while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tunerun.workers.node import Entry, NodeEngine, NodeSettings, OpenWork, files_of
from tunerun.workers.node_folder import NodeFolder

WAIT_S = 10.0
"""How long `entries` waits for a report. A program calls it again at once, and each call renews the lease."""

LEASE_S = 900.0
"""How long an actor trains, and keeps its results, while no program calls it.

Our choice: time for a person or a supervisor to start the command again after a crash, and no longer, because the actor
holds a GPU. Results that were fetched before the lease expires are safe."""

UNUSED_S = 60.0
"""The same for an actor without jobs and without reports to hand over: as long as the other side waits for an actor
that does not answer (`ray._SILENT_S`)."""


@dataclass(frozen=True)
class Attached:
    """The state that a program needs to continue with an actor that another program made.

    Attributes:
        after: the number of the last entry that the actor has dropped; the entries after it can be read.
        commands: the number of the last command that the engine has received.
        calls: how many calls of the other program those entries and later ones still answer.
        jobs: the ids of the jobs that those entries are about.
    """

    after: int
    commands: int
    calls: int
    jobs: frozenset[str]


class EngineActor:
    """An engine on a node. Thread-safe: Ray runs several of its methods at the same time.

    Args:
        settings: of the node and its engine.
        owner: identifies the program that uses the actor. Calls of other programs are ignored, because commands of a
            program that was killed may still be under way.
        lease_s: see `LEASE_S`.
        unused_s: see `UNUSED_S`.
        leave: ends this process. It is called from a thread that is not Ray's, which has no other way than `os._exit`.
    """

    def __init__(
        self,
        settings: NodeSettings,
        owner: str,
        lease_s: float = LEASE_S,
        unused_s: float = UNUSED_S,
        leave: Callable[[], object] = lambda: os._exit(0),
    ) -> None:
        self._folder = NodeFolder.make()
        self._owner = owner
        self._lease_s, self._unused_s, self._leave = lease_s, unused_s, leave
        self._entries: list[Entry] = []
        self._after = 0  # the number of the last entry that was dropped
        self._calls_before = 0  # the number of calls whose last report is among the dropped entries
        self._jobs: set[str] = set()  # ids of the jobs of kept entries
        self._news = threading.Condition()
        self._called_at = time.monotonic()
        self._has_ended = threading.Event()
        self._work = OpenWork()
        self._engine = NodeEngine(self._folder.path, settings, self._note, self._work)
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def _note(self, entry: Entry) -> None:
        with self._news:
            self._entries.append(entry)
            self._work.reported(entry)
            self._news.notify_all()

    def attach(self, owner: str) -> Attached:
        """Accept calls of another program from now on, and of no other.

        Args:
            owner: identifies that program.
        """
        with self._news:
            self._owner = owner
            self._called_at = time.monotonic()
            jobs = frozenset(self._jobs | self._work.jobs)
            return Attached(self._after, self._engine.commands, self._work.calls - self._calls_before, jobs)

    def command(self, owner: str, number: int, line: bytes) -> None:
        """Pass a command to the engine.

        Args:
            owner: of the calling program.
            number: of the command, from 1.
            line: the command, from `messages.command_line`.
        """
        with self._news:
            if owner != self._owner:
                return
            self._called_at = time.monotonic()
        self._engine.command(number, line)

    def entries(self, owner: str, after: int) -> list[Entry]:
        """Return the entries after a number; waits up to `WAIT_S` for the first one.

        Args:
            owner: of the calling program.
            after: the number of the last entry that the caller has processed, which also confirms the earlier ones.
        """
        with self._news:
            if owner != self._owner:
                return []
            self._called_at = time.monotonic()
            # Confirmed entries are dropped once no job is unfinished; until then the next program would need all of
            # them again.
            self._jobs |= self._work.jobs
            if not self._work.jobs and after == self._after + len(self._entries):
                self._after, self._calls_before = after, self._work.calls_over
                self._entries.clear()
                self._jobs.clear()
            self._news.wait_for(lambda: self._after + len(self._entries) > after, WAIT_S)
            return self._entries[after - self._after :]

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files into a folder, which is relative to the node's own."""
        self._renew_lease()
        place = self._folder.path / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)

    def files(self, folder: str) -> dict[str, bytes]:
        """Return the files of a tuned model or a saved state by name."""
        self._renew_lease()
        return files_of(self._folder.path, folder)

    def _renew_lease(self) -> None:
        with self._news:
            self._called_at = time.monotonic()

    def end(self) -> None:
        """End the engine within seconds, whatever it is doing, and remove the node's folder."""
        self._has_ended.set()
        self._engine.end()
        self._folder.remove()

    def _watch(self) -> None:
        """End this process when the lease expires."""
        while not self._has_ended.wait(min(self._lease_s, self._unused_s) / 4):
            with self._news:
                is_used = bool(self._entries or self._work.jobs)
                is_over = time.monotonic() - self._called_at > (self._lease_s if is_used else self._unused_s)
            if is_over:
                self.end()
                self._leave()
