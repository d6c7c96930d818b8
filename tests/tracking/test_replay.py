"""The projection of a ledger into MLflow."""

from __future__ import annotations

import math
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.ledger.old_projects import write_ledger
from tests.tracking.content import client, content, experiment_tags, run_of, runs
from tests.tracking.sweeps import Lab, SyncedSweep, complete, freeze, grid
from tunerun.job import JobState, JobStatus, Snapshot
from tunerun.ledger import Ledger, Mark
from tunerun.ledger.subjects import key_of_subject
from tunerun.locks import held
from tunerun.testing.waiting import wait_until
from tunerun.tracking import Tracker


def synced(lab: Lab, uri: str) -> Tracker:
    tracker = Tracker(lab.ledger.path, uri)
    tracker.sync()
    assert tracker.problem is None
    return tracker


def test_rebuilding_into_an_empty_mlflow_gives_what_step_by_step_replay_gave(
    lab: Lab, new_store: Callable[[str], str]
) -> None:
    """A store that followed every event and one that was filled at the end hold the same."""
    live, rebuilt = new_store("live"), new_store("rebuilt")
    tracker = Tracker(lab.ledger.path, live)
    tracker.sync()
    lab.start(0)
    tracker.sync()
    for step in (1, 5, 8):
        lab.steps(0, step)
        tracker.sync()
    lab.succeed(0)
    tracker.sync()
    lab.start(1)
    lab.steps(1, 6)
    tracker.sync()
    lab.fail(1)
    tracker.sync()
    lab.start(1)
    lab.steps(1, 9, offset_s=50.0)
    tracker.sync()
    lab.succeed(1)
    lab.measure_base()
    tracker.sync()
    lab.measure(0, 2)
    lab.measure(1, 1)
    lab.start(2)
    tracker.sync()
    lab.cancel(2)
    tracker.sync()
    synced(lab, rebuilt)
    assert content(live) == content(rebuilt)
    assert experiment_tags(live) == experiment_tags(rebuilt)


def test_replaying_twice_adds_nothing(lab: Lab, uri: str) -> None:
    """A second replay sends nothing, from the same tracker and from a new one."""
    complete(lab)
    tracker = synced(lab, uri)
    before = content(uri)
    assert tracker.sync().runs == 0
    report = Tracker(lab.ledger.path, uri).sync()
    assert (report.runs, report.points) == (0, 0)
    assert content(uri) == before
    assert len(before) == 5


def test_a_retried_trial_is_one_run_with_each_step_once(finished: SyncedSweep) -> None:
    """Two attempts of a job share a run, whose curve has no step twice."""
    trial = content(finished.uri)[finished.lab.sweep.id, "trial", "1"]
    assert [step for step, _, _ in trial["points"]["train/mean_loss"]] == list(range(1, 13))
    assert trial["state"] == "FINISHED"
    assert trial["tags"]["tunerun.attempt"] == "2"


def test_a_store_that_was_lost_is_rebuilt(lab: Lab, uri: str, made_store: Path) -> None:
    """Marks of runs that MLflow no longer has are void, and the runs are made again."""
    complete(lab)
    synced(lab, uri)
    before = content(uri)
    shutil.copy(made_store, uri.removeprefix("sqlite:///"))
    assert runs(uri) == []
    synced(lab, uri)
    assert content(uri) == before


def test_a_run_that_a_person_deleted_stays_deleted(lab: Lab, uri: str) -> None:
    """A deleted run is not made again and is not a problem."""
    complete(lab)
    synced(lab, uri)
    client(uri).delete_run(run_of(uri, "trial", 2).info.run_id)
    lab.start(2)
    lab.succeed(2)
    synced(lab, uri)
    assert len(runs(uri)) == 4


def test_marks_that_are_lost_change_nothing(lab: Lab, uri: str) -> None:
    """Whatever marks a crash has cost, the next replay ends with the same content and no second run."""
    complete(lab)
    tracker = synced(lab, uri)
    before = content(uri)
    chance = random.Random(0)
    for attempt in range(6):
        for subject, mark in lab.ledger.marks(tracker.name, "").items():
            kept = {part: sent for part, sent in mark.document.items() if part != "seen" and chance.random() < 0.5}
            run_id = mark.run_id if chance.random() < 0.7 else None
            lab.ledger.set_mark(tracker.name, subject, Mark(run_id, kept))
        synced(lab, uri)
        assert content(uri) == before, attempt


def test_two_replays_at_once_make_no_run_twice(lab: Lab, uri: str) -> None:
    """Replays that start together take turns."""
    complete(lab)
    trackers = [Tracker(lab.ledger.path, uri) for _ in range(3)]
    threads = [threading.Thread(target=tracker.sync) for tracker in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs(uri)) == len(content(uri)) == 5


def test_a_trial_that_waits_has_no_run_yet(lab: Lab, uri: str) -> None:
    """Before any job has started there is only the sweep's own run, which waits."""
    with held(lab.ledger.path.parent, lab.sweep.id):
        tracker = synced(lab, uri)
    assert [run.info.run_name for run in runs(uri)] == ["sweep 1a2b3c4d"]
    assert runs(uri)[0].info.status == "SCHEDULED"
    assert tracker.run_ids(lab.ledger, lab.sweep.id).get(0) is None


