"""The workers `slurm`: each a job that submitit submits to Slurm; both sides talk through a folder that they both see.

    commands.jsonl   commands to the engine, one on each line; written here, read by the job
    reports.jsonl    its reports, an `Entry` on each line; written by the job, read here
    end, ended       created to end the job; created by the job when it has ended
    owner.lock       held by the program that gives the job its work
    tuned_models/, adapters/, logs/   written by the job, as in `workers.node`

A job without work ends by itself, so that it does not hold its allocation while nothing is trained. submitit does not
say whether a job was cancelled or lost (1.5.4, 2026-11-25): the files say it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field

from tunerun import schema
from tunerun.errors import InputError, MissingPackageError
from tunerun.files import private_folder
from tunerun.job import Failure, FailureKind
from tunerun.workers.base import Found, Place, Worker
from tunerun.workers.node import ENTRY, TUNED_MODELS, Entry, Host, NodeSettings, OpenWork, files_of
from tunerun.workers.remote import LostError, RemoteWorker, bring_home

COMMANDS_FILE = "commands.jsonl"
REPORTS_FILE = "reports.jsonl"
END_FILE = "end"
ENDED_FILE = "ended"
LOCK_FILE = "owner.lock"

IDLE_S = 120.0
"""How long a job without work waits for more before it ends. Our choice: a sweep's next trial comes within seconds."""

_PAUSE_S = 0.1
"""Between two looks at a file that the other side writes. A shared file system does not say when another machine has
written (inotify sees local writes only), so both sides look; a tenth of a second is short beside a step, and each look
is one `open` or `stat`."""

_STATE_PAUSE_S = 5.0
"""Between two questions to submitit about a job that reports nothing; submitit asks Slurm once a minute at most."""

_END_S = 20.0
"""How long a job may take to end before Slurm is asked to end it: its engine takes 5 s
(`engine.process.END_TIMEOUT_S`), and a shared file system may show a new file some seconds late."""


class SlurmWorkers(schema.Section):
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


SECTION = SlurmWorkers
IS_HERE = False


def count(section: SlurmWorkers) -> int:
    """How many workers there are at most."""
    return section.count


def room(section: SlurmWorkers) -> int:
    """As many as there are at most: a job that has no node yet waits in Slurm's queue.

    Raises:
        InputError: a package is missing, or this machine has no Slurm.
    """
    if importlib.util.find_spec("submitit") is None:
        raise MissingPackageError("backend.workers.kind=slurm needs the package submitit; pip install 'tunerun[slurm]'")
    if section.executor == "slurm" and shutil.which("srun") is None:
        raise InputError(
            "backend.workers: this machine has no Slurm (srun is not in the PATH); start the command on a login node, "
            "or try it out with backend.workers.executor=local"
        )
    return section.count


def open_worker(section: SlurmWorkers, place: Place, number: int) -> Worker:
    """Submit a job to Slurm.

    Raises:
        OSError: the folder cannot be written.
    """
    room(section)
    private_folder(place.runs)
    parent = private_folder(_parent(section, place))
    folder = private_folder(parent / f"{number}-{uuid.uuid4().hex[:12]}")
    settings = NodeSettings(str(place.cache.absolute()), place.settings)
    job = _submitted(section, folder, settings)
    return RemoteWorker(_FolderChannel(folder, job, is_child=section.executor != "slurm"))


def _parent(section: SlurmWorkers, place: Place) -> Path:
    return Path(section.folder).absolute() if section.folder is not None else place.runs / "workers"


