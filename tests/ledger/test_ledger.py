"""The ledger's promises, on real SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tunerun.errors import LedgerError, TransitionError
from tunerun.examples import Example, ExampleSet
from tunerun.generation import GenerateOptions
from tunerun.job import (
    BaseModelRef,
    EpochLoss,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TemplateText,
    TunedModel,
    TuningHyperparameters,
    TuningRequest,
    advance,
)
from tunerun.ledger import (
    LOSSES,
    SCHEMA_VERSION,
    BaselineRecord,
    Ledger,
    Mark,
    Opening,
    SweepRecord,
    TrialRecord,
    asked_by,
)

MODEL = BaseModelRef(name="tiny", source="./tiny", package=None, revision=None)
SET = ExampleSet("d1", "rows.jsonl", (Example("1", "2"), Example("é\n", '"')))
SWEEP = SweepRecord("x-1", "x", 1.0, {"varied": ["seed"]})
BASE = BaselineRecord("b", "base", "base")
ASKED = asked_by(GenerateOptions())


def request(key: str = "k") -> TuningRequest:
    return TuningRequest(key, f"x-{key}", MODEL, TuningHyperparameters(), 0, TemplateText(), SET.examples)


def trial(number: int = 0, key: str = "k") -> TrialRecord:
    return TrialRecord(number, key, ("b",), ASKED, "d1", {}, 10, 5, {"seed": number}, {"name": "x"})


def snapshot(step: int, loss: float = 1.0) -> Snapshot:
    return Snapshot(step, 1, loss, float(step))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "runs" / "ledger.db") as opened:
        yield opened


def test_a_plan_is_read_back_as_it_was_frozen(ledger: Ledger) -> None:
    """Trials, baselines, examples and the plan's document come back equal."""
    few_shot = BaselineRecord("c", "base+4", "few_shot", {"examples": 4})
    ledger.freeze(SWEEP, [trial(0), trial(1, "k2")], [SET], [BASE, few_shot])
    assert ledger.baselines("x-1") == [BASE, few_shot]
    assert ledger.sweeps() == [SWEEP]
    assert ledger.trials("x-1") == [trial(0), trial(1, "k2")]
    assert ledger.example_set("d1") == SET


def test_a_frozen_plan_never_changes(ledger: Ledger) -> None:
    """Freezing the same sweep again, with other content, changes nothing."""
    ledger.freeze(SWEEP, [trial(0)], [SET])
    ledger.freeze(SweepRecord("x-1", "x", 2.0, {}), [trial(0, "other"), trial(1)], [])
    assert ledger.sweeps() == [SWEEP]
    assert ledger.trials("x-1") == [trial(0)]


def test_the_newest_sweep_is_the_one_written_last(ledger: Ledger) -> None:
    """Also where the clock was set back between two sweeps."""
    ledger.freeze(SWEEP, [trial(0)], [SET])
    later = SweepRecord("a-0", "x", 0.5, {"varied": ["seed"]})
    ledger.freeze(later, [trial(0)], [SET])
    assert ledger.sweeps("x") == [SWEEP, later]
    assert [sweep for _key, sweep, _number in ledger.shared_trials("a-0")] == ["x-1", "a-0"]


def test_a_job_is_read_back_with_everything_it_learned(ledger: Ledger) -> None:
    """State, reference, snapshots, measures and the tuned model survive the way through SQLite."""
    job = ledger.intend(request(), "local", tokens=100)
    ledger.submitted(job.id, JobRef("local", "7"))
    tuned = TunedModel("tunedModels/x-k", MODEL, "somewhere")
    losses = (EpochLoss(1, 0.1 + 0.2), EpochLoss(2, 0.2))
    ledger.record(job.id, JobStatus(JobState.RUNNING, (snapshot(1),), validation=losses[:1]))
    curve = (snapshot(1), snapshot(2))
    ledger.record(
        job.id, JobStatus(JobState.SUCCEEDED, curve, {"train/seconds": 20.0}, tuned, validation=(losses[0], losses[1]))
    )
    stored = ledger.job("k")
    assert stored is not None
    assert (stored.state, stored.ref, stored.tuned_model) == (JobState.SUCCEEDED, JobRef("local", "7"), tuned)
    assert ledger.snapshots(job.id) == [*curve]
    assert ledger.epoch_losses(job.id) == [*losses]
    assert ledger.job_of_tuned_model("tunedModels/x-k") == stored
    assert ledger.seconds_per_token() == {("local", "tiny"): pytest.approx(0.2)}
    assert ledger.final_states() == {"k": JobState.SUCCEEDED}


def test_a_job_that_no_poll_saw_running_began_when_it_was_created(ledger: Ledger) -> None:
    """Only once it has finished: until then it may wait in a queue."""
    job = ledger.intend(request(), "local", 1)
    assert job.began_at is None
    ledger.record(job.id, JobStatus(JobState.SUCCEEDED))
    finished = ledger.job("k")
    assert finished is not None
    assert (finished.started_at, finished.began_at) == (None, finished.created_at)


def test_a_key_has_one_live_job_at_most(ledger: Ledger) -> None:
    """Intending a key twice answers with the same job while it lives, and when it has succeeded."""
    first = ledger.intend(request(), "local", 1)
    assert ledger.intend(request(), "local", 1).id == first.id
    ledger.record(first.id, JobStatus(JobState.SUCCEEDED))
    assert ledger.intend(request(), "local", 1).id == first.id


