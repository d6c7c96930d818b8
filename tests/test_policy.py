"""What the runner does about failures: it waits, looks again, fails one trial, or stops the sweep."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.experiments import overrides, planned
from tests.test_runner import run_on
from tests.troubled import Notes, Troubled, run_with
from tunerun.backends.base import NO_CURSORS
from tunerun.cli import tables
from tunerun.comparison.results import TrialResult
from tunerun.compose import load
from tunerun.errors import AccessError, AmbiguousError, BackendError, ConfigError, LimitError, UnavailableError
from tunerun.job import Failure, FailureKind, JobRef, JobState, JobStatus, Snapshot, TuningRequest
from tunerun.ledger import Ledger
from tunerun.planning import Plan, Trial, plan
from tunerun.runner import SweepResult
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedBackend, ScriptedService
from tunerun.testing.waiting import wait_until

SEEDS = "seed=0,1,2,3"


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


@pytest.mark.thorough
@pytest.mark.parametrize("where", ["submit", "poll", "generate"])
def test_calls_to_an_unavailable_service_are_repeated(tmp_path: Path, service: ScriptedService, where: str) -> None:
    """A few failures cost time and nothing else; they are reported once."""
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
    """When its answers are there, with its measure."""
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
    """With the reason, and nothing is submitted; the same run another time does it all."""
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
    """The run ends; the jobs go on and are taken up by the next one."""
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


def test_everything_failing_the_same_way_stops_the_sweep(tmp_path: Path) -> None:
    """Three failures that differ in numbers alone are one reason; the rest is not submitted."""
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
    """Every trial has its chance."""
    service = failing(reason)
    result = run_with(ScriptedBackend(service, max_in_flight=1), planned(tmp_path, "seed=0,1,2,3,4,5", *options))
    assert (len(service.submitted), result.stopped) == (6, None)


def test_the_summary_has_each_reason_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Grouped by reason with the first message, and the first traceback alone."""
    service = failing(lambda request: f"bug at step {request.seed}" if request.seed else None)
    tables.failures(run_with(ScriptedBackend(service), planned(tmp_path, SEEDS)).verdict)
    printed = capsys.readouterr().err
    assert "failed: trials 1, 2, 3: crashed: bug at step 1" in printed
    assert printed.count("bug at step") == printed.count("Traceback") == 1


class Stalls(ScriptedBackend):
    """A service whose jobs stand still at their second step for many looks."""

    def __init__(self, service: ScriptedService, looks: int) -> None:
        super().__init__(service)
        self._looks, self._service = looks, service

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        self._looks -= 1
        self._service.steps_per_poll = 2 if self._looks > 0 and not self._service.jobs[refs[0].id].steps_taken else 0
        if self._looks <= 0:
            self._service.steps_per_poll = 1_000
        return super().poll(refs, after)


def test_a_job_without_progress_is_reported_once(tmp_path: Path, service: ScriptedService) -> None:
    """With its step and the command that ends it; it is still watched."""
    notes = Notes()
    plan = planned(tmp_path, "runner.stall_after_s=0.000001")
    assert run_with(Stalls(service, 50), plan, notes).exit_code == 0
    assert len(notes.notes) == 1
    assert (
        "trial 0 has stalled: no new step for 0 s, at step 2 of 40; it is still watched; to end it: " in notes.notes[0]
    )
    assert f"tunerun cancel --sweep {plan.sweep} --trial 0" in notes.notes[0]


# Budget


PRICE = "model.price={usd_per_million_tokens: 1000, source: a page, date: '2026-11-22'}"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("budget.max_tokens=100", r"budget.max_tokens: the sweep would cost up to 44,360 tokens \(4,760 of it"),
        ("budget.max_usd=1.5", r"budget.max_usd: the sweep would cost up to 39.60 US dollars \(0.00 of it"),
    ],
)
def test_a_plan_above_its_budget_is_refused_before_anything(
    tmp_path: Path, service: ScriptedService, limit: str, message: str
) -> None:
    """Nothing is frozen or sent; the upper end of the estimate counts."""
    plan = planned(tmp_path, SEEDS, PRICE, limit)
    with pytest.raises(LimitError, match=message):
        run_on(service, plan)
    assert service.submitted == []
    assert not plan.ledger_path.exists()