def take_over(section: SlurmWorkers, place: Place) -> tuple[Found, ...]:
    """Bring home what jobs have made whose program was killed, and end them.

    A tuned model that is whole counts as its job's; a trial that was being trained continues from its last saved state.
    """
    for folder in sorted(_parent(section, place).glob("*-*")):
        lock = FileLock(folder / LOCK_FILE, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except (Timeout, OSError):  # its program runs, or it is gone at this moment
            continue
        (folder / END_FILE).touch()
        if _has_begun(folder):
            _wait_until((folder / ENDED_FILE).exists)
        if not (folder / ENDED_FILE).exists():
            _cancel(section, folder)
        bring_home(folder / TUNED_MODELS, place.runs / TUNED_MODELS)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
    return ()


def _cancel(section: SlurmWorkers, folder: Path) -> None:
    """Ask Slurm to end the job of a folder, which waits for a node, or hangs."""
    import submitit

    if section.executor == "slurm":
        for submitted in (folder / "job").glob("*_submitted.pkl"):  # submitit's file, named by the job's id
            submitit.SlurmJob(folder / "job", submitted.name.partition("_")[0]).cancel(check=False)


def _has_begun(folder: Path) -> bool:
    """Whether a job has a node, and has started its engine there."""
    return (folder / REPORTS_FILE).exists()


def _wait_until(is_so: Callable[[], bool]) -> None:
    """Wait for the other side, up to `_END_S`."""
    deadline = time.monotonic() + _END_S
    while not is_so() and time.monotonic() < deadline:
        time.sleep(_PAUSE_S)


def _submitted(section: SlurmWorkers, folder: Path, settings: NodeSettings) -> Any:
    """Submit the job that works on a folder."""
    import submitit

    executor = submitit.AutoExecutor(folder=folder / "job", cluster=section.executor)
    executor.update_parameters(
        name="tunerun",
        timeout_min=section.time_minutes,
        gpus_per_node=section.gpus,
        cpus_per_task=section.cpus,
        **({} if section.memory_gb is None else {"mem_gb": section.memory_gb}),
        **({} if section.partition is None else {"slurm_partition": section.partition}),
        **({"slurm_additional_parameters": dict(section.parameters)} if section.parameters else {}),
    )
    return executor.submit(serve, str(folder), settings)


def serve(folder: str, settings: NodeSettings) -> None:
    """The function that the job runs: follow the commands in the folder until it has to end, or has had no work for
    long."""
    place = Path(folder)
    reported_at = time.monotonic()
    has_died = threading.Event()
    work = OpenWork()
    with (place / REPORTS_FILE).open("ab", buffering=0) as reports:

        def note(entry: Entry) -> None:
            nonlocal reported_at
            reports.write(ENTRY.dump_json(entry) + b"\n")
            reported_at = time.monotonic()
            work.reported(entry)
            if entry.death is not None:
                has_died.set()

        host = Host(place, settings, note, work)
        lines = _Lines(place / COMMANDS_FILE)
        number = 0
        while not (place / END_FILE).exists() and not has_died.is_set():
            for line in lines.new():
                number += 1
                host.follow(number, line)
            if work.is_empty and time.monotonic() - reported_at > IDLE_S:
                break
            has_died.wait(_PAUSE_S)
        host.end()
        with contextlib.suppress(FileNotFoundError):  # its program has removed the folder
            (place / ENDED_FILE).touch()


class _Lines:
    """The lines of a file that another process appends to; each line is read once, when it is whole."""

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
    """The folder, and the job that works on it.

    Args:
        is_child: whether the job is a process of this program, which has to wait for its end. Slurm's own word for the
            end comes a minute late.
    """

    def __init__(self, folder: Path, job: Any, *, is_child: bool) -> None:
        self._folder = folder
        self._lock = FileLock(folder / LOCK_FILE, thread_local=False)
        self._lock.acquire()
        self._job = job
        self._is_child = is_child
        self._lines = _Lines(folder / REPORTS_FILE)
        self._asked_at = time.monotonic()  # what became of the job
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
            if time.monotonic() - self._asked_at > _STATE_PAUSE_S:
                self._asked_at = time.monotonic()
                # What it wrote before it ended is read first.
                if self._job.done() and not (lines := self._lines.new()):
                    return (Entry(after + 1, death=self._death()),)
        return [entry for entry in map(ENTRY.validate_json, lines) if entry.number > after]

    def _death(self) -> Failure:
        """What became of a job that has ended without saying why."""
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
        """End the job: by itself if it runs, so that its engine ends too; through Slurm if it waits for a node, or
        hangs."""
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
