"""The test set: frozen with the plan, asked by no run, opened for the advised point and all baselines."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.engine import tiny_model
from tests.experiments import overrides, planned, write_rows
from tests.ledger.test_formats import printed
from tests.runner.counting import Asked, Counting
from tests.scripted import right_when_tuned
from tests.troubled import Troubled, run_with
from tunerun import schema
from tunerun.backends.base import Backend
from tunerun.cli import app
from tunerun.cli.plan_tables import plan_table
from tunerun.comparison import judge
from tunerun.comparison.results import Outcome
from tunerun.compose import load
from tunerun.errors import AccessError, BackendError, InputError, NotFoundError, TunerunError
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TunedModel
from tunerun.ledger import Ledger, Opening, SweepRecord
from tunerun.planning import Plan
from tunerun.planning import plan as make_plan
from tunerun.runner.final import open_test
from tunerun.testing.scripted import ScriptedService

pytestmark = pytest.mark.process

TESTED = [str(n) for n in range(201, 221)]


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService(answers=right_when_tuned)


@pytest.fixture
def asked() -> Asked:
    return Asked()


def overrides_with_test_rows(folder: Path, *more: str) -> list[str]:
    """Two replicates of one point, measured on validation rows, and twenty rows for the end."""
    rows = [{"text_input": text, "output": str(int(text) + 1)} for text in TESTED]
    path = write_rows(folder / "test.jsonl", rows)
    return overrides(folder, "seed=0,1", f"dataset.test.path={path}", *more)


def with_test_rows(folder: Path, *more: str) -> Plan:
    return make_plan(load(overrides_with_test_rows(folder, *more)))


@pytest.fixture
def swept(tmp_path: Path, service: ScriptedService, asked: Asked) -> Iterator[tuple[Ledger, SweepRecord]]:
    """A sweep that has run."""
    plan = with_test_rows(tmp_path)
    run_with(Counting(service, asked), plan)
    with Ledger(plan.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        yield ledger, sweep


def opened(ledger: Ledger, sweep: SweepRecord, backend: Backend) -> list[Opening]:
    def opener(_section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return backend

    return open_test(ledger, sweep, cache=ledger.path.parent, open_backend=opener)


def inputs(asked: Asked) -> set[str]:
    return {text for _, text in asked.counts}


def test_the_test_set_is_answered_in_the_number_format_of_training(
    swept: tuple[Ledger, SweepRecord], service: ScriptedService, asked: Asked
) -> None:
    """The precision does not depend on the machine that opens it."""
    ledger, sweep = swept
    sections = []

    def opener(section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        sections.append(section)
        return Counting(service, asked)

    open_test(ledger, sweep, cache=ledger.path.parent, open_backend=opener)
    assert [section.model_dump()["precision"] for section in sections] == ["fp32"]


def test_a_plan_freezes_the_test_rows_and_a_run_does_not_use_them(
    swept: tuple[Ledger, SweepRecord], asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are in the ledger beside the validation rows of their trials."""
    ledger, sweep = swept
    plan = with_test_rows(tmp_path)
    assert (plan.test_rows, plan.to_json()["test_rows"]) == (20, 20)
    assert not any("dataset.test" in warning for warning in plan.warnings)
    plan_table(plan)
    assert "20 test examples frozen for the end: no run asks them" in capsys.readouterr().out
    for trial in ledger.trials(sweep.id):
        assert [e.text_input for e in ledger.example_set(trial.held_out["test"]).examples] == TESTED
    assert not inputs(asked) & set(TESTED)
    closed = judge(ledger, sweep, held_out="test")
    assert (closed.decision.outcome, closed.decision.advised) == (Outcome.NONE, None)


def test_the_advised_point_and_its_baselines_answer_the_test_set(
    swept: tuple[Ledger, SweepRecord], service: ScriptedService, asked: Asked
) -> None:
    """All replicates answer every row once; the opening is kept, and the verdict is on these rows."""
    ledger, sweep = swept
    assert judge(ledger, sweep).decision.advised == 0
    assert opened(ledger, sweep, Counting(service, asked)) == []
    assert set(asked.counts.values()) == {1}
    assert inputs(asked) >= set(TESTED)
    (opening,) = ledger.openings(sweep.id)
    assert (opening.sweep, opening.points) == (sweep.id, (0, 1))
    verdict = judge(ledger, sweep, held_out="test")
    assert (verdict.held_out, verdict.decision.outcome, verdict.decision.rows) == ("test", Outcome.BETTER, 20)


