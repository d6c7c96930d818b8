"""A record is planned again: with the same keys, or with the reason why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tunerun
from tests.experiments import planned, write_rows
from tests.record.ledgers import changed
from tests.rigs.gemini_service import GeminiService
from tests.scripted import run_on
from tunerun.errors import ConfigError, MismatchError
from tunerun.job import BaseModelRef, TunedModel
from tunerun.ledger import Ledger
from tunerun.record import OpenRecord, open_record
from tunerun.record.rerun import Rerun, RerunRequest, prepare
from tunerun.record.verification import Verification, compare
from tunerun.runner import run
from tunerun.schema import Paths, Tracking
from tunerun.testing.scripted import ScriptedService

SWEEP = ("hyperparameters.epoch_count=1,2", "dataset.test.fraction=0.2", "evaluation.baselines.examples=[0,2]")
ROWS = [{"text_input": str(n), "output": str(n + 1)} for n in range(0, 60, 2)]


def service() -> ScriptedService:
    def answers(model: BaseModelRef | TunedModel, text: str) -> str:
        return str(int(text.split()[-1]) + 1) if isinstance(model, TunedModel) else "?"

    return ScriptedService(answers=answers)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two trials, without the files of rows that it was made of."""
    folder = tmp_path_factory.mktemp("project")
    run_on(service(), planned(folder, *SWEEP))
    (folder / "rows.jsonl").unlink()
    (folder / "held_out.jsonl").unlink()
    return folder


@pytest.fixture
def runs(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project / "runs", tmp_path / "runs"))


@pytest.fixture
def record(runs: Path) -> Iterator[OpenRecord]:
    with open_record("numbers", runs=runs) as opened:
        yield opened


def request(runs: Path, **more: Any) -> RerunRequest:
    return RerunRequest(Paths(runs=str(runs), cache=str(runs.parent / "cache")), Tracking(kind="none"), **more)


def verified(record: OpenRecord, made: Rerun) -> Verification:
    with Ledger.open_read_only(made.plan.ledger_path) as ledger:
        (sweep,) = ledger.sweeps()
        return compare(record, OpenRecord(ledger, sweep, None, "the rerun"))


@pytest.mark.process
def test_a_rerun_has_the_same_keys_baselines_and_questions(record: OpenRecord, runs: Path) -> None:
    """The recorded examples are enough; the files of rows are not needed."""
    made = prepare(record, request(runs))
    assert [t.key for t in made.plan.trials] == [t.key for t in record.trials]
    assert [t.record().asked for t in made.plan.trials] == [t.asked for t in record.trials]
    assert [t.held_out["test"].digest for t in made.plan.trials] == [t.held_out["test"] for t in record.trials]
    assert [b.record().subject for b in made.plan.baselines] == [
        b.subject for b in record.ledger.baselines(record.sweep.id)
    ]
    document = made.plan.document
    assert document["held_out_rows"] == record.sweep.document["held_out_rows"]
    assert document["rerun_of"] == {"sweep": record.sweep.id, "run_id": None, "trial": None}
    assert made.plan.sweep != record.sweep.id


def test_a_rerun_runs_in_a_folder_of_its_own_and_resumes_there(record: OpenRecord, runs: Path) -> None:
    """The record's ledger is unchanged, the same call resumes the rerun, and `fresh` starts another one."""
    made = prepare(record, request(runs))
    made.begin()
    again = service()
    run_on(again, made.plan)
    assert len(again.submitted) == 2
    assert verified(record, made).is_equal, verified(record, made).lines
    second = prepare(record, request(runs))
    assert second.plan.sweep == made.plan.sweep
    assert all(trial.done for trial in second.plan.trials)
    fresh = prepare(record, request(runs, fresh=True))
    assert fresh.plan.runs == runs / "reruns" / f"{record.sweep.id}-2"
    assert fresh.plan.sweep != made.plan.sweep
    assert len(record.ledger.sweeps()) == 1


def test_a_rerun_does_not_take_a_services_first_tuned_model(record: OpenRecord, runs: Path) -> None:
    """Its tuned models have new ids, so that a service trains again."""
    made = prepare(record, request(runs))
    first = {record.ledger.last_jobs(record.sweep.id)[t.key].tuned_model_id for t in record.trials}
    assert first.isdisjoint(trial.request().tuned_model_id for trial in made.plan.trials)


