"""Cancelling, from wherever and whenever, and looking at jobs that no runner watches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.experiments import planned
from tests.scripted import run_on
from tests.troubled import Notes, Troubled, run_with
from tunerun.backends.base import NO_CURSORS, Backend, Capabilities
from tunerun.errors import AmbiguousError, BackendError, UnavailableError
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, Failure, FailureKind, JobRef, JobState, JobStatus, Snapshot, TunedModel
from tunerun.ledger import Ledger
from tunerun.planning import Trial
from tunerun.runner import UnwatchedJob, cancel, unwatched_jobs
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

pytestmark = pytest.mark.process

SEEDS = "seed=0,1,2,3"


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


class Cancels(Progress):
    """A user who cancels trials from another terminal when the first step is shown."""

    def __init__(self, path: Path, numbers: list[int]) -> None:
        self._path, self._numbers = path, numbers

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
        if snapshot.step == 1 and trial.number == 0:
            with Ledger(self._path) as ledger:
                ledger.request_cancel(ledger.sweeps()[-1].id, self._numbers)


def test_a_trial_is_cancelled_from_elsewhere(tmp_path: Path, service: ScriptedService) -> None:
    """What runs ends CANCELLED, what waits is not submitted; the next run continues both."""
    service.steps_per_poll = 1
    plan = planned(tmp_path, SEEDS)
    backend = ScriptedBackend(service, max_in_flight=1)
    result = run_with(backend, plan, Cancels(plan.ledger_path, [0, 2]))
    states = [trial.state.value for trial in result.verdict.trials]
    assert states == ["CANCELLED", "SUCCEEDED", "PLANNED", "SUCCEEDED"]
    assert result.exit_code == 1
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_trial_that_may_have_been_submitted_is_looked_for_and_cancelled(
    tmp_path: Path, service: ScriptedService, is_applied: bool
) -> None:
    """A job that the service has ends there; one that it never had is cancelled here. None is submitted again."""
    plan = planned(tmp_path, "runner.max_attempts=1")
    error = AmbiguousError("applied" if is_applied else "not applied")
    service.steps_per_poll = 1
    assert run_with(Troubled(service, submit=[error]), plan).exit_code == 1
    assert len(service.submitted) == is_applied
    with Ledger(plan.ledger_path) as ledger:
        assert ledger.job(plan.trials[0].key).state is JobState.SUBMITTING  # type: ignore[union-attr]
        cancel(ledger, plan.sweep, [0], cache=tmp_path, open_backend=lambda *_: ScriptedBackend(service))
        assert ledger.job(plan.trials[0].key).state is JobState.CANCELLED  # type: ignore[union-attr]
    assert all(job.is_cancelled for job in service.jobs.values())
    assert len(service.submitted) == is_applied


@pytest.mark.parametrize("is_applied", [True, False])
def test_a_waiting_look_is_made_when_its_trial_is_cancelled(
    tmp_path: Path, service: ScriptedService, is_applied: bool
) -> None:
    """The run itself looks for the job that it was about to look for, and ends it."""
    plan = planned(tmp_path, "runner.backoff_s=60")
    service.steps_per_poll = 1

    class CancelsWhileWaiting(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            with Ledger(plan.ledger_path) as ledger:
                ledger.request_cancel(plan.sweep, [0])

    error = AmbiguousError("applied" if is_applied else "not applied")
    result = run_with(Troubled(service, submit=[error]), plan, CancelsWhileWaiting())
    assert [trial.state for trial in result.verdict.trials] == [JobState.CANCELLED]
    assert all(job.is_cancelled for job in service.jobs.values())
    assert len(service.submitted) == is_applied


def test_cancelling_a_trial_that_is_another_ones_job_ends_that_job(tmp_path: Path, service: ScriptedService) -> None:
    """Two trials with one key are one job, whichever number is given."""
    service.steps_per_poll = 1
    plan = planned(tmp_path, "dataset.limit=100,101")
    assert plan.trials[1].same_as == 0
    result = run_with(ScriptedBackend(service), plan, Cancels(plan.ledger_path, [1]))
    assert {trial.state for trial in result.verdict.trials} == {JobState.CANCELLED}


def test_a_job_ends_while_another_one_is_measured(tmp_path: Path, service: ScriptedService) -> None:
    """A request to cancel takes effect between two answers, and not only when all are there."""
    plan = planned(tmp_path, SEEDS)
    asked: list[int] = []

    class Slow(ScriptedBackend):
        def generate(
            self,
            model: BaseModelRef | TunedModel,
            inputs: Sequence[Input],
            options: GenerateOptions,
            examples: Sequence[Example] = (),
        ) -> list[str]:
            asked.append(sum(job.is_cancelled for job in service.jobs.values()))
            if len(asked) == 1:
                with Ledger(plan.ledger_path) as ledger:
                    ledger.request_cancel(plan.sweep, [3])
            service.steps_per_poll = 1
            return super().generate(model, inputs, options, examples)

    class FirstEnds(Slow):
        def _status(self, ref: JobRef) -> JobStatus:
            service.steps_per_poll = 1_000 if ref.id == plan.trials[0].key and not asked else 1
            return super()._status(ref)

    result = run_with(FirstEnds(service), plan)
    assert result.verdict.trials[3].state is JobState.CANCELLED
    assert asked[0] == 0
    assert asked[2] == 1


def test_a_lost_worker_is_reported(tmp_path: Path, service: ScriptedService) -> None:
    """With what is done about it."""
    lost = iter([Failure(FailureKind.LOST, "the machine is gone")])
    service.outcome = lambda _request: next(lost, None)
    notes = Notes()
    assert run_with(ScriptedBackend(service), planned(tmp_path), notes).exit_code == 0
    assert notes.notes == ["trial 0: the machine is gone; submitting it again"]


def test_a_run_that_could_not_measure_is_no_success(tmp_path: Path, service: ScriptedService) -> None:
    """Exit code 1; a model that cannot answer is asked once a run, and measured the next time."""
    plan = planned(tmp_path, SEEDS)
    refused = [BackendError("no answers today")] * 7
    notes = Notes()
    result = run_with(Troubled(service, generate=refused), plan, notes)
    assert result.exit_code == 1
    assert [note.partition(" could")[0] for note in notes.notes] == [
        "the baseline base", "the baseline base+4", "the baseline base+4 text",
        "trial 0", "trial 1", "trial 2", "trial 3",
    ]  # fmt: skip
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0


def test_a_look_shows_unwatched_jobs_and_records_nothing(tmp_path: Path, service: ScriptedService) -> None:
    """States and steps as the service has them now; a service that does not answer is named."""
    plan = planned(tmp_path, SEEDS, "runner.unreachable_after_s=0.001", "runner.backoff_s=0.001")
    service.steps_per_poll = 1
    run_with(Troubled(service, poll=[UnavailableError("gone")] * 9), plan)
    silent = Troubled(service, poll=[UnavailableError("gone")] * 9)
    before = plan.ledger_path.read_bytes()
    with Ledger(plan.ledger_path) as ledger:

        def look(backend: Backend) -> tuple[list[UnwatchedJob], str | None]:
            return unwatched_jobs(ledger, plan.sweep, cache=tmp_path, open_backend=lambda *_: backend)

        assert look(silent) == ([], "gone")
        assert look(ScriptedBackend(service)) == ([UnwatchedJob(n, JobState.RUNNING, 1) for n in range(4)], None)
        service.steps_per_poll = 1_000
        assert look(ScriptedBackend(service)) == ([UnwatchedJob(n, JobState.SUCCEEDED, 40) for n in range(4)], None)
        assert [(trial.state, trial.last_step) for trial in ledger.progress(plan.sweep)] == [(JobState.QUEUED, 0)] * 4
    assert plan.ledger_path.read_bytes() == before
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0


class OnThisMachine(ScriptedBackend):
    """A backend whose jobs end with their runner, and which only that runner may ask."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), survives_runner=False)


