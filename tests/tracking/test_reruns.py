"""Runs of reruns: beside those that they repeat, and never in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tracking.content import Content, client, content, run_of
from tests.tracking.sweeps import Lab, complete, freeze, grid
from tunerun.ledger import Ledger, Mark
from tunerun.ledger.subjects import sweep_of_subject
from tunerun.tracking import Tracker

ORIGINAL = "next-number-1a2b3c4d"


def rerun(ledger: Ledger, nonce: str, run_id: str | None) -> Lab:
    """A finished rerun of the first trial of the original, in a ledger of its own."""
    rerun_of: dict[str, Any] = {"sweep": ORIGINAL, "run_id": run_id, "trial": 0}
    lab = freeze(ledger, f"next-number-{nonce}", grid(1), document={"rerun_of": rerun_of, "rerun": nonce})
    lab.finish(0)
    return lab


def synced(ledger: Ledger, uri: str) -> Tracker:
    tracker = Tracker(ledger.path, uri)
    assert tracker.sync().problem is None
    return tracker


def of_sweep(every: Content, sweep: str) -> Content:
    return {identity: run for identity, run in every.items() if identity[0] == sweep}


def test_reruns_of_two_colleagues_have_runs_of_their_own(lab: Lab, uri: str, tmp_path: Path) -> None:
    """Trials of the same keys in three ledgers are three runs, the original's stay as they are, and lost marks find
    their own."""
    complete(lab)
    synced(lab.ledger, uri)
    before, original = content(uri), run_of(uri, "trial", 0).info.run_id
    note = client(uri).get_experiment("1").tags["mlflow.note.content"]
    with Ledger(tmp_path / "ada" / "ledger.db") as ada, Ledger(tmp_path / "bob" / "ledger.db") as bob:
        labs = [rerun(ada, "ada", original), rerun(bob, "bob", original)]
        trackers = [synced(each.ledger, uri) for each in labs]
        stored = content(uri)
        assert of_sweep(stored, ORIGINAL) == before
        assert {run["experiment"] for run in stored.values()} == {"next-number"}
        ids = {original}
        for each, tracker in zip(labs, trackers, strict=True):
            own = of_sweep(stored, each.sweep.id)
            assert sorted(kind for _, kind, _ in own) == ["baseline", "sweep", "trial"]
            assert own[each.sweep.id, "trial", "0"]["tags"]["tunerun.rerun_of"] == "RUN"
            [run_id] = tracker.run_ids(each.ledger, each.sweep.id).values()
            ids.add(run_id)
            run = client(uri).get_run(run_id)
            link = f"A rerun of [trial 0 of sweep `{ORIGINAL}`](#/experiments/1/runs/{original})."
            for one in (run, client(uri).get_run(run.data.tags["tunerun.record"].split("/")[1])):
                assert one.data.tags["tunerun.rerun_of"] == original
                assert link in one.data.tags["mlflow.note.content"]
        assert len(ids) == 3
        assert client(uri).get_experiment("1").tags["mlflow.note.content"] == note, (
            "it lists sweeps that they do not know"
        )
        for subject in bob.marks(trackers[1].name, ""):
            bob.set_mark(trackers[1].name, subject, Mark(None, {}))
        synced(bob, uri)
        assert content(uri) == stored


@pytest.mark.parametrize("run_id", ["0" * 32, None])
def test_a_rerun_of_what_this_store_does_not_have_names_it(ledger: Ledger, uri: str, run_id: str | None) -> None:
    """Where the original is in another store its id is a tag, and the description has no link."""
    lab = rerun(ledger, "eve", run_id)
    tags = content(synced(ledger, uri).uri)[lab.sweep.id, "trial", "0"]["tags"]
    assert tags["tunerun.rerun_of"] == (run_id or ORIGINAL)
    assert f"A rerun of trial 0 of sweep `{ORIGINAL}`." in tags["mlflow.note.content"]


def test_a_rerun_in_the_ledger_of_the_original_is_another_run(lab: Lab, uri: str) -> None:
    """The run of either leads to its own sweep."""
    complete(lab)
    again = freeze(lab.ledger, "next-number-2", grid(1), document={"rerun_of": {"sweep": ORIGINAL}, "rerun": "2"})
    tracker = synced(lab.ledger, uri)
    for sweep in (lab.sweep, again.sweep):
        run_id = tracker.run_ids(lab.ledger, sweep.id)[0]
        subject = lab.ledger.subject_of_run(run_id)
        named = None if subject is None else sweep_of_subject(lab.ledger, subject)
        assert named is not None
        assert named.id == sweep.id