def test_attempts_that_were_lost_count_and_stop_the_sweep(tmp_path: Path, service: ScriptedService) -> None:
    """A budget for the plan alone is used up when jobs have to be paid for twice."""
    service.outcome = lambda request: Failure(FailureKind.LOST, "gone") if request.seed == 0 else None
    backend = ScriptedBackend(service, max_in_flight=1)
    plan = planned(tmp_path, SEEDS, "budget.max_tokens=45000", "runner.max_attempts=8")
    result = run_with(backend, plan)
    assert "budget.max_tokens" in (result.stopped or "")
    with Ledger(tmp_path / "runs" / "ledger.db") as ledger:
        spent = ledger.spending(result.verdict.sweep.id)
    assert spent.tokens <= 45_000 - plan.baseline_tokens
    assert result.exit_code == 1


def test_hours_that_are_used_up_stop_the_sweep(tmp_path: Path, service: ScriptedService) -> None:
    """Nothing more is submitted; what was measured stays."""
    result = run_on(service, planned(tmp_path, SEEDS, "budget.max_hours=0"))
    assert (result.stopped or "").startswith("budget.max_hours: this run has taken")
    assert service.submitted == []


# Two sweeps, one ledger


@pytest.mark.slow
def test_a_job_of_a_sweep_without_a_runner_is_taken_over(tmp_path: Path, service: ScriptedService) -> None:
    """The first runner was killed; another sweep with the same key finishes its job, submitted once."""
    service.steps_per_poll = 3
    first = planned(tmp_path, "seed=0,1")

    class Killed(Progress):
        def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - the first step ends it
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on(service, first, progress=Killed())
    second = run_on(service, planned(tmp_path, "seed=1,2"))
    assert second.exit_code == 0
    assert run_on(service, planned(tmp_path, "seed=0,1")).exit_code == 0
    assert sorted(service.submitted) == sorted(
        {trial.key for trial in first.trials} | {second.verdict.trials[1].record.key}
    )


def test_a_job_that_a_sweep_of_another_name_may_have_submitted_is_found_under_its_id(
    tmp_path: Path, service: ScriptedService
) -> None:
    """A service that knows jobs by the tuned model's id, as the Gemini API does, is not asked for a second one."""
    asked: list[str] = []

    class KnowsIds(Troubled):
        def submit(self, request: TuningRequest) -> JobRef:
            asked.append(request.tuned_model_id)
            return super().submit(request)

    first = planned(tmp_path, "runner.max_attempts=1")
    assert run_with(KnowsIds(service, submit=[AmbiguousError("applied")]), first).exit_code == 1
    second = planned(tmp_path, "name=other")
    assert second.trials[0].key == first.trials[0].key
    assert run_with(KnowsIds(service), second).exit_code == 0
    assert asked == [first.trials[0].request().tuned_model_id] * 2
    assert len(service.submitted) == 1


def test_a_run_waits_for_the_job_of_a_running_sweep(tmp_path: Path, service: ScriptedService) -> None:
    """Two runs at once that share a trial submit it once, and both end complete."""
    service.steps_per_poll = 3
    inner: list[SweepResult] = []
    notes = Notes()

    class RunsAnother(Progress):
        """In the middle of the first sweep, the second one begins, in a thread, and ends after it."""

        def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - the first step begins it
            if not threads:
                threads.append(Thread(target=lambda: inner.append(run_on(service, second, progress=notes))))
                threads[0].start()
                wait_until(lambda: bool(notes.notes), "the second sweep waits")

    threads: list[Thread] = []
    second = planned(tmp_path, "seed=0,5")
    first = run_on(service, planned(tmp_path, "seed=0,1"), progress=RunsAnother())
    threads[0].join()
    assert (first.exit_code, inner[0].exit_code) == (0, 0)
    assert len(service.submitted) == len(set(service.submitted)) == 3
    assert "its job is run by sweep numbers-" in notes.notes[0]
    assert "waiting for it" in notes.notes[0]


# Under the same name


def rewrite(tmp_path: Path) -> None:
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join([*rows[:-1], '{"text_input": "x", "output": "y"}']) + "\n")


def replanned(tmp_path: Path, *more: str, fresh: bool = False) -> Plan:
    """A plan on the files as they are now."""
    kept = (tmp_path / "rows.jsonl").read_bytes()
    made = overrides(tmp_path, *more)
    (tmp_path / "rows.jsonl").write_bytes(kept)
    return plan(load(made), fresh=fresh)


