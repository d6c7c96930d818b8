"""Answers to held-out examples are obtained once, whatever happens in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.experiments import HELD_OUT, planned, write_rows
from tests.runner.counting import Asked, Counting
from tests.scripted import right_when_tuned
from tests.troubled import Notes, run_with
from tunerun.errors import BackendError
from tunerun.examples import Example, Input
from tunerun.generation import GenerateOptions
from tunerun.job import BaseModelRef, TunedModel
from tunerun.ledger import LOSSES, Ledger
from tunerun.runner import SweepResult
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SWEEP = ("seed=0,1",)


@pytest.fixture
def service() -> ScriptedService:
    return ScriptedService(answers=right_when_tuned)


def run_counted(service: ScriptedService, asked: Asked, folder: Path, *more: str) -> SweepResult:
    return run_with(Counting(service, asked), planned(folder, *SWEEP, *more))


@pytest.mark.process
@pytest.mark.parametrize("call", [1, 2, 3, 5, 8, 9])
def test_a_killed_run_loses_no_recorded_answer(tmp_path: Path, service: ScriptedService, call: int) -> None:
    """The next run obtains only the missing answers, and the result is the same."""
    asked = Asked(interrupt_at=call)
    with pytest.raises(KeyboardInterrupt):
        run_counted(service, asked, tmp_path)
    result = run_counted(service, asked, tmp_path)
    assert set(asked.counts.values()) == {1}
    assert len(service.submitted) == 2
    assert [trial.metrics["eval/exact_match"] for trial in result.verdict.trials] == [1.0, 1.0]
    with Ledger.open_read_only(planned(tmp_path, *SWEEP).ledger_path) as ledger:
        for trial in ledger.trials(result.verdict.sweep.id):
            answers = ledger.answers(trial.key, str(trial.validation), trial.asked)
            assert answers is not None
            assert answers.texts == tuple(row["output"] for row in HELD_OUT)
            assert ledger.answers_so_far(trial.key, str(trial.validation), trial.asked) == []


def test_answers_of_a_subject_are_recorded_one_call_after_the_other(tmp_path: Path, service: ScriptedService) -> None:
    """Answers before a failure are kept; the next run obtains the rest."""
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

    asked, notes, plan = Asked(), Notes(), planned(tmp_path)
    run_with(BreaksOff(service, asked), plan, notes)
    assert notes.notes == ["the baseline base could not be evaluated: out of quota; run the same command again"]
    key = (plan.trials[0].baselines[0], plan.trials[0].held_out["validation"].digest, plan.trials[0].answer_method)
    with Ledger.open_read_only(plan.ledger_path) as ledger:
        assert len(ledger.answers_so_far(*key)) == 8
    assert run_with(Counting(service, asked), planned(tmp_path)).exit_code == 0
    assert set(asked.counts.values()) == {1}


def test_a_later_sweep_reuses_the_answers_of_a_base_model(tmp_path: Path, service: ScriptedService) -> None:
    """On the same held-out rows with the same template."""
    asked = Asked()
    run_counted(service, asked, tmp_path)
    run_counted(service, asked, tmp_path, "seed=2,3")
    assert set(asked.counts.values()) == {1}


def test_other_generation_options_are_another_question(tmp_path: Path, service: ScriptedService) -> None:
    """A longer answer may differ; the trials are not trained again."""
    asked = Asked()
    run_counted(service, asked, tmp_path)
    run_counted(service, asked, tmp_path, "evaluation.generation.max_output_tokens=8")
    assert set(asked.counts.values()) == {2}
    assert len(service.submitted) == 2


def test_metrics_that_are_added_later_ask_for_what_is_missing(tmp_path: Path, service: ScriptedService) -> None:
    """The next run of a sweep without metrics measures it and trains nothing."""
    asked = Asked()
    run_counted(service, asked, tmp_path, "evaluation=none")
    assert asked.calls == 0
    assert run_counted(service, asked, tmp_path).exit_code == 0
    assert set(asked.counts.values()) == {1}
    assert len(service.submitted) == 2


def labelled(folder: Path, *more: str) -> list[str]:
    """Overrides for rows with two labels, so that there is a majority answer, which has no losses."""
    rows = [{"text_input": str(n), "output": ("even", "odd", "even")[n % 3]} for n in range(40)]
    paths = write_rows(folder / "labels.jsonl", rows[:30]), write_rows(folder / "labels_held_out.jsonl", rows[30:])
    return [
        f"dataset.path={paths[0]}",
        f"dataset.validation.path={paths[1]}",
        "evaluation.baselines.examples=[0]",
        *more,
    ]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("more", "ways"),
    [
        (["evaluation.metrics=[answer_loss]"], {"base": ["losses"], "majority": [], "trial": ["losses"]}),
        (
            ["evaluation.metrics=[accuracy, answer_loss]"],
            {"base": ["generate", "losses"], "majority": ["generate"], "trial": ["generate", "losses"]},
        ),
        (["evaluation.choices=auto"], {"base": ["choose"], "majority": ["choose"], "trial": ["choose"]}),
    ],
)
def test_models_answer_by_the_methods_that_the_metrics_need(
    tmp_path: Path, more: list[str], ways: dict[str, list[str]]
) -> None:
    """Losses, choices and texts are obtained once each; a baseline without probabilities has no losses."""
    calls: Counter[tuple[str, str]] = Counter()

    class Counts(ScriptedBackend):
        def generate(self, model: BaseModelRef | TunedModel, *rest: Any) -> list[str]:
            calls["generate", type(model).__name__] += 1
            return super().generate(model, *rest)

        def choose(self, model: BaseModelRef | TunedModel, *rest: Any) -> list[str]:
            calls["choose", type(model).__name__] += 1
            return ["odd"] * len(rest[0])

        def losses(self, model: BaseModelRef | TunedModel, *rest: Any) -> list[float]:
            calls["losses", type(model).__name__] += 1
            return [0.25] * len(rest[0])

    backend = Counts(ScriptedService(), max_in_flight=10)
    for _ in range(2):  # the second run finds everything
        result = run_with(backend, planned(tmp_path, *labelled(tmp_path, *more)))
        assert result.exit_code == 0
    expected = {("BaseModelRef", way) for way in ways["base"]} | {("TunedModel", way) for way in ways["trial"]}
    assert dict.fromkeys(expected, 1) == {(model, way): n for (way, model), n in calls.items()}
    with Ledger.open_read_only(tmp_path / "runs" / "ledger.db") as ledger:
        (trial,) = ledger.trials(result.verdict.sweep.id)
        names = {trial.key: "trial"} | {b.subject: b.name for b in ledger.baselines(result.verdict.sweep.id)}
        kept = {(names[subject], asked == LOSSES) for subject, _, asked in ledger.answered(result.verdict.sweep.id)}
    assert kept == {(name, way == "losses") for name, asked in ways.items() for way in asked}