def test_a_trial_that_two_sweeps_share_is_one_run(ledger: Ledger, uri: str) -> None:
    """It is found under either sweep, has each step once, and is called as in the newer one."""
    first = freeze(ledger, "next-number-1", grid(2))
    first.finish(0)
    tracker = synced(first, uri)
    first.finish(1)
    points = [*reversed(grid(3)), {**grid(1)[0], "seed": 1}]
    second = freeze(ledger, "next-number-2", points, created_at=time.time() + 60)
    second.finish(0)
    report = tracker.sync([second.sweep.id])
    assert report.problem is None
    for sweep, numbers in (("next-number-1", {"0", "1"}), ("next-number-2", {"0", "1", "2"})):
        own = client(uri).search_runs(["1"], f"tags.`tunerun.sweep.{sweep}` != '' and tags.`tunerun.kind` = 'trial'")
        assert {run.data.tags[f"tunerun.sweep.{sweep}"] for run in own} == numbers
    stored = content(uri)
    assert sorted(sweep for sweep, kind, _ in stored if kind == "trial") == ["next-number-2"] * 3
    shared = stored["next-number-2", "trial", "2"]
    assert shared["name"] == "t2 lr=0.001 ep=3"
    assert [step for step, _, _ in shared["points"]["train/mean_loss"]] == list(range(1, 13))
    assert "The same trial is trial 0 of `next-number-1`: one job, one run." in shared["tags"]["mlflow.note.content"]
    ids = tracker.run_ids(ledger, first.sweep.id), tracker.run_ids(ledger, second.sweep.id)
    assert ids[0] == {0: ids[1][2], 1: ids[1][1]}
    assert tracker.sync().problem is None
    assert content(uri)["next-number-2", "trial", "2"] == shared
    assert tracker.sync().runs == 0
    link = "#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=next-number-2"
    assert tracker.link(ledger, second.sweep.id) == link


def test_a_trial_that_a_later_sweep_measures_in_another_way_shows_that_measure(ledger: Ledger, uri: str) -> None:
    """The newest sweep's measure is the run's, as it is in that sweep's table."""
    first = freeze(ledger, "next-number-1", grid(1))
    first.finish(0, right=1)
    synced(first, uri)
    second = freeze(ledger, "next-number-2", grid(1), created_at=time.time() + 60, max_output_tokens=8)
    second.measure(0, right=2)
    synced(second, uri)
    assert run_of(uri, "trial", 0).data.metrics["eval/exact_match"] == 1.0


def test_what_an_interrupted_sweep_left_open_is_closed_by_the_next_command(lab: Lab, uri: str) -> None:
    """The next process ends the runs of a killed one, and they are RUNNING again when the sweep is run again."""
    other = freeze(lab.ledger, "other-1", name="other")
    with held(lab.ledger.path.parent, lab.sweep.id):
        lab.start(0)
        lab.steps(0, 4)
        synced(lab, uri)
        assert {state(uri, lab, kind) for kind in ("trial", "sweep")} == {"RUNNING"}
    with Tracker(lab.ledger.path, uri, interval_s=0.05) as tracker:
        tracker.start(other.sweep.id)
        wait_until(lambda: state(uri, lab, "trial") == "KILLED", "another sweep's process closes it")
    trial, sweep = content(uri)[lab.sweep.id, "trial", "0"], content(uri)[lab.sweep.id, "sweep", ""]
    assert (sweep["state"], sweep["tags"]["tunerun.state"]) == ("KILLED", "INTERRUPTED: 1 RUNNING, 2 PLANNED")
    assert trial["end"] >= trial["start"]
    assert trial["tags"]["tunerun.state"] == "INTERRUPTED"
    assert "the same command continues it:\n\n```\ntunerun run" in trial["tags"]["mlflow.note.content"]
    assert tracker.sync().runs == 0
    with held(lab.ledger.path.parent, lab.sweep.id):
        lab.steps(0, 6)
        synced(lab, uri)
        assert {state(uri, lab, kind) for kind in ("trial", "sweep")} == {"RUNNING"}
        lab.succeed(0)
        synced(lab, uri)
    job = lab.ledger.job(lab.trials[0].key)
    assert job is not None
    assert job.finished_at is not None
    assert content(uri)[lab.sweep.id, "trial", "0"]["end"] == round(job.finished_at * 1000)


def test_an_interrupted_process_closes_its_runs_itself(lab: Lab, uri: str) -> None:
    """When the tracker is closed, what is not finished was interrupted."""
    with held(lab.ledger.path.parent, lab.sweep.id), Tracker(lab.ledger.path, uri, interval_s=0.05) as tracker:
        tracker.start(lab.sweep.id)
        lab.start(0)
        wait_until(lambda: 0 in tracker.run_ids(lab.ledger, lab.sweep.id), "the trial is shown")
    assert {state(uri, lab, kind) for kind in ("trial", "sweep")} == {"KILLED"}


