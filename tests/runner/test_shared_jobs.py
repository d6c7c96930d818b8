"""A job that belongs to trials of two sweeps."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from tests.experiments import planned
from tests.scripted import run_on
from tests.troubled import Notes, Troubled, run_with
from tunerun.errors import AmbiguousError
from tunerun.job import JobRef, Snapshot, TuningRequest
from tunerun.planning import Trial
from tunerun.runner import SweepResult
from tunerun.runner.progress import Progress
from tunerun.testing.scripted import ScriptedService
from tunerun.testing.waiting import wait_until


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


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


def test_a_job_of_a_sweep_with_another_name_is_found_under_its_id(tmp_path: Path, service: ScriptedService) -> None:
    """A service that identifies jobs by the tuned model's id, as the Gemini API does, gets no second job."""
    ids: list[str] = []

    class KnowsIds(Troubled):
        def submit(self, request: TuningRequest) -> JobRef:
            ids.append(request.tuned_model_id)
            return super().submit(request)

    first = planned(tmp_path, "runner.max_attempts=1")
    assert run_with(KnowsIds(service, submit=[AmbiguousError("applied")]), first).exit_code == 1
    second = planned(tmp_path, "name=other")
    assert second.trials[0].key == first.trials[0].key
    assert run_with(KnowsIds(service), second).exit_code == 0
    assert ids == [first.trials[0].request().tuned_model_id] * 2
    assert len(service.submitted) == 1


def test_a_run_waits_for_the_job_of_a_running_sweep(tmp_path: Path, service: ScriptedService) -> None:
    """Two concurrent runs that share a trial submit it once, and both complete."""
    service.steps_per_poll = 3
    inner: list[SweepResult] = []
    notes = Notes()

    class RunsAnother(Progress):
        """Runs a second sweep in a thread, from the first step of the first sweep on."""

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