def test_one_trial_is_run_again_alone(runs: Path) -> None:
    """A trial, named by its tuned model, is compared with the recorded one, without a verdict."""
    with open_record("numbers", runs=runs) as whole:
        key = whole.trials[1].key
        tuned = whole.ledger.last_jobs(whole.sweep.id)[key].tuned_model
    assert tuned is not None
    with open_record(tuned.name, runs=runs) as record:
        made = prepare(record, request(runs))
        assert [trial.key for trial in made.plan.trials] == [key]
        made.begin()
        run_on(service(), made.plan)
        (check,) = verified(record, made).checks
        assert check.is_equal
        assert str(check).startswith("trial 1: ")


def test_another_answer_is_named(record: OpenRecord, runs: Path) -> None:
    """The check names the first row whose answer differs, and the other verdict."""
    made = prepare(record, request(runs))
    made.begin()
    run_on(
        ScriptedService(answers=lambda _model, text: "?" if text == "103" else str(int(text.split()[-1]) + 1)),
        made.plan,
    )
    verification = verified(record, made)
    assert not verification.is_equal
    assert "9 of 10 answers equal (the first that is not: row 3: '104' -> '?')" in verification.lines[0]
    assert verification.lines[-1].startswith(
        "another verdict: better against base, point 0 advised -> cannot tell against "
    )


def test_an_example_that_was_changed_in_the_record_is_refused(runs: Path) -> None:
    """The set does not match its digest."""
    changed(runs, "example_set", examples="replace(examples, '\"21\"', '\"22\"')")
    with open_record("numbers", runs=runs) as record, pytest.raises(MismatchError, match=r"rows.jsonl: changed since"):
        prepare(record, request(runs))


def test_rows_that_are_given_again_are_compared(record: OpenRecord, runs: Path, tmp_path: Path) -> None:
    """Equal rows give equal keys; otherwise the first example that differs is named."""
    held_out = write_rows(
        tmp_path / "held_out.jsonl", [{"text_input": str(n), "output": str(n + 1)} for n in range(101, 111)]
    )
    rows = write_rows(tmp_path / "rows.jsonl", ROWS)
    made = prepare(record, request(runs, data=[rows, held_out]))
    assert [t.key for t in made.plan.trials] == [t.key for t in record.trials]
    write_rows(rows, [*ROWS[:9], {"text_input": "18", "output": "nineteen"}, *ROWS[10:]])
    with pytest.raises(MismatchError, match=r"examples differ from the recorded ones.*'18 => 19' -> '18 => nineteen'"):
        prepare(record, request(runs, data=[rows, held_out]))
    with pytest.raises(ConfigError, match=r"--data: held_out.jsonl is missing"):
        prepare(record, request(runs, data=[rows]))


def test_another_base_model_is_named(runs: Path) -> None:
    """The message names the ingredient of the key that differs."""
    changed(runs, "trial", key="substr('0123456789abcdef', number + 2, 1) || substr(key, 2)",
            ingredients="json_set(ingredients, '$.model', 'gguf:sha256:0000')")  # fmt: skip
    changed(runs, "job", key="'0' || id")
    with open_record("numbers", runs=runs) as record, pytest.raises(MismatchError, match="content of the base model"):
        prepare(record, request(runs))


def test_a_config_of_another_version_is_read(runs: Path) -> None:
    """An unknown key is named and omitted; a missing one takes its default."""
    changed(runs, "trial", config="json_remove(json_set(config, '$.hyperparameters.warmup', 3), '$.runner')")
    with open_record("numbers", runs=runs) as record:
        made = prepare(record, request(runs))
        assert [t.key for t in made.plan.trials] == [t.key for t in record.trials]
    assert any("hyperparameters.warmup: this version of tunerun does not have" in note for note in made.notes)


