"""Judgements beyond a run: the test set, MLflow's content, the appendix, and records from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.experiments import overrides, write_rows
from tests.judges.server import JudgeService
from tests.judges.test_sweeps import judged
from tests.scripted import right_when_tuned, run_on
from tunerun import schema
from tunerun.backends.base import Backend
from tunerun.comparison import judge
from tunerun.comparison.judges import identities_of
from tunerun.compose import load
from tunerun.errors import ConfigError
from tunerun.ledger import Ledger
from tunerun.locks import held
from tunerun.metrics import resolve
from tunerun.metrics.judge import Judge
from tunerun.planning import plan
from tunerun.record import OpenRecord, open_record
from tunerun.record.appendix.material import Material
from tunerun.record.appendix.measuring import metrics as appendix_of_metrics
from tunerun.record.rerun import RerunRequest, prepare
from tunerun.runner.final import open_test
from tunerun.runner.judging import judge_unattended
from tunerun.schema import Paths, Tracking
from tunerun.testing.scripted import ScriptedBackend, ScriptedService
from tunerun.tracking.answers import scored_answers
from tunerun.tracking.run_projection import FrozenSweep


@dataclass
class Lab:
    """A finished sweep whose answers to the validation set are judged; ten more rows are held out for the end."""

    service: ScriptedService
    server: JudgeService
    runs: Path

    def record(self) -> AbstractContextManager[OpenRecord]:
        return open_record("numbers", runs=self.runs)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("judged")
    test = write_rows(folder / "test.jsonl", [{"text_input": str(n), "output": str(n + 1)} for n in range(201, 211)])
    service = ScriptedService(answers=right_when_tuned)
    with JudgeService() as server:
        experiment = load([*overrides(folder), f"dataset.test.path={test}", judged(server)])
        run_on(service, plan(experiment), progress=None)
        yield Lab(service, server, folder / "runs")


@pytest.mark.slow
def test_the_test_set_is_judged_when_it_is_opened(lab: Lab) -> None:
    """A run sends the judge no row of the test set."""
    inputs = {body["messages"][1]["content"].split(">\n")[1].split("\n")[0] for body in lab.server.bodies}
    assert "101" in inputs
    assert "201" not in inputs

    def opener(_section: schema.BackendSection, _runs: Path, _cache: Path) -> Backend:
        return ScriptedBackend(lab.service)

    with Ledger(lab.runs / "ledger.db") as ledger:
        (sweep,) = ledger.sweeps()
        open_test(ledger, sweep, cache=lab.runs, open_backend=opener)
        verdict = judge(ledger, sweep, held_out="test")
    assert verdict.points[0].estimates["eval/judge"].value == 5.0
    assert verdict.baselines[0].estimates["eval/judge"].value == 1.0


def test_mlflow_shows_the_scores_of_each_row(lab: Lab) -> None:
    """MLflow has the value beside the other metrics, and a column in the table of answers."""
    with lab.record() as record:
        (trial,) = record.trials
        result = scored_answers(
            record.ledger, FrozenSweep(record.ledger, record.sweep.id), trial.key, trial, "validation"
        )
    assert result is not None
    assert result.metrics == {"exact_match": 1.0, "judge": 5.0}
    assert json.loads(str(result.table.render()))["columns"] == [
        "text_input",
        "answer",
        "expected",
        "exact_match",
        "judge",
    ]


def test_the_appendix_names_the_judge(lab: Lab) -> None:
    """It names the model, the prompt, the scale and the rubric."""
    with lab.record() as record:
        text = str(appendix_of_metrics(Material(record)))
    assert "judge: the judge is m, prompt 1 (sha256 " in text
    assert "scale 1 to 5. Its rubric: right" in text


def request(lab: Lab, folder: Path, **more: Any) -> RerunRequest:
    return RerunRequest(Paths(runs=str(folder / "runs"), cache=str(folder)), Tracking(kind="none"), **more)


def test_a_record_from_elsewhere_does_not_name_the_judge(lab: Lab, tmp_path: Path) -> None:
    """A new experiment of it needs a person to name who gets examples and a key; a repetition asks no judge."""
    with lab.record() as record:
        with pytest.raises(
            ConfigError, match=r"evaluation\.metrics: the record names the judge m at http://127\.0\.0\.1:"
        ):
            prepare(record, request(lab, tmp_path, edits={"hyperparameters.epoch_count": 2}))
        made = prepare(record, request(lab, tmp_path)).plan
        assert [planned.calls for planned in made.judges] == [0]
        assert made.document["judges"] == record.sweep.document["judges"]
        calls = len(lab.server.bodies)
        result = run_on(lab.service, made, progress=None)
    assert len(lab.server.bodies) == calls
    assert result.verdict.points[0].estimates["eval/judge"].value == 5.0


def test_judgements_by_an_earlier_prompt_are_read(lab: Lab) -> None:
    """A sweep's document says which judge scored it; another prompt or rubric is another judge."""
    (metric,) = resolve(
        {"metrics": [{"name": "judge", "base_url": "http://localhost/v1", "model": "m", "rubric": "r"}]}
    )
    assert isinstance(metric, Judge)
    assert identities_of([metric], {"judges": {"judge": {"identity": "earlier"}}}) == {"judge": "earlier"}
    assert identities_of([metric], {}) == {"judge": metric.identity}


def test_a_sweep_that_is_being_run_is_left_to_its_runner(lab: Lab) -> None:
    """`compare` does not ask the judge that a run is asking."""
    with Ledger(lab.runs / "ledger.db") as ledger, held(lab.runs, ledger.sweeps()[0].id):
        problems = judge_unattended(ledger, ledger.sweeps(), [])
        assert problems == [f"{ledger.sweeps()[0].id}: is running; that run calls the judges"]
