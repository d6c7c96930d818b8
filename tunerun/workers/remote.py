"""A worker whose engine is on another machine: what it needs is sent as bytes, and what it makes comes back as bytes.

A tuned model that comes back is written by this machine, whole or not at all, after its digest and its key are checked;
the folders that the other machine names are never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from tunerun.engine import messages, tuned_model
from tunerun.errors import NotFoundError
from tunerun.job import Failure, FailureKind, JobState, TuningRequest
from tunerun.workers import states
from tunerun.workers.node import ADAPTERS, TUNED_MODELS, Entry


class LostError(Exception):
    """The other machine, or what ran on it, is gone."""


class Channel(Protocol):
    """How commands, reports and files reach a node and come back.

    `entries` is called from one thread, everything else from any. All raise LostError where the node is gone.
    """

    def command(self, number: int, line: bytes, /) -> None:
        """Send a command; commands are numbered from 1."""

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files into a folder of the node's own."""

    def entries(self, after: int) -> Sequence[Entry]:
        """What follows an entry, by its number; waits a while for it, and may return nothing."""

    def files(self, folder: str) -> Mapping[str, bytes]:
        """The files of a tuned model or a state that the engine wrote, by their names."""

    def close(self) -> None:
        """End the engine, and keep nothing on the node; may be called again."""


@dataclass(frozen=True)
class _Sent:
    """A job that a node has.

    Attributes:
        folder: where its tuned model comes to lie.
    """

    request: TuningRequest
    folder: Path


class RemoteWorker:
    """A connection to an engine through a channel; see `workers.base.Worker`."""

    def __init__(self, channel: Channel) -> None:
        self.has_reported = False
        self._channel = channel
        self._commands = 0
        self._sending = threading.Lock()
        self._read = 0
        self._waiting: deque[Entry] = deque()
        self._sent: dict[str, _Sent] = {}
        self._root: Path | None = None  # where tuned models are on this machine
        self._there: set[str] = set()  # folders of the node that this machine has filled
        self._come: set[tuple[str, str]] = set()  # jobs and folders of the node whose files have come back
        self._failure: Failure | None = None
        self._is_ended = False

    @property
    def has_ended(self) -> bool:
        """Whether the engine has ended, or its machine is gone."""
        return self._is_ended or self._failure is not None

    @property
    def process_id(self) -> None:
        """Its process is on another machine."""
        return

    def send(self, command: messages.Command) -> None:
        """Send a command, after the tuned models that it names."""
        if isinstance(command, messages.Train):
            root = Path(command.tuned_models)
            self._root = root
            for packed in command.pack:
                self._sent[packed.job] = _Sent(packed.request, root / packed.request.tuned_model_id)
        try:
            if isinstance(command, messages.Train):
                for name, files in states.of_keys(root, {packed.request.key for packed in command.pack}):
                    self._channel.put(f"{TUNED_MODELS}/{name}", files)
            line = messages.command_line(
                messages.with_folders(replace(command, tuned_models=TUNED_MODELS), self._portable)
                if isinstance(command, messages.Train)
                else messages.with_folders(command, self._portable)
            )
            with self._sending:
                self._commands += 1
                self._channel.command(self._commands, line)
        except LostError as error:  # `receive` finds the same
            self._lost(error)

    def _portable(self, folder: str) -> str:
        """The node's name of a folder; a tuned model that is not there yet is sent."""
        if folder == TUNED_MODELS:
            return folder
        files = tuned_model.parts(Path(folder))
        digest = hashlib.sha256()
        for name, content in sorted(files.items()):
            digest.update(f"{name}:{len(content)}:".encode() + content)
        place = f"{ADAPTERS}/{digest.hexdigest()}"
        if place not in self._there:
            self._channel.put(place, files)
            self._there.add(place)
        return place

    def receive(self) -> messages.Report | None:
        """Wait for the next report; None: the engine has ended, or its machine is gone."""
        while self._failure is None and not self._is_ended:
            try:
                if not self._waiting:
                    self._waiting.extend(self._channel.entries(self._read))
                    continue
                entry = self._waiting.popleft()
                self._read = entry.number
                if entry.death is not None:
                    self._failure = entry.death
                    break
                self.has_reported = True
                self._take_states(entry)
                return self._brought_home(messages.read_report(entry.report.encode()), entry.folder)
            except LostError as error:
                self._lost(error)
        return None

    def _take_states(self, entry: Entry) -> None:
        """Keep here what the jobs need to continue, should the node be lost; without it they begin again."""
        if self._root is None:
            return
        for name in entry.states:
            with contextlib.suppress(OSError):
                states.keep(self._root, name, self._channel.files(name))
        for name in entry.gone:
            states.drop(self._root, name)

    def _lost(self, error: LostError) -> None:
        self._failure = self._failure or Failure(FailureKind.LOST, f"{error}; run the command again")

    def _brought_home(self, report: messages.Report, folder: str | None) -> messages.Report:
        """A report with this machine's folders, after the tuned model that it is about has come."""
        if folder is None or not isinstance(report, messages.EpochKept | messages.JobEnded):
            return report
        sent = self._sent[report.job]
        if isinstance(report, messages.JobEnded):
            problem = self._fetched(report.job, folder, sent.folder)
            del self._sent[report.job]
            if problem is not None:
                return replace(report, state=JobState.FAILED, failure=Failure(FailureKind.CRASHED, problem))
            return report
        is_last = folder == sent.request.tuned_model_id
        place = sent.folder if is_last else _epoch_folder(sent.folder, report.checkpoint.epoch)
        self._fetched(report.job, folder, place)  # what is wrong with it is found again when it is called
        return replace(report, checkpoint=replace(report.checkpoint, location=str(place)))

    def _fetched(self, job: str, folder: str, place: Path) -> str | None:
        """Bring a tuned model to this machine; what is wrong with it, None: nothing."""
        if (job, folder) in self._come:
            return None
        request = self._sent[job].request
        root = self._sent[job].folder
        try:
            tuned_model.receive(self._channel.files(folder), place, request.key, lambda n: _epoch_folder(root, n))
        except (OSError, ValueError) as error:
            return f"the tuned model that a worker made could not be kept: {error}"
        self._come.add((job, folder))
        return None

    def end(self) -> None:
        """End the engine."""
        self._is_ended = True
        self._channel.close()

    def death(self) -> Failure:
        """Why the engine ended; its node keeps nothing then."""
        self._channel.close()
        return self._failure or Failure(FailureKind.LOST, "the worker was ended; run the command again")


def _epoch_folder(folder: Path, epoch: int) -> Path:
    return tuned_model.epochs_folder(folder) / str(epoch)


def bring_home(made: Path, tuned_models: Path) -> None:
    """Take tuned models and states over that an engine made for a program that was killed; what is here stays.

    Args:
        made: the folder that the engine wrote them to.
    """
    for file in made.glob(f"*/{tuned_model.STATUS_FILE}"):
        place = tuned_models / file.parent.name
        if not place.exists():
            with contextlib.suppress(OSError, ValueError, NotFoundError):  # what is damaged is trained again
                key = tuned_model.read(file.parent).key
                tuned_model.receive(tuned_model.parts(file.parent), place, key, partial(_epoch_folder, place))
    for name in states.names(made):
        with contextlib.suppress(OSError):
            states.keep(tuned_models, name, states.parts(made / name))
