"""`evaluation.stop_early`: a trial that is decided to be worse than the best so far answers no more held-out rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.experiments import planned, write_rows
from tests.runner.counting import Asked, Counting
from tests.runner.test_together import Together
from tests.troubled import Notes, run_with
from tunerun.comparison import judge
from tunerun.job import BaseModelRef, TunedModel
from tunerun.ledger import Ledger
from tunerun.ledger.portable import portable_files
from tunerun.ledger.restoring import restored
from tunerun.planning import Plan
from tunerun.record import open_record
from tunerun.record.verification import compare
from tunerun.runner import SweepResult
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

pytestmark = pytest.mark.process

ROWS = 100
EARLY = "evaluation.stop_early=true"
POINTS = "hyperparameters.learning_rate=0.0001,0.0002,0.0003"


def held_out(folder: Path) -> str:
    rows = [{"text_input": str(n), "output": str(n + 1)} for n in range(101, 101 + 2 * ROWS, 2)]
    return f"dataset.validation.path={write_rows(folder / 'more.jsonl', rows)}"


def sweep(folder: Path, *more: str) -> Plan:
    return planned(folder, POINTS, held_out(folder), "evaluation.baselines.examples=[0]", *more)


def service_of(plan: Plan, bad: dict[int, int]) -> ScriptedService:
    """Models that are right, but for points that are wrong on all of their rows but every nth."""
    names = {f"tunedModels/{t.request().tuned_model_id}": t.point for t in plan.trials}

    def answer(model: BaseModelRef | TunedModel, text: str) -> str:
        if not isinstance(model, TunedModel):
            return "?"
        n = bad.get(names[model.name], 1)
        return str(int(text) + 1) if n and int(text) // 2 % n == 0 else "?"

    return ScriptedService(answers=answer)


def asked_of(plan: Plan, asked: Asked) -> list[int]:
    """How many rows each trial was asked."""
    rows = Counter(name.split()[0] for name, _ in asked.counts)
    return [rows[f"tunedModels/{trial.request().tuned_model_id}"] for trial in plan.trials]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    """A sweep of three points of which one stopped after a turn."""
    plan = sweep(tmp_path_factory.mktemp("stopped"), EARLY)
    return run_with(Together(service_of(plan, {1: 0}), Asked()), plan)


@pytest.mark.parametrize("is_together", [True, False])
def test_a_point_that_is_decided_to_be_worse_stops_answering(tmp_path: Path, is_together: bool) -> None:
    """After whole turns of rows; other points and the baseline answer all rows, and no row is repeated."""
    plan = sweep(tmp_path, EARLY)
    asked, notes, service = Asked(), Notes(), service_of(plan, {1: 0})
    backend: ScriptedBackend = Together(service, asked) if is_together else Counting(service, asked)
    result = run_with(backend, plan, notes)
    assert (result.exit_code, result.stopped) == (0, None)
    assert set(asked.counts.values()) == {1}
    assert asked_of(plan, asked) == [ROWS, 16, ROWS]
    (note,) = notes.notes
    assert note == (
        "point 1 answers no more held-out rows: after 9 rows it is decided to be worse than point 0 "
        "(evaluation.stop_early)"
    )
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        trial = plan.trials[1]
        assert trial.validation is not None
        stop = ledger.stop(plan.sweep, (trial.key, trial.validation.digest, trial.answer_method))
        assert stop is not None
        assert (stop.better, stop.rows, stop.needed) == (plan.trials[0].key, 16, 60)
        assert stop.e_value >= 60
        assert ledger.answered_at(trial.key, trial.validation.digest, trial.answer_method) is None
    again = Asked()
    assert run_with(Counting(service, again), plan).exit_code == 0
    assert again.calls == 0


def test_another_sweep_obtains_the_remaining_answers(tmp_path: Path) -> None:
    """Without `stop_early` it is another sweep with the same trials, which obtains only the missing answers."""
    plan = sweep(tmp_path, EARLY)
    service, asked = service_of(plan, {1: 0}), Asked()
    run_with(Together(service, asked), plan)
    whole = run_with(Together(service, asked), sweep(tmp_path))
    assert set(asked.counts.values()) == {1}
    assert asked_of(plan, asked) == [ROWS] * 3
    assert whole.verdict.points[1].estimates["eval/exact_match"].value == 0


def test_a_killed_run_makes_the_same_decisions(tmp_path: Path) -> None:
    """The next run uses the recorded answers and repeats no row."""
    plan = sweep(tmp_path, EARLY)
    asked, service = Asked(interrupt_at=4), service_of(plan, {1: 3, 2: 0})
    with pytest.raises(KeyboardInterrupt):
        run_with(Counting(service, asked), plan)
    run_with(Counting(service, asked), plan)
    assert set(asked.counts.values()) == {1}
    assert asked_of(plan, asked)[2] == 16
    assert 16 <= asked_of(plan, asked)[1] < ROWS


def test_points_are_compared_by_the_mean_over_their_seeds(tmp_path: Path) -> None:
    """One bad seed does not stop a point; both seeds of a bad point stop."""
    plan = planned(tmp_path, POINTS, held_out(tmp_path), "evaluation.baselines.examples=[0]", "seed=0,1", EARLY)
    service = service_of(plan, {1: 0})
    asked = Asked()
    result = run_with(Together(service, asked), plan)
    by_point: dict[int, set[int]] = {}
    for trial, rows in zip(plan.trials, asked_of(plan, asked), strict=True):
        by_point.setdefault(trial.point, set()).add(rows)
    assert by_point == {0: {ROWS}, 1: {16}, 2: {ROWS}}
    assert result.verdict.decision.advised == 0


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ("macro_f1", "macro_f1 decides, which is not a mean over rows"),
        ("answer_loss", "answer_loss decides, which generates no answers"),
    ],
)
def test_a_metric_that_cannot_decide_early_is_named_by_the_plan(tmp_path: Path, metric: str, reason: str) -> None:
    """Every trial answers all rows."""
    plan = sweep(tmp_path, EARLY, f"evaluation.metrics=[{metric}]")
    assert f"evaluation.stop_early: every trial answers all held-out rows, because {reason}" in plan.warnings
    asked: Any = Asked()
    run_with(Together(service_of(plan, {1: 0}), asked), plan)
    if metric == "macro_f1":
        assert asked_of(plan, asked) == [ROWS] * 3


def test_every_renderer_reports_a_stopped_point(stopped: SweepResult) -> None:
    """The point is neither advised nor tied nor compared, and its numbers have their number of rows."""
    verdict, table = stopped.verdict, stopped.table
    point = verdict.points[1]
    assert point.stopped is not None
    assert (point.stopped.rows, point.stopped.of, point.stopped.worse_than) == (16, ROWS, 0)
    assert (verdict.decision.advised, 1 in verdict.decision.tied, point.against) == (0, False, ())
    assert point.estimates["eval/exact_match"].rows == 16
    assert "eval/exact_match" not in verdict.trials[1].metrics
    assert verdict.decision.family == 2
    for name in ("terminal", "markdown", "html", "latex", "csv", "note"):
        assert "16 of 100 rows, worse than point 0" in " ".join(table.render(name).split()), name
    assert "0 % (16 rows)" in table.render("markdown")
    found = json.loads(table.render("json"))["points"][1]
    assert found["stopped_early"]["of"] == ROWS
    assert found["estimates"]["eval/exact_match"]["rows"] == 16
    (note,) = [note for note in verdict.notes if "Decided early" in note]
    assert note.startswith("Decided early to be worse, and neither compared nor advised: point 1 (16 of 100 rows, ")
    assert not [note for note in verdict.notes if "they have no answers" in note]


def test_a_record_has_the_stops(stopped: SweepResult, tmp_path: Path) -> None:
    """The portable files have the answers so far and the reason; a ledger restored from them gives the same result."""
    with open_record(
        stopped.verdict.sweep.id, runs=Path(stopped.verdict.trials[0].record.config["paths"]["runs"])
    ) as record:
        portable_files(record.ledger, record.sweep, tmp_path / "record")
        assert compare(record, record).lines[1].endswith("16 of 16 answers equal")
    restored(tmp_path / "record", tmp_path / "ledger.db")
    with Ledger.open_read_only(tmp_path / "ledger.db") as ledger:
        again = judge(ledger, ledger.sweeps())
    assert again.points[1].stopped == stopped.verdict.points[1].stopped
    assert again.notes == stopped.verdict.notes
