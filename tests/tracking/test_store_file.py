"""The store's SQLite file: half made, damaged, deleted, locked, of another program, on a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.tracking.content import content, runs
from tests.tracking.sweeps import Lab, complete, freeze
from tunerun.testing.waiting import wait_until
from tunerun.tracking import Tracker


def change(file: Path, *statements: str) -> None:
    """Execute statements in the file."""
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def cut(file: Path) -> None:
    """Keep half of the file, with a journal that a killed writer has left."""
    file.with_name("mlflow.db-journal").write_bytes(b"\xd9\xd5\x05\xf9" * 200)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_page(file: Path, name: str = "runs") -> None:
    """Overwrite the first page of a table or an index; that of runs is read when a run is created."""
    with closing(sqlite3.connect(file)) as connection:
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [name]).fetchone()
        [size] = connection.execute("PRAGMA page_size").fetchone()
    content = bytearray(file.read_bytes())
    content[(page - 1) * size : page * size] = b"\xff" * size
    file.write_bytes(content)


def stop_before_the_end(file: Path) -> None:
    """As a process leaves it that was killed within a step: the step's table is there, its version is not."""
    change(file, "UPDATE alembic_version SET version_num = (SELECT '4465047574b1')", "DROP TABLE review_queues")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "text": lambda file: file.write_text("not a database, by any measure"),
    "half a file": cut,
    "a page of noise": flip_a_page,
    "no table": lambda file: change(file, "DROP TABLE datasets"),
    "killed within a step": stop_before_the_end,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_store_that_cannot_be_used_is_rebuilt_from_the_ledger(
    lab: Lab, uri: str, new_store: Callable[[str], str], damage: str
) -> None:
    """The next command makes a half-made or damaged store again, says so, and keeps the old file."""
    complete(lab)
    Tracker(lab.ledger.path, other := new_store("other")).sync()
    file = Path(uri.removeprefix("sqlite:///"))
    DAMAGE[damage](file)
    size = file.stat().st_size
    tracker = Tracker(lab.ledger.path, uri)
    report = tracker.sync()
    assert report.problem is None
    assert content(uri) == content(other)
    assert tracker.notice is not None
    [kept] = file.parent.glob("mlflow.db.replaced-*")
    assert f"made again, the old file kept as {kept.name}; its runs come from the ledger" in tracker.notice
    assert kept.stat().st_size == size
    assert sorted(path.name for path in file.parent.iterdir() if path.is_file()) == [
        "mlflow.db", "mlflow.db.lock", kept.name,
    ]  # fmt: skip
    assert Tracker(lab.ledger.path, uri).sync().runs == 0


@pytest.mark.slow
def test_a_database_of_another_program_is_left_alone(lab: Lab) -> None:
    """A tracking URI that names the ledger itself is refused, and no byte of it changes."""
    complete(lab)
    before = list(lab.ledger.path.parent.glob("*"))
    report = Tracker(lab.ledger.path, f"sqlite:///{lab.ledger.path}").sync()
    assert report.problem is not None
    assert "ledger.db is a database of another program; choose another tracking.uri" in report.problem
    assert lab.ledger.job(lab.trials[0].key) is not None
    assert {p.name for p in lab.ledger.path.parent.glob("*")} - {p.name for p in before} == {
        "ledger.db.lock", "ledger.db.tracker.lock",
    }  # fmt: skip


