"""Models are measured together if their backend answers several in one call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.experiments import planned, write_rows
from tests.runner.counting import Asked, Counting
from tests.scripted import right_when_tuned
from tests.troubled import Notes, run_with
from tunerun.errors import BackendError, InputError, UnavailableError
from tunerun.generation import ModelInputs
from tunerun.job import JobRef, JobState, TunedModel
from tunerun.ledger import Ledger
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

pytestmark = pytest.mark.process

SWEEP = ("hyperparameters.epoch_count=1,2", "seed=0,1")


class Together(Counting):
    """Answers several models in one call; the first calls fail as a script says."""

    def __init__(self, service: ScriptedService, asked: Asked, errors: Sequence[BaseException | None] = ()) -> None:
        super().__init__(service, asked)
        self.sizes: list[int] = []
        self._errors = iter(errors)

    def generate_together(self, groups: Sequence[ModelInputs]) -> list[list[str] | InputError]:
        self.sizes.append(len(groups))
        if (error := next(self._errors, None)) is not None:
            raise error
        found: list[list[str] | InputError] = []
        for each in groups:
            try:
                found.append(self.generate(each.model, each.inputs, each.options, each.examples))
            except InputError as refusal:
                found.append(refusal)
        return found


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService(answers=right_when_tuned)


def test_trials_that_finish_together_are_measured_in_one_call(tmp_path: Path, service: ScriptedService) -> None:
    """One call for four trials and the three baselines that use the base model, each question once."""
    asked = Asked()
    backend = Together(service, asked)
    result = run_with(backend, planned(tmp_path, *SWEEP))
    assert (result.exit_code, backend.sizes) == (0, [7])
    assert set(asked.counts.values()) == {1}
    (tmp_path / "alone").mkdir()
    alone = run_with(ScriptedBackend(service), planned(tmp_path / "alone", *SWEEP))
    assert [t.metrics for t in result.verdict.trials] == [t.metrics for t in alone.verdict.trials]
    assert result.verdict.sentence == alone.verdict.sentence


def test_a_later_run_measures_all_trained_models_in_one_call(tmp_path: Path, service: ScriptedService) -> None:
    """After a run was killed while measuring, the next run obtains the answers that are not recorded."""
    asked = Asked()
    with pytest.raises(KeyboardInterrupt):
        run_with(Together(service, asked, [KeyboardInterrupt()]), planned(tmp_path, *SWEEP))
    backend = Together(service, asked)
    assert run_with(backend, planned(tmp_path, *SWEEP)).exit_code == 0
    assert backend.sizes == [7]
    assert set(asked.counts.values()) == {1}
    assert len(service.submitted) == 4


def test_a_model_that_cannot_answer_does_not_affect_the_others(tmp_path: Path, service: ScriptedService) -> None:
    """If the whole call fails, each model is called alone, and a note names the one that fails again."""
    plan, notes = planned(tmp_path, *SWEEP), Notes()
    broken = f"tunedModels/{plan.trials[1].request().tuned_model_id}"

    class EndsTheEngine(Together):
        def generate(self, model: object, *rest: object) -> list[str]:
            if isinstance(model, TunedModel) and model.name == broken:
                raise BackendError("the engine has died")
            return super().generate(model, *rest)  # type: ignore[arg-type]

    run_with(EndsTheEngine(service, Asked()), plan, notes)
    assert notes.notes == ["trial 1 could not be evaluated: the engine has died; run the same command again"]
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        subjects = {subject for subject, _, _ in ledger.answered(plan.sweep)}
    assert {trial.key in subjects for trial in plan.trials} == {True, False}
    assert len(subjects) == 6


def test_a_call_to_an_unavailable_backend_is_repeated(tmp_path: Path, service: ScriptedService) -> None:
    """With the same questions; each trial is reported once."""
    asked, notes = Asked(), Notes()
    backend = Together(service, asked, [UnavailableError("no route")])
    assert run_with(backend, planned(tmp_path, *SWEEP), notes).exit_code == 0
    assert backend.sizes == [7, 7]
    assert set(asked.counts.values()) == {1}


def test_a_cancel_request_is_obeyed_while_models_answer(tmp_path: Path, service: ScriptedService) -> None:
    """A running trial is cancelled before the call for other trials returns."""
    service.steps_per_poll = 1
    plan = planned(tmp_path, "hyperparameters.epoch_count=1,9")
    cancelled = threading.Event()

    class Cancelled(Together):
        def generate_together(self, groups: Sequence[ModelInputs]) -> list[list[str] | InputError]:
            with Ledger(plan.ledger_path) as ledger:
                ledger.request_cancel(plan.sweep, [1])
            assert cancelled.wait(30)
            return super().generate_together(groups)

        def cancel(self, ref: JobRef) -> None:
            super().cancel(ref)
            cancelled.set()

    result = run_with(Cancelled(service, Asked()), plan)
    assert [trial.state for trial in result.verdict.trials] == [JobState.SUCCEEDED, JobState.CANCELLED]


def test_a_call_has_a_limit(tmp_path: Path, service: ScriptedService) -> None:
    """Answers are recorded before the next call, so a killed run loses at most one call."""
    rows = [{"text_input": str(n), "output": str(n + 1)} for n in range(101, 301, 2)]
    held_out = f"dataset.validation.path={write_rows(tmp_path / 'more.jsonl', rows)}"
    backend = Together(service, Asked())
    assert run_with(backend, planned(tmp_path, *SWEEP, held_out)).exit_code == 0
    assert backend.sizes == [2, 2, 2]  # the last one is asked alone
