"""The ledger's file: older ones are brought up to date, newer, foreign and damaged ones are left as they are."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import signal
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ledger.test_ledger import SET, SWEEP, request, snapshot, trial
from tunerun.errors import LedgerError
from tunerun.job import Failure, FailureKind, JobRef, JobState, JobStatus
from tunerun.ledger import SCHEMA_VERSION, Ledger
from tunerun.ledger.migrations import MIGRATIONS


def write_first_format(path: Path) -> None:
    """A ledger as the first tunerun wrote it, with a job that is running."""
    with sqlite3.connect(path) as raw:
        for statement in MIGRATIONS[0].split(";\n"):
            raw.execute(statement)
        raw.execute("PRAGMA user_version = 1")
        raw.execute("INSERT INTO sweep VALUES ('x-1', 'x', 1.0, '{\"varied\": [\"seed\"]}')")
        raw.execute("INSERT INTO example_set VALUES ('d1', 'rows.jsonl', '[[\"1\", \"2\"]]')")
        raw.execute(
            "INSERT INTO trial VALUES ('x-1', 0, 'k', 'b', 'e', 'd1', NULL, 10, 5, '{\"seed\": 0}', '{\"name\": \"x\"}')"
        )
        reference = json.dumps({"backend": "local", "id": "7"})
        raw.execute(
            "INSERT INTO job VALUES (1, 'k', 1, 'local', 'tiny', 10, ?, 'RUNNING', '{}', NULL, NULL, 1.0, 2.0, NULL)",
            [reference],
        )
        raw.execute("INSERT INTO snapshot VALUES (1, 1, 1, 0.5, 3.0)")
    raw.close()


def check_kept(path: Path) -> None:
    with Ledger(path) as ledger:
        assert ledger.sweeps() == [SWEEP]
        assert ledger.trials("x-1") == [trial(0)]
        job = ledger.job("k")
        assert job is not None
        assert (job.state, job.ref, job.sweep) == (JobState.RUNNING, JobRef("local", "7"), None)
        assert [s.mean_loss for s in ledger.snapshots(job.id)] == [0.5]
        assert ledger.intend(request(), "local", 1, sweep="x-1").id == job.id
        assert ledger.adopt(job, "x-1")
        ledger.record(job.id, JobStatus(JobState.SUCCEEDED, (snapshot(2),)))
        assert len(ledger.snapshots(job.id)) == 2


def test_an_older_ledger_is_brought_up_to_date_with_everything_kept(tmp_path: Path) -> None:
    """Plans, running jobs and curves of the first format are there, and continue."""
    write_first_format(tmp_path / "l.db")
    check_kept(tmp_path / "l.db")
    raw = sqlite3.connect(tmp_path / "l.db")
    assert raw.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    raw.close()


def _open(path: str) -> None:
    with Ledger(Path(path)) as ledger:
        assert ledger.trials("x-1")


@pytest.mark.process
def test_two_processes_bring_it_up_to_date_once(tmp_path: Path) -> None:
    """Opened by several at once, an older ledger is whole afterwards."""
    write_first_format(tmp_path / "l.db")
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=_open, args=[str(tmp_path / "l.db")]) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    check_kept(tmp_path / "l.db")


class _Killed(sqlite3.Connection):
    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        if sql == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(sql, parameters)  # type: ignore[arg-type]


def _open_and_die(path: str) -> None:
    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, **options, factory=_Killed)  # type: ignore[assignment]
    Ledger(Path(path))


@pytest.mark.process
def test_a_kill_in_the_middle_of_it_leaves_the_old_file(tmp_path: Path) -> None:
    """All steps are one transaction."""
    write_first_format(tmp_path / "l.db")
    process = multiprocessing.get_context("forkserver").Process(target=_open_and_die, args=[str(tmp_path / "l.db")])
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    check_kept(tmp_path / "l.db")


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_another_program_is_left_alone(tmp_path: Path, version: int) -> None:
    """Nothing is written into it, whatever its version says."""
    with sqlite3.connect(tmp_path / "l.db") as raw:
        raw.execute("CREATE TABLE photos (name TEXT)")
        raw.execute(f"PRAGMA user_version = {version}")
    raw.close()
    before = (tmp_path / "l.db").read_bytes()
    with pytest.raises(
        LedgerError, match=r"l.db: a database of another program; move it away, or choose another paths"
    ):
        Ledger(tmp_path / "l.db")
    assert (tmp_path / "l.db").read_bytes() == before


@pytest.mark.thorough
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 20), garbage=st.binary(min_size=200, max_size=400))
def test_a_damaged_ledger_is_reported_and_its_bytes_stay(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    """Cut short or overwritten: whatever can still be read is right, and what cannot is a LedgerError."""
    path = tmp_path_factory.mktemp("damaged") / "l.db"
    with Ledger(path) as ledger:
        ledger.freeze(SWEEP, [trial(n, f"k{n}") for n in range(200)], [SET])
    whole = path.read_bytes()
    place = len(whole) * cut // 21
    path.write_bytes(whole[:place] + garbage + whole[place + len(garbage) :])
    damaged = path.read_bytes()
    # Any other error would come through here, and fail the test.
    with contextlib.suppress(LedgerError), Ledger(path) as ledger:
        assert len(ledger.trials("x-1")) <= 200
        ledger.sweeps()
    assert path.read_bytes() == damaged


def _fill(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Ledger(Path(path)) as ledger:
        for number in range(10_000):
            try:
                ledger.intend(request(f"{number:05}"), "local", 1)
            except LedgerError as error:
                Path(path).with_suffix(".error").write_text(f"{number} {error}")
                return


@pytest.mark.process
def test_a_full_disk_is_an_error_and_what_was_committed_stays(tmp_path: Path) -> None:
    """The job that did not fit is not there; all before it are."""
    path = tmp_path / "l.db"
    process = multiprocessing.get_context("forkserver").Process(target=_fill, args=[str(path)])
    process.start()
    process.join()
    number, _, message = path.with_suffix(".error").read_text().partition(" ")
    assert "l.db: " in message
    assert "check the disk and its permissions" in message
    with Ledger(path) as ledger:
        assert ledger.job(f"{int(number) - 1:05}") is not None
        assert ledger.job(number.zfill(5)) is None


def test_a_job_changes_hands_once(tmp_path: Path) -> None:
    """Of two that adopt it, the one that saw the old owner wins."""
    with Ledger(tmp_path / "l.db") as ledger:
        job = ledger.intend(request(), "local", 1, sweep="a")
        assert ledger.adopt(job, "b")
        assert not ledger.adopt(job, "c")
        recorded = ledger.job("k")
        assert recorded is not None
        assert recorded.sweep == "b"


def test_spending_counts_what_was_accepted(tmp_path: Path) -> None:
    """Jobs under way and accepted ones that failed; not those that a service refused, nor another sweep's."""
    with Ledger(tmp_path / "l.db") as ledger:
        running, refused, other = (
            ledger.intend(request(key), "local", 100, sweep=sweep, usd=2.0)
            for key, sweep in (("a", "s"), ("b", "s"), ("c", "t"))
        )
        ledger.submitted(running.id, JobRef("local", "1"))
        ledger.record(refused.id, JobStatus(JobState.FAILED, failure=Failure(FailureKind.INVALID, "no")))
        spent = ledger.spending("s")
        assert (spent.jobs, spent.tokens, spent.usd) == (1, 100, 2.0)
        assert ledger.spending("t").jobs == 1
        assert other.sweep == "t"
