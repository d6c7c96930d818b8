"""The kind `local`: one or several engine processes on this machine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Literal

from pydantic import Field

from tunerun.engine.process import EngineProcess
from tunerun.engine.settings import EngineSettings
from tunerun.section import Section
from tunerun.workers.base import Place, RecoveredWorker, Worker


class LocalWorkers(Section):
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


IS_HERE = True


def room(section: LocalWorkers) -> int:
    """Return how many workers can be open at once, which is always `count`."""
    return section.count


def take_over(_section: LocalWorkers, _place: Place) -> tuple[RecoveredWorker, ...]:
    """Return nothing, because an engine process cannot outlive its program."""
    return ()


def open_worker(section: LocalWorkers, place: Place, number: int) -> Worker:
    """Start an engine process.

    Args:
        section: the config section.
        place: folders and settings.
        number: of the worker, from 0.

    Raises:
        OSError: the process cannot be started.
    """
    return EngineProcess(place.cache, of_each(section.count, place.settings), place.log(number), number)


def of_each(count: int, settings: EngineSettings) -> EngineSettings:
    """Return the settings of one of several engines on this machine, which share its memory and cores.

    By default torch uses all cores in each process, and the processes would wait for each other longer than they work.

    Args:
        count: the number of engines that are opened together; a service may open more that share the memory.
        settings: for a single engine.
    """
    settings = replace(settings, engines=max(settings.engines, count))
    if count == 1 or settings.threads is not None:
        return settings
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return replace(settings, threads=max(1, cores // count))
