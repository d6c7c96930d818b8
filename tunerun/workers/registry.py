"""The registry of the kinds of worker, each a module; code outside this package never compares a kind with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tunerun.workers import local, ray, slurm
from tunerun.workers.base import Place, RecoveredWorker, Worker

Workers: TypeAlias = local.LocalWorkers | ray.RayWorkers | slurm.SlurmWorkers
"""The config section `backend.workers` of any kind."""

DEFAULT: Workers = local.LocalWorkers(kind="local")


class WorkersModule(Protocol):
    """What the module of a kind has to define."""

    @property
    def IS_HERE(self) -> bool:  # noqa: N802 - a constant of a module
        """Whether its engines run on this machine."""

    def room(self, section: Any) -> int:
        """Return how many workers can be open at once; may connect to a cluster.

        Raises:
            InputError: a package is missing, or not even one worker can ever be opened; the message says what to do.
            AccessError: the cluster cannot be reached.
        """
        ...

    def take_over(self, section: Any, place: Place, /) -> Sequence[RecoveredWorker]:
        """Continue with workers that outlived their program, or fetch their results and end them.

        Args:
            section: the config section.
            place: folders and settings of this program.

        Returns:
            The workers to continue with.

        Raises:
            AccessError: the cluster cannot be reached.
        """
        ...

    def open_worker(self, section: Any, place: Place, number: int, /) -> Worker:
        """Open a worker; its engine starts now or later.

        Args:
            section: the config section.
            place: folders and settings.
            number: of the worker, from 0.

        Raises:
            OSError: a process cannot be started, or a folder cannot be written.
        """
        ...


# Importing these modules imports neither ray nor submitit: their functions do.
_MODULES: dict[str, WorkersModule] = {"local": local, "ray": ray, "slurm": slurm}


def are_here(section: Workers) -> bool:
    """Whether the engines of a section run on this machine."""
    return _MODULES[section.kind].IS_HERE


def room(section: Workers) -> int:
    """Return how many workers of a section can be open at once; see `WorkersModule.room`."""
    return _MODULES[section.kind].room(section)


def take_over(section: Workers, place: Place) -> Sequence[RecoveredWorker]:
    """Continue with workers that outlived their program; see `WorkersModule.take_over`."""
    return _MODULES[section.kind].take_over(section, place)


def opener(section: Workers, place: Place) -> Callable[[int], Worker]:
    """Return a function that opens a worker, given its number from 0; see `WorkersModule.open_worker`.

    Args:
        section: the config section.
        place: folders and settings.
    """
    return lambda number: _MODULES[section.kind].open_worker(section, place, number)


if TYPE_CHECKING:
    _CONFORM: tuple[WorkersModule, ...] = (local, ray, slurm)
