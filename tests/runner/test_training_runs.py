"""Trials that differ in their number of epochs alone are trained once: what a plan says of it, and what a run does."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.experiments import planned
from tests.troubled import run_with
from tunerun.backends.base import NO_CURSORS, Capabilities
from tunerun.cli.plan_tables import plan_table
from tunerun.job import Failure, FailureKind, JobRef, JobState, JobStatus, Snapshot
from tunerun.ledger import Ledger
from tunerun.planning import Trial
from tunerun.runner import SweepResult
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedBackend, ScriptedService
from tunerun.testing.waiting import wait_until

pytestmark = pytest.mark.process

EPOCHS = "hyperparameters.epoch_count=3,10,5"
PRICE = "model.price={usd_per_million_tokens: 1000, source: a page, date: '2026-11-22'}"


class OneAfterTheOther(ScriptedBackend):
    """A machine with a queue: it takes all jobs, runs the first, and has lost them when its process ends."""

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), survives_runner=False)

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        jobs = self._service.jobs
        ended = {ref for ref in refs if ref.id not in jobs or jobs[ref.id].is_cancelled}
        first = [ref for ref in refs if ref not in ended][:1]
        found = dict(super().poll([*ended, *first], after))
        return {ref: found.get(ref, JobStatus(JobState.QUEUED)) for ref in refs}


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


def states(result: SweepResult) -> list[JobState]:
    return [trial.state for trial in result.verdict.trials]


def test_a_plan_counts_a_training_run_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The steps, tokens and price of the longest trial cover the others; the plan reports the saving."""
    plan = planned(tmp_path, EPOCHS, "seed=0,1", PRICE)
    assert [trial.training_run for trial in plan.trials] == [2, 3, 2, 3, 2, 3]
    epoch = plan.trials[0].tokens // 3
    found = plan.to_json()
    assert found["to_run"] == {
        "training_runs": 2, "tokens": 20 * epoch, "usd": pytest.approx(0.02 * epoch), "hours": None, "steps": 160
    }  # fmt: skip
    assert found["saved"] == {"tokens": 16 * epoch, "usd": pytest.approx(0.016 * epoch), "hours": None, "steps": 128}
    assert [trial["training_run"] for trial in found["trials"]] == [2, 3, 2, 3, 2, 3]
    plan_table(plan)
    printed = " ".join(capsys.readouterr().out.split())
    assert f"6 trials to run in 2 training runs: {20 * epoch:,} training tokens" in printed
    assert (
        "Trials that differ in epoch_count alone are trained once, which saves 128 steps, "
        f"{16 * epoch:,} training tokens and ${0.016 * epoch:,.2f}."
    ) in printed


@pytest.mark.parametrize(
    ("more", "runs"),
    [
        (["hyperparameters.keep=best"], 1),
        (["hyperparameters.average_last=1,2", "hyperparameters.keep=last"], 1),
        (["hyperparameters.max_grad_norm=1.0"], 1),
        (["hyperparameters.schedule=linear"], 3),
        (["hyperparameters.warmup_fraction=0.1"], 3),
        (["backend=gemini", "backend.base_url=http://127.0.0.1:1"], 3),
    ],
)
def test_trials_share_a_training_run_only_where_that_is_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], runs: int
) -> None:
    """Not if the learning rate depends on the number of steps, and not at a service."""
    plan = planned(tmp_path, EPOCHS, *more)
    assert plan.to_json()["to_run"]["training_runs"] == runs
    assert (plan.saved(plan.trials).steps == 0) == (runs == 3)
    plan_table(plan)
    printed = " ".join(capsys.readouterr().out.split())
    apart = "epoch_count or average_last" if "average_last" in more[0] else "epoch_count"
    assert (f"Trials that differ in {apart} alone are trained once" in printed) == (runs == 1)


def test_the_plan_reports_saved_hours_after_a_first_trial(
    tmp_path: Path, service: ScriptedService, capsys: pytest.CaptureFixture[str]
) -> None:
    """The estimate of the remaining time counts a shared training run once."""
    run_with(ScriptedBackend(service), planned(tmp_path, "hyperparameters.epoch_count=1", "model.name=scripted"))
    plan = planned(tmp_path, EPOCHS, "model.name=scripted")
    todo, saved = plan.cost(plan.trials), plan.saved(plan.trials)
    assert todo.hours is not None
    assert todo.hours == pytest.approx(80 / 3600)
    assert saved.hours == pytest.approx(64 / 3600)
    plan_table(plan)
    assert "training tokens and about 64 s." in " ".join(capsys.readouterr().out.split())


