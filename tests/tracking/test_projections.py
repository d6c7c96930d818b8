"""What people see of one run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tracking.content import artifact_json, artifacts, content, run_of
from tests.tracking.sweeps import Lab, SyncedSweep, freeze, grid
from tunerun.comparison import judge
from tunerun.comparison.table import ComparisonTable
from tunerun.job import EpochLoss, Failure, FailureKind, JobState, JobStatus, TrainedOn
from tunerun.ledger import Ledger, Stop
from tunerun.schema import Tracking
from tunerun.tracking import Tracker
from tunerun.tracking.run_projection import VALIDATION_EPOCH_LOSS, FrozenSweep, MetricPoint, SharedTrial
from tunerun.tracking.trial import trial_projection


def test_a_trial_shows_its_params_metrics_and_tags(finished: SyncedSweep) -> None:
    """A trial that went well shows what it was, how it went and what came out."""
    lab = finished.lab
    trial = content(finished.uri)[lab.sweep.id, "trial", "0"]
    assert trial["name"] == "t0 lr=0.001 ep=3"
    assert trial["state"] == "FINISHED"
    assert trial["end"] >= trial["start"]
    assert trial["params"] | {"template": ""} == {
        "epoch_count": "3", "batch_size": "4", "learning_rate": "0.001", "adapter_rank": "8", "adapter_alpha": "16.0",
        "template": "", "model": "smollm2-135m", "dataset": "next_number.json", "backend": "local", "seed": "0",
        "examples": "15",
    }  # fmt: skip
    points = trial["points"]
    assert [step for step, _, _ in points["train/epoch_mean_loss"]] == [1, 2, 3]
    assert {key: values[0][2] for key, values in points.items() if values[0][0] == 0} == {
        "validation/loss": 0.4, "train/seconds": 12.5, "tokens/train": 1200.0, "eval/exact_match": 1.0,
    }  # fmt: skip
    assert trial["tags"]["tunerun.tuned_model"] == f"tunedModels/t-{lab.trials[0].key[:8]}"
    assert trial["tags"]["mlflow.source.git.commit"] == "0123456789abcdef"
    assert trial["tags"]["tunerun.dirty"] == "true"


def test_a_trial_says_what_it_shared_and_why_it_stopped(lab: Lab, uri: str) -> None:
    """The form of its passes, the trials of its training run and of its pack by their numbers, and a better trial."""
    keys = [trial.key for trial in lab.trials]
    place = TrainedOn("cpu", form="shared prefix", training_run=keys[1], packed_with=(keys[2], "f" * 64))
    lab.start(0)
    lab.ledger.record(lab.job(0), JobStatus(JobState.RUNNING, trained_on=place))
    lab.succeed(0)
    key = (keys[0], str(lab.trials[0].validation), lab.trials[0].asked)
    lab.ledger.record_some_answers(key, 0, ["?"], rows=len(lab.held_out))
    lab.ledger.record_stop(lab.sweep.id, key, Stop(keys[2], 70.0, 60.0, ("?",)))
    Tracker(lab.ledger.path, uri).sync()
    tags = content(uri)[lab.sweep.id, "trial", "0"]["tags"]
    names = ("tunerun.form", "tunerun.training_run", "tunerun.packed_with")
    assert tags["tunerun.stopped_early"] == "after 1 of 2 held-out rows, worse than trial 2"
    assert not [name for name in content(uri)[lab.sweep.id, "trial", "0"]["points"] if name.startswith("eval/")]
    assert [tags[name] for name in names] == ["shared prefix", "1", f"2, {'f' * 12}"]
    (trained_on,) = [trial["trained_on"] for trial in _trials(lab) if "trained_on" in trial]
    assert trained_on == {"form": "shared prefix", "training_run": 1, "packed_with": [2, "f" * 12]}


def _trials(lab: Lab) -> list[dict[str, Any]]:
    return list(json.loads(ComparisonTable.of(judge(lab.ledger, lab.sweep)).render("json"))["trials"])


@pytest.mark.parametrize("is_done", [True, False])
def test_one_name_is_one_number(lab: Lab, uri: str, is_done: bool) -> None:
    """What the sweep's table and `--json` call by a name has the value that MLflow shows for it, also in mid-epoch."""
    lab.start(0)
    lab.steps(0, 7)
    lab.fail(0)
    lab.start(0)
    lab.steps(0, 10, offset_s=50.0)
    if is_done:
        lab.succeed(0, {"tokens/train": 1150.0})
        lab.measure(0, 1)
    Tracker(lab.ledger.path, uri).sync()
    [trial, *_] = judge(lab.ledger, lab.sweep).trials
    metrics = run_of(uri, "trial", 0).data.metrics
    assert metrics == pytest.approx(dict(trial.metrics))
    expected = {"train/mean_loss", "train/epoch_mean_loss"}
    measured = {"tokens/train", "train/seconds", "validation/loss", "eval/exact_match"}
    assert set(metrics) == (expected | measured if is_done else expected)