def test_the_advised_point_has_to_beat_the_baselines_of_every_template(
    tmp_path: Path, service: ScriptedService, asked: Asked
) -> None:
    """A base model with another template answers too, and is compared on the same rows."""
    plan = with_test_rows(tmp_path, "template.text_input='{{ text_input }}','{{ text_input }} '", "seed=0")
    run_with(Counting(service, asked), plan)
    with Ledger(plan.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        opened(ledger, sweep, Counting(service, asked))
        verdict = judge(ledger, sweep, held_out="test")
    measured = [baseline.name for baseline in verdict.baselines if baseline.estimates]
    assert {"base-0", "base-1"} <= set(measured)
    assert measured == [baseline.name for baseline in verdict.baselines]
    assert verdict.decision.family == len(measured)


def test_a_second_opening_is_reported(
    swept: tuple[Ledger, SweepRecord], service: ScriptedService, asked: Asked
) -> None:
    """It asks no model, and reports the earlier opening with its trials."""
    ledger, sweep = swept
    opened(ledger, sweep, Counting(service, asked))
    before = ledger.openings(sweep.id)
    calls = asked.calls
    assert opened(ledger, sweep, Counting(service, asked)) == before
    assert asked.calls == calls
    assert len(ledger.openings(sweep.id)) == 2
    assert any("opened 2 times" in note for note in judge(ledger, sweep, held_out="test").notes)


def test_an_opening_is_recorded_before_a_model_answers(
    swept: tuple[Ledger, SweepRecord], service: ScriptedService, asked: Asked
) -> None:
    """An interrupted opening counts; the same command obtains only the missing answers."""
    ledger, sweep = swept
    left = iter([None, None, BackendError("out of quota")])

    class BreaksOff(Counting):
        def generate(
            self,
            model: BaseModelRef | TunedModel,
            inputs: Sequence[Input],
            options: GenerateOptions,
            examples: Sequence[Example] = (),
        ) -> list[str]:
            if (error := next(left, None)) is not None:
                raise error
            return super().generate(model, inputs, options, examples)

    with pytest.raises(BackendError, match="out of quota"):
        opened(ledger, sweep, BreaksOff(service, asked))
    assert len(ledger.openings(sweep.id)) == 1
    assert len(opened(ledger, sweep, Counting(service, asked))) == 1
    assert set(asked.counts.values()) == {1}


def test_the_error_without_test_rows_names_the_key_to_set(tmp_path: Path, service: ScriptedService) -> None:
    """Nothing is recorded."""
    plan = planned(tmp_path)
    backend = Counting(service, Asked())
    run_with(backend, plan)
    with Ledger(plan.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        with pytest.raises(InputError, match=r"dataset.test: there is no test set; set dataset.test.path or"):
            opened(ledger, sweep, backend)
        assert ledger.openings(sweep.id) == []


def test_the_test_set_stays_closed_where_nothing_is_advised(tmp_path: Path, service: ScriptedService) -> None:
    """No point is better than the base model, so there is nothing to confirm."""
    service.answers = lambda _model, text: text
    plan, backend = with_test_rows(tmp_path), Counting(service, Asked())
    run_with(backend, plan)
    with Ledger(plan.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        with pytest.raises(InputError, match="no point is advised, so there is nothing to confirm"):
            opened(ledger, sweep, backend)
        assert ledger.openings(sweep.id) == []


def test_the_test_set_stays_closed_until_every_trial_is_done(tmp_path: Path, service: ScriptedService) -> None:
    """Another point may be advised by then."""
    plan, asked = with_test_rows(tmp_path), Asked()
    run_with(Troubled(service, submit=[None, AccessError("no quota")]), plan)
    with Ledger(plan.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        with pytest.raises(InputError, match=r"\d of 2 trials are unfinished, .*stays closed. To finish it: "):
            opened(ledger, sweep, Counting(service, asked))
        assert ledger.openings(sweep.id) == []


def test_compare_final_prints_the_verdict_and_earlier_openings(
    swept: tuple[Ledger, SweepRecord],
    service: ScriptedService,
    asked: Asked,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the terminal and as JSON; where all is answered no backend is opened."""
    ledger, sweep = swept
    opened(ledger, sweep, Counting(service, asked))
    document = printed(capsys, "compare", "--final", "--sweep", sweep.id, f"paths.runs={tmp_path / 'runs'}")
    assert (document["held_out"], document["decision"]["outcome"], document["decision"]["rows"]) == (
        "test",
        "better",
        20,
    )
    assert [(o["sweep"], o["trials"]) for o in document["opened_before"]] == [(sweep.id, [0, 1])]
    app(["compare", "--final", "--sweep", sweep.id, f"paths.runs={tmp_path / 'runs'}"], standalone_mode=False)
    lines = capsys.readouterr().out
    assert lines.count("The test set was opened before: ") == 2
    assert ", for trials 0, 1\n" in lines
    with pytest.raises(NotFoundError, match="has not run"):  # it was not frozen that way
        app(
            ["compare", "--final", *overrides_with_test_rows(tmp_path, "evaluation.metrics=[contains]")],
            standalone_mode=False,
        )
    assert len(ledger.openings(sweep.id)) == 3


@pytest.mark.engine
def test_compare_final_converts_the_base_model_in_the_cache_of_its_overrides(
    tmp_path: Path, service: ScriptedService, asked: Asked
) -> None:
    """As for a run: the user's cache may be on a smaller disk, or have no copy yet."""
    tiny = tiny_model.build(tmp_path / "tiny")
    plan = with_test_rows(tmp_path, "model=huggingface", f"model.name={tiny}", "backend.device=cpu")
    run_with(Counting(service, asked), plan)
    cache = tmp_path / "other-cache"
    arguments = ["compare", "--final", "--sweep", plan.sweep, f"paths.runs={plan.runs}", f"paths.cache={cache}"]
    # The script tuned no model that the engine could load, so this ends after the base model was converted.
    with pytest.raises(TunerunError, match="does not hold a tuned model"):
        app(arguments, standalone_mode=False)
    assert any(cache.iterdir())
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "tunerun").exists()


def test_a_new_metric_on_an_old_sweep_asks_no_model(
    tmp_path: Path, service: ScriptedService, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """`compare` uses the stored answers; a run is another sweep with the same jobs and answers."""
    run_with(Counting(service, asked), planned(tmp_path, "seed=0,1"))
    calls, more = asked.calls, ["seed=0,1", "evaluation.metrics=[contains, exact_match]"]
    document = printed(capsys, "compare", *overrides(tmp_path, *more))
    assert (document["decision"]["metric"], document["best"]) == ("eval/contains", 0)
    result = run_with(Counting(service, asked), planned(tmp_path, *more))
    assert result.verdict.sweep.id != document["sweep"]
    assert [trial.metrics["eval/contains"] for trial in result.verdict.trials] == [1.0, 1.0]
    assert (asked.calls, len(service.submitted)) == (calls, 2)
