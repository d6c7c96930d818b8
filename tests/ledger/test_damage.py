"""Bytes that change on the disk are found when they are read."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import resource
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ledger.test_ledger import ASKED, BASE, MODEL, SET, SWEEP, request, snapshot, trial
from tunerun.comparison import judge
from tunerun.errors import LedgerError
from tunerun.files import private_folder
from tunerun.job import EpochLoss, Failure, FailureKind, JobRef, JobState, JobStatus, TunedModel
from tunerun.ledger import Ledger
from tunerun.locks import held

FLIPS = 400
TRIALS = 12


def write(path: Path) -> None:
    """A ledger with a sweep, finished jobs with curves, answers and an opening."""
    with Ledger(path) as ledger:
        held_out = {"validation": "d1", "test": "d1"}
        trials = [replace(trial(n, f"k{n}"), held_out=held_out) for n in range(TRIALS)]
        ledger.freeze(SWEEP, trials, [SET], [BASE])
        ledger.open_test("x-1", [1], 5.0)
        ledger.record_answers("b", "d1", ASKED, ["neither", "nor"])
        for number in range(TRIALS):
            job = ledger.intend(request(f"k{number}"), "local", 10, sweep="x-1")
            ledger.submitted(job.id, JobRef("local", f"{number}"))
            steps = tuple(snapshot(step, 1 / step) for step in range(1, 9))
            failure = Failure(FailureKind.DIVERGED, "too fast", "Traceback") if number == 0 else None
            tuned = None if failure else TunedModel(f"tunedModels/{number}", MODEL, f"tunedModels/{number}")
            state = JobState.FAILED if failure else JobState.SUCCEEDED
            losses = tuple(EpochLoss(epoch, 1 / epoch) for epoch in range(1, 9))
            ledger.record(job.id, JobStatus(state, steps, {"train/seconds": 2.0}, tuned, failure, losses))
            ledger.record_answers(f"k{number}", "d1", ASKED, ["2", "an answer"])


def read(path: Path) -> Any:
    """Everything that commands read."""
    with Ledger.open_read_only(path) as ledger:
        (sweep,) = ledger.sweeps()
        trials = ledger.trials(sweep.id)
        return (
            sweep,
            [(t, dict(t.config)) for t in trials],
            ledger.example_set("d1"),
            ledger.last_jobs(sweep.id),
            ledger.curves(sweep.id),
            ledger.validation_curves(sweep.id),
            ledger.baselines(sweep.id),
            ledger.answers_of_sweep(sweep.id),
            ledger.openings(sweep.id),
            ledger.final_states(),
            [(ledger.jobs(t.key), ledger.answers(t.key, "d1", t.asked)) for t in trials],
            judge(ledger, sweep),
        )


@pytest.mark.process
def test_a_flipped_byte_is_found_or_was_not_read(tmp_path: Path) -> None:
    """Wherever it is: an error in one line, or exactly what was written; never a wrong value, never another error."""
    path, harmed = tmp_path / "ledger.db", tmp_path / "harmed.db"
    write(path)
    whole, written = path.read_bytes(), read(path)
    chance, messages = random.Random(8), list[str]()
    for _ in range(FLIPS):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        harmed.write_bytes(content)
        try:
            assert read(harmed) == written
        except LedgerError as error:
            messages.append(str(error))
    assert len(messages) > FLIPS / 10
    assert all(message.startswith(f"{harmed}: ") and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"SUCCEEDED", b"SUCCEEDEE"),
        (b'"an answer"', b'"on answer"'),
        (b"too fast", b"too \xff\xfest"),
    ],
)
def test_a_changed_value_is_an_error(tmp_path: Path, old: bytes, new: bytes) -> None:
    """A state, an answer, and a text that is not UTF-8 any more."""
    path = tmp_path / "ledger.db"
    write(path)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    with pytest.raises(LedgerError, match=r"ledger.db: .*(damaged|UTF-8).*restore it from a backup"):
        read(path)


def test_a_busy_ledger_is_not_called_damaged(tmp_path: Path) -> None:
    """It names the process that runs something there, and says to wait; nothing is to be restored."""
    path = tmp_path / "ledger.db"
    write(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with held(tmp_path, "x-1"), Ledger(path, busy_timeout_s=0.01) as ledger:
        with pytest.raises(
            LedgerError, match=r"locked: process \d+ on .* \(running x-1\) is writing it; .*wait"
        ) as caught:
            ledger.request_cancel("x-1", [0])
        assert "damaged" not in str(caught.value)
        assert "backup" not in str(caught.value)
    other.close()


def _open_without_descriptors(path: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
    kept = []
    message = ""
    with contextlib.suppress(OSError):
        while True:
            kept.append(os.open(os.devnull, os.O_RDONLY))
    for opening in (lambda: Ledger(Path(path)), lambda: Ledger.open_read_only(Path(path)), lambda: _hold(Path(path))):
        try:
            opening()
        except LedgerError as error:
            message += f"{error}\n"
    os.close(kept.pop())
    Path(path).with_suffix(".message").write_text(message)


def _hold(path: Path) -> None:
    with held(path.parent, "x-1"):
        pass


@pytest.mark.process
def test_too_few_descriptors_are_said(tmp_path: Path) -> None:
    """Opening for writing, for reading and holding a sweep each name the limit, not a damaged file."""
    path = tmp_path / "ledger.db"
    write(path)
    process = multiprocessing.get_context("spawn").Process(target=_open_without_descriptors, args=[str(path)])
    process.start()
    process.join()
    lines = path.with_suffix(".message").read_text().splitlines()
    assert len(lines) == 3
    assert all("ulimit -n" in line for line in lines), lines


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_a_new_runs_folder_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    """Whichever of the ledger, a lock and the engine's log is made first; an existing folder keeps its permissions."""
    before = os.umask(umask)
    try:
        write(tmp_path / "a" / "ledger.db")
        _hold(tmp_path / "b" / "ledger.db")
        private_folder(tmp_path / "c")
        (tmp_path / "d").mkdir(mode=0o755)
        (tmp_path / "d").chmod(0o755)
        write(tmp_path / "d" / "ledger.db")
    finally:
        os.umask(before)
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in "abcd"}
    assert modes == {"a": 0o700, "b": 0o700, "c": 0o700, "d": 0o755}
