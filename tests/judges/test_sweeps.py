"""Judges in sweeps: what is asked, kept, compared, counted and carried over."""

from __future__ import annotations

import _thread
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from tests.experiments import overrides, planned, write_rows
from tests.interrupts import interruptible
from tests.judges.server import JudgeService, Reply, fair, shown
from tests.ledger.test_formats import printed
from tests.scripted import right_when_tuned, run_on
from tunerun.cli import app
from tunerun.comparison import judge
from tunerun.comparison.results import Outcome
from tunerun.comparison.table import ComparisonTable
from tunerun.errors import InputError, LimitError
from tunerun.ledger import Ledger
from tunerun.ledger.portable import portable_files
from tunerun.ledger.restoring import restored
from tunerun.planning import Plan
from tunerun.runner import SweepResult
from tunerun.testing.scripted import ScriptedService

pytestmark = pytest.mark.process

PRICE = "price: {usd_per_million_input_tokens: 1, usd_per_million_output_tokens: 10, source: test, date: '2026-11-26'}"
ROWS = 10
"""Held out; four models answer them: one point, the base model, and that with four examples in two forms."""

CALLS = 3 * ROWS
"""Two of the four answer alike, so that a judge is asked about these answers once."""


@pytest.fixture(autouse=True)
def no_waits() -> Iterator[None]:
    """Use stamina's test mode: as many attempts, without waits."""
    with stamina.set_testing(True, attempts=2):
        yield


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService(answers=right_when_tuned)


@pytest.fixture
def server() -> Iterator[JudgeService]:
    with JudgeService() as started:
        yield started


def judged(server: JudgeService, *more: str, name: str = "judge") -> str:
    """Return an override: exact match and a judge."""
    options = ["name: " + name, f"base_url: '{server.base_url}'", "model: m", "rubric: right", "key_variable: null"]
    return f"evaluation.metrics=[exact_match,{{{', '.join([*options, *more])}}}]"


def ran(folder: Path, service: ScriptedService, *more: str) -> SweepResult:
    return run_on(service, planned(folder, *more), progress=None)


def values(result: SweepResult, name: str = "eval/judge") -> dict[str, float]:
    """Return the value of a metric for the first point and for each baseline."""
    verdict = result.verdict
    estimates = {"tuned": verdict.points[0].estimates.get(name)}
    estimates |= {each.name: each.estimates.get(name) for each in verdict.baselines}
    return {arm: estimate.value for arm, estimate in estimates.items() if estimate is not None}


def test_every_answer_is_judged_once(tmp_path: Path, service: ScriptedService, server: JudgeService) -> None:
    """Equal answers are one call, a second run asks nothing, and tuned models are asked once."""
    result = ran(tmp_path, service, judged(server), "hyperparameters.epoch_count=1,2")
    assert values(result) == {"tuned": 5.0, "base": 1.0, "base+4": 1.0, "base+4 text": 1.0}
    assert [trial.metrics["eval/judge"] for trial in result.verdict.trials] == [5.0, 5.0]
    assert len(server.bodies) == CALLS
    generated = service.generated
    again = ran(tmp_path, service, judged(server), "hyperparameters.epoch_count=1,2")
    assert (len(server.bodies), service.generated) == (CALLS, generated)
    assert again.verdict == result.verdict


def test_a_judge_decides_with_all_statistics(tmp_path: Path, service: ScriptedService, server: JudgeService) -> None:
    """Its scores have intervals, tests, a column and a verdict like those of any metric, and a warning."""
    result = ran(tmp_path, service, judged(server), "evaluation.decide_by=judge")
    assert (result.verdict.metric, result.verdict.decision.outcome) == ("eval/judge", Outcome.BETTER)
    text = str(ComparisonTable.of(result.verdict))
    assert "judge: the judge is m (prompt 1, sha256 " in text
    assert "scale 1 to 5); WARNING: whether it agrees with people is not known" in text