@pytest.mark.slow
def test_changed_data_are_refused_under_the_same_name(tmp_path: Path, service: ScriptedService) -> None:
    """The reason says that the content changed, and both ways out; nothing is submitted."""
    run_on(service, planned(tmp_path))
    rewrite(tmp_path)
    plan = replanned(tmp_path)
    with pytest.raises(
        ConfigError, match=r"the examples changed: 40 different examples of rows.jsonl and held_out.jsonl \(\w{8}\) -> "
    ) as caught:
        run_on(service, plan)
    assert "the config is the same, the content is not" in str(caught.value)
    assert "name=numbers-2, or start again under this one with run --fresh" in str(caught.value)
    assert len(service.submitted) == 1
    assert run_on(service, replanned(tmp_path, "name=other")).exit_code == 0
    assert run_on(service, replanned(tmp_path, fresh=True)).exit_code == 0
    assert run_on(service, replanned(tmp_path)).exit_code == 0
    assert len(service.submitted) == 3 - (planned(tmp_path).trials[0].key in service.submitted[1:])


@pytest.mark.thorough
@pytest.mark.parametrize(
    "change", ["template.output='{{ output }}!'", "dataset.limit=20", "model={name: m, source: ./elsewhere}"]
)
def test_a_changed_config_is_named_with_old_and_new(tmp_path: Path, service: ScriptedService, change: str) -> None:
    """The dotted key, what it was and what it is."""
    run_on(service, planned(tmp_path))
    if change.startswith("model"):
        (tmp_path / "elsewhere.gguf").write_bytes(b"GGUF\3" + b"\0" * 64)
        change = f"model={{name: m, source: {tmp_path}/elsewhere.gguf, package: null}}"
    plan = planned(tmp_path, change)
    assert plan.incomparable
    assert re.search(r"in the config (template.output|dataset.limit|model.name): .* -> ", plan.incomparable[0])


