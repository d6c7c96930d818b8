"""Budgets of tokens, money and hours."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiments import planned
from tests.scripted import run_on
from tests.troubled import run_with
from tunerun.errors import LimitError
from tunerun.job import Failure, FailureKind
from tunerun.ledger import Ledger
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SEEDS = "seed=0,1,2,3"


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService()


PRICE = "model.price={usd_per_million_tokens: 1000, source: a page, date: '2026-11-22'}"


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("budget.max_tokens=100", r"budget.max_tokens: the sweep would cost up to 44,360 tokens \(4,760 of it"),
        ("budget.max_usd=1.5", r"budget.max_usd: the sweep would cost up to 39.60 US dollars \(0.00 of it"),
    ],
)
def test_a_plan_above_its_budget_is_refused(tmp_path: Path, service: ScriptedService, limit: str, message: str) -> None:
    """Nothing is frozen or sent; the upper end of the estimate counts."""
    plan = planned(tmp_path, SEEDS, PRICE, limit)
    with pytest.raises(LimitError, match=message):
        run_on(service, plan)
    assert service.submitted == []
    assert not plan.ledger_path.exists()


def test_attempts_that_were_lost_count_and_stop_the_sweep(tmp_path: Path, service: ScriptedService) -> None:
    """A budget that suffices for the plan does not suffice for jobs that are submitted twice."""
    service.outcome = lambda request: Failure(FailureKind.LOST, "gone") if request.seed == 0 else None
    backend = ScriptedBackend(service, max_in_flight=1)
    plan = planned(tmp_path, SEEDS, "budget.max_tokens=45000", "runner.max_attempts=8")
    result = run_with(backend, plan)
    assert "budget.max_tokens" in (result.stopped or "")
    with Ledger(tmp_path / "runs" / "ledger.db") as ledger:
        spent = ledger.spending(result.verdict.sweep.id)
    assert spent.tokens <= 45_000 - plan.baseline_tokens
    assert result.exit_code == 1


def test_a_run_stops_after_its_hours(tmp_path: Path, service: ScriptedService) -> None:
    """Nothing more is submitted."""
    result = run_on(service, planned(tmp_path, SEEDS, "budget.max_hours=0"))
    assert (result.stopped or "").startswith("budget.max_hours: this run has taken")
    assert service.submitted == []