def test_a_new_judge_on_an_old_sweep_asks_no_tuned_model(
    tmp_path: Path, service: ScriptedService, server: JudgeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compare` sends the stored answers to the judge, records its judgements, and asks nothing the second time."""
    ran(tmp_path, service, "evaluation.metrics=[exact_match]")
    generated = service.generated
    arguments = ["compare", *overrides(tmp_path), judged(server)]
    first = printed(capsys, *arguments)
    assert first["trials"][0]["metrics"]["eval/judge"] == 5.0
    assert (len(server.bodies), service.generated) == (CALLS, generated)
    assert printed(capsys, *arguments)["trials"] == first["trials"]
    assert len(server.bodies) == CALLS


def test_unreadable_judgements_are_left_out_of_every_model(
    tmp_path: Path, service: ScriptedService, server: JudgeService
) -> None:
    """A row without a score of one model is omitted for all, and the number is reported; it never counts as 0."""

    def script(body: dict[str, Any]) -> Reply:
        texts = shown({"messages": body["messages"][:2]})
        return (200, "hm") if texts["input"] == "103" and texts["answer"] == "104" else fair(body)

    server.script = script
    result = ran(tmp_path, service, judged(server), "evaluation.decide_by=judge")
    assert values(result)["tuned"] == 5.0
    assert result.verdict.decision.rows == ROWS - 1
    assert any("judge: 1 held-out row of 10 left out for every model" in note for note in result.verdict.notes)
    assert len(server.bodies) == CALLS + 1, "once more for that answer"


def test_a_judge_that_is_down_leaves_the_other_metrics(
    tmp_path: Path, service: ScriptedService, server: JudgeService
) -> None:
    """Its scores are kept, the verdict says what is missing, and the next run asks for the rest."""

    def script(body: dict[str, Any]) -> Reply:
        return (503, "away") if len(server.bodies) > 14 else fair(body)

    server.script = script
    one_by_one = judged(server, "max_in_flight: 1")
    result = ran(tmp_path, service, one_by_one)
    assert result.verdict.decision.outcome is Outcome.BETTER
    assert result.exit_code == 0
    (said,) = (note for note in result.verdict.notes if "scores of" in note)
    assert said.startswith("judge: the judge's scores of ")
    assert said.endswith("are missing; run the same command again, or tunerun compare.")
    assert len(server.bodies) == 14 + 2
    server.script = fair
    again = ran(tmp_path, service, one_by_one)
    assert values(again)["tuned"] == 5.0
    assert len(server.bodies) == 16 + CALLS - 14


def test_a_preference_counts_only_in_both_orders(
    tmp_path: Path, service: ScriptedService, server: JudgeService
) -> None:
    """A judge that always takes the first answer prefers none; one that reads them prefers the right one."""
    for folder in ("biased", "fair"):
        (tmp_path / folder).mkdir()
    biased = ran(
        tmp_path / "biased", _script(server, lambda _: (200, '{"better": "A"}'), service), *_preference(server)
    )
    assert values(biased, "eval/judge_preference") == {"tuned": 0.5, "base": 0.5, "base+4": 0.5, "base+4 text": 0.5}
    assert len(server.bodies) == 4 * ROWS, "equal answers are a tie without a call"
    fairly = ran(tmp_path / "fair", _script(server, fair, service), *_preference(server))
    assert values(fairly, "eval/judge_preference") == {"tuned": 1.0, "base": 0.5, "base+4": 0.5, "base+4 text": 0.5}
    assert fairly.verdict.decision.outcome is Outcome.BETTER
    orders = [(texts["A"], texts["B"]) for texts in map(shown, server.bodies[-2:])]
    assert orders[0] == orders[1][::-1]


def _script(server: JudgeService, script: Any, service: ScriptedService) -> ScriptedService:
    server.script = script
    return service


def _preference(server: JudgeService) -> list[str]:
    return [judged(server, "max_in_flight: 1", name="judge_preference"), "evaluation.decide_by=judge_preference"]


LABELLED = [
    {"text_input": str(n), "expected": str(n + 1), "answer": str(n + n % 2), "label": 5 if n % 2 else 2 - (n == 4)}
    for n in range(12)
]
"""A judge that says 5 or 1 has all of the right ones as people, and of the six others one the same and five within 1."""


def test_agreement_with_people_is_shown(tmp_path: Path, service: ScriptedService, server: JudgeService) -> None:
    """The labelled sample is judged once, and its agreement is in the verdict."""
    file = write_rows(tmp_path / "labelled.jsonl", LABELLED)  # type: ignore[arg-type]
    result = ran(tmp_path, service, judged(server, f"examples: '{file}'"))
    (note,) = (note for note in result.verdict.notes if "people" in note)
    assert "of 12 answers that people scored it scored 58 % the same and 100 % within 1" in note
    assert "quadratically weighted kappa 0.94 (" in note
    assert "WARNING" not in note
    assert len(server.bodies) == CALLS + 12
    ran(tmp_path, service, judged(server, f"examples: '{file}'"))
    assert len(server.bodies) == CALLS + 12


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"text_input": "1", "expected": "2", "answer": "2"}],
            r"labelled\.jsonl:1: lacks label; a row has text_input,",
        ),
        ([{**LABELLED[0], "label": 6}], r"labelled\.jsonl:1: label must be a whole number from 1 to 5"),
        ([{**LABELLED[0], "label": "good"}], "label must be a whole number from 1 to 5"),
        (None, r"evaluation\.metrics\.judge\.examples: .*labelled\.jsonl: No such file"),
    ],
)
def test_a_labelled_sample_that_cannot_be_used_is_refused_in_the_plan(
    tmp_path: Path, server: JudgeService, rows: Any, message: str
) -> None:
    """The error has file and line, before anything runs."""
    if rows is not None:
        write_rows(tmp_path / "labelled.jsonl", rows)
    with pytest.raises(InputError, match=message):
        planned(tmp_path, judged(server, f"examples: '{tmp_path / 'labelled.jsonl'}'"))


def test_the_plan_counts_calls_and_their_cost(tmp_path: Path, service: ScriptedService, server: JudgeService) -> None:
    """Before a run the plan has the largest number of calls, after it none; a budget below the cost is refused."""
    plan = planned(tmp_path, judged(server, PRICE))
    (planned_judge,) = plan.judges
    assert planned_judge.calls == 4 * ROWS
    assert 0 < planned_judge.usd < planned_judge.usd_at_most
    assert any(f"are sent to the judge m at {server.base_url}" in warning for warning in plan.warnings)
    assert any("evaluation.metrics.judge: without a labelled sample" in warning for warning in plan.warnings)
    assert plan.to_json()["judges"][0]["calls"] == 4 * ROWS
    without_key = planned(tmp_path, judged(server).replace("key_variable: null", "key_variable: NO_SUCH_KEY"))
    assert any("the environment variable NO_SUCH_KEY holds no API key" in each for each in without_key.warnings)
    with pytest.raises(LimitError, match=r"budget\.max_usd: the sweep would cost up to .* US dollars"):
        planned(tmp_path, judged(server, PRICE), "budget.max_usd=0.01").check()
    ran(tmp_path, service, judged(server, PRICE))
    done: Plan = planned(tmp_path, judged(server, PRICE))
    assert (done.judges[0].calls, done.judges[0].usd) == (0, 0.0)
    assert done.spent.usd == pytest.approx(CALLS * 0.002)


def test_a_budget_that_is_reached_stops_the_judging(
    tmp_path: Path, service: ScriptedService, server: JudgeService, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compare` makes no call that could exceed it, and says so."""
    ran(tmp_path, service, "evaluation.metrics=[exact_match]")
    arguments = [*overrides(tmp_path), judged(server, PRICE, "max_in_flight: 1"), "budget.max_usd=0.03"]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        app(["compare", *arguments])
    printed_ = capsys.readouterr()
    assert "budget.max_usd: " in printed_.err
    assert "the judge's scores of" in printed_.out
    assert 0 < len(server.bodies) < CALLS


def test_a_budget_needs_the_price_of_a_judge(tmp_path: Path, server: JudgeService) -> None:
    """Where a service may charge and its price is not configured, a budget cannot be kept."""
    elsewhere = judged(server).replace(server.base_url, "https://example.org/v1")
    lines = planned(tmp_path, elsewhere, "budget.max_usd=5").over_limit()
    assert lines[0].startswith("budget.max_usd: the price of the judge m is not known")
    assert not planned(tmp_path, judged(server), "budget.max_usd=5").over_limit()


def test_a_restored_record_has_the_judgements(tmp_path: Path, service: ScriptedService, server: JudgeService) -> None:
    """Its verdict is the same without the judge, and no service is asked."""
    file = write_rows(tmp_path / "labelled.jsonl", LABELLED)  # type: ignore[arg-type]
    result = ran(tmp_path, service, judged(server, f"examples: '{file}'"), "evaluation.decide_by=judge")
    calls = len(server.bodies)
    with Ledger(tmp_path / "runs" / "ledger.db") as ledger:
        names = portable_files(ledger, result.verdict.sweep, tmp_path / "record")
    assert str(tmp_path) not in (tmp_path / "record" / "record.json").read_text()
    assert "results.json.gz" in names
    restored(tmp_path / "record", tmp_path / "elsewhere" / "ledger.db")
    with Ledger.open_read_only(tmp_path / "elsewhere" / "ledger.db") as ledger:
        verdict = judge(ledger, ledger.sweeps())
    assert (verdict.sentence, verdict.notes) == (result.verdict.sentence, result.verdict.notes)
    assert len(server.bodies) == calls


def test_a_judge_that_is_the_base_model_gets_a_warning(
    tmp_path: Path, service: ScriptedService, server: JudgeService
) -> None:
    """Models prefer their own answers, so the plan and the verdict warn."""
    own = judged(server).replace("model: m", "model: 'HuggingFaceTB/SmolLM2-135M-Instruct'")
    plan = planned(tmp_path, own)
    assert any("WARNING: the judge HuggingFaceTB/SmolLM2-135M-Instruct is the base model" in w for w in plan.warnings)
    result = run_on(service, plan, progress=None)
    assert any("is the base model smollm2-135m itself or made of it" in note for note in result.verdict.notes)


def test_an_interrupted_judging_continues(tmp_path: Path, service: ScriptedService, server: JudgeService) -> None:
    """After Ctrl-C the same command asks for the missing judgements alone."""
    ran(tmp_path, service, "evaluation.metrics=[exact_match]")

    def script(body: dict[str, Any]) -> Reply:
        if len(server.bodies) == 15:
            _thread.interrupt_main()
        return fair(body)

    server.script = script
    one_by_one = judged(server, "max_in_flight: 1")
    with interruptible(), pytest.raises(KeyboardInterrupt):
        ran(tmp_path, service, one_by_one)
    assert len(server.bodies) == 15
    result = ran(tmp_path, service, one_by_one)
    assert values(result)["tuned"] == 5.0
    assert CALLS <= len(server.bodies) <= CALLS + 1, "only what was under way may be asked twice"
