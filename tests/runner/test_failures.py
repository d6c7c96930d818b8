"""What the runner does about failures: it waits, looks again, fails one trial, or stops the sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.experiments import overrides, planned
from tests.scripted import run_on
from tests.troubled import Notes, Troubled, run_with
from tunerun.backends.base import NO_CURSORS
from tunerun.cli import tables
from tunerun.comparison.results import TrialResult
from tunerun.compose import load
from tunerun.errors import AccessError, AmbiguousError, BackendError, UnavailableError
from tunerun.job import Failure, FailureKind, JobRef, JobState, JobStatus, Snapshot, TuningRequest
from tunerun.ledger import Ledger
from tunerun.planning import Trial, plan
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SEEDS = "seed=0,1,2,3"


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["submit", "poll", "generate"])
def test_calls_to_an_unavailable_service_are_repeated(tmp_path: Path, service: ScriptedService, where: str) -> None:
    """A few failures cost time only; they are reported once."""
    notes = Notes()
    service.steps_per_poll = 15
    errors = iter([UnavailableError("busy"), UnavailableError("busy", 0.01), None, UnavailableError("busy"), None])
    result = run_with(Troubled(service, **{where: errors}), planned(tmp_path, SEEDS), notes)  # type: ignore[arg-type]
    assert result.exit_code == 0
    assert all("eval/exact_match" in trial.metrics for trial in result.verdict.trials)
    assert len(service.submitted) == 4
    assert notes.notes == ["busy; trying again for up to 600 s"] * 2


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["submit", "poll", "generate"])
def test_a_service_that_stays_unavailable_ends_the_run(tmp_path: Path, service: ScriptedService, where: str) -> None:
    """After `unreachable_after_s` the run ends with the reason; the next one continues and submits nothing twice."""
    plan = planned(tmp_path, SEEDS, "runner.unreachable_after_s=0.001", "runner.backoff_s=0.001")
    gone = (UnavailableError("gone") for _ in range(1000))
    result = run_with(Troubled(service, **{where: gone}), plan)  # type: ignore[arg-type]
    assert result.exit_code == 1
    assert (result.stopped or "").startswith("gone; no answer for")
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0
    assert len(service.submitted) == 4


def test_a_trial_that_cannot_be_measured_yet_is_reported_once(tmp_path: Path, service: ScriptedService) -> None:
    """Once its answers are recorded, with its metric."""
    reported: list[tuple[int, bool]] = []

    class Tells(Progress):
        def finished(self, trial: Trial, result: TrialResult) -> None:
            reported.append((trial.number, "eval/exact_match" in result.metrics))

    errors = [UnavailableError("busy"), None, UnavailableError("busy")]
    assert run_with(Troubled(service, generate=errors), planned(tmp_path, SEEDS), Tells()).exit_code == 0
    assert sorted(reported) == [(number, True) for number in range(4)]


@pytest.mark.thorough
@pytest.mark.parametrize("error", [UnavailableError("gone"), AccessError("no key")])
def test_a_service_that_cannot_list_base_models_ends_the_run(
    tmp_path: Path, service: ScriptedService, error: BackendError
) -> None:
    """With the reason, and nothing is submitted; the same command later runs everything."""
    result = run_with(Troubled(service, prepare=[error]), planned(tmp_path, SEEDS))
    assert (result.exit_code, result.stopped) == (1, str(error))
    assert {trial.state for trial in result.verdict.trials} == {JobState.PLANNED}
    assert service.submitted == []
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0


@pytest.mark.parametrize("words", ["applied", "not applied"])
def test_an_ambiguous_submit_is_looked_up_in_the_same_run(tmp_path: Path, service: ScriptedService, words: str) -> None:
    """Whether it took effect or not, there is one job in the end."""
    result = run_with(Troubled(service, iter([AmbiguousError(words)])), planned(tmp_path))
    assert result.exit_code == 0
    assert len(service.submitted) == 1


def test_refused_credentials_stop_submitting_and_what_runs_is_finished(
    tmp_path: Path, service: ScriptedService
) -> None:
    """The third submit is refused: two trials succeed, two were never sent, and the reason is reported."""
    result = run_with(Troubled(service, iter([None, None, AccessError("no quota")])), planned(tmp_path, SEEDS))
    states = [trial.state for trial in result.verdict.trials]
    assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.SUBMITTING, JobState.PLANNED]
    assert (result.exit_code, result.stopped) == (1, "no quota")
    assert result.to_json()["stopped"] == "no quota"
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0
    assert len(service.submitted) == 4


def test_refused_credentials_while_polling_leave_the_jobs(tmp_path: Path, service: ScriptedService) -> None:
    """The run ends; its jobs continue and are watched by the next run."""
    result = run_with(Troubled(service, poll=iter([AccessError("key revoked")])), planned(tmp_path, SEEDS))
    assert result.stopped == "key revoked"
    assert {trial.state for trial in result.verdict.trials} == {JobState.QUEUED}
    assert run_on(service, planned(tmp_path, SEEDS)).exit_code == 0
    assert len(service.submitted) == 4


def failing(reason: Callable[[TuningRequest], str | None]) -> ScriptedService:
    def outcome(request: TuningRequest) -> Failure | None:
        text = reason(request)
        return None if text is None else Failure(FailureKind.CRASHED, text, f"Traceback of {request.seed}")

    return ScriptedService(outcome=outcome)


def test_failures_for_one_reason_stop_the_sweep(tmp_path: Path) -> None:
    """Three messages that differ in numbers only are one reason; the rest is not submitted."""
    service = failing(lambda request: f"bug at step {request.seed}")
    backend = ScriptedBackend(service, max_in_flight=1)
    result = run_with(backend, planned(tmp_path, "seed=0,1,2,3,4,5"))
    assert len(service.submitted) == 3
    assert (result.stopped or "").startswith(
        "3 trials failed for the same reason, and none has succeeded; fix the cause"
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("reason", "options"),
    [
        (lambda request: f"bug {'abcdef'[request.seed]}", []),
        (lambda request: None if request.seed == 0 else "bug", []),
        (lambda _: "bug", ["runner.max_failures=null"]),
    ],
)
def test_the_sweep_continues_after_different_failures_or_a_success(
    tmp_path: Path, reason: Callable[[TuningRequest], str | None], options: list[str]
) -> None:
    """Every trial is submitted."""
    service = failing(reason)
    result = run_with(ScriptedBackend(service, max_in_flight=1), planned(tmp_path, "seed=0,1,2,3,4,5", *options))
    assert (len(service.submitted), result.stopped) == (6, None)


def test_the_summary_has_each_reason_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the trials, the first message and the first traceback."""
    service = failing(lambda request: f"bug at step {request.seed}" if request.seed else None)
    tables.failures(run_with(ScriptedBackend(service), planned(tmp_path, SEEDS)).verdict)
    printed = capsys.readouterr().err
    assert "failed: trials 1, 2, 3: crashed: bug at step 1" in printed
    assert printed.count("bug at step") == printed.count("Traceback") == 1