def test_a_trial_shows_its_data_and_files(finished: SyncedSweep) -> None:
    """Datasets carry our digest and their length, and the files are what was frozen."""
    lab = finished.lab
    trial = content(finished.uri)[lab.sweep.id, "trial", "0"]
    assert trial["inputs"] == [
        ("held_out", lab.trials[0].validation[:8] if lab.trials[0].validation else "", '{"num_rows": 2}'),
        ("next_number", lab.trials[0].training[:8], '{"num_rows": 15}'),
    ]
    files = {path.name: path for path in artifacts(run_of(finished.uri, "trial", 0))}
    assert sorted(files) == [
        "experiment.yaml", "loss.png", "overrides.txt", "predictions.json", "template.yaml",
    ]  # fmt: skip
    config = {**lab.trials[0].config, "dataset": {**lab.trials[0].config["dataset"], "path": "next_number.json"}}
    assert yaml.safe_load(files["experiment.yaml"].read_text()) == config
    assert files["overrides.txt"].read_text() == "hyperparameters.learning_rate=0.001\nhyperparameters.epoch_count=3\n"
    assert files["loss.png"].read_bytes().startswith(b"\x89PNG")
    table = artifact_json(run_of(finished.uri, "trial", 0), "predictions.json")
    assert table["data"][1] == ["zwölf", "dreizehn", "dreizehn", True]


def test_a_tuned_model_is_the_output_of_its_run(finished: SyncedSweep) -> None:
    """The tuned model is a logged model whose weights are elsewhere, with its name and place."""
    lab = finished.lab
    [model] = content(finished.uri)[lab.sweep.id, "trial", "1"]["models"]
    assert model["status"] == "READY"
    assert model["tags"]["tunerun.location"] == f"runs/models/{model['name']}"
    assert model["tags"]["mlflow.model.isExternal"] == "true"


def test_a_failed_trial_says_why(finished: SyncedSweep) -> None:
    """A failed trial is FAILED, with the reason in its description, its traceback and the curve it had."""
    lab = finished.lab
    trial = content(finished.uri)[lab.sweep.id, "trial", "2"]
    assert trial["state"] == "FAILED"
    assert "the loss became nan at step 6" in trial["tags"]["mlflow.note.content"]
    assert {"failure-1.txt", "loss.png"} <= set(trial["artifacts"])
    assert [step for step, _, _ in trial["points"]["train/epoch_mean_loss"]] == [1]
    assert trial["models"] == []


@pytest.mark.parametrize("state", [state for state in JobState if state.is_finished])
def test_what_has_ended_is_not_open_in_mlflow(lab: Lab, state: JobState) -> None:
    """Every final state of a job is one of a run."""
    lab.start(0)
    lab.ledger.record_all({1: JobStatus(state, failure=Failure(FailureKind.LOST, "x") if state == "FAILED" else None)})
    sweep = FrozenSweep(lab.ledger, lab.sweep.id)
    progress = lab.ledger.progress(lab.sweep.id)[0]
    projection = trial_projection(
        lab.ledger, SharedTrial([(sweep, sweep.by_number[0])], progress, is_interrupted=False)
    )
    assert projection is not None
    assert projection.state.is_finished