@pytest.mark.thorough
@pytest.mark.parametrize("change", ["seed=4", "hyperparameters.epoch_count=7", "evaluation=none", "seed=0,1,2"])
def test_what_is_being_explored_may_change(tmp_path: Path, service: ScriptedService, change: str) -> None:
    """Hyperparameters, seeds, axes and measures are what sweeps of one name differ in."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    assert run_on(service, planned(tmp_path, change)).exit_code == 0


def test_a_plan_says_why_a_trial_is_new(tmp_path: Path, service: ScriptedService) -> None:
    """Against the trial of the last sweep that is most alike, the ingredient with old and new."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    plan = planned(tmp_path, "seed=1,2", "hyperparameters.epoch_count=5")
    (change,) = plan.changes
    assert (change.number, change.earlier) == (1, 0)
    assert [str(difference) for difference in change.differences] == ["seed: 0 -> 2"]
    assert plan.to_json()["changes"][0]["differences"] == [{"name": "seed", "old": 0, "new": 2}]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "differences"),
    [
        ("template.output='{{ output }}!'", ["template.output: '{{ output }}' -> '{{ output }}!'"]),
        ("dataset.limit=20", ["dataset.limit: null -> 20"]),
        ("dataset.limit=20,25", ["dataset.limit: null -> 20"]),
    ],
)
def test_the_reasons_are_values_and_not_digests(
    tmp_path: Path, service: ScriptedService, change: str, differences: list[str]
) -> None:
    """What differs in the config, in the place of the digest of the rows that it gives."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    found = planned(tmp_path, "seed=1", change, "name=numbers").changes[0]
    assert (found.earlier, [str(each) for each in found.differences]) == (1, differences)


def test_another_content_under_the_same_config_names_the_file(tmp_path: Path, service: ScriptedService) -> None:
    """The config says nothing then; the file is named."""
    run_on(service, planned(tmp_path))
    rewrite(tmp_path)
    (change,) = replanned(tmp_path).changes
    assert [str(each) for each in change.differences] == ["content of rows.jsonl: old -> new"]


def test_the_nearest_trial_is_the_one_with_the_fewest_differences(tmp_path: Path, service: ScriptedService) -> None:
    """One difference in the config is fewer than two, although each of them is one digest."""
    run_on(service, planned(tmp_path, "seed=0,1", "dataset.limit=10"))
    found = planned(tmp_path, "seed=1", "dataset.limit=12", "template.output='{{ output }}!'").changes[0]
    assert found.earlier == 1
    assert [each.name for each in found.differences] == ["dataset.limit", "template.output"]


def test_changed_data_are_accepted_where_nothing_has_succeeded(tmp_path: Path) -> None:
    """Only results make a comparison: after a sweep of failures the data may be corrected under the same name."""
    crashed = Failure(FailureKind.CRASHED, "no")
    run_on(ScriptedService(outcome=lambda _: crashed), planned(tmp_path, "seed=0,1"))
    rewrite(tmp_path)
    assert replanned(tmp_path, "seed=0,1").incomparable == ()


def test_changed_data_are_compared_with_the_newest_sweep_that_has_results(
    tmp_path: Path, service: ScriptedService
) -> None:
    """A sweep of failures in between does not hide the one with results."""
    run_on(service, planned(tmp_path))
    crashed = Failure(FailureKind.CRASHED, "no")
    run_on(ScriptedService(outcome=lambda _: crashed), planned(tmp_path, "seed=5"))
    rewrite(tmp_path)
    assert "the examples changed" in replanned(tmp_path).incomparable[0]


def test_fewer_epochs_are_shown_as_the_prefix_they_are(tmp_path: Path) -> None:
    """Trials that differ in their epochs alone are the first epochs of the longest one."""
    plan = planned(tmp_path, "hyperparameters.epoch_count=2,5,3", "seed=0,1")
    assert [trial.prefix_of for trial in plan.trials] == [2, 3, None, None, 2, 3]


def test_fresh_runs_what_is_done_and_continues_where_it_was_interrupted(
    tmp_path: Path, service: ScriptedService
) -> None:
    """New keys for every trial; the same command resumes it; a plain run afterwards has nothing to do."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    fresh = replanned(tmp_path, "seed=0,1", fresh=True)
    assert not any(trial.done for trial in fresh.trials)

    class Interrupts(Progress):
        def started(self, trial: Trial) -> None:
            if trial.number == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_on(service, fresh, progress=Interrupts())
    again = replanned(tmp_path, "seed=0,1", fresh=True)
    assert again.sweep == fresh.sweep
    assert run_on(service, again).exit_code == 0
    assert all(trial.done for trial in replanned(tmp_path, "seed=0,1").trials)
    assert len(service.submitted) == len(set(service.submitted)) == 4
    assert replanned(tmp_path, "seed=0,1", fresh=True).sweep != fresh.sweep


# Anything may happen


FATES = st.sampled_from(["ok", "lost", "unavailable", "applied", "not applied", "crashed"])


class Fated(ScriptedBackend):
    """Each submit meets the next fate."""

    def __init__(self, service: ScriptedService, fates: list[str]) -> None:
        super().__init__(service, max_in_flight=2)
        self._fates = fates
        self._service = service

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
        known[request.key] = Failure(failures[fate], fate) if fate in failures else None
        return ref


known: dict[str, Failure | None] = {}


@pytest.mark.thorough
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(FATES, max_size=8), interrupts=st.lists(st.integers(1, 12), max_size=3))
def test_every_key_is_tuned_once_after_any_sequence_of_failures(
    tmp_path_factory: pytest.TempPathFactory, fates: list[str], interrupts: list[int]
) -> None:
    """Lost, ambiguous, refused and interrupted in any order: in the end every trial has one success, every curve whole."""
    folder = tmp_path_factory.mktemp("fates")
    known.clear()
    service = ScriptedService(outcome=lambda request: known.get(request.key), steps_per_poll=20)
    options = ("seed=0,1,2", "runner.max_failures=null", "runner.max_attempts=2")
    backend = Fated(service, list(fates))

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
    while result.exit_code != 0:  # what failed or was ambiguous to the end has its next chance
        result = run_with(backend, plan(experiment), retry_failed=True)
    with Ledger(folder / "runs" / "ledger.db") as ledger:
        for trial in ledger.trials(result.verdict.sweep.id):
            states = [job.state for job in ledger.jobs(trial.key)]
            assert states.count(JobState.SUCCEEDED) == 1
            assert states[-1] is JobState.SUCCEEDED
            assert [s.step for s in ledger.snapshots(ledger.jobs(trial.key)[-1].id)] == list(range(1, trial.steps + 1))
