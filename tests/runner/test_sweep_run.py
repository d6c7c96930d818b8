"""The loop over all jobs, against a scripted service that keeps its own record of what it was asked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from tests.experiments import planned, write_rows
from tests.scripted import SWEEP, right_when_tuned, run_on
from tunerun.backends.base import NO_CURSORS
from tunerun.errors import AmbiguousError, BackendError, BaseModelError, InputError, LockedError, MetricError
from tunerun.job import (
    BaseModelRef,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TunedModel,
    TuningRequest,
)
from tunerun.ledger import Ledger
from tunerun.planning import Trial
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedBackend, ScriptedService


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService(answers=right_when_tuned)


def test_every_trial_runs_once_and_is_measured(tmp_path: Path, service: ScriptedService) -> None:
    """Four trials are four jobs, each evaluated, beside one baseline; the tuned ones win."""
    plan = planned(tmp_path, *SWEEP)
    result = run_on(service, plan)
    by_run = sorted(plan.trials, key=lambda trial: (trial.training_run, -trial.steps))
    assert service.submitted == [trial.key for trial in by_run]
    assert {t.state for t in result.verdict.trials} == {JobState.SUCCEEDED}
    assert [t.metrics["eval/exact_match"] for t in result.verdict.trials] == [1.0] * 4
    assert result.verdict.baselines[0].metrics == {"eval/exact_match": 0.0, "validation/loss": 2.0}
    assert (result.exit_code, result.verdict.best) == (0, 0), "the cheapest of the tied points"


def test_the_json_is_as_documented(tmp_path: Path, service: ScriptedService) -> None:
    """`run --json` has the documented fields."""
    document = run_on(service, planned(tmp_path, "hyperparameters.epoch_count=1,2")).to_json()
    assert document["experiment"] == "numbers"
    trial = document["trials"][1]
    assert trial["overrides"] == {"hyperparameters.epoch_count": 2}
    assert trial["tuned_model"].startswith("tunedModels/numbers-")
    assert {"number", "point", "key", "state", "adapter", "mlflow_run_id", "metrics", "error"} <= trial.keys()
    base = document["baselines"][0]
    assert (base["name"], base["trials"]) == ("base", [0, 1])
    assert base["metrics"] == {"validation/loss": 2.0, "eval/exact_match": 0.0}
    assert [each["name"] for each in document["baselines"]] == ["base", "base+4", "base+4 text"]
    assert (document["best"], document["decision"]["outcome"]) == (0, "better")


def test_a_second_run_does_nothing_and_returns_the_same_result(tmp_path: Path, service: ScriptedService) -> None:
    """What is done is neither submitted nor measured again."""
    first = run_on(service, planned(tmp_path, *SWEEP))
    asked = (len(service.submitted), service.generated)
    plan = planned(tmp_path, *SWEEP)
    assert all(trial.done for trial in plan.trials)
    assert run_on(service, plan).to_json() == first.to_json()
    assert (len(service.submitted), service.generated) == asked


def test_a_metric_that_cannot_run_is_found_before_the_first_job(tmp_path: Path, service: ScriptedService) -> None:
    """Its file is run once before anything is submitted."""
    (tmp_path / "metrics.py").write_text("import no_such_module\ndef score(expected, answer): return 1\n")
    plan = planned(tmp_path, f"evaluation.metrics=[{{name: mine, python: '{tmp_path}/metrics.py:score'}}]")
    with pytest.raises(InputError, match=r"metrics\.py:1: ModuleNotFoundError: No module named 'no_such_module'"):
        run_on(service, plan)
    assert service.submitted == []


def test_a_metric_that_fails_on_a_row_loses_neither_models_nor_answers(
    tmp_path: Path, service: ScriptedService
) -> None:
    """Every trial is trained and asked; a note says why the metric is missing, and where it decides the run does."""
    (tmp_path / "metrics.py").write_text("def score(expected, answer):\n    return 1 / (int(answer) - 104)\n")
    mine = f"{{name: mine, python: '{tmp_path}/metrics.py:score', unit: number}}"
    reason = r"evaluation\.metrics\.mine: .*metrics\.py:2: held-out row [13]: (ZeroDivision|Value)Error: "
    result = run_on(service, planned(tmp_path, *SWEEP, f"evaluation.metrics=[exact_match,{mine}]"))
    assert [t.metrics["eval/exact_match"] for t in result.verdict.trials] == [1.0] * 4
    assert not any("eval/mine" in t.metrics for t in result.verdict.trials)
    assert any(re.search(f"^mine is not computed: {reason}", note) for note in result.verdict.notes)
    with pytest.raises(MetricError, match=reason):
        run_on(service, planned(tmp_path, "name=other", f"evaluation.metrics=[{mine}]"))
    assert len(service.submitted) == 5


def test_another_metric_asks_no_model_again(tmp_path: Path, service: ScriptedService) -> None:
    """The same jobs are scored by what the config names now, from the answers that are there."""
    run_on(service, planned(tmp_path, *SWEEP))
    asked = (len(service.submitted), service.generated)
    now = "evaluation.metrics=[accuracy,{name: numeric, tolerance: 1},chrf]"
    second = run_on(service, planned(tmp_path, *SWEEP, now, "evaluation.decide_by=numeric"))
    assert (len(service.submitted), service.generated) == asked
    assert second.verdict.metric == "eval/numeric"
    trial, baseline = second.verdict.trials[0].metrics, second.verdict.baselines[0].metrics
    assert (trial["eval/numeric"], trial["eval/accuracy"]) == (1, 1)
    assert trial["eval/chrf"] == pytest.approx(100)
    assert (baseline["eval/numeric"], baseline["eval/accuracy"]) == (1, 0)


def test_equal_keys_are_one_job_with_two_results(tmp_path: Path, service: ScriptedService) -> None:
    """Two trials of one key are submitted once, and both show what it came to."""
    result = run_on(service, planned(tmp_path, "model.name=a,b"))
    assert len(service.submitted) == 1
    assert [t.metrics["eval/exact_match"] for t in result.verdict.trials] == [1.0, 1.0]


def test_a_wider_sweep_runs_only_what_is_new(tmp_path: Path, service: ScriptedService) -> None:
    """Trials that another sweep has run are taken over."""
    run_on(service, planned(tmp_path, "seed=0,1"))
    result = run_on(service, planned(tmp_path, "seed=0,1,2"))
    assert len(service.submitted) == 3
    assert result.exit_code == 0


def test_the_verdict_shows_what_the_plan_said(tmp_path: Path) -> None:
    """Of a baseline that has half of the rows right, as a plan takes it to be, over the same family of comparisons."""
    rows = write_rows(
        tmp_path / "hundred.jsonl", [{"text_input": str(n), "output": str(n + 1)} for n in range(1000, 1100)]
    )

    def right_by_half(model: BaseModelRef | TunedModel, text: str) -> str:
        number = int(text.rpartition("\n")[2])  # behind the examples of `base+4 text`
        return str(number + 1) if isinstance(model, TunedModel) or number % 2 else text

    plan = planned(tmp_path, SWEEP[0], f"dataset.validation.path={rows}")
    decision = run_on(ScriptedService(answers=right_by_half), plan).verdict.decision
    assert plan.visibility is not None
    assert decision.family == plan.visibility.comparisons
    assert decision.smallest_visible == plan.visibility.smallest
    assert decision.smallest_visible is not None


class Interrupts(Progress):
    """A user who presses Ctrl-C at the n-th step that is shown."""

    def __init__(self, after: int) -> None:
        self._left = after

    def stepped(self, trial: Trial, snapshot: Snapshot) -> None:  # noqa: ARG002 - only their number counts
        self._left -= 1
        if self._left == 0:
            raise KeyboardInterrupt


@pytest.mark.thorough
@pytest.mark.parametrize("after", [1, 7, 8, 9, 20, 40])
def test_an_interrupted_sweep_continues_with_what_is_missing(
    tmp_path: Path, service: ScriptedService, after: int
) -> None:
    """Interrupted anywhere and started again, every job is submitted once and every curve is whole."""
    service.steps_per_poll = 3
    with pytest.raises(KeyboardInterrupt):
        run_on(service, planned(tmp_path, *SWEEP), progress=Interrupts(after))
    plan = planned(tmp_path, *SWEEP)
    result = run_on(service, plan)
    assert sorted(service.submitted) == sorted(trial.key for trial in plan.trials)
    assert result.exit_code == 0
    with Ledger(plan.ledger_path) as ledger:
        for trial in plan.trials:
            job = ledger.job(trial.key)
            assert job is not None
            assert [s.step for s in ledger.snapshots(job.id)] == list(range(1, trial.steps + 1))


class LosesTheAnswer(ScriptedBackend):
    """A backend whose connection breaks after the job was accepted."""

    def submit(self, request: TuningRequest) -> JobRef:
        super().submit(request)
        raise AmbiguousError("connection reset")


def test_an_ambiguous_submit_is_looked_up_and_not_repeated(tmp_path: Path, service: ScriptedService) -> None:
    """When the answer to a submit is lost, the job is found by its key, at the latest by the next run."""
    first = run_on(service, planned(tmp_path), LosesTheAnswer)
    assert first.to_json()["trials"][0]["state"] == "SUBMITTING"
    assert run_on(service, planned(tmp_path)).exit_code == 0
    assert len(service.submitted) == 1


class HasNotes(ScriptedBackend):
    """A backend that says something of every job, each time."""

    def poll(self, refs: Sequence[JobRef], after: Mapping[JobRef, int] = NO_CURSORS) -> Mapping[JobRef, JobStatus]:
        return {ref: replace(status, notes=("no state",)) for ref, status in super().poll(refs, after).items()}


class Listens(Progress):
    """Keeps what needs attention."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_jobs_note_is_shown_once(tmp_path: Path, service: ScriptedService) -> None:
    """However often the backend repeats it."""
    service.steps_per_poll, listens = 20, Listens()
    run_on(service, planned(tmp_path), HasNotes, progress=listens)
    assert listens.notes == ["trial 0: no state"]