def test_the_validation_loss_is_a_curve_by_epoch(lab: Lab) -> None:
    """At the end of each epoch; what a lost attempt measured keeps its place when the next one measures it again."""
    job = lab.start(0)
    losses = (EpochLoss(1, 0.9), EpochLoss(2, 0.7), EpochLoss(3, 0.8))
    lab.ledger.record(job, JobStatus(JobState.RUNNING, lab.curve(0, 9), validation=losses[:2]))

    def validation_curve() -> tuple[list[MetricPoint], str]:
        sweep = FrozenSweep(lab.ledger, lab.sweep.id)
        progress = lab.ledger.progress(lab.sweep.id)[0]
        projection = trial_projection(
            lab.ledger, SharedTrial([(sweep, sweep.by_number[0])], progress, is_interrupted=False)
        )
        assert projection is not None
        return [p for p in projection.points if p.key == VALIDATION_EPOCH_LOSS], projection.tags["mlflow.note.content"]

    first, _ = validation_curve()
    assert [(point.step, point.value) for point in first] == [(1, 0.9), (2, 0.7)]
    lab.fail(0)
    job = lab.start(0)
    lab.ledger.record(job, JobStatus(JobState.SUCCEEDED, lab.curve(0, 12, 50.0), validation=losses))
    again, note = validation_curve()
    assert again[:2] == first
    assert (again[2].step, again[2].value) == (3, 0.8)
    assert "overfitting after epoch 2" in note


def test_a_cancelled_trial_is_killed(lab: Lab, uri: str) -> None:
    """A cancelled job is KILLED in MLflow, with an end."""
    lab.start(0)
    lab.cancel(0)
    Tracker(lab.ledger.path, uri).sync()
    trial = content(uri)[lab.sweep.id, "trial", "0"]
    assert trial["state"] == "KILLED"
    assert trial["end"] is not None


def test_a_baseline_shows_what_there_is_to_beat(finished: SyncedSweep) -> None:
    """The base model has a run of its own with the same metrics and its answers."""
    lab = finished.lab
    base = content(finished.uri)[lab.sweep.id, "baseline", lab.trials[0].baselines[0]]
    assert base["name"] == "base"
    assert {key: point[0][2] for key, point in base["points"].items()} == {
        "validation/loss": 1.9, "eval/exact_match": 0.0,
    }  # fmt: skip
    assert list(base["artifacts"]) == ["predictions.json"]


def test_the_sweep_shows_the_verdict(finished: SyncedSweep) -> None:
    """The sweep's own run says which trial to use, and holds the table of all and their curves."""
    lab = finished.lab
    sweep = content(finished.uri)[lab.sweep.id, "sweep", ""]
    assert sweep["state"] == "FINISHED"
    note = sweep["tags"]["mlflow.note.content"]
    assert note.startswith("**2 held-out rows cannot decide anything: at least 5 are needed.")
    assert "\n- point 0: learning_rate 0.001, 3 epochs" in note
    assert sweep["tags"]["tunerun.best"] == "none"
    assert sweep["tags"]["tunerun.state"] == "2 SUCCEEDED, 1 FAILED"
    table = artifact_json(run_of(finished.uri, "sweep"), "trials.json")
    assert [row[0] for row in table["data"]] == ["t0 lr=0.001 ep=3", "t1 lr=0.0005 ep=3", "t2 lr=0.0002 ep=3", "base"]
    own = {name for name in sweep["artifacts"] if not name.endswith(".gz")}  # those of the record: test_records
    assert own == {"code.diff", "loss.png", "record.json", "report.html", "trials.json"}


def test_no_secret_is_anywhere_in_the_store(ledger: Ledger, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passwords in addresses, keys of the environment and what looks like a key reach no byte of the store."""
    password, key, shaped = "planted-in-a-url", "planted-in-the-environment", "AIza" + "p" * 35
    monkeypatch.setenv("SOME_SERVICE_API_KEY", key)
    lab = freeze(
        ledger,
        points=grid(1),
        document={"command": f"tunerun run tracking.uri=https://ada:{password}@mlflow.example/"},
        tracking=Tracking(uri=f"https://ada:{password}@mlflow.example/"),
    )
    lab.start(0)
    lab.fail(0, f"GET https://ada:{password}@host/?key={key}: 403 for {key} and {shaped}")
    Tracker(ledger.path, uri).sync()
    assert content(uri)[lab.sweep.id, "trial", "0"]["state"] == "FAILED"
    folder = Path(uri.removeprefix("sqlite:///")).parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        stored = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for secret in (password, key, shaped):
            assert secret.encode() not in stored, path
