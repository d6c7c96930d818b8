"""The memory that the trials of a plan need on this machine, and what to set if it is too little."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tunerun.engine import devices, memory, pass_limits
from tunerun.engine.memory import GIB, MemoryEstimate, Workload
from tunerun.engine.model_shape import ModelShape
from tunerun.engine.precision import BFLOAT16
from tunerun.engine.settings import EngineSettings
from tunerun.planning.sources import Sources
from tunerun.planning.trial import Trial

CLOSE = 0.9
"""Share of the device's memory above which a plan warns. Our choice: other programs need some of it too."""


@dataclass(frozen=True)
class PlannedMemory:
    """The memory of the largest of some trials with the same base model and engine settings.

    Attributes:
        model: the base model's name.
        trials: numbers of the trials.
        device: cpu, cuda or mps.
        available: memory of the device in bytes; None: not known.
        engines: number of engine processes that share the device.
        shape: of the base model; None: not known, so nothing is estimated.
        work: the work of the largest trial.
        most: maximum number of training runs in one pass, by `backend.packing`.
        free: bytes that other programs do not use at the moment; None: not known.
    """

    model: str
    trials: tuple[int, ...]
    device: str
    available: int | None
    engines: int
    shape: ModelShape | None
    work: Workload
    most: int
    free: int | None = None

    @property
    def alone(self) -> MemoryEstimate | None:
        """The estimate for one trial; None: the base model's shape is not known."""
        return None if self.shape is None else memory.estimate(self.shape, self.work)

    @property
    def members(self) -> int | None:
        """The number of training runs that fit into one pass; None: not known."""
        if self.shape is None or self.available is None:
            return None
        # An engine plans with its share of the memory, and with no more than other programs leave free now.
        available = min(self.available // self.engines, self.available if self.free is None else self.free)
        return memory.members_that_fit(self.shape, self.work, available, self.most)

    def __str__(self) -> str:
        """One line for the printed plan."""
        if self.alone is None:
            return (
                f"memory: not estimated for {self.model}: its files are not on this machine yet, or do not say its size"
            )
        of = "" if self.available is None else f" of {_gib(self.available)}"
        needed = (
            f"memory ({self.device}): about {_gib(self.engines * self.alone.total)}{of} for one trial of {self.model}"
        )
        weights = f"{_gib(self.engines * self.alone.weights)} of it for the base model's weights"
        each = f" in each of {self.engines} engines" if self.engines > 1 else ""
        shared = f"; {self.members} training runs share a pass" if (self.members or 0) > 1 else ""
        return f"{needed}{each}, {weights}{shared}"

    def refusal(self) -> str | None:
        """Return why the trials cannot fit even with all other programs closed; None: they can, or it is not known."""
        # Refused only by what is certain: not by memory that an allocator may take without using it.
        if self._needs(self.work, with_unused=False) <= self._room:
            return None
        return f"{self._too_much('cannot fit')}; {self._advice()}"

    def warning(self) -> str | None:
        """Return why a trial may not fit, by total or free memory; None: it fits, or `refusal` says that it cannot."""
        if self.refusal() is not None:
            return None
        if self._needs(self.work) > CLOSE * self._room:
            return f"{self._too_much('may not fit')}; if it does not, {self._advice()}"
        if self.free is not None and self._needs(self.work) > self.free:
            return (
                f"{self._too_much('may not fit')}, because other programs leave {_gib(self.free)} of it free; close "
                "them before the run"
            )
        return None

    def _needs(self, work: Workload, *, with_unused: bool = True) -> int:
        """Bytes that all engines need together; 0: not known."""
        if self.shape is None:
            return 0
        return self.engines * memory.estimate(self.shape, work, with_unused=with_unused).total

    @property
    def _room(self) -> float:
        return math.inf if self.available is None else self.available

    def _too_much(self, how: str) -> str:
        several = f" in each of {self.engines} engines" if self.engines > 1 else ""
        return (
            f"memory: one trial of {self.model} needs about {_gib(self._needs(self.work))}{several}, and this machine "
            f"has {_gib(self._room)} ({self.device}): it {how}"
        )

    def _advice(self) -> str:
        """The smallest change of settings that would fit: each change alone first, then all changes so far combined."""
        work = self.work
        # Ordered by their side effects: the first two only take longer, the others change the numbers.
        changes: list[tuple[str, dict[str, Any], bool]] = [
            ("backend.micro_batch=1", {"rows": 1}, work.rows > 1),
            ("backend.gradient_checkpointing=true", {"gradient_checkpointing": True}, not work.gradient_checkpointing),
            ("backend.precision=bf16", {"number_format": BFLOAT16}, work.number_format != BFLOAT16),
            (
                "backend.quantization=4bit",
                {"is_quantised": True, "number_format": BFLOAT16},
                self.device == "cuda" and not work.is_quantised,
            ),
        ]
        possible = [(text, change) for text, change, is_possible in changes if is_possible]
        # One change is easier to accept than several, so these come first.
        candidates = [(text, replace(work, **change)) for text, change in possible]
        for count, (_, change) in enumerate(possible, start=1):
            work = replace(work, **change)
            candidates.append((" ".join(text for text, _ in possible[:count]), work))
        fitting = (text for text, smaller in candidates if self._needs(smaller) <= CLOSE * self._room)
        setting = next(fitting, None)
        return f"set {setting}" if setting else "choose a smaller base model, or a machine with more memory"

    def to_json(self) -> dict[str, Any]:
        """Return the estimate as `plan --json` prints it, in bytes."""
        return {
            "model": self.model,
            "trials": list(self.trials),
            "device": self.device,
            "available": self.available,
            "free": self.free,
            "engines": self.engines,
            "one_trial": None if self.alone is None else {**vars(self.alone), "total": self.alone.total},
            "training_runs_in_a_pass": self.members,
        }


def planned_memory(trials: Sequence[Trial], sources: Sources) -> tuple[PlannedMemory, ...]:
    """Estimate the memory of trials, grouped by base model and engine settings; hosted trials are omitted.

    Args:
        trials: of a plan.
        sources: from which they were made.
    """
    alike: dict[tuple[str, EngineSettings], list[Trial]] = {}
    for trial in trials:
        if trial.capabilities.engine is not None:
            alike.setdefault((trial.ingredients["model"], trial.capabilities.engine), []).append(trial)
    return tuple(_largest(each, settings, sources) for (_, settings), each in alike.items())


def _largest(trials: Sequence[Trial], settings: EngineSettings, sources: Sources) -> PlannedMemory:
    capabilities = trials[0].capabilities
    device = devices.chosen(settings.device)
    works = []
    for trial in trials:
        batch_size = trial.config.hyperparameters.batch_size
        lengths = sources.lengths(trial.config, trial.training)
        works.append(
            Workload(
                number_format=capabilities.precision,
                is_quantised=settings.is_quantised,
                device=device,
                adapter_rank=trial.config.hyperparameters.adapter_rank,
                rows=min(batch_size, settings.micro_batch or batch_size),
                tokens=lengths.of_longest_batch(batch_size),
                learned=lengths.learned,
                gradient_checkpointing=settings.gradient_checkpointing,
            )
        )
    # The largest trial decides whether the memory is sufficient.
    base_model = sources.model(trials[0].config)
    shape = None if base_model is None else base_model.facts.shape
    largest = works[0] if shape is None else max(works, key=lambda work: memory.estimate(shape, work).total)
    # Trials that differ in their epochs alone are one training run, so one member of a pass.
    runs = len({trial.training_run for trial in trials})
    most = pass_limits.most_members(settings.packing, device)
    return PlannedMemory(
        model=trials[0].config.model.name,
        trials=tuple(trial.number for trial in trials),
        device=device,
        available=devices.memory_bytes(device),
        # What other programs leave free is known of the main memory alone.
        free=None if device == "cuda" else devices.free_main_memory_bytes(),
        engines=devices.engines_on_one(device, capabilities.engines),
        shape=shape,
        work=largest,
        most=min(most, runs),
    )


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"
