"""The projection of a ledger into MLflow."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tracking.content import content, run_of, runs
from tests.tracking.sweeps import Lab, complete
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


def test_a_retried_trial_is_one_run_with_each_step_once(lab: Lab, uri: str) -> None:
    """Two attempts of a job share a run, whose curve has no step twice."""
    complete(lab)
    synced(lab, uri)
    trial = content(uri)[lab.sweep.id, "trial", "1"]
    assert [step for step, _, _ in trial["points"]["train/mean_loss"]] == list(range(1, 13))
    assert trial["state"] == "FINISHED"
    assert trial["tags"]["tunerun.attempt"] == "2"


def test_a_store_that_was_lost_is_rebuilt(lab: Lab, new_store: Callable[[str], str], uri: str) -> None:
    """Marks of runs that MLflow no longer has are void, and the runs are made again."""
    complete(lab)
    tracker = synced(lab, uri)
    before = content(uri)
    from tests.tracking.content import client

    store = client(uri)
    for run in runs(uri):
        store._tracking_client.store._hard_delete_run(run.info.run_id)
    assert runs(uri) == []
    tracker.sync()
    assert content(uri) == before


def test_a_run_that_a_person_deleted_stays_deleted(lab: Lab, uri: str) -> None:
    """A deleted run is not made again and is no problem."""
    complete(lab)
    tracker = synced(lab, uri)
    from tests.tracking.content import client

    client(uri).delete_run(run_of(uri, "trial", 0).info.run_id)
    lab.measure(2, 0)
    tracker.sync()
    assert tracker.problem is None
    assert len(runs(uri)) == 4


@pytest.mark.parametrize("seed", range(6))
def test_marks_that_are_lost_change_nothing(lab: Lab, uri: str, seed: int) -> None:
    """Whatever marks a crash has cost, the next replay ends with the same content and no second run."""
    import random

    complete(lab)
    tracker = synced(lab, uri)
    before = content(uri)
    chance = random.Random(seed)
    import sqlite3

    for subject, mark in lab.ledger.marks(tracker.name, "").items():
        with sqlite3.connect(lab.ledger.path) as connection:
            if chance.random() < 0.3:
                connection.execute("DELETE FROM mark WHERE subject = ?", [subject])
                continue
        from tunerun.ledger import Mark

        document = {k: v for k, v in mark.document.items() if k != "seen" and chance.random() < 0.5}
        lab.ledger.set_mark(tracker.name, subject, Mark(mark.run_id, document))
        connection.close()
    tracker.sync()
    assert tracker.problem is None
    assert content(uri) == before
