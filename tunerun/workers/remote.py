"""A worker whose engine is on another machine: commands, tuned models and states are transferred as bytes.

A tuned model that arrives is written completely or not at all, after its digest and key have been checked. Paths that
the other machine names are never used.
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
from tunerun.workers.engine_actor import Attached
from tunerun.workers.journal import Journal
from tunerun.workers.node import ADAPTERS, TUNED_MODELS, Entry


class LostError(Exception):
    """The connection to the node is lost: the node or the program on it has ended or does not answer."""


class Channel(Protocol):
    """The transport of commands, entries and files between this machine and a node.

    `entries` is called from one thread, all other methods from any. All of them raise LostError if the node is lost.
    """

    def command(self, number: int, line: bytes, /) -> None:
        """Send a command; commands are numbered from 1."""

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files, by name, into a folder that is relative to the node's own."""

    def entries(self, after: int) -> Sequence[Entry]:
        """Return the entries after a number; waits for the next one for some seconds, and may return none."""

    def files(self, folder: str) -> Mapping[str, bytes]:
        """Return the files, by name, of a tuned model or a saved state that the engine wrote."""

    def close(self) -> None:
        """End the engine, even if it or its node hangs, and remove everything from the node; may be called again."""


@dataclass(frozen=True)
class _SentJob:
    """A job that was sent to the node.

    Attributes:
        request: of the job.
        folder: of its tuned model on this machine.
    """

    request: TuningRequest
    folder: Path


