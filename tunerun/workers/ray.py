"""The workers `ray`: each an actor on a Ray cluster that holds an engine's process on its node.

The actor ends with the program that made it; an engine ends with its actor. What Ray prints goes to `logs/ray.log`.
Measured with Ray 2.60 (2026-11-25): a node that is lost shows as ActorUnavailableError first and as ActorDiedError or
NodeDiedError soon after; a node that only lost its raylet finishes what it does.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunerun import schema
from tunerun.errors import AccessError, InputError, MissingPackageError
from tunerun.job import Failure, FailureKind
from tunerun.workers.base import DeadWorker, Place, Worker
from tunerun.workers.node import Entry, Host, NodeSettings, files_of
from tunerun.workers.remote import LostError, RemoteWorker

NAMESPACE = "tunerun"

_WAIT_S = 10.0
"""How long one question for reports waits."""

_ANSWER_S = 5.0
"""How long the cluster may take to accept a connection."""

_SILENT_S = 60.0
"""How long an actor may be unavailable before it counts as lost; a network that is back sooner loses nothing."""

_END_S = 10.0
"""How long an engine may take to end before its actor is killed."""

_QUIET = {
    # Ray else asks the internet for its version and reports its usage.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Else 127.0.0.1 becomes this machine's outer address, and a cluster on the loopback address is never reached.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


class RayWorkers(schema.Section):
    """Actors on a Ray cluster that runs already."""

    kind: Literal["ray"] = Field(description="ray")
    address: str = Field(
        description="The cluster, host:port, as `ray start` prints it; auto: what the environment variable RAY_ADDRESS "
        "says.",
    )
    count: int = Field(
        16,
        ge=1,
        le=1024,
        description="Workers at most; there are no more than the cluster's resources hold at once.",
        json_schema_extra={"unit": "workers"},
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs of each worker; 0: none.", json_schema_extra={"unit": "GPUs"}
    )
    cpus_per_worker: float = Field(
        1.0, gt=0, description="CPU cores of each worker.", json_schema_extra={"unit": "cores"}
    )
    cache: str | None = Field(
        None, description="Folder of prepared base models on each node; null: the same path as on this machine."
    )


SECTION = RayWorkers
IS_HERE = False


def count(section: RayWorkers) -> int:
    """How many workers there are at most."""
    return section.count


def room(section: RayWorkers) -> int:
    """How many workers the cluster's resources hold; connects to it.

    Raises:
        InputError: a package is missing, the address says nothing, this program is connected to another cluster, or no
            worker would ever have room.
        AccessError: the cluster cannot be reached.
    """
    ray = _connect(section)
    there = ray.cluster_resources()
    holds = there.get("CPU", 0.0) / section.cpus_per_worker
    if section.gpus_per_worker:
        holds = min(holds, there.get("GPU", 0.0) / section.gpus_per_worker)
    if holds < 1:
        raise InputError(
            f"backend.workers: the cluster at {section.address} has {there.get('CPU', 0.0):g} CPU cores and "
            f"{there.get('GPU', 0.0):g} GPUs, a worker asks for {section.cpus_per_worker:g} and "
            f"{section.gpus_per_worker:g}; lower backend.workers.gpus_per_worker or cpus_per_worker"
        )
    return min(int(holds), section.count)


def take_over(_section: RayWorkers, _place: Place) -> None:
    """Nothing: an actor ends with its program."""


def open_worker(section: RayWorkers, place: Place, _number: int) -> Worker:
    """Have the cluster start an actor; it may wait for a node with room."""
    settings = NodeSettings(section.cache or str(place.cache.absolute()), place.settings)
    try:
        ray = _connect(section, place.runs / "logs" / "ray.log")
        return RemoteWorker(_ActorChannel(ray, section, settings))
    except AccessError as error:
        return DeadWorker(Failure(FailureKind.LOST, str(error)))


class EngineActor:
    """An engine on a node; several of its methods run at once."""

    def __init__(self, settings: NodeSettings) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tunerun-worker-"))
        self._entries: list[Entry] = []
        self._news = threading.Condition()
        self._host = Host(self._folder, settings, self._note)

    def _note(self, entry: Entry) -> None:
        with self._news:
            self._entries.append(entry)
            self._news.notify_all()

    def command(self, number: int, line: bytes) -> None:
        """Pass a command on."""
        self._host.follow(number, line)

    def entries(self, after: int) -> list[Entry]:
        """What follows an entry; waits a while for it."""
        with self._news:
            self._news.wait_for(lambda: len(self._entries) > after, _WAIT_S)
            return self._entries[after:]

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write files."""
        place = self._folder / folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (place / name).write_bytes(content)

    def files(self, folder: str) -> dict[str, bytes]:
        """Read a tuned model or a state."""
        return files_of(self._folder, folder)

    def end(self) -> None:
        """End the engine, and keep nothing."""
        self._host.end()
        shutil.rmtree(self._folder, ignore_errors=True)


