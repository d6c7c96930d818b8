"""The workers `local`: engine processes on this machine, side by side."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

from pydantic import Field

from tunerun import schema
from tunerun.engine.process import EngineProcess
from tunerun.workers.base import Found, Place, Worker


class LocalWorkers(schema.Section):
    """Engine processes on this machine."""

    kind: Literal["local"] = Field(description="local")
    count: int = Field(
        1,
        ge=1,
        le=64,
        description="Engine processes side by side, each with its own copy of the base model; with several GPUs each "
        "takes the next one. 1: one.",
        json_schema_extra={"unit": "processes"},
    )


SECTION = LocalWorkers
IS_HERE = True


def count(section: LocalWorkers) -> int:
    """How many workers there are at most."""
    return section.count


def room(section: LocalWorkers) -> int:
    """As many as there are at most."""
    return section.count


def take_over(_section: LocalWorkers, _place: Place) -> tuple[Found, ...]:
    """There are none: a process ends with its program."""
    return ()


def open_worker(section: LocalWorkers, place: Place, number: int) -> Worker:
    """Start an engine process.

    Raises:
        OSError: the limits of this machine prevent it from starting.
    """
    settings = place.settings
    if section.count > 1 and settings.threads is None:
        settings = replace(settings, threads=_threads_of_each(section.count))
    return EngineProcess(place.cache, settings, place.log(number), number)


def _threads_of_each(count: int) -> int:
    """The cores of this machine, divided among processes: torch would give all of them to each process, and they would
    wait for each other longer than they work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // count)
