"""The command line on a real engine: it trains, is killed, resumes, and shows its runs in MLflow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tunerun
from tests import commands
from tests.commands import Done
from tests.engine import tiny_model
from tests.experiments import overrides
from tests.interrupts import interruptible
from tunerun.job import JobState
from tunerun.ledger import Ledger
from tunerun.planning import ledger_path

pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning"),
]

SWEEP = ("hyperparameters.epoch_count=2,3", "hyperparameters.learning_rate=0.01,0.001")
DEADLINE_S = 200.0


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def experiment(tmp_path: Path, tiny_folder: Path) -> list[str]:
    """Four trials of the tiny model on thirty examples, with ten held out, on one thread."""
    options = ["model=huggingface", f"model.name={tiny_folder}", "backend.threads=1", "backend.device=cpu"]
    return overrides(tmp_path, *options, "evaluation.generation.max_output_tokens=4", *SWEEP)


def finished(*arguments: str, code: int = 0) -> Done:
    done = commands.tunerun(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def result(*arguments: str, code: int = 0) -> dict[str, Any]:
    document = json.loads(finished("run", "--json", *arguments, code=code).stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    """Start a run whose output goes to a file, and end it at the latest with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "stderr.txt").open("wb") as errors:
            command = [sys.executable, "-m", "tunerun", "run", *arguments]
            processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def wait_for(tmp_path: Path, text: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while text not in (tmp_path / "stderr.txt").read_text():
        assert process.poll() is None, (tmp_path / "stderr.txt").read_text()
        assert time.monotonic() < deadline, f"{text!r} was never printed"
        time.sleep(0.02)


def test_a_sweep_trains_compares_and_answers(experiment: list[str]) -> None:
    """Four trials are tuned and measured beside the base model; a second run has nothing to do; predict answers."""
    document = result(*experiment)
    assert [trial["state"] for trial in document["trials"]] == ["SUCCEEDED"] * 4
    for trial in document["trials"]:
        assert {
            "train/mean_loss",
            "train/epoch_mean_loss",
            "tokens/train",
            "validation/loss",
            "eval/exact_match",
        } <= trial["metrics"].keys()
        assert (Path(trial["adapter"]) / "adapter_model.safetensors").is_file()
    assert document["baselines"][0]["metrics"].keys() == {"validation/loss", "eval/exact_match"}
    again = finished("run", *experiment)
    assert "all 4 trials are done" in again.stderr
    assert all(word in again.stdout for word in ("training loss", "validation loss", "exact match", "base"))
    assert result(*experiment) == document
    name = document["trials"][0]["tuned_model"]
    answered = json.loads(finished("predict", "--json", "--run", name, "text_input=101").stdout)
    with Ledger(ledger_path(Path("runs"))) as ledger:
        trial = ledger.trials(document["sweep"])[0]
        answers = ledger.answers(trial.key, str(trial.validation), trial.asked)
    assert answers is not None
    assert answered == {"tuned_model": name, "outputs": [answers.texts[0]]}


def test_a_sweep_that_was_killed_continues_with_what_is_missing(
    tmp_path: Path, experiment: list[str], started: Any
) -> None:
    """After kill -9, the same command finishes with every trial done once and every curve complete."""
    process = started(*experiment)
    wait_for(tmp_path, "trial 1 ", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    plan = tunerun.plan(tunerun.load(experiment))
    with Ledger(plan.ledger_path) as ledger:
        jobs = [job for trial in plan.trials if (job := ledger.job(trial.key)) is not None]
        done = [job.key for job in jobs if job.state is JobState.SUCCEEDED]
    document = result(*experiment)
    assert [trial["state"] for trial in document["trials"]] == ["SUCCEEDED"] * 4
    with Ledger(plan.ledger_path) as ledger:
        for trial in plan.trials:
            attempts = ledger.jobs(trial.key)
            assert [job.state for job in attempts].count(JobState.SUCCEEDED) == 1
            assert [s.step for s in ledger.snapshots(attempts[-1].id)] == list(range(1, trial.steps + 1))
        assert [len(ledger.jobs(key)) for key in done] == [1] * len(done), "a trial that was done ran again"
    assert len(list((tmp_path / "runs" / "tuned_models").iterdir())) == 4


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume(
    tmp_path: Path, experiment: list[str], started: Any, signal_number: signal.Signals
) -> None:
    """Ctrl-C and SIGTERM end with exit code 130 and the command that resumes; no engine is left behind."""
    with interruptible():
        process = started(*experiment)
    wait_for(tmp_path, "trial 0 ", process)
    process.send_signal(signal_number)
    assert process.wait(timeout=DEADLINE_S) == 130
    printed = (tmp_path / "stderr.txt").read_text()
    assert "interrupted; run the same command to continue:\n  python -m tunerun run name=numbers" in printed
    assert "Traceback" not in printed


def test_the_api_does_what_the_commands_do(experiment: list[str]) -> None:
    """load, plan, run, predict, open and compare give the same results from Python."""
    plan = tunerun.plan(tunerun.load(experiment))
    swept = tunerun.run(plan)
    assert swept.exit_code == 0
    assert list(swept.to_pandas()["state"]) == ["SUCCEEDED"] * 4
    tuned = swept.verdict.trials[0].tuned_model
    assert tuned is not None
    rows = [{"text_input": "1"}, {"text_input": "2"}]
    outputs = tunerun.predict(tuned.name, rows).outputs
    assert len(outputs) == 2
    with tunerun.open(tuned.name) as model:
        assert tuple(model.many(rows)) == outputs
        assert (model(text_input="1"), model(text_input="2")) == outputs
    assert tunerun.compare("numbers").to_json() == swept.to_json()


def test_a_tracker_that_is_down_fails_no_trial_and_is_brought_up_to_date(tmp_path: Path, experiment: list[str]) -> None:
    """With an unreachable tracking URI the run continues with a note; `sync` sends everything later; no password is stored."""
    dead = "tracking={kind: mlflow, uri: 'http://me:planted-secret@127.0.0.1:9'}"
    experiment.remove("tracking=none")
    first = finished("run", "--json", *experiment, dead)
    assert "tunerun sync" in first.stderr
    assert [trial["state"] for trial in json.loads(first.stdout)["trials"]] == ["SUCCEEDED"] * 4
    store = f"tracking.uri=sqlite:///{tmp_path}/runs/mlflow.db"
    finished("sync", f"paths.runs={tmp_path}/runs", store)
    document = result(*experiment, store)
    assert all(trial["mlflow_run_id"] for trial in document["trials"])
    assert (
        json.loads(
            finished("predict", "--json", "--run", document["trials"][2]["mlflow_run_id"], "text_input=1").stdout
        )["tuned_model"]
        == document["trials"][2]["tuned_model"]
    )
    for file in (tmp_path / "runs").rglob("*"):
        assert not file.is_file() or b"planted-secret" not in file.read_bytes(), file
    assert "planted-secret" not in first.stdout + first.stderr


def test_results_are_written_by_a_command(tmp_path: Path, experiment: list[str]) -> None:
    """`compare --output` writes numbers, tables and plots, and prints the same table."""
    sweep = result(*experiment)["sweep"]
    shown = finished("compare", "name=numbers", "--output", "written")
    assert finished("compare", *experiment).stdout == finished("compare", "--sweep", sweep).stdout == shown.stdout
    assert f"has not run, as far as {tmp_path}" in finished("compare", *experiment, "seed=9", code=2).stderr
    assert "exact match" in shown.stdout
    written = json.loads(Path("written/results.json").read_text())
    assert [trial["number"] for trial in written["trials"]] == [0, 1, 2, 3]
    assert str(tmp_path) not in Path("written/results.json").read_text() + Path("written/results.md").read_text()
    assert Path("written/loss.png").read_bytes().startswith(b"\x89PNG")
    assert "4 SUCCEEDED" in finished("status").stdout


def test_a_full_disk_is_reported_and_nothing_is_lost(experiment: list[str]) -> None:
    """A runs folder that cannot be written is an error without a traceback."""
    Path("in-the-way").write_text("")
    done = finished("run", *experiment, "paths.runs=in-the-way/runs", code=1)
    assert "choose another paths.runs" in done.stderr
    assert "Traceback" not in done.stderr