class Refuses(ScriptedBackend):
    """A backend that takes no job."""

    def submit(self, request: TuningRequest) -> JobRef:  # noqa: ARG002 - whatever it is
        raise BackendError("quota exhausted")


def test_a_refused_submit_fails_the_trial_with_its_reason(tmp_path: Path, service: ScriptedService) -> None:
    """The reason is in the result, and the exit code is 1."""
    result = run_on(service, planned(tmp_path), Refuses)
    assert result.to_json()["trials"][0]["error"] == "invalid: quota exhausted"
    assert result.exit_code == 1


def test_a_failed_trial_does_not_affect_the_others(tmp_path: Path, service: ScriptedService) -> None:
    """A trial that runs out of memory is FAILED with its reason; the others go on."""
    service.outcome = lambda r: Failure(FailureKind.OUT_OF_MEMORY, "8 GB needed") if r.seed == 0 else None
    result = run_on(service, planned(tmp_path, "seed=0,1"))
    assert [t.state for t in result.verdict.trials] == [JobState.FAILED, JobState.SUCCEEDED]
    assert result.to_json()["trials"][0]["error"] == "out of memory: 8 GB needed"
    assert (result.exit_code, result.verdict.best) == (1, 1)


def test_a_failed_trial_runs_again_only_with_retry_failed(tmp_path: Path, service: ScriptedService) -> None:
    """A failure is final until `--retry-failed`."""
    service.outcome = lambda _: Failure(FailureKind.CRASHED, "bug")
    run_on(service, planned(tmp_path))
    service.outcome = lambda _: None
    again = planned(tmp_path)
    assert (len(again.to_run(retry_failed=False)), len(again.to_run(retry_failed=True))) == (0, 1)
    assert run_on(service, again).exit_code == 1
    assert run_on(service, planned(tmp_path), retry_failed=True).exit_code == 0
    assert len(service.submitted) == 2


