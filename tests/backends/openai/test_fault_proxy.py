"""A sweep at an OpenAI service with a proxy between the two that spoils what passes: nothing is created twice or lost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from tests.experiments import planned
from tests.rigs.fault_proxy import (
    ANSWER_LOST,
    CUT,
    EMPTY,
    NOT_HTTP,
    NOT_JSON,
    RESET_BEFORE,
    TRUNCATED,
    Fault,
    FaultProxy,
    Rule,
    by_rules,
    error,
    redirect,
)
from tests.rigs.openai_service import OpenAIService, Script
from tunerun.ledger import Ledger
from tunerun.runner import SweepResult, run

FAULTS = (
    RESET_BEFORE,
    ANSWER_LOST,
    error(429, retry_after_s=0),
    error(500),
    error(500, applied=True),
    error(503, applied=True),
    NOT_HTTP,
    NOT_JSON,
    EMPTY,
    TRUNCATED,
    CUT,
    redirect("http://127.0.0.1:9/v1"),
)
REQUESTS = (
    ("GET", "/v1/models/.*"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("GET", "/v1/files/file-[0-9]+"),
    ("GET", "/v1/fine_tuning/jobs"),
    ("POST", "/v1/fine_tuning/jobs"),
    ("GET", "/v1/fine_tuning/jobs/[^/]+"),
    ("GET", "/v1/fine_tuning/jobs/.*/events"),
    ("GET", "/v1/fine_tuning/jobs/.*/checkpoints"),
    ("GET", "/v1/files/.*/content"),
    ("POST", "/v1/chat/completions"),
)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many attempts as ever, without the waits between them."""
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key")
    with stamina.set_testing(True, attempts=4):
        yield


def swept(folder: Path, address: str) -> SweepResult:
    """Two trials, run to the end."""
    folder.mkdir()
    plan = planned(
        folder,
        "backend=openai",
        f"backend.base_url={address}/v1",
        "backend.poll_interval_s=0",
        "hyperparameters.learning_rate=null",
        "hyperparameters.learning_rate_multiplier=1,2",
        "hyperparameters.epoch_count=2",
        "evaluation.baselines.examples=[0]",
        "runner.max_attempts=9",
    )
    return run(plan)


def outcome(folder: Path, result: SweepResult, service: OpenAIService) -> Any:
    """The states, curves and metrics of all trials, and how often each thing was created."""
    assert result.exit_code == 0, result.stopped
    with Ledger(folder / "runs" / "ledger.db") as ledger:
        found = [
            [(s.step, s.epoch, s.mean_loss) for s in ledger.snapshots(job.id)]
            for trial in ledger.trials(result.verdict.sweep.id)
            for job in ledger.jobs(trial.key)
        ]
    metrics = [(trial.state, dict(trial.metrics)) for trial in result.verdict.trials]
    for trial in json.loads(result.table.render("json"))["trials"]:
        assert [(each["epoch"], each["step"]) for each in trial["checkpoints"]] == [(1, 8), (2, 16)]
    return found, metrics, sorted(Counter(service.created).values()), sorted(service.uploads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    with OpenAIService(Script(steps_per_look=5)) as service, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "planted-key")
        found = outcome(folder, swept(folder, service.address), service)
    assert found[2] == [1, 1]
    assert len(found[3]) == 2
    assert [len(curve) for curve in found[0]] == [16, 16]
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_sweep_survives_a_fault_of_every_request(fault: Fault, undisturbed: Any, tmp_path: Path) -> None:
    """The first request of each kind is spoiled: in the end all is as in an undisturbed run, each job and file once."""
    with OpenAIService(Script(steps_per_look=5)) as service, FaultProxy(service.address) as proxy:
        proxy.choose = by_rules(*(Rule(fault, method, path) for method, path in REQUESTS))
        result = swept(tmp_path / "sweep", proxy.address)
        assert len([each for each in proxy.requests if each.fault is not None]) == len(REQUESTS)
        assert outcome(tmp_path / "sweep", result, service) == undisturbed
