"""What earlier and later versions wrote is read: ledgers and tuned models outlive the schema."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.old_projects import MODELS, OVERRIDES, SWEEPS, WRITTEN, kept, write_ledger, write_project
from tunerun.backends import stored_section
from tunerun.backends.gemini import GeminiSection
from tunerun.backends.local import LocalSection
from tunerun.cli import app
from tunerun.comparison.knowledge import HeldOutRows, Scores
from tunerun.compose import load
from tunerun.engine import tuned_model
from tunerun.errors import ConfigError, LedgerError, NotFoundError
from tunerun.job import JobRef, JobState, TuningRequest
from tunerun.ledger import BaselineRecord, Ledger
from tunerun.ledger.records import TrialSettings
from tunerun.metrics import resolve
from tunerun.planning import plan
from tunerun.runner import run
from tunerun.runner.selection import chosen
from tunerun.testing.scripted import ScriptedBackend, ScriptedService

SWEEP, MODEL = SWEEPS[2][1], MODELS[2]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        app([*arguments, "--json"])
    text = capsys.readouterr()
    assert ended.value.code == code, text.err
    return json.loads(text.out)


def change_every(path: Path, table: str, column: str, change: Any) -> None:
    """Change the JSON of a column as another version might have written it."""
    raw = sqlite3.connect(path)
    for row, text in raw.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL").fetchall():
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", [json.dumps(change(json.loads(text))), row])
    raw.commit()
    raw.close()


def with_unknown_keys(value: Any) -> Any:
    """Every object with one more key, which some version had and this one has not."""
    if isinstance(value, dict):
        return {name: with_unknown_keys(each) for name, each in value.items()} | {"removed_later": 1}
    return [with_unknown_keys(each) for each in value] if isinstance(value, list) else value


@pytest.mark.process
@pytest.mark.parametrize("format_", WRITTEN)
def test_every_format_is_read_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: int
) -> None:
    """A project of an earlier version: its states, comparison, answers and MLflow runs.

    A tuned model is asked and MLflow filled at the first format and the last: those between are migrated by the same
    statements, and an engine and a store for each took two minutes of CI.
    """
    write_project(tmp_path, format_)
    sweep, model = SWEEPS[kept(format_)][1], MODELS[kept(format_)]
    status = printed(capsys, "status", "--sweep", sweep)
    assert [trial["state"] for trial in status["trials"]][:2] == ["SUCCEEDED", "SUCCEEDED"]
    assert printed(capsys, "compare", "--sweep", sweep)["verdict"] == status["verdict"]
    if format_ not in (WRITTEN[0], WRITTEN[-1]):
        return
    answered = printed(capsys, "predict", "--run", model, "text_input=3")
    assert (answered["tuned_model"], len(answered["outputs"])) == (model, 1)
    assert printed(capsys, "sync", "tracking=mlflow")["sweeps"] == 2


@pytest.mark.process
@pytest.mark.parametrize("format_", [WRITTEN[0], WRITTEN[-1]])
def test_a_project_of_an_earlier_format_runs_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], format_: int
) -> None:
    """A new sweep is frozen and trained in the ledger that the earlier version wrote."""
    write_project(tmp_path, format_)
    assert printed(capsys, "run", *OVERRIDES, "seed=0,1,2", "--fresh")["trials"][2]["state"] == "SUCCEEDED"


@pytest.mark.parametrize("format_", [1, 2, 3])
def test_the_answers_of_earlier_formats_are_kept(tmp_path: Path, format_: int) -> None:
    """Every answer that was scored is there under its subject and held-out set; its scores are computed as before."""
    path = tmp_path / "ledger.db"
    write_ledger(path, format_)
    raw = sqlite3.connect(path)
    before = raw.execute("SELECT subject, predictions, metrics, created_at FROM evaluation").fetchall()
    sweeps = {
        sweep: raw.execute("SELECT DISTINCT baseline FROM trial WHERE sweep = ?", [sweep]).fetchall()
        for sweep in SWEEPS[format_]
    }
    raw.close()
    assert len(before) == 3
    with Ledger(path) as ledger:
        trials = ledger.trials(SWEEPS[format_][1])
        for subject, predictions, metrics, created_at in before:
            trial = next(t for t in trials if subject in (t.key, *t.baselines))
            answers = ledger.answers(subject, str(trial.validation), trial.asked)
            assert answers is not None
            assert answers.texts == tuple(each["predicted"] for each in json.loads(predictions))
            assert answers.created_at == created_at
            rows = HeldOutRows(str(trial.validation), trial.asked)
            scores = Scores({(subject, rows.held_out, rows.asked): answers}, ledger)
            assert scores.values(resolve(trial.settings.evaluation), subject, rows) == json.loads(metrics)
        for sweep, ((subject,),) in sweeps.items():
            assert ledger.baselines(sweep) == [BaselineRecord(subject, "base", "base")]
            assert {trial.baselines for trial in ledger.trials(sweep)} == {(subject,)}


class AnswersNothing(ScriptedBackend):
    """A place of this machine that fails when it is asked for anything."""

    def generate(self, *_: Any) -> list[str]:
        raise AssertionError("a model was asked")

    def submit(self, request: TuningRequest) -> JobRef:
        raise AssertionError(f"{request.key} was submitted")


def test_a_sweep_of_format_3_is_run_again_without_asking_a_model(tmp_path: Path) -> None:
    """Its trials are done and its answers are found, although the sweep is frozen under another name."""
    write_project(tmp_path, 3)
    again = plan(load([*OVERRIDES, "seed=0,1", "evaluation.baselines.examples=[0]"]))
    with Ledger.open_read_only(again.ledger_path) as ledger:
        assert [sweep.id for sweep in chosen(ledger, [], again, None)] == [SWEEPS[3][0]]
    assert all(trial.done for trial in again.trials)
    result = run(again, open_backend=lambda *_: AnswersNothing(ScriptedService()), poll_interval_s=0)
    assert result.exit_code == 0
    assert [trial.metrics["eval/exact_match"] for trial in result.verdict.trials] == [0.0, 0.0]


def test_damage_of_an_earlier_format_is_found_after_the_migration(tmp_path: Path) -> None:
    """A row whose bytes had changed before it was migrated does not get a checksum that makes it whole."""
    path = tmp_path / "ledger.db"
    write_ledger(path, 3)
    raw = sqlite3.connect(path)
    raw.execute("UPDATE trial SET tokens = tokens + 1 WHERE sweep = ?", [SWEEPS[3][0]])
    raw.execute("UPDATE evaluation SET predictions = replace(predictions, 'three', 'four')")
    raw.commit()
    raw.close()
    with Ledger(path) as ledger:
        with pytest.raises(LedgerError, match="bytes of its table 'trial' have changed"):
            ledger.trials(SWEEPS[3][0])
        with pytest.raises(LedgerError, match="bytes of its table 'answers' have changed"):
            ledger.answers_of_sweep(SWEEPS[3][1])


def test_jobs_of_format_4_keep_their_checksums(tmp_path: Path) -> None:
    """One that is whole says nothing of what trained it; one that was damaged is found after the migration."""
    path = tmp_path / "ledger.db"
    write_ledger(path, 4)
    with Ledger(path) as ledger:
        keys = [trial.key for trial in ledger.trials(SWEEPS[4][1])]
        jobs = [job for key in keys for job in ledger.jobs(key)]
        assert [(job.state, job.trained_on) for job in jobs[:2]] == [(JobState.SUCCEEDED, None)] * 2
    path.unlink()
    write_ledger(path, 4)
    raw = sqlite3.connect(path)
    raw.execute("UPDATE job SET tokens = tokens + 1 WHERE key = ?", [keys[0]])
    raw.commit()
    raw.close()
    with Ledger(path) as ledger, pytest.raises(LedgerError, match="bytes of its table 'job' have changed"):
        ledger.jobs(keys[0])


@pytest.mark.process
def test_a_key_that_was_removed_from_the_config_breaks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown keys in stored configs, base models, references, failures and tuned models are ignored."""
    runs = write_project(tmp_path, 2)
    before = printed(capsys, "status", "--sweep", SWEEP)
    for table, column in (
        ("trial", "config"),
        ("job", "tuned_model"),
        ("job", "reference"),
        ("job", "failure"),
        ("sweep", "document"),
    ):
        change_every(runs / "ledger.db", table, column, with_unknown_keys)
    change_every(runs / "ledger.db", "evaluation", "predictions", with_unknown_keys)
    for file in runs.glob("tuned_models/*/tunerun.json"):
        file.write_text(json.dumps(with_unknown_keys(json.loads(file.read_text()))))
    assert printed(capsys, "status", "--sweep", SWEEP) == before
    assert printed(capsys, "predict", "--run", MODEL, "text_input=3")["tuned_model"] == MODEL
    assert printed(capsys, "sync", "tracking=mlflow")["sweeps"] == 2