class _ActorChannel:
    """Calls of an actor's methods."""

    def __init__(self, ray: Any, section: RayWorkers, settings: NodeSettings) -> None:
        self._ray = ray
        # Nothing is repeated by Ray: the ledger decides about a second attempt.
        self._actor = (
            ray.remote(EngineActor)
            .options(
                num_cpus=section.cpus_per_worker,
                num_gpus=section.gpus_per_worker,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=8,
            )
            .remote(settings)
        )
        self._question: Any = None
        self._silent_since: float | None = None

    def command(self, number: int, line: bytes) -> None:
        with self._translated():
            self._actor.command.remote(number, line)

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        with self._translated():
            self._ray.get(self._actor.put.remote(folder, files))

    def files(self, folder: str) -> Mapping[str, bytes]:
        with self._translated():
            found: Mapping[str, bytes] = self._ray.get(self._actor.files.remote(folder))
            return found

    def entries(self, after: int) -> Sequence[Entry]:
        """Ask once more while the actor is unavailable: reading again what was not read changes nothing."""
        unavailable = self._ray.exceptions.ActorUnavailableError
        try:
            with self._translated(passing=unavailable):
                if self._question is None:
                    self._question = self._actor.entries.remote(after)
                there, _ = self._ray.wait([self._question], timeout=_WAIT_S)
                if not there:  # it waits for a node
                    return ()
                question, self._question = self._question, None
                found: Sequence[Entry] = self._ray.get(question)
        except unavailable as error:
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > _SILENT_S:
                raise LostError(f"the worker's node has not answered for {_SILENT_S:.0f} s") from error
            return ()
        self._silent_since = None
        return found

    @contextlib.contextmanager
    def _translated(self, passing: Any = ()) -> Iterator[None]:
        try:
            yield
        except passing:
            raise
        except self._ray.exceptions.RayError as error:
            raise LostError(f"the worker's node or its actor is lost ({type(error).__name__})") from error

    def close(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(self._actor.end.remote(), timeout=_END_S)
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(self._actor)


_connecting = threading.Lock()
_connected: list[str] = []  # the address of the cluster that this program is connected to; Ray knows one a program


def _connect(section: RayWorkers, log: Path | None = None) -> Any:
    """Return the module `ray`, connected."""
    if importlib.util.find_spec("ray") is None:
        raise MissingPackageError("backend.workers.kind=ray needs the package ray; pip install 'tunerun[ray]'")
    address = os.environ.get("RAY_ADDRESS", "") if section.address == "auto" else section.address
    if not address or address == "auto":
        # Ray's own `auto` takes the cluster that its files remember, which may be another user's, or dead.
        raise InputError(
            "backend.workers.address: auto, and the environment variable RAY_ADDRESS is not set; set it, or give the "
            "cluster's host:port as `ray start` prints it"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"backend.workers.address: {address}; give host:port, as `ray start` prints it")
    with _connecting:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        import ray

        if _connected and ray.is_initialized():
            if _connected != [address]:
                raise InputError(
                    f"backend.workers.address: {address}, but this program is connected to {_connected[0]}; "
                    "one program can use one Ray cluster"
                )
        elif not ray.is_initialized():
            try:
                socket.create_connection((host, int(port)), _ANSWER_S).close()  # Ray itself would try for minutes
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level="CRITICAL",
                    configure_logging=False,
                )
            except (OSError, RuntimeError, ValueError) as error:
                first = str(error).strip().partition("\n")[0]
                raise AccessError(
                    f"the Ray cluster at {address} cannot be reached: {first}; give backend.workers.address as "
                    "`ray start` prints it, and check that the cluster runs Ray "
                    f"{ray.__version__}"
                ) from error
            _connected[:] = [address]
        if log is not None:
            _print_to(log)
        return ray


def _print_to(log: Path) -> None:
    """Send to a file what Ray prints about its nodes.

    It prints to stdout, whatever `log_to_driver` says, where a command may print JSON; there is no setting for that.
    """
    from ray._private import worker

    def written(data: Mapping[str, Any], *_: object, **__: object) -> None:
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.writelines(f"({data.get('pid')}) {line}\n" for line in data.get("lines", ()))

    log.parent.mkdir(parents=True, exist_ok=True)
    worker.print_to_stdstream = written