def test_the_longest_of_a_training_run_is_submitted_first_and_paid_for_once(
    tmp_path: Path, service: ScriptedService
) -> None:
    """Training runs keep the order of the plan; a budget for each training run once suffices."""
    plan = planned(tmp_path, EPOCHS, "seed=0,1", PRICE)
    once = plan.with_baselines(plan.spent).tokens + plan.cost(plan.trials, at_most=True).tokens
    plan = planned(tmp_path, EPOCHS, "seed=0,1", PRICE, f"budget.max_tokens={once}")
    result = run_with(ScriptedBackend(service, max_in_flight=20), plan)
    assert (result.exit_code, result.stopped) == (0, None)
    numbers = {trial.key: trial.number for trial in plan.trials}
    assert [numbers[key] for key in service.submitted] == [2, 4, 0, 3, 5, 1]
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        spent = ledger.spending(plan.sweep)
    assert (spent.jobs, spent.tokens) == (6, plan.cost(plan.trials).tokens)
    assert spent.usd == pytest.approx(plan.cost(plan.trials).usd)


def test_a_trial_whose_training_run_is_over_is_paid_for(tmp_path: Path, service: ScriptedService) -> None:
    """If jobs run one by one nothing is shared, and the budget counts each."""
    plan = planned(tmp_path, EPOCHS)
    run_with(ScriptedBackend(service, max_in_flight=1), plan)
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        assert ledger.spending(plan.sweep).tokens == sum(trial.tokens for trial in plan.trials)


def test_failures_that_stop_a_sweep_cancel_queued_jobs_of_this_machine(tmp_path: Path) -> None:
    """After three failures for one reason; --retry-failed runs the cancelled ones."""
    service = ScriptedService(outcome=lambda _: Failure(FailureKind.CRASHED, "no"))
    plan = planned(tmp_path, "seed=0,1,2,3,4,5")
    result = run_with(OneAfterTheOther(service, max_in_flight=10), plan)
    assert states(result) == [JobState.FAILED] * 3 + [JobState.CANCELLED] * 3
    assert "3 trials failed for the same reason" in (result.stopped or "")
    service.outcome = lambda _: None
    again = run_with(OneAfterTheOther(service, max_in_flight=10), plan, retry_failed=True)
    assert states(again) == [JobState.SUCCEEDED] * 6


def test_a_run_over_its_hours_cancels_queued_jobs_of_this_machine(tmp_path: Path, service: ScriptedService) -> None:
    """Running jobs finish; the next run trains the cancelled ones."""
    service.steps_per_poll = 30

    class TakesLong(Progress):
        def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - the first step takes the hours
            if snapshot.step == 1:
                over = time.monotonic() + 4
                wait_until(lambda: time.monotonic() > over, "the hours are used up")

    plan = planned(tmp_path, "seed=0,1,2,3", f"budget.max_hours={4 / 3600}")
    result = run_with(OneAfterTheOther(service, max_in_flight=10), plan, TakesLong())
    assert states(result) == [JobState.SUCCEEDED] + [JobState.CANCELLED] * 3
    assert (result.stopped or "").startswith("budget.max_hours: this run has taken")
    assert run_with(OneAfterTheOther(service, max_in_flight=10), planned(tmp_path, "seed=0,1,2,3")).exit_code == 0


def test_a_queued_job_is_cancelled_at_once(tmp_path: Path, service: ScriptedService) -> None:
    """Its trial ends while others train, and these are not affected."""
    service.steps_per_poll = 10
    plan = planned(tmp_path, "seed=0,1,2")

    class Cancels(Progress):
        def stepped(self, trial: Trial, snapshot: Snapshot) -> None:
            if (trial.number, snapshot.step) == (0, 1):
                with Ledger(plan.ledger_path) as ledger:
                    ledger.request_cancel(plan.sweep, [1])

    result = run_with(OneAfterTheOther(service, max_in_flight=10), plan, Cancels())
    assert states(result) == [JobState.SUCCEEDED, JobState.CANCELLED, JobState.SUCCEEDED]


def test_jobs_that_an_interrupted_run_had_not_begun_cost_nothing(tmp_path: Path, service: ScriptedService) -> None:
    """Of four jobs one had begun, and only that one counts twice in the budget."""
    service.steps_per_poll = 10
    plan = planned(tmp_path, "seed=0,1,2,3")
    each = plan.trials[0].tokens
    most = plan.with_baselines(plan.spent).tokens + plan.cost(plan.trials, at_most=True).tokens + each
    plan = planned(tmp_path, "seed=0,1,2,3", f"budget.max_tokens={most}")

    class Interrupts(Progress):
        def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - the first step is enough
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_with(OneAfterTheOther(service, max_in_flight=10), plan, Interrupts())
    service.jobs.clear()  # they are gone with their process
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        assert ledger.spending(plan.sweep).tokens == 4 * each
    again = planned(tmp_path, "seed=0,1,2,3", f"budget.max_tokens={most}")
    assert (again.spent.tokens, again.settled.tokens, again.over_limit()) == (4 * each, 0, [])
    result = run_with(OneAfterTheOther(service, max_in_flight=10), again)
    assert (result.exit_code, result.stopped) == (0, None)
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        assert ledger.spending(plan.sweep).tokens in (4 * each, 5 * each)  # whether the first step was recorded