def test_the_store_of_a_newer_mlflow_is_left_alone(lab: Lab, uri: str) -> None:
    """A schema that this MLflow does not know is refused with the way out, and the file stays as it is."""
    file = Path(uri.removeprefix("sqlite:///"))
    change(file, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = file.read_bytes()
    report = Tracker(lab.ledger.path, uri).sync()
    assert report.problem is not None
    assert "was written by a newer MLflow (schema ffffffffffff); install that version" in report.problem
    assert file.read_bytes() == before


def test_a_damaged_store_of_a_newer_mlflow_is_left_alone(lab: Lab, uri: str) -> None:
    """Whose file it is is decided before its runs are read, so that what cannot be read in it is not replaced."""
    file = Path(uri.removeprefix("sqlite:///"))
    change(file, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    flip_a_page(file, "sqlite_autoindex_runs_1")
    before = file.read_bytes()
    report = Tracker(lab.ledger.path, uri).sync()
    assert report.problem is not None
    assert "was written by a newer MLflow" in report.problem
    assert file.read_bytes() == before


def test_an_older_store_is_brought_up_to_date_on_a_copy(lab: Lab, uri: str) -> None:
    """A store with runs and an older schema keeps its runs; the old file stays beside it."""
    complete(lab)
    Tracker(lab.ledger.path, uri).sync()
    before = content(uri)
    file = Path(uri.removeprefix("sqlite:///"))
    downgrade = "from mlflow.store.db import utils as u; from alembic import command; import sys;"
    downgrade += "command.downgrade(u._get_alembic_config(sys.argv[1]), '-1')"
    subprocess.run([sys.executable, "-c", downgrade, uri], check=True, capture_output=True)
    tracker = Tracker(lab.ledger.path, uri)
    assert tracker.sync().problem is None
    assert content(uri) == before
    assert tracker.notice is not None
    assert "was of an older MLflow: brought up to date, the old file kept beside it" in tracker.notice
    assert len(list(file.parent.glob("mlflow.db.replaced-*"))) == 1


def test_a_store_that_is_deleted_during_a_run_comes_back_whole(
    lab: Lab, uri: str, new_store: Callable[[str], str]
) -> None:
    """Deleted between two turns, the store is made again with everything that it had shown, and a message says so."""
    file = Path(uri.removeprefix("sqlite:///"))
    with Tracker(lab.ledger.path, uri, interval_s=0.05) as tracker:
        tracker.start(lab.sweep.id)
        lab.finish(0, right=2)
        wait_until(lambda: 0 in tracker.run_ids(lab.ledger, lab.sweep.id), "the first trial is shown")
        file.unlink()
        wait_until(lambda: tracker.notice is not None, "the store is made again")
        lab.finish(1)
        lab.finish(2)
        lab.measure_base()
    assert tracker.problem is None
    assert tracker.notice is not None
    assert "was not there: made again from the ledger" in tracker.notice
    Tracker(lab.ledger.path, other := new_store("other")).sync()
    assert content(uri) == content(other)


def test_other_sweeps_come_back_too(lab: Lab, uri: str, made_store: Path) -> None:
    """After a loss the next run of one sweep brings back those of the others that MLflow had received."""
    other = freeze(lab.ledger, "other-1", name="other")
    other.finish(0)
    complete(lab)
    Tracker(lab.ledger.path, uri).sync()
    before = content(uri)
    Path(uri.removeprefix("sqlite:///")).unlink()
    with Tracker(lab.ledger.path, uri, interval_s=0.05) as tracker:
        tracker.start(lab.sweep.id)
        # Not by MLflow's runs: a connection of this process still reads the deleted file.
        wait_until(
            lambda: tracker.notice is not None and 0 in tracker.run_ids(lab.ledger, other.sweep.id),
            "the other sweep's trial is back",
        )
    assert content(uri) == before


def test_a_store_that_is_locked_is_not_damaged(lab: Lab, uri: str) -> None:
    """While another program has the file to itself, each turn says so and the next one goes through."""
    complete(lab)
    file = Path(uri.removeprefix("sqlite:///"))
    tracker = Tracker(lab.ledger.path, uri)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        report = tracker.sync()
        assert report.problem is not None
        assert "database is locked; nothing is lost" in report.problem
        other.execute("ROLLBACK")
    assert tracker.sync().problem is None
    assert tracker.notice is None
    assert len(runs(uri)) == 5


@pytest.mark.process
def test_a_full_disk_leaves_no_half_made_store(lab: Lab, tmp_path: Path) -> None:
    """Where there is no room for a new store nothing is left of it, and the next command makes it."""
    complete(lab)
    uri = f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}"
    program = (
        "import resource, sys; from pathlib import Path; from tunerun.tracking import Tracker;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000));"
        "sys.exit(Tracker(Path(sys.argv[1]), sys.argv[2]).sync().problem)"
    )
    full = subprocess.run([sys.executable, "-c", program, str(lab.ledger.path), uri], capture_output=True, check=False)
    assert full.returncode == 1
    assert b"nothing is lost: the ledger has it" in full.stderr
    assert b"Traceback" not in full.stderr
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["mlflow.db.lock"]
    assert Tracker(lab.ledger.path, uri).sync().problem is None
    assert len(runs(uri)) == 5
