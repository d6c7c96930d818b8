"""Runs of a sweep on a scripted service, which keeps its own record of the requests it received."""

from __future__ import annotations

from pathlib import Path

from tunerun import schema
from tunerun.backends.base import Backend
from tunerun.job import BaseModelRef, TunedModel
from tunerun.planning import Plan
from tunerun.runner import SweepResult, run
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SWEEP = ("hyperparameters.epoch_count=1,2", "seed=0,1")
"""Overrides of two points with two seeds each."""


def right_when_tuned(model: BaseModelRef | TunedModel, text: str) -> str:
    """Answer as a tuned model that has learned to add one, and as a base model that repeats its input."""
    return str(int(text) + 1) if isinstance(model, TunedModel) else text


def run_on(
    service: ScriptedService, plan: Plan, backend: type[ScriptedBackend] = ScriptedBackend, **more: object
) -> SweepResult:
    """Run a plan on a service; `more` are arguments of `run`."""

    def opened(_section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return backend(service)

    return run(plan, open_backend=opened, poll_interval_s=0, **more)  # type: ignore[arg-type]