class NotAsked(OnThisMachine):
    """The same in another process."""

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        raise AssertionError(f"asked about {refs} after {after}")


class Looks(Progress):
    """Calls something once, when a first step is shown."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look: Callable[[], None] | None = look

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - only the first counts
        if self._look is not None:
            look, self._look = self._look, None
            look()


@pytest.mark.parametrize(("backend", "seen"), [(OnThisMachine, NotAsked), (ScriptedBackend, ScriptedBackend)])
def test_looking_at_a_killed_sweep_leaves_a_shared_job_to_its_runner(
    tmp_path: Path, service: ScriptedService, backend: type[ScriptedBackend], seen: type[ScriptedBackend]
) -> None:
    """Another sweep trains a trial that both share; `status` of the first asks no one and writes nothing over it."""
    service.steps_per_poll = 1
    first = planned(tmp_path, "seed=0,1")

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(backend(service), first, Looks(kill))
    second = planned(tmp_path, "seed=0,2")

    def look() -> None:
        with Ledger(first.ledger_path) as ledger:
            found = unwatched_jobs(ledger, first.sweep, cache=tmp_path, open_backend=lambda *_: seen(service))
            assert 0 not in [job.number for job in found[0]]
            job = ledger.job(first.trials[0].key)
            assert job is not None
            assert (job.state, job.attempt) == (JobState.RUNNING, 1)

    result = run_with(backend(service), second, Looks(look))
    assert result.exit_code == 0
    assert [len(service.submitted), result.verdict.trials[0].last_step] == [3, 40]


def test_cancelling_asks_the_runner_of_another_sweep_that_has_the_job(tmp_path: Path, service: ScriptedService) -> None:
    """A shared job ends by the runner that watches it; its other trials continue."""
    service.steps_per_poll = 1
    first = planned(tmp_path, "seed=0,1")

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(OnThisMachine(service), first, Looks(kill))
    second = planned(tmp_path, "seed=0,2")
    said: list[str] = []

    def cancel_first() -> None:
        with Ledger(first.ledger_path) as ledger:
            said.append(cancel(ledger, first.sweep, [0], cache=tmp_path, open_backend=lambda *_: NotAsked(service)))

    result = run_with(OnThisMachine(service), second, Looks(cancel_first))
    assert f"which runs {second.sweep}, to cancel" in said[0]
    assert [trial.state for trial in result.verdict.trials] == [JobState.CANCELLED, JobState.SUCCEEDED]


def test_a_local_job_whose_runner_was_killed_is_cancelled_without_asking(
    tmp_path: Path, service: ScriptedService
) -> None:
    """It ended with its runner; the next run begins it again."""
    service.steps_per_poll = 1
    plan = planned(tmp_path)

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(OnThisMachine(service), plan, Looks(kill))
    with Ledger(plan.ledger_path) as ledger:
        said = cancel(ledger, plan.sweep, [0], cache=tmp_path, open_backend=lambda *_: NotAsked(service))
        assert said == f"cancelled 1 job of {plan.sweep}, which is not running"
        assert ledger.job(plan.trials[0].key).state is JobState.CANCELLED  # type: ignore[union-attr]
    assert run_on(service, planned(tmp_path)).exit_code == 0


class OnACluster(OnThisMachine):
    """A backend whose jobs outlive a runner that is killed."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), outlives_kill=True)


def test_a_job_on_a_cluster_whose_runner_was_killed_is_cancelled_there(
    tmp_path: Path, service: ScriptedService
) -> None:
    """It is looked for first; one that ended with its worker is cancelled without it."""
    service.steps_per_poll = 1
    plan = planned(tmp_path, "seed=0,1")

    def kill() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(OnACluster(service), plan, Looks(kill))
    trained, lost = (service.jobs[trial.key] for trial in plan.trials)
    del service.jobs[plan.trials[1].key]
    with Ledger(plan.ledger_path) as ledger:
        cancel(ledger, plan.sweep, [0, 1], cache=tmp_path, open_backend=lambda *_: OnACluster(service))
        assert {trial.state for trial in ledger.progress(plan.sweep)} == {JobState.CANCELLED}
    assert (trained.is_cancelled, lost.is_cancelled) == (True, False)