def test_a_lost_job_is_submitted_again_up_to_max_attempts(tmp_path: Path, service: ScriptedService) -> None:
    """A worker that is lost each time is tried a few times."""
    service.outcome = lambda _: Failure(FailureKind.LOST, "the worker is gone")
    result = run_on(service, planned(tmp_path, "runner.max_attempts=4"))
    assert len(service.submitted) == 4
    assert result.verdict.trials[0].state is JobState.FAILED


def test_the_next_run_repeats_a_failed_evaluation(tmp_path: Path, service: ScriptedService) -> None:
    """A tuned model that could not be measured stays, and is measured next time."""

    def unanswered(model: BaseModelRef | TunedModel, text: str) -> str:
        raise LookupError(text)

    service.answers = unanswered
    result = run_on(service, planned(tmp_path))
    assert result.verdict.best is None
    service.answers = right_when_tuned
    assert run_on(service, planned(tmp_path)).verdict.best == 0
    assert len(service.submitted) == 1


class HasNoModel(ScriptedBackend):
    """A backend that finds no base model."""

    def prepare(self, models: Sequence[BaseModelRef]) -> None:
        raise BaseModelError([f"{model.name}: not found" for model in models])


def test_a_missing_base_model_stops_the_run_before_anything(tmp_path: Path, service: ScriptedService) -> None:
    """Nothing is submitted or frozen when a base model cannot be found."""
    plan = planned(tmp_path)
    with pytest.raises(InputError, match="smollm2-135m: not found"):
        run_on(service, plan, HasNoModel)
    assert service.submitted == []
    assert not plan.ledger_path.exists()


