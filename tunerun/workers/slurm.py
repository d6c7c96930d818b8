"""The kind `slurm`: each worker is a Slurm job, submitted through submitit. Both sides use a folder on a shared disk:

    commands.jsonl   commands to the engine, one on each line; written here, read by the job
    reports.jsonl    an `Entry` on each line; written by the job, read here
    end, ended       created here to end the job; created by the job when it has ended
    owner.lock       held by the program that uses the job (`owner_lock`)
    tuned_models/, adapters/, logs/   written by the job, as in `workers.node`

A job without work ends itself, so that it does not hold its allocation for nothing. submitit does not distinguish
cancelled from lost jobs (1.5.4, 2026-11-25), so the files do.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunerun.engine import packages
from tunerun.errors import InputError
from tunerun.files import private_folder
from tunerun.job import Failure, FailureKind
from tunerun.section import Section
from tunerun.workers import owner_lock
from tunerun.workers.base import Place, RecoveredWorker, Worker
from tunerun.workers.node import ENTRY, TUNED_MODELS, Entry, NodeEngine, NodeSettings, OpenWork, files_of
from tunerun.workers.remote import LostError, RemoteWorker, fetch_results

COMMANDS_FILE = "commands.jsonl"
REPORTS_FILE = "reports.jsonl"
END_FILE = "end"
ENDED_FILE = "ended"

IDLE_S = 120.0
"""How long a job waits for work before it ends itself. Our choice: a sweep's next trial comes within seconds."""

_PAUSE_S = 0.1
"""The polling interval of files that the other side writes. Polling, because inotify does not see writes of another
machine on a shared file system. A tenth of a second is short compared to a step, and a poll is one `open` or `stat`."""

_STATE_PAUSE_S = 5.0
"""The polling interval of the state of a job without new reports; submitit itself asks Slurm once a minute at most."""

_END_S = 20.0
"""How long a job may take to end before Slurm cancels it: its engine takes up to 5 s
(`engine.process.END_TIMEOUT_S`), and a shared file system may show a new file some seconds late."""


class SlurmWorkers(Section):
    """Jobs on a Slurm cluster, submitted through submitit."""

    kind: Literal["slurm"] = Field(description="slurm")
    count: int = Field(4, ge=1, le=1024, description="Most jobs at the same time.", json_schema_extra={"unit": "jobs"})
    executor: Literal["slurm", "local"] = Field(
        "slurm", description="slurm, or local: processes of this machine, to try it out without Slurm."
    )
    folder: str | None = Field(
        None,
        description="Folder that this machine and the nodes see under the same path; null: `workers` in the runs "
        "directory, which the nodes then have to see.",
    )
    partition: str | None = Field(None, description="Slurm's partition; null: its default.")
    time_minutes: int = Field(
        240,
        ge=1,
        description="Time limit of a job, for everything that its worker does; a job that reaches it is lost, and its "
        "trials are submitted again.",
        json_schema_extra={"unit": "minutes"},
    )
    gpus: int = Field(0, ge=0, description="GPUs of each job; 0: none.", json_schema_extra={"unit": "GPUs"})
    cpus: int = Field(4, ge=1, description="CPU cores of each job.", json_schema_extra={"unit": "cores"})
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="Memory of each job; null: the partition's default.",
        json_schema_extra={"unit": "GB"},
    )
    parameters: dict[str, str | int] = Field(
        default_factory=dict, description="Further options of sbatch by their long names, such as {account: mine}."
    )


IS_HERE = False


def room(section: SlurmWorkers) -> int:
    """Return how many workers can be open at once, which is always `count`: jobs wait for nodes in Slurm's queue.

    Raises:
        MissingPackageError: the package submitit is not installed.
        InputError: Slurm is not installed on this machine.
    """
    packages.require("submitit", extra="slurm", what="backend.workers.kind=slurm")
    if section.executor == "slurm" and shutil.which("srun") is None:
        raise InputError(
            "backend.workers: this machine has no Slurm (srun is not in the PATH); start the command on a login node, "
            "or try it out with backend.workers.executor=local"
        )
    return section.count