@pytest.mark.process
def test_a_config_without_its_sections_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the version that wrote it did not have takes its default, each section alone and all together."""
    runs = write_project(tmp_path, 2)
    with Ledger.open_read_only(runs / "ledger.db") as ledger:
        whole = dict(ledger.trials(SWEEP)[0].config)
    for removed in whole:
        settings = TrialSettings.of({name: value for name, value in whole.items() if name != removed})
        assert settings.generation.max_output_tokens > 0
    change_every(runs / "ledger.db", "trial", "config", lambda _config: {})
    assert len(printed(capsys, "status", "--sweep", SWEEP)["trials"]) == 3
    assert len(printed(capsys, "compare", "--sweep", SWEEP)["trials"]) == 3
    assert printed(capsys, "sync", "tracking=mlflow")["sweeps"] == 2
    assert printed(capsys, "plan", *OVERRIDES, "seed=0,1,2", "--fresh")["sweep"]


def test_a_state_of_a_later_version_is_read_as_stopped(tmp_path: Path) -> None:
    """A job in it is finished, and not advised."""
    runs = write_project(tmp_path, 2)
    raw = sqlite3.connect(runs / "ledger.db")
    raw.execute("UPDATE job SET state = 'PAUSED' WHERE id = 1")
    raw.commit()
    raw.close()
    with Ledger.open_read_only(runs / "ledger.db") as ledger:
        first = ledger.progress(SWEEP)[0]
        assert (first.state, first.state.is_finished) == (JobState.STOPPED, True)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ({"kind": "local", "nodes": 4}, LocalSection(kind="local")),
        ({"kind": "local", "device": "quantum", "threads": 2}, LocalSection(kind="local", threads=2)),
        (
            {"kind": "gemini", "base_url": "http://127.0.0.1:9", "region": {"name": "x"}},
            GeminiSection(kind="gemini", base_url="http://127.0.0.1:9"),
        ),
    ],
)
def test_a_stored_backend_is_read_as_far_as_it_is_known(stored: dict[str, Any], read: object) -> None:
    """Unknown keys and values are left out."""
    assert stored_section(stored) == read


@pytest.mark.parametrize(
    ("stored", "trained", "read"),
    [
        ({"kind": "local"}, "float32", LocalSection(kind="local", precision="fp32")),
        ({"kind": "local", "precision": "auto"}, "bfloat16", LocalSection(kind="local", precision="bf16")),
        ({"kind": "local", "precision": "bf16"}, "float32", LocalSection(kind="local", precision="bf16")),
        ({"kind": "local"}, "", LocalSection(kind="local")),
        ({"kind": "gemini", "base_url": "http://127.0.0.1:9"}, "float32", GeminiSection(kind="gemini", base_url="http://127.0.0.1:9")),
    ],
)  # fmt: skip
def test_what_was_trained_answers_in_its_number_format(stored: dict[str, Any], trained: str, read: object) -> None:
    """On whichever machine, unless the config states a precision."""
    assert stored_section(stored, trained) == read


def test_a_stored_backend_of_another_kind_is_named() -> None:
    """With what this version has."""
    with pytest.raises(ConfigError, match=r"'vertex', which this tunerun does not have; it has local, gemini"):
        stored_section({"kind": "vertex"})


def test_a_tuned_model_of_a_newer_version_is_named(tmp_path: Path) -> None:
    """Instead of being called damaged."""
    (tmp_path / "tunerun.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(NotFoundError, match=r"written by a newer tunerun \(format 99, this one knows \d+\); update"):
        tuned_model.read(tmp_path)
