"""The kind `ray`: each worker is an actor on a Ray cluster, with an engine process on the actor's node.

Actors are detached: an actor whose program was killed continues, and the next program finds it by its name, which is in
the runs folder (`workers.journal`). A program that ends in any other way ends its actors; an engine ends with its
actor. Ray's output goes to `logs/ray.log`.

Measured with Ray 2.60 (2026-11-25): a node that is lost shows as ActorUnavailableError first and as ActorDiedError or
NodeDiedError soon after; a node that has lost only its raylet finishes what it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunerun.engine import packages
from tunerun.engine.settings import EngineSettings
from tunerun.errors import AccessError, InputError, first_line
from tunerun.files import private_folder
from tunerun.job import Failure, FailureKind
from tunerun.section import Section
from tunerun.workers.base import DeadWorker, Place, RecoveredWorker, Worker
from tunerun.workers.engine_actor import WAIT_S, Attached, EngineActor
from tunerun.workers.journal import Journal
from tunerun.workers.node import TUNED_MODELS, Entry, NodeSettings
from tunerun.workers.remote import LostError, RemoteWorker

NAMESPACE = "tunerun"

_ANSWER_S = 5.0
"""How long the cluster may take to accept a connection."""

_SILENT_S = 60.0
"""How long an actor may be unavailable before it counts as lost; a shorter network failure loses nothing."""

_END_S = 10.0
"""How long an actor may take to answer `attach` or `end` before it is killed. Its own limit for an engine that hangs is
5 s (`engine.process.END_TIMEOUT_S`)."""

_QUIET = {
    # Without this Ray checks its version on the internet and reports usage.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Without this Ray replaces 127.0.0.1 by this machine's external address and never reaches a cluster on loopback.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


class RayWorkers(Section):
    """Actors on a running Ray cluster."""

    kind: Literal["ray"] = Field(description="ray")
    address: str = Field(
        description="The cluster, host:port, as `ray start` prints it; auto: the value of the environment variable "
        "RAY_ADDRESS.",
    )
    count: int = Field(
        16,
        ge=1,
        le=1024,
        description="Most workers at the same time; never more than the cluster's resources hold.",
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


IS_HERE = False


def room(section: RayWorkers) -> int:
    """Connect to the cluster and return how many workers fit into its resources, up to `count`.

    Raises:
        MissingPackageError: ray is not installed.
        InputError: the address is invalid, this program is connected to another cluster, or the cluster cannot hold
            even one worker.
        AccessError: the cluster cannot be reached.
    """
    ray = _connect(section)
    resources = ray.cluster_resources()
    fitting = resources.get("CPU", 0.0) / section.cpus_per_worker
    if section.gpus_per_worker:
        fitting = min(fitting, resources.get("GPU", 0.0) / section.gpus_per_worker)
    if fitting < 1:
        raise InputError(
            f"backend.workers: the cluster at {section.address} has {resources.get('CPU', 0.0):g} CPU cores and "
            f"{resources.get('GPU', 0.0):g} GPUs, a worker asks for {section.cpus_per_worker:g} and "
            f"{section.gpus_per_worker:g}; lower backend.workers.gpus_per_worker or cpus_per_worker"
        )
    return min(int(fitting), section.count)


def take_over(section: RayWorkers, place: Place) -> list[RecoveredWorker]:
    """Continue with the actors of killed programs; actors with other settings than this section's are left alone.

    Args:
        section: the config section.
        place: folders and settings of this program.

    Raises:
        AccessError: the cluster cannot be reached.
    """
    recovered = []
    settings = _settings(section, place)
    for journal in Journal.left(_journals(place), _name_prefix(section, settings)):
        worker = _recovered(section, place, journal)
        if worker is None:
            journal.remove()
        else:
            recovered.append(worker)
    return recovered


def _recovered(section: RayWorkers, place: Place, journal: Journal) -> RecoveredWorker | None:
    """Continue with an actor; None if it has ended. An actor that does not answer is killed first."""
    ray = _connect(section, place.runs / "logs" / "ray.log")
    owner = uuid.uuid4().hex
    try:
        actor = ray.get_actor(journal.name, namespace=NAMESPACE)
    except ValueError:  # Ray does not have an actor of that name
        return None
    try:
        attached: Attached = ray.get(actor.attach.remote(owner), timeout=_END_S)
    except ray.exceptions.RayError:  # it is still waiting for a node, or its node is lost
        _end(ray, actor)
        return None
    worker = RemoteWorker(_ActorChannel(ray, actor, owner), journal, attached)
    packed = (packed for train in journal.trains(attached.commands) for packed in train.pack)
    jobs = tuple(each for each in packed if each.job in attached.jobs)
    worker.continue_with(jobs, place.runs / TUNED_MODELS)
    return RecoveredWorker(worker, jobs)


def open_worker(section: RayWorkers, place: Place, _number: int) -> Worker:
    """Create an actor, which may wait for a node with free resources.

    Returns:
        The connection to it; a `DeadWorker` if the cluster cannot be reached or refuses.

    Raises:
        OSError: the runs folder cannot be written.
    """
    settings = _settings(section, place)
    try:
        ray = _connect(section, place.runs / "logs" / "ray.log")
    except AccessError as error:
        return DeadWorker(Failure(FailureKind.LOST, str(error)))
    owner = uuid.uuid4().hex
    # The journal's lock is taken before the actor exists, so that no other program takes over the actor.
    journal = Journal.begin(_journals(place), f"{_name_prefix(section, settings)}{owner[:12]}")
    try:
        actor = (
            ray.remote(EngineActor)
            .options(
                name=journal.name,
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=section.cpus_per_worker,
                num_gpus=section.gpus_per_worker,
                # No retries by Ray: the ledger decides about a second attempt.
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=8,  # `entries` waits for reports; commands, files and `end` must not wait for it
            )
            .remote(replace(settings, engine=sharing(section, ray.nodes(), settings.engine)), owner)
        )
    except ray.exceptions.RayError as error:
        journal.remove()
        return DeadWorker(Failure(FailureKind.LOST, f"the cluster starts no worker ({type(error).__name__})"))
    return RemoteWorker(_ActorChannel(ray, actor, owner), journal)


def _settings(section: RayWorkers, place: Place) -> NodeSettings:
    return NodeSettings(section.cache or str(place.cache.absolute()), place.settings)


def sharing(section: RayWorkers, nodes: Sequence[Mapping[str, Any]], settings: EngineSettings) -> EngineSettings:
    """Return engine settings with the number of workers that may share a GPU or, without GPUs, a node's main memory.

    Args:
        section: the config section.
        nodes: from `ray.nodes`. The largest node counts, because Ray decides later on which one the worker runs.
        settings: without that number.
    """
    if section.gpus_per_worker:
        engines = int(1 / section.gpus_per_worker)  # Ray hides all other GPUs from a worker
    else:
        cores = max((node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]), default=0.0)
        engines = min(int(cores / section.cpus_per_worker), section.count)
    return replace(settings, engines=max(1, engines))


def _journals(place: Place) -> Path:
    return private_folder(place.runs) / "workers" / "ray"


def _name_prefix(section: RayWorkers, settings: NodeSettings) -> str:
    """Return the common prefix of the names of actors with equal settings; other settings would give other bits."""
    settings_text = f"{section.gpus_per_worker:g} {section.cpus_per_worker:g} {settings}"
    return f"engine-{hashlib.sha256(settings_text.encode()).hexdigest()[:12]}-"


class _ActorChannel:
    """The channel to an actor: calls its methods."""

    def __init__(self, ray: Any, actor: Any, owner: str) -> None:
        self._ray = ray
        self._actor = actor
        self._owner = owner
        self._reading: Any = None  # the call of `entries` that the actor has not answered yet
        self._silent_since: float | None = None

    def command(self, number: int, line: bytes) -> None:
        with self._translated():
            self._actor.command.remote(self._owner, number, line)

    def put(self, folder: str, files: Mapping[str, bytes]) -> None:
        with self._translated():
            self._ray.get(self._actor.put.remote(folder, files))

    def files(self, folder: str) -> Mapping[str, bytes]:
        with self._translated():
            files: Mapping[str, bytes] = self._ray.get(self._actor.files.remote(folder))
            return files

    def entries(self, after: int) -> Sequence[Entry]:
        """Return new entries; while the actor is unavailable return none, so that the caller tries again.

        Raises:
            LostError: the actor has been unavailable for too long, or its node is lost.
        """
        # Repeating a read is safe: the actor keeps entries until a later call confirms them.
        unavailable = self._ray.exceptions.ActorUnavailableError
        try:
            with self._translated(passing=unavailable):
                if self._reading is None:
                    self._reading = self._actor.entries.remote(self._owner, after)
                answered, _ = self._ray.wait([self._reading], timeout=WAIT_S)
                if not answered:  # the actor is still waiting for a node
                    return ()
                reading, self._reading = self._reading, None
                entries: Sequence[Entry] = self._ray.get(reading)
        except unavailable as error:
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > _SILENT_S:
                raise LostError(f"the worker's node has not answered for {_SILENT_S:.0f} s") from error
            return ()
        self._silent_since = None
        return entries

    @contextlib.contextmanager
    def _translated(self, passing: Any = ()) -> Iterator[None]:
        try:
            yield
        except passing:
            raise
        except self._ray.exceptions.RayError as error:
            raise LostError(f"the worker's node or its actor is lost ({type(error).__name__})") from error

    def close(self) -> None:
        _end(self._ray, self._actor)


def _end(ray: Any, actor: Any) -> None:
    """Ask an actor to end, which also ends its engine and removes its folder; kill it if it does not answer."""
    with contextlib.suppress(ray.exceptions.RayError):
        ray.get(actor.end.remote(), timeout=_END_S)
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        ray.kill(actor)


_connecting = threading.Lock()
_connected: list[str] = []  # the address of the cluster that this program is connected to; Ray allows one per program


def _connect(section: RayWorkers, log: Path | None = None) -> Any:
    """Connect this program to the section's cluster, if it is not connected yet.

    Args:
        section: the config section.
        log: the file for Ray's output; None: unchanged.

    Returns:
        The module `ray`.

    Raises:
        MissingPackageError: ray is not installed.
        InputError: the address is invalid, or this program is connected to another cluster.
        AccessError: the cluster cannot be reached.
    """
    packages.require("ray", extra="ray", what="backend.workers.kind=ray")
    address = os.environ.get("RAY_ADDRESS", "") if section.address == "auto" else section.address
    if not address or address == "auto":
        # Ray's own `auto` takes the cluster that its files name, which may be another user's, or dead.
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
                # Tried before `ray.init`, which would try for minutes.
                socket.create_connection((host, int(port)), _ANSWER_S).close()
                ray.init(
                    address=address,
                    namespace=NAMESPACE,
                    log_to_driver=False,
                    logging_level="CRITICAL",
                    configure_logging=False,
                )
            except (OSError, RuntimeError, ValueError) as error:
                raise AccessError(
                    f"the Ray cluster at {address} cannot be reached: {first_line(error)}; give "
                    "backend.workers.address as `ray start` prints it, and check that the cluster runs Ray "
                    f"{ray.__version__}"
                ) from error
            _connected[:] = [address]
        if log is not None:
            _print_to(log)
        return ray


def _print_to(log: Path) -> None:
    """Redirect Ray's output about its nodes to a file: Ray prints it to stdout, where commands print JSON."""
    # Private: Ray 2.60 prints even with `log_to_driver=False` and has no setting to change that.
    from ray._private import worker

    def written(data: Mapping[str, Any], *_: object, **__: object) -> None:
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
            file.writelines(f"({data.get('pid')}) {line}\n" for line in data.get("lines", ()))

    log.parent.mkdir(parents=True, exist_ok=True)
    worker.print_to_stdstream = written