def test_an_edited_record_is_a_new_experiment(record: OpenRecord, runs: Path) -> None:
    """It has the record as its parent, runs in the ordinary runs folder, and varies only unedited keys."""
    made = prepare(record, request(runs, edits={"hyperparameters.learning_rate": 0.002}))
    assert made.is_new
    assert made.plan.runs == runs
    assert made.plan.document["parent"] == {"sweep": record.sweep.id, "run_id": None, "trial": None}
    assert {t.config.hyperparameters.learning_rate for t in made.plan.trials} == {0.002}
    assert not {t.key for t in made.plan.trials} & {t.key for t in record.trials}
    pinned = prepare(record, request(runs, edits={"hyperparameters.epoch_count": 2}))
    assert pinned.plan.varied == []
    assert len(pinned.plan.trials) == 1, "the two would be the same"


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ({"template.text_input": "Q: {{ text_input }}"}, "contains examples, not rows"),
        ({"dataset.limit": 3}, "contains examples, not rows"),
        ({"evaluation.baselines.examples": [0, 8]}, "2 examples that were drawn"),
        ({"hyperparameters.epoch_counts": 3}, "did you mean 'epoch_count'"),
        ({"hyperparameters.epoch_count": "three"}, "must be a whole number"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(
    record: OpenRecord, runs: Path, edits: dict[str, Any], reason: str
) -> None:
    """The message has the reason and what to do."""
    with pytest.raises(ConfigError, match=reason):
        prepare(record, request(runs, edits=edits))


def test_a_rerun_rejects_values_of_the_experiment(runs: Path) -> None:
    """Values of the experiment can be changed only with --set."""
    with pytest.raises(ConfigError, match=r"seed: a rerun repeats the recorded value.*--set"):
        request(runs, places={"seed": 3})


def test_a_record_from_elsewhere_does_not_name_the_service(runs: Path) -> None:
    """The user must name the address that receives examples and an API key."""
    backend = '{"kind": "gemini", "base_url": "https://tuning.example.org"}'
    changed(runs, "trial", config=f"json_set(config, '$.backend', json('{backend}'))")
    with open_record("numbers", runs=runs) as record:
        own = Paths(runs=str(runs.parent / "other"), cache=str(runs.parent / "cache"))
        with pytest.raises(ConfigError, match=r"name it yourself: backend\.base_url=https://tuning\.example\.org"):
            prepare(record, RerunRequest(own, Tracking(kind="none")))
        with pytest.raises(MismatchError, match="the kind of backend differs: local -> gemini"):
            prepare(
                record,
                RerunRequest(own, Tracking(kind="none"), places={"backend.base_url": "https://tuning.example.org"}),
            )


def test_code_of_a_metric_has_to_be_the_recorded_one(runs: Path, tmp_path: Path) -> None:
    """Code that differs from the recorded one does not run."""
    (tmp_path / "own.py").write_text("raise RuntimeError('this must not run')\ndef score(a, b): ...\n")
    metric = '{"name": "own", "python": "own.py:score"}'
    changed(runs, "trial", config=f"json_set(config, '$.evaluation.metrics', json('[{metric}]'))")
    with open_record("numbers", runs=runs) as record, pytest.raises(MismatchError, match=r"own\.py.* is other code"):
        prepare(record, request(runs))


@pytest.mark.process
def test_a_service_gets_the_same_request_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service gets the same request for another tuned model, and bits are not compared."""
    monkeypatch.setenv("GEMINI_API_KEY", "key-0123456789")
    with GeminiService() as service:
        place = [f"backend.base_url={service.address}", "backend.poll_interval_s=0", "evaluation.metrics=[]"]
        run(planned(tmp_path, "backend=gemini", *place), progress=None)
        here = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "tracking=none"]
        again = tunerun.rerun("numbers", here, progress=None)
        first, second = (r for r in service.requests if r.method == "POST" and "tunedModelId" in r.parameters)
    assert first.parameters["tunedModelId"] != second.parameters["tunedModelId"]
    assert first.body["tuningTask"] == second.body["tuningTask"]
    assert again.verification is not None
    assert again.verification.is_equal
    assert again.verification.lines[0].startswith(
        "trial 0: bits cannot be compared, because a service trained it; all "
    )
    assert again.runs.parent == tmp_path / "runs" / "reruns"