def test_a_failed_key_starts_a_new_attempt(ledger: Ledger) -> None:
    """After a failure, the next intent is a second job of the same key."""
    first = ledger.intend(request(), "local", 1)
    failure = Failure(FailureKind.LOST, "gone", "Traceback")
    ledger.record(first.id, JobStatus(JobState.FAILED, failure=failure))
    second = ledger.intend(request(), "local", 1)
    assert (second.id != first.id, second.attempt, second.failure) == (True, 2, None)


def test_a_finished_job_stays_as_it_is(ledger: Ledger) -> None:
    """What is reported of a job after its end is not recorded."""
    job = ledger.intend(request(), "local", 1)
    ledger.record(job.id, JobStatus(JobState.FAILED, failure=Failure(FailureKind.CRASHED, "why")))
    ledger.record(job.id, JobStatus(JobState.SUCCEEDED, (snapshot(1),)))
    stored = ledger.job("k")
    assert stored is not None
    assert stored.state is JobState.FAILED
    assert ledger.snapshots(job.id) == []


@pytest.mark.process
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_a_curve_has_every_step_once_whatever_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    """Recording prefixes of a curve in any order, across reopened ledgers, keeps each step once, as first recorded."""
    path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    with Ledger(path) as opened:
        job = opened.intend(request(), "local", 1).id
    for turn, cut in enumerate(cuts):
        with Ledger(path) as opened:
            status = JobStatus(JobState.RUNNING, tuple(snapshot(step, loss=turn) for step in range(1, cut + 1)))
            opened.record(job, status)
    with Ledger(path) as opened:
        stored = opened.snapshots(job)
    first_told = {step: next(t for t, cut in enumerate(cuts) if cut >= step) for step in range(1, max(cuts) + 1)}
    assert [(s.step, s.mean_loss) for s in stored] == list(first_told.items())


def test_answers_are_kept_as_first_recorded(ledger: Ledger) -> None:
    """The same subject asked again for the same, in the same way, keeps its first answers; losses are kept beside."""
    ledger.freeze(SWEEP, [trial(0)], [SET], [BASE])
    ledger.record_answers("k", "d1", ASKED, ["2", "é\n"])
    first = ledger.answers("k", "d1", ASKED)
    assert first is not None
    assert first.texts == ("2", "é\n")
    ledger.record_answers("k", "d1", ASKED, ["3", "4"])
    ledger.record_answers("b", "d1", LOSSES, [0.5, 1e-7])
    losses = ledger.answers("b", "d1", LOSSES)
    assert losses is not None
    assert losses.losses == (0.5, 1e-7)
    assert ledger.answers("k", "d1", "other") is None
    assert ledger.answered_at("k", "d1", ASKED) == first.created_at
    expected = {("k", "d1", ASKED): first, ("b", "d1", LOSSES): losses}
    assert ledger.answers_of_sweep("x-1") == expected
    assert ledger.answered("x-1") == expected.keys()


def test_openings_of_a_test_set_are_kept_in_their_order(ledger: Ledger) -> None:
    """Every one of them; a sweep with the same test rows shows those of the other sweep as well."""
    tested = [replace(trial(n, f"k{n}"), held_out={"test": "d1"}) for n in range(2)]
    ledger.freeze(SWEEP, tested, [SET])
    ledger.freeze(SweepRecord("y-1", "y", 1.0, {}), tested[:1], [SET])
    ledger.freeze(SweepRecord("z-1", "z", 1.0, {}), [trial(0)], [SET])
    ledger.open_test("x-1", [1], 20.0)
    ledger.open_test("x-1", [0, 1], 10.0)
    expected = [Opening("x-1", 20.0, (1,), ("d1",)), Opening("x-1", 10.0, (0, 1), ("d1",))]
    assert ledger.openings("x-1") == ledger.openings("y-1") == expected
    assert ledger.openings("z-1") == []


def test_marks_are_moved_and_found_by_run(ledger: Ledger) -> None:
    """A tracker's mark is replaced by the next one, and names the subject of a run."""
    ledger.set_mark("t", "s", Mark(None, {}))
    ledger.set_mark("t", "s", Mark("r1", {"step": 3}))
    assert ledger.mark("t", "s") == Mark("r1", {"step": 3})
    assert ledger.subject_of_run("r1") == "s"


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    """A ledger of a later format is not touched, and the error says what to do."""
    with Ledger(tmp_path / "l.db"):
        pass
    with sqlite3.connect(tmp_path / "l.db") as raw:
        raw.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    raw.close()
    with pytest.raises(LedgerError, match="written by a newer tunerun"):
        Ledger(tmp_path / "l.db")


def test_a_damaged_ledger_is_reported_and_left_alone(tmp_path: Path) -> None:
    """A file that is not a ledger is named and keeps its bytes."""
    file = tmp_path / "l.db"
    file.write_bytes(b"this is not a database" * 100)
    with pytest.raises(LedgerError, match=r"l.db: file is not a database; the file was not changed"):
        Ledger(file)
    assert file.read_bytes() == b"this is not a database" * 100


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A ledger in a place that cannot be made is a clear error."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"choose another paths.runs"):
        Ledger(tmp_path / "file" / "ledger.db")


def test_a_job_cannot_go_back() -> None:
    """A transition that cannot be is refused, and both states are named."""
    with pytest.raises(TransitionError, match="RUNNING cannot become QUEUED"):
        advance(JobState.RUNNING, JobState.QUEUED)
    with pytest.raises(TransitionError, match="FAILED cannot become SUCCEEDED"):
        advance(JobState.FAILED, JobState.SUCCEEDED)
    assert advance(JobState.QUEUED, JobState.SUCCEEDED) is JobState.SUCCEEDED