def open_worker(section: SlurmWorkers, place: Place, number: int) -> Worker:
    """Submit a job to Slurm.

    Args:
        section: the config section.
        place: folders and settings.
        number: of the worker, from 0; part of its folder's name.

    Raises:
        OSError: the shared folder cannot be written.
    """
    room(section)
    private_folder(place.runs)
    parent = private_folder(_parent(section, place))
    folder = private_folder(parent / f"{number}-{uuid.uuid4().hex[:12]}")

    import submitit

    executor = submitit.AutoExecutor(folder=folder / "job", cluster=section.executor)
    executor.update_parameters(
        name="tunerun",
        timeout_min=section.time_minutes,
        gpus_per_node=section.gpus,
        cpus_per_task=section.cpus,
        # What is null in the section is omitted, so that the cluster's default applies.
        **({} if section.memory_gb is None else {"mem_gb": section.memory_gb}),
        **({} if section.partition is None else {"slurm_partition": section.partition}),
        **({"slurm_additional_parameters": dict(section.parameters)} if section.parameters else {}),
    )
    job = executor.submit(serve, str(folder), NodeSettings(str(place.cache.absolute()), place.settings))
    return RemoteWorker(_FolderChannel(folder, job, is_child=section.executor != "slurm"))


def _parent(section: SlurmWorkers, place: Place) -> Path:
    return Path(section.folder).absolute() if section.folder is not None else place.runs / "workers"


def take_over(section: SlurmWorkers, place: Place) -> tuple[RecoveredWorker, ...]:
    """Fetch the results of jobs whose program was killed, and end these jobs.

    A complete tuned model is the result of its trial; a trial in training resumes from its last saved state in a new
    job.

    Args:
        section: the config section.
        place: folders and settings of this program.

    Returns:
        No workers: none is continued.
    """
    for folder in sorted(_parent(section, place).glob("*-*")):
        lock = owner_lock.take_if_free(folder)
        if lock is None:
            continue
        (folder / END_FILE).touch()
        if _has_begun(folder):
            _wait_until((folder / ENDED_FILE).exists)
        if section.executor == "slurm" and not (folder / ENDED_FILE).exists():
            # The job is waiting for a node, or hangs. submitit names a file by the job's id (1.5.4).
            import submitit

            for submitted in (folder / "job").glob("*_submitted.pkl"):
                submitit.SlurmJob(folder / "job", submitted.name.partition("_")[0]).cancel(check=False)
        fetch_results(folder / TUNED_MODELS, place.runs / TUNED_MODELS)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
    return ()


def _has_begun(folder: Path) -> bool:
    """Whether a job has got a node and is serving the folder there."""
    return (folder / REPORTS_FILE).exists()


def _wait_until(is_so: Callable[[], bool]) -> None:
    """Poll until a condition holds, up to `_END_S`."""
    deadline = time.monotonic() + _END_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def serve(folder: str, settings: NodeSettings) -> None:
    """Execute the commands in a folder until the job has to end or has had no work for `IDLE_S`. Runs in the job.

    Args:
        folder: the shared folder.
        settings: of the node and its engine.
    """
    place = Path(folder)
    reported_at = time.monotonic()
    has_died = threading.Event()
    work = OpenWork()
    # Unbuffered: each entry is one write, which a reader sees complete or, while it is on its way, without its newline.
    with (place / REPORTS_FILE).open("ab", buffering=0) as reports:

        def note(entry: Entry) -> None:
            nonlocal reported_at
            reports.write(ENTRY.dump_json(entry) + b"\n")
            reported_at = time.monotonic()
            work.reported(entry)
            if entry.death is not None:
                has_died.set()

        engine = NodeEngine(place, settings, note, work)
        lines = _Lines(place / COMMANDS_FILE)
        number = 0
        while not (place / END_FILE).exists() and not has_died.is_set():
            for line in lines.new():
                number += 1
                engine.command(number, line)
            if work.is_empty and time.monotonic() - reported_at > IDLE_S:
                break
            has_died.wait(_PAUSE_S)
        engine.end()
        with contextlib.suppress(FileNotFoundError):  # the program has removed the folder
            (place / ENDED_FILE).touch()


