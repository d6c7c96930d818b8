"""What runs on a node of a Ray cluster: an engine, and the reports that no program has read yet.

The actor is detached: it outlives the program that made it, and the next program finds it by its name. So that nothing
is left on the cluster, it ends by itself when no program has asked it for anything for a while.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tunerun.workers.node import Entry, Host, NodeSettings, OpenWork, files_of
from tunerun.workers.node_folder import NodeFolder

WAIT_S = 10.0
"""How long a question for reports waits for one. A program asks again at once, so each question renews the lease."""

LEASE_S = 900.0
"""How long an actor trains, and keeps what it has trained, while no program asks for it: time for a person or a
supervisor to start the command again after a crash, and no longer, because it holds a GPU. What had come home
before is not lost when it is over. Our choice."""

UNUSED_S = 60.0
"""The same for an actor that has nothing to train and nothing to hand over: as long as the other side waits for an
actor that does not answer."""


@dataclass(frozen=True)
class Attached:
    """What a program needs to know to continue with an actor that another program made.

    Attributes:
        after: the number of the last entry that was handed over for good; the ones after it are still there.
        commands: the number of the last command that the engine has received.
        calls: how many calls the entries that are still there, or still to come, answer: the other program asked them.
        jobs: the ids of the jobs that they are about.
    """

    after: int
    commands: int
    calls: int
    jobs: frozenset[str]


def _leave_process() -> None:
    os._exit(0)  # from a thread that is not Ray's, which has no other way


class EngineActor:
    """An engine on a node; several of its methods run at once.

    Args:
        owner: identifies the program that uses it; requests of another one are ignored, for a program that was killed
            may have commands on their way.
        lease_s: see `LEASE_S`.
        unused_s: see `UNUSED_S`.
        leave: ends this process.
    """

    def __init__(
        self,
        settings: NodeSettings,
        owner: str,
        lease_s: float = LEASE_S,
        unused_s: float = UNUSED_S,
        leave: Callable[[], object] = _leave_process,
    ) -> None:
        self._folder = NodeFolder.make()
        self._owner = owner
        self._lease_s, self._unused_s, self._leave = lease_s, unused_s, leave
        self._entries: list[Entry] = []
        self._after = 0  # the number of the last entry that is not kept any more
        self._calls_before = 0  # calls whose last report was that one or before
        self._jobs: set[str] = set()  # of the entries that are kept, and of those to come
        self._news = threading.Condition()
        self._asked_at = time.monotonic()
        self._has_ended = threading.Event()
        self._work = OpenWork()
        self._host = Host(self._folder.path, settings, self._note, self._work)
        threading.Thread(target=self._watch, name="lease", daemon=True).start()

    def _note(self, entry: Entry) -> None:
        with self._news:
            self._entries.append(entry)
            self._work.reported(entry)
            self._news.notify_all()

    def attach(self, owner: str) -> Attached:
        """Work for another program from now on."""
        with self._news:
            self._owner = owner
            self._asked_at = time.monotonic()
            jobs = frozenset(self._jobs | self._work.jobs)
            return Attached(self._after, self._host.commands, self._work.calls - self._calls_before, jobs)

    def command(self, owner: str, number: int, line: bytes) -> None:
        """Pass a command on."""
        with self._news:
            if owner != self._owner:
                return
            self._asked_at = time.monotonic()
        self._host.follow(number, line)

    def entries(self, owner: str, after: int) -> list[Entry]:
        """What follows an entry; waits a while for it. What is before it has been handed over."""
        with self._news:
            if owner != self._owner:
                return []
            self._asked_at = time.monotonic()
            self._drop(after)
            self._news.wait_for(lambda: self._after + len(self._entries) > after, WAIT_S)
            return self._entries[after - self._after :]

    def _drop(self, after: int) -> None:
        """Keep nothing of what is handed over once no job is under way; until then the next program needs it all."""
        self._jobs |= self._work.jobs
        if not self._work.jobs and after == self._after + len(self._entries):
            self._after, self._calls_before = after, self._work.calls_over
            self._entries.clear()
            self._jobs.clear()

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files."""
        self._ask()
        place = self._folder.path / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)

    def files(self, folder: str) -> dict[str, bytes]:
        """Read a tuned model or a state."""
        self._ask()
        return files_of(self._folder.path, folder)

    def _ask(self) -> None:
        with self._news:
            self._asked_at = time.monotonic()

    def end(self) -> None:
        """End the engine in the middle of whatever it does, within seconds, and keep nothing."""
        self._has_ended.set()
        self._host.end()
        self._folder.remove()

    def _watch(self) -> None:
        """End this process when the lease is over."""
        while not self._has_ended.wait(min(self._lease_s, self._unused_s) / 4):
            with self._news:
                is_used = bool(self._entries or self._work.jobs)
                is_over = time.monotonic() - self._asked_at > (self._lease_s if is_used else self._unused_s)
            if is_over:
                self.end()
                self._leave()