class Stalls(ScriptedBackend):
    """A service whose jobs stay at their second step for a number of polls."""

    def __init__(self, service: ScriptedService, polls: int) -> None:
        super().__init__(service)
        self._polls, self._service = polls, service

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        self._polls -= 1
        self._service.steps_per_poll = 2 if self._polls > 0 and not self._service.jobs[refs[0].id].steps_taken else 0
        if self._polls <= 0:
            self._service.steps_per_poll = 1_000
        return super().poll(refs, after)


def test_a_job_without_progress_is_reported_once(tmp_path: Path, service: ScriptedService) -> None:
    """With its step and the command that cancels it; it is still watched."""
    notes = Notes()
    plan = planned(tmp_path, "runner.stall_after_s=0.000001")
    assert run_with(Stalls(service, 50), plan, notes).exit_code == 0
    assert len(notes.notes) == 1
    assert (
        "trial 0 has stalled: no new step for 0 s, at step 2 of 40; it is still watched; to end it: " in notes.notes[0]
    )
    assert f"tunerun cancel --sweep {plan.sweep} --trial 0" in notes.notes[0]


FATES = st.sampled_from(["ok", "lost", "unavailable", "applied", "not applied", "crashed"])


class Fated(ScriptedBackend):
    """A backend whose calls of `submit` have the given outcomes, one after the other."""

    def __init__(self, fates: list[str]) -> None:
        self._fates = fates
        self._failures: dict[str, Failure | None] = {}
        super().__init__(ScriptedService(outcome=self._failure, steps_per_poll=20), max_in_flight=2)

    def _failure(self, request: TuningRequest) -> Failure | None:
        return self._failures.get(request.key)

    def submit(self, request: TuningRequest) -> JobRef:
        fate = self._fates.pop(0) if self._fates else "ok"
        if fate == "unavailable":
            raise UnavailableError("busy")
        if fate == "not applied":
            raise AmbiguousError("no answer")
        ref = super().submit(request)
        if fate == "applied":
            raise AmbiguousError("no answer")
        failures = {"lost": FailureKind.LOST, "crashed": FailureKind.CRASHED}
        self._failures[request.key] = Failure(failures[fate], fate) if fate in failures else None
        return ref


@pytest.mark.thorough
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(FATES, max_size=8), interrupts=st.lists(st.integers(1, 12), max_size=3))
def test_every_key_is_tuned_once_after_any_sequence_of_failures(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], interrupts: list[int]
) -> None:
    """Lost, ambiguous, failed and interrupted in any order: in the end every trial has one success and a whole curve."""
    folder = tmp_path_factory.mktemp("fates")
    options = ("seed=0,1,2", "runner.max_failures=null", "runner.max_attempts=2")
    backend = Fated(list(fates))

    class Interrupts(Progress):
        def __init__(self, after: int) -> None:
            self._left = after

        def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - only their number counts
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt

    experiment = load(overrides(folder, *options))
    for after in interrupts:
        with contextlib.suppress(KeyboardInterrupt):
            run_with(backend, plan(experiment), Interrupts(after), retry_failed=True)
    result = run_with(backend, plan(experiment), retry_failed=True)
    while result.exit_code != 0:  # what failed, or stayed ambiguous, is submitted again
        result = run_with(backend, plan(experiment), retry_failed=True)
    with Ledger(folder / "runs" / "ledger.db") as ledger:
        for trial in ledger.trials(result.verdict.sweep.id):
            states = [job.state for job in ledger.jobs(trial.key)]
            assert states.count(JobState.SUCCEEDED) == 1
            assert states[-1] is JobState.SUCCEEDED
            assert [s.step for s in ledger.snapshots(ledger.jobs(trial.key)[-1].id)] == list(range(1, trial.steps + 1))
