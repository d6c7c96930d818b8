"""Several backends in one sweep: each has a queue of its own, and none holds up another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.experiments import planned
from tests.troubled import Troubled
from tunerun import schema
from tunerun.backends.base import Backend
from tunerun.errors import AccessError, BackendError, UnavailableError
from tunerun.job import JobRef, JobState, TuningRequest
from tunerun.planning import Plan
from tunerun.runner import SweepResult, run
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

pytestmark = pytest.mark.process

AXES = ("backend=local,gemini", "seed=0,1,2,3")
"""Trials 0 to 3 are local, 4 to 7 hosted."""


def run_on_both(plan: Plan, backends: Mapping[str, Backend]) -> SweepResult:
    def opened(section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return backends[section.kind]

    return run(plan, open_backend=opened, poll_interval_s=0)


def states(result: SweepResult) -> list[str]:
    return [trial.state.value for trial in result.verdict.trials]


class Records(ScriptedBackend):
    """Writes its name into a record at each submit."""

    def __init__(self, name: str, record: list[str], max_in_flight: int) -> None:
        self._name, self._record = name, record
        super().__init__(ScriptedService(steps_per_poll=1), max_in_flight)

    def submit(self, request: TuningRequest) -> JobRef:
        self._record.append(self._name)
        return super().submit(request)


def test_a_full_backend_does_not_hold_up_a_free_one(tmp_path: Path) -> None:
    """While one takes a job at a time, the other gets all it can take at once, in the order of the plan."""
    record: list[str] = []
    backends = {"local": Records("local", record, 1), "gemini": Records("hosted", record, 3)}
    result = run_on_both(planned(tmp_path, *AXES), backends)
    assert record[:4] == ["local", "hosted", "hosted", "hosted"]
    assert states(result) == ["SUCCEEDED"] * 8


@pytest.mark.parametrize("where", ["prepare", "submit", "poll"])
@pytest.mark.parametrize("error", [AccessError("key refused"), UnavailableError("no answer")])
def test_a_backend_that_refuses_or_is_silent_stops_itself_alone(
    tmp_path: Path, where: str, error: BackendError
) -> None:
    """The other one's trials are tuned and measured; the run ends with the reason and exit code 1."""
    plan = planned(tmp_path, *AXES, "runner.unreachable_after_s=0.001", "runner.backoff_s=0.001")
    hosted = Troubled(ScriptedService(steps_per_poll=1), **{where: [error] * 99})  # type: ignore[arg-type]
    result = run_on_both(plan, {"local": ScriptedBackend(ScriptedService()), "gemini": hosted})
    assert states(result)[:4] == ["SUCCEEDED"] * 4
    assert all("eval/exact_match" in trial.metrics for trial in result.verdict.trials[:4])
    assert JobState.SUCCEEDED not in states(result)[4:]
    assert str(error) in str(result.stopped)
    assert result.exit_code == 1
    healthy = {kind: ScriptedBackend(ScriptedService()) for kind in ("local", "gemini")}
    assert run_on_both(planned(tmp_path, *AXES), healthy).exit_code == 0
