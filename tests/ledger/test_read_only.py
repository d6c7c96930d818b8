"""Who only reads a ledger changes no byte of its folder."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.ledger.old_projects import OVERRIDES, SWEEPS, WRITTEN, kept, write_ledger, write_project
from tests.ledger.test_ledger import SET, SWEEP, trial
from tunerun.cli import app
from tunerun.errors import ConfigError, LedgerError
from tunerun.ledger import Ledger, SweepRecord


def content_of(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Everything about a folder that a command could change: names, bytes, times and modes."""
    return {
        str(path.relative_to(folder)): (
            path.read_bytes() if path.is_file() else b"",
            path.stat().st_mtime_ns,
            path.stat().st_mode,
        )
        for path in [folder, *folder.rglob("*")]
    }


def _write_and_wait(path: str, connection: Connection) -> None:
    with Ledger(Path(path)) as ledger:
        ledger.freeze(SweepRecord("x-2", "x", 2.0, {}), [], [])
        connection.send(None)
        connection.recv()


@contextmanager
def being_written(path: Path) -> Iterator[multiprocessing.context.ForkServerProcess]:
    """Another process that has written to a ledger and keeps it open."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_write_and_wait, args=[str(path), theirs])
    process.start()
    try:
        ours.recv()
        yield process
    finally:
        process.kill()
        process.join()


@pytest.mark.process
@pytest.mark.parametrize("format_", WRITTEN)
def test_commands_that_look_change_no_byte(tmp_path: Path, format_: int) -> None:
    """`plan`, `status` and `compare` leave names, bytes and times as they are, whatever the format."""
    runs = write_project(tmp_path, format_)
    before = content_of(runs)
    for command in (
        ["plan", *OVERRIDES, "seed=0,1,2"],
        ["status", "name=old"],
        ["status", "--sweep", SWEEPS[kept(format_)][0], "--json"],
        ["compare", "name=old", "--json"],
    ):
        # The keys of these formats are of another format too, which a plan refuses to go on with.
        with contextlib.suppress(SystemExit, ConfigError):
            app(command)
        assert content_of(runs) == before, command


@pytest.mark.process
@pytest.mark.parametrize("is_killed", [False, True])
def test_a_ledger_that_is_being_written_is_read_and_not_touched(tmp_path: Path, is_killed: bool) -> None:
    """What is committed to the log alone is read, while its writer lives and after it was killed."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.freeze(SWEEP, [trial(0)], [SET])
    with being_written(path) as process:
        if is_killed:
            process.kill()
            process.join()
        assert (tmp_path / "ledger.db-wal").stat().st_size > 0
        before = content_of(tmp_path)
        with Ledger.open_read_only(path) as ledger:
            assert [sweep.id for sweep in ledger.sweeps()] == ["x-1", "x-2"]
        assert content_of(tmp_path) == before


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """An attempt is an error, and the file stays as it is; also beside a writer in the same process."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as writer:
        writer.freeze(SWEEP, [trial(0)], [SET])
        with Ledger.open_read_only(path) as ledger, pytest.raises(LedgerError, match="readonly database"):
            ledger.request_cancel("x-1", [0])
    before = content_of(tmp_path)
    with Ledger.open_read_only(path) as ledger, pytest.raises(LedgerError, match="readonly database"):
        ledger.request_cancel("x-1", [0])
    assert content_of(tmp_path) == before


@pytest.mark.slow
def test_reading_beside_a_writer_of_this_process_keeps_its_locks(tmp_path: Path) -> None:
    """Closing a copy's descriptor would drop SQLite's own locks, and the next process would delete the log."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as writer:
        writer.freeze(SWEEP, [trial(0)], [SET])
        with Ledger.open_read_only(path) as ledger:
            assert ledger.sweeps() == [SWEEP]
        other = multiprocessing.get_context("forkserver").Process(target=_open_and_close, args=[str(path)])
        other.start()
        other.join()
        assert (tmp_path / "ledger.db-wal").exists()
        writer.freeze(SweepRecord("x-2", "x", 2.0, {}), [], [])
    with Ledger.open_read_only(path) as ledger:
        assert len(ledger.sweeps()) == 2


def _open_and_close(path: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute("SELECT count(*) FROM sweep").fetchone()
    connection.close()


@pytest.mark.process
def test_readers_beside_a_fast_writer_see_whole_commits(tmp_path: Path) -> None:
    """Each copy holds the latest commit or the one before, also when the log is restarted again and again."""
    path = tmp_path / "ledger.db"
    with Ledger(path) as ledger:
        ledger.freeze(SWEEP, [trial(0)], [SET])
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_write_fast, args=[str(path)])
    process.start()
    seen = 0
    while process.is_alive():
        with Ledger.open_read_only(path) as ledger:
            now = len(ledger.sweeps())
            assert all(len(ledger.trials(sweep.id)) == 20 for sweep in ledger.sweeps("fast"))
        assert now >= seen
        seen = now
    process.join()
    assert process.exitcode == 0
    with Ledger.open_read_only(path) as ledger:
        assert len(ledger.sweeps("fast")) == 40


def _write_fast(path: str) -> None:
    with Ledger(Path(path)) as ledger:
        ledger._file._connection.execute("PRAGMA wal_autocheckpoint = 20")
        for number in range(40):
            trials = [trial(n, f"{number}-{n}") for n in range(20)]
            ledger.freeze(SweepRecord(f"fast-{number:03}", "fast", float(number), {}), trials, [])


@pytest.mark.parametrize("format_", WRITTEN)
def test_an_archive_of_any_format_is_read_where_nothing_can_be_written(tmp_path: Path, format_: int) -> None:
    """A folder without the right to write is read as any other."""
    path = tmp_path / "archive" / "ledger.db"
    path.parent.mkdir()
    write_ledger(path, format_)
    path.parent.chmod(0o500)
    before = content_of(path.parent)
    try:
        with Ledger.open_read_only(path) as ledger:
            assert tuple(sweep.id for sweep in ledger.sweeps()) == SWEEPS[kept(format_)]
        assert content_of(path.parent) == before
    finally:
        path.parent.chmod(0o700)


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Reading it is an error, and its folder stays away too."""
    with pytest.raises(LedgerError, match="No such file"):
        Ledger.open_read_only(tmp_path / "runs" / "ledger.db")
    assert list(tmp_path.iterdir()) == []