def test_no_trial_is_advised_that_is_not_better_than_the_base_model(tmp_path: Path, service: ScriptedService) -> None:
    """When tuning does not help, the verdict says so."""
    service.answers = lambda _model, text: str(int(text.split()[-1]) + 1)
    verdict = run_on(service, planned(tmp_path)).verdict
    assert verdict.best is None
    assert verdict.sentence.startswith("The tuned model cannot be said to be better than the base model")


def test_without_generation_only_the_validation_loss_is_shown(tmp_path: Path, service: ScriptedService) -> None:
    """With `evaluation=none` nothing is generated; the lowest loss is named, and nothing is advised by one number."""
    verdict = run_on(service, planned(tmp_path, "evaluation=none", *SWEEP)).verdict
    assert service.generated == 0
    assert (verdict.metric, verdict.best) == ("validation/loss", None)
    assert "the lowest is 0.0625, of point 1" in verdict.sentence


def test_nothing_held_out_gives_no_advice(tmp_path: Path, service: ScriptedService) -> None:
    """A training loss never chooses a model."""
    verdict = run_on(service, planned(tmp_path, "dataset.validation.path=null")).verdict
    assert verdict.best is None
    assert verdict.sentence.startswith("Nothing was held out, so no point can be preferred")


@pytest.mark.slow
def test_the_error_for_a_running_sweep_names_its_process(tmp_path: Path, service: ScriptedService) -> None:
    """A second runner of the same sweep is refused, and leaves everything as it is."""
    plan = planned(tmp_path)
    (plan.runs / "locks").mkdir(parents=True)
    with FileLock(plan.runs / "locks" / f"{plan.sweep}.lock"):
        (plan.runs / "locks" / f"{plan.sweep}.holder").write_text("process 7 on here since noon")
        with pytest.raises(LockedError, match="is being run by process 7 on here since noon; wait for it or stop it"):
            run_on(service, plan)
    assert service.submitted == []


def test_the_table_of_a_result_has_a_row_for_each_trial(tmp_path: Path, service: ScriptedService) -> None:
    """The result is a pandas frame on request."""
    frame = run_on(service, planned(tmp_path, *SWEEP)).to_pandas()
    assert list(frame["seed"]) == [0, 1, 0, 1]
    assert list(frame["eval/exact_match"]) == [1.0] * 4


def test_editing_the_examples_later_changes_no_frozen_plan(tmp_path: Path, service: ScriptedService) -> None:
    """What was run stays readable from the ledger, whatever becomes of the files."""
    plan = planned(tmp_path)
    run_on(service, plan)
    (tmp_path / "rows.jsonl").unlink()
    with Ledger(plan.ledger_path) as ledger:
        (trial,) = ledger.trials(plan.sweep)
        assert ledger.example_set(trial.training).examples == plan.trials[0].training.examples
        assert replace(plan.trials[0]).record() == trial
