"""A scripted backend that fails on request, and a run on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tunerun import schema
from tunerun.backends.base import NO_CURSORS, Backend
from tunerun.errors import AmbiguousError, BackendError
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, JobRef, JobStatus, TunedModel, TuningRequest
from tunerun.planning import Plan
from tunerun.runner import SweepResult, run
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SEEDS = "seed=0,1,2,3"


class Notes(Progress):
    """Keeps what needs attention."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


class Troubled(ScriptedBackend):
    """Raises what a script says before, or after, each submit and before each of the other calls."""

    def __init__(
        self,
        service: ScriptedService,
        submit: Iterable[BackendError | None] = (),
        poll: Iterable[BackendError | None] = (),
        generate: Iterable[BackendError | None] = (),
        prepare: Iterable[BackendError | None] = (),
        max_in_flight: int = 4,
    ) -> None:
        super().__init__(service, max_in_flight)
        self._submits, self._polls = iter(submit), iter(poll)
        self._generates, self._prepares = iter(generate), iter(prepare)

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        if (error := next(self._prepares, None)) is not None:
            raise error
        super().prepare(models)

    def submit(self, request: TuningRequest) -> JobRef:
        error = next(self._submits, None)
        if isinstance(error, AmbiguousError) and str(error) == "applied":
            super().submit(request)
        if error is not None:
            raise error
        return super().submit(request)

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        if (error := next(self._polls, None)) is not None:
            raise error
        return super().poll(refs, after)

    def generate(
        self,
        model: BaseModelRef | TunedModel,
        inputs: Sequence[Input],
        options: GenerateOptions,
        examples: Sequence[Example] = (),
    ) -> list[str]:
        if (error := next(self._generates, None)) is not None:
            raise error
        return super().generate(model, inputs, options, examples)


def run_with(
    backend: Backend, plan: Plan, progress: Progress | None = None, *, retry_failed: bool = False
) -> SweepResult:
    def opened(_section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return backend

    return run(plan, open_backend=opened, poll_interval_s=0, progress=progress, retry_failed=retry_failed)