class _Lines:
    """Reads a file that another process appends to; `new` returns each line once, after it is complete."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset = 0

    def new(self) -> list[bytes]:
        try:
            with self._file.open("rb") as content:
                content.seek(self._offset)
                whole, newline, _ = content.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._offset += len(whole) + len(newline)
        return whole.split(b"\n") if newline else []


class _FolderChannel:
    """The channel to a job through its shared folder.

    Args:
        folder: the shared folder.
        job: submitit's job.
        is_child: whether the job is a child process of this program, which then has to wait for its exit. For a Slurm
            job the file `ended` is enough; Slurm reports the end up to a minute later.
    """

    def __init__(self, folder: Path, job: Any, *, is_child: bool) -> None:
        self._folder = folder
        self._lock = owner_lock.take(folder)
        self._job = job
        self._is_child = is_child
        self._lines = _Lines(folder / REPORTS_FILE)
        self._polled_at = time.monotonic()  # when the job's state was polled last
        self._is_closed = False

    def command(self, _number: int, line: bytes) -> None:
        with self._translated(), (self._folder / COMMANDS_FILE).open("ab") as commands:
            commands.write(line)

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        with self._translated():
            place = self._folder / folder
            place.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (place / name).write_bytes(content)

    def files(self, folder: str) -> Mapping[str, bytes]:
        with self._translated():
            return files_of(self._folder, folder)

    def entries(self, after: int) -> Sequence[Entry]:
        if not (lines := self._lines.new()):
            time.sleep(_PAUSE_S)
            if self._is_closed:
                return ()
            if time.monotonic() - self._polled_at > _STATE_PAUSE_S:
                self._polled_at = time.monotonic()
                # Read once more: the job may have written its last reports between the first read and its end.
                if self._job.done() and not (lines := self._lines.new()):
                    return (Entry(after + 1, death=self._death()),)
        return [entry for entry in map(ENTRY.validate_json, lines) if entry.number > after]

    def _death(self) -> Failure:
        """Return the failure of a job that ended without reporting why."""
        state = str(self._job.state).split(" ")[0]
        words = f"the job {self._job.job_id} ended ({state})"
        tail = (self._job.stderr() or "")[-4_000:] or None
        if state == "OUT_OF_MEMORY":
            advice = "raise backend.workers.memory_gb, or lower hyperparameters.batch_size"
            return Failure(FailureKind.OUT_OF_MEMORY, f"{words}; {advice}", tail)
        if state == "TIMEOUT":
            return Failure(FailureKind.LOST, f"{words}; raise backend.workers.time_minutes", tail)
        return Failure(FailureKind.LOST, f"{words}; run the command again", tail)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LostError(f"the worker's folder {self._folder} cannot be used ({error.strerror})") from error

    @property
    def _has_ended(self) -> bool:
        return self._job.done() or (not self._is_child and (self._folder / ENDED_FILE).exists())

    def close(self) -> None:
        """End the job: a running one through the file `end`, so that its engine ends in order; else through Slurm."""
        if self._is_closed:
            return
        self._is_closed = True
        with contextlib.suppress(OSError):
            (self._folder / END_FILE).touch()
        if _has_begun(self._folder):
            _wait_until(lambda: self._has_ended)
        if not self._has_ended:
            self._job.cancel(check=False)  # scancel fails for a job that has ended since
        self._lock.release()
        shutil.rmtree(self._folder, ignore_errors=True)