class RemoteWorker:
    """A connection to an engine through a channel; conforms to `workers.base.Worker`.

    Args:
        channel: to the node.
        journal: records the commands to train; None: the engine does not outlive this program.
        attached: the state of an engine that another program started; None: the engine is new.
    """

    def __init__(self, channel: Channel, journal: Journal | None = None, attached: Attached | None = None) -> None:
        self.has_reported = attached is not None and attached.commands > 0
        self._channel = channel
        self._journal = journal
        self._commands = 0 if attached is None else attached.commands
        # Calls of the other program that the engine still answers; their reports are skipped.
        self._foreign_calls = 0 if attached is None else attached.calls
        self._sending = threading.Lock()
        self._read = 0 if attached is None else attached.after
        self._waiting: deque[Entry] = deque()
        self._jobs: dict[str, _SentJob] = {}
        self._root: Path | None = None  # the folder of tuned models on this machine
        self._sent_adapters: set[str] = set()  # folders of the node with tuned models that were sent to it
        self._fetched_models: set[tuple[str, str]] = set()  # (job, folder of the node)
        self._failure: Failure | None = None
        self._is_ended = False

    def continue_with(self, jobs: Sequence[messages.PackedJob], tuned_models: Path) -> None:
        """Register jobs that the engine trains; for those of another program to be called before the first `receive`.

        Args:
            jobs: with their requests.
            tuned_models: the folder of tuned models on this machine.
        """
        self._root = tuned_models
        for packed in jobs:
            self._jobs[packed.job] = _SentJob(packed.request, tuned_models / packed.request.tuned_model_id)

    @property
    def has_ended(self) -> bool:
        """Whether the engine has ended or the node is lost."""
        return self._is_ended or self._failure is not None

    @property
    def process_id(self) -> None:
        """None: the process is on another machine."""
        return

    def send(self, command: messages.Command) -> None:
        """Send a command, after the tuned models and saved states that it needs."""
        portable = command
        try:
            if isinstance(command, messages.Train):
                root = Path(command.tuned_models)
                self.continue_with(command.pack, root)
                for name, files in states.of_keys(root, {packed.request.key for packed in command.pack}):
                    self._channel.put(f"{TUNED_MODELS}/{name}", files)
                portable = replace(command, tuned_models=TUNED_MODELS)
            line = messages.command_line(messages.with_folders(portable, self._node_folder))
            with self._sending:  # a command must not overtake one with a smaller number
                self._commands += 1
                # Noted first: a program that is killed in between leaves a line that the worker never got, which the
                # next program skips by its number. The other way round a job could train that no program knows of.
                if self._journal is not None and isinstance(command, messages.Train):
                    self._journal.note(self._commands, command)
                self._channel.command(self._commands, line)
        except LostError as error:  # not raised: `receive` reports it
            self._lost(error)
        except OSError as error:
            self._lost(LostError(f"the journal of a worker's jobs cannot be written ({error.strerror})"))

    def _node_folder(self, folder: str) -> str:
        """Return a tuned model's folder on the node, after sending the tuned model if it is not there yet."""
        if folder == TUNED_MODELS:
            return folder
        files = tuned_model.parts(Path(folder))
        # Named by content: trials that continue the same tuned model send it once, and this machine's path stays here.
        digest = hashlib.sha256()
        for name, content in sorted(files.items()):
            digest.update(f"{name}:{len(content)}:".encode() + content)
        place = f"{ADAPTERS}/{digest.hexdigest()}"
        if place not in self._sent_adapters:
            self._channel.put(place, files)
            self._sent_adapters.add(place)
        return place

    def receive(self) -> messages.Report | None:
        """Wait for the next report and return it; None: the engine has ended, or the node is lost."""
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
                report = messages.read_report(entry.report.encode())
                if self._foreign_calls and not isinstance(report, messages.JobReport | messages.RunBegan):
                    self._foreign_calls -= isinstance(report, messages.FINAL)
                    continue
                return self._with_local_folders(report, entry.folder)
            except LostError as error:
                self._lost(error)
        return None

    def _take_states(self, entry: Entry) -> None:
        """Copy changed states to this machine: if the node is lost, the jobs resume from them elsewhere."""
        if self._root is None:
            return
        # `files` returns the current state, not that of the entry, so a state is fetched only for its last entry.
        newer = {name for each in self._waiting for name in (*each.states, *each.gone)} if entry.states else set()
        for name in (name for name in entry.states if name not in newer):
            with contextlib.suppress(OSError):  # without it, a lost job restarts from an earlier state
                states.keep(self._root, name, self._channel.files(name))
        for name in entry.gone:
            states.drop(self._root, name)

    def _lost(self, error: LostError) -> None:
        self._failure = self._failure or Failure(FailureKind.LOST, f"{error}; run the command again")

    def _with_local_folders(self, report: messages.Report, folder: str | None) -> messages.Report:
        """Return a report with this machine's folders, after fetching the tuned model that it is about."""
        if folder is None or not isinstance(report, messages.EpochKept | messages.JobEnded):
            return report
        sent = self._jobs.get(report.job)
        if sent is None:  # a job of another program that is not in its journal
            return report
        if isinstance(report, messages.JobEnded):
            problem = self._fetched(report.job, folder, sent.folder)
            del self._jobs[report.job]
            if problem is not None:
                return replace(report, state=JobState.FAILED, failure=Failure(FailureKind.CRASHED, problem))
            return report
        is_last = folder == sent.request.tuned_model_id
        place = sent.folder if is_last else _epoch_folder(sent.folder, report.checkpoint.epoch)
        self._fetched(report.job, folder, place)  # a problem is reported when the checkpoint is used
        return replace(report, checkpoint=replace(report.checkpoint, location=str(place)))

    def _fetched(self, job: str, folder: str, place: Path) -> str | None:
        """Copy a tuned model to this machine once; return the problem if that fails."""
        # The model of a job's last epoch is reported twice, as kept and as the job's end.
        if (job, folder) in self._fetched_models:
            return None
        request = self._jobs[job].request
        root = self._jobs[job].folder
        try:
            tuned_model.receive(self._channel.files(folder), place, request.key, lambda n: _epoch_folder(root, n))
        except (OSError, ValueError) as error:
            return f"the tuned model that came from a worker cannot be kept: {error}; run with --retry-failed"
        self._fetched_models.add((job, folder))
        return None

    def end(self) -> None:
        """End the engine and remove everything from the node."""
        self._is_ended = True
        self._close()

    def _close(self) -> None:
        self._channel.close()
        if self._journal is not None:
            self._journal.remove()

    def death(self) -> Failure:
        """Return why the engine ended, and remove everything from the node."""
        self._close()
        return self._failure or Failure(FailureKind.LOST, "the worker was ended; run the command again")


def _epoch_folder(folder: Path, epoch: int) -> Path:
    return tuned_model.epochs_folder(folder) / str(epoch)


def fetch_results(source: Path, tuned_models: Path) -> None:
    """Copy the tuned models and states that an engine wrote for a program that was killed.

    A tuned model that this machine already has is not replaced.

    Args:
        source: the folder that the engine wrote to.
        tuned_models: the folder of tuned models on this machine.
    """
    for file in source.glob(f"*/{tuned_model.STATUS_FILE}"):
        place = tuned_models / file.parent.name
        if not place.exists():
            with contextlib.suppress(OSError, ValueError, NotFoundError):  # a damaged model is trained again
                key = tuned_model.read(file.parent).key
                tuned_model.receive(tuned_model.parts(file.parent), place, key, partial(_epoch_folder, place))
    for name in states.names(source):
        with contextlib.suppress(OSError):
            states.keep(tuned_models, name, states.parts(source / name))