def state(uri: str, lab: Lab, kind: str) -> str:
    """The state of a run of a sweep, the first trial's or the sweep's own."""
    return str(content(uri)[lab.sweep.id, kind, "0" if kind == "trial" else ""]["state"])


@pytest.mark.parametrize("name", ["next-number", "/team/what's new"])
def test_an_experiment_that_was_renamed_in_mlflow_is_followed(ledger: Ledger, uri: str, name: str) -> None:
    """What a person has given another name is not doubled, and has its artifacts beside the store."""
    lab = freeze(ledger, document={"mlflow_experiment": name})
    lab.finish(0)
    synced(lab, uri)
    [experiment] = [e for e in client(uri).search_experiments() if e.experiment_id != "0"]
    assert experiment.name == name
    assert Path(experiment.artifact_location.removeprefix("file://")).parent == Path(uri[10:]).parent / "mlartifacts"
    client(uri).rename_experiment(experiment.experiment_id, "what the team calls it")
    lab.finish(1)
    synced(lab, uri)
    assert {run["experiment"] for run in content(uri).values()} == {"what the team calls it"}
    assert len(client(uri).search_experiments()) == 2


def test_the_runs_of_an_older_tunerun_are_taken_over(tmp_path: Path) -> None:
    """A mark that named a trial by its sweep and number names it by its key, and keeps the run."""
    path = tmp_path / "ledger.db"
    write_ledger(path, 2)
    with closing(sqlite3.connect(path)) as old:
        old.execute("INSERT INTO mark VALUES ('t', 'old-71eb597b/trial/1', 'run-1', '{\"seen\": \"x\"}')")
        old.execute("INSERT INTO mark VALUES ('t', 'old-71eb597b/sweep/', 'run-2', '{}')")
        old.commit()
    with Ledger(path) as ledger:
        key = ledger.trials("old-71eb597b")[1].key
        marks = ledger.trial_marks("t", "old-71eb597b", "old/trial/")
        assert marks == {f"old/trial/{key}": Mark("run-1", {"seen": "x"})}
        assert list(ledger.marks("t", "old-71eb597b/")) == ["old-71eb597b/sweep/"]


def test_a_subject_in_the_marks_names_its_trial(finished: SyncedSweep) -> None:
    """From a run id in MLflow the ledger finds the trial."""
    lab = finished.lab
    with Ledger.open_read_only(lab.ledger.path) as ledger:
        run_id = Tracker(ledger.path, finished.uri).run_ids(ledger, lab.sweep.id).get(2)
        assert run_id is not None
        assert run_id == run_of(finished.uri, "trial", 2).info.run_id
        subject = ledger.subject_of_run(run_id)
    assert subject is not None
    assert key_of_subject(subject) == lab.trials[2].key
    assert key_of_subject(f"{lab.sweep.id}/sweep/") is None


def test_a_curve_of_many_pages_arrives_whole(lab: Lab, uri: str) -> None:
    """More points than one request takes come in several, each once."""
    job = lab.start(0)
    curve = tuple(Snapshot(n, 1, 1 / n, 1_760_000_000 + n) for n in range(1, 2502))
    lab.ledger.record(job, JobStatus(JobState.RUNNING, curve))
    synced(lab, uri)
    points = content(uri)[lab.sweep.id, "trial", "0"]["points"]
    assert [step for step, _, _ in points["train/mean_loss"]] == list(range(1, 2502))
    assert "train/epoch_mean_loss" not in points


def test_a_loss_that_is_infinite_is_shown_as_not_a_number(lab: Lab, uri: str) -> None:
    """A diverged curve is a gap in the chart and no 1.8e308, and is not sent twice."""
    job = lab.start(0)
    lab.ledger.record(job, JobStatus(JobState.RUNNING, (Snapshot(1, 1, 2.0, 1e9), Snapshot(2, 1, math.inf, 1e9 + 1))))
    tracker = synced(lab, uri)
    lab.ledger.set_mark(tracker.name, f"next-number/trial/{lab.trials[0].key}", Mark(None, {}))
    synced(lab, uri)
    points = content(uri)[lab.sweep.id, "trial", "0"]["points"]["train/mean_loss"]
    assert [math.isnan(value) for _, _, value in points] == [False, True]


def test_a_sweep_without_a_verdict_is_shown_all_the_same(ledger: Ledger, uri: str) -> None:
    """Where the metric that decides is lost, trials and answers are there, one line says why, and other sweeps are sent."""
    lost = freeze(ledger, "lost-1", name="lost", metric="of_another_version")
    other = freeze(ledger, "other-1", name="other", created_at=time.time())
    for lab in (lost, other):
        lab.finish(0)
    report = Tracker(ledger.path, uri).sync()
    assert report.problem is not None
    assert "MLflow has no verdict of the sweep lost-1" in report.problem
    assert "of_another_version" in report.problem
    stored = content(uri)
    assert "predictions.json" in stored["lost-1", "trial", "0"]["artifacts"]
    assert "eval/exact_match" in stored["other-1", "trial", "0"]["points"]
