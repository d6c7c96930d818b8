"""The SQLite ledger: the durable record of plans, jobs, snapshots and answers. It is the truth.

Its guarantees, whenever its process is killed:

1. A frozen plan never changes: freezing the same sweep again is a no-op, and nothing else writes to its trials.
2. The intent of an outside effect is on disk before the effect, its result after it, each in a transaction of its own.
   So a job that may exist somewhere is known here, by the key under which the backend can be asked for it.
3. A key has at most one unfinished job, and no job is begun after one that has succeeded.
4. A job only moves forward; SUCCEEDED, STOPPED, FAILED and CANCELLED are final: nothing is added to a final job.
5. Each step of a loss curve, and each epoch's validation loss, is kept once: what is recorded first stays. The same
   holds for a subject's answers.
6. A job is submitted and watched by the runner of one sweep at a time. Ownership moves only while holding the lock of
   the previous owner's sweep (`tunerun.locks`), which is released when its process ends.
7. What was sent to a tracker is marked after it was sent, so a mark never claims more than the tracker has.
8. A file that is damaged, of another program or of a newer tunerun is refused before anything is written to it; an
   older one is migrated in one transaction when it is opened for writing (`tunerun.ledger.migrations`).
9. A reader changes nothing in its folder.
10. A row whose bytes have changed on the disk fails its checksum when it is read, which is an error.
11. Adapters are recorded relative to the runs folder: it can be moved, and a copy uses its own adapters.
12. The opening of a test set is on disk before any model is asked about its rows.

One `Ledger` object belongs to one thread; each thread opens its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from tunerun import example_json
from tunerun.database import BUSY_TIMEOUT_S, DatabaseFile
from tunerun.errors import LedgerError
from tunerun.examples import ExampleSet
from tunerun.job import JobState
from tunerun.ledger.answers import LOSSES, AnswerTable
from tunerun.ledger.jobs import JobTable
from tunerun.ledger.marks import MarkTable
from tunerun.ledger.migrations import FORMAT
from tunerun.ledger.openings import OpeningTable
from tunerun.ledger.ratings import RATED, RatingTable
from tunerun.ledger.records import BaselineRecord, SweepRecord, TrialProgress, TrialRecord
from tunerun.ledger.rows import RowReader, dump, state_of
from tunerun.ledger.stops import STOPPED, StopTable
from tunerun.ledger.transfer import TransferTable

FILE_NAME = "ledger.db"
"""The ledger's file in a runs folder."""


class Ledger(AnswerTable, JobTable, MarkTable, OpeningTable, RatingTable, StopTable, TransferTable):
    """A connection to the ledger file, which is created with its folder if it does not exist.

    Plans and requests to cancel are here; each other table has a class in a file of its own, which this one inherits so
    that all share one connection and one transaction can write to several.

    Args:
        path: the SQLite file.
        read_only: see `open_read_only`.
        busy_timeout_s: how long to wait for another process that writes.

    Raises:
        LedgerError: the file is not a ledger, is damaged, was written by a newer tunerun, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self._file = DatabaseFile(path, FORMAT, read_only=read_only, busy_timeout_s=busy_timeout_s)
        self._rows = RowReader(path)

    @classmethod
    def open_read_only(cls, path: Path) -> Self:
        """Open the ledger as it is now, of any format up to this one; nothing in its folder is changed.

        Raises:
            LedgerError: as for writing; also if the file does not exist.
        """
        return cls(path, read_only=True)

    def close(self) -> None:
        """Close the connection; a copy that was read is removed."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Plans

    def is_frozen(self, sweep: str) -> bool:
        """Whether the plan of a sweep is recorded."""
        return self._file.row("SELECT 1 FROM sweep WHERE id = ?", [sweep]) is not None

    def freeze(
        self,
        sweep: SweepRecord,
        trials: Iterable[TrialRecord],
        example_sets: Iterable[ExampleSet],
        baselines: Iterable[BaselineRecord] = (),
    ) -> None:
        """Record a plan permanently; a sweep that is frozen already is not changed.

        Args:
            sweep: the plan as a whole.
            trials: numbered from 0.
            example_sets: every set that a trial names; one that another sweep recorded is kept.
            baselines: in the order of the sweep's tables.

        Raises:
            LedgerError: the file cannot be written; nothing of the plan is recorded then.
        """
        with self._file.transaction():
            # A run that continues a sweep after a kill comes here again: it goes by the plan that was frozen.
            if self.is_frozen(sweep.id):
                return
            rows = ((s.digest, s.source, dump(list(map(example_json.to_list, s.examples)))) for s in example_sets)
            self._write_plan(sweep, trials, baselines, rows)

    def sweeps(self, experiment: str | None = None) -> list[SweepRecord]:
        """Return all frozen sweeps, the newest last; of one experiment if it is named."""
        # Ordered by insertion, not by time: the clock may be set back between two sweeps.
        rows = self._file.rows(
            "SELECT * FROM sweep WHERE ? IS NULL OR experiment = ? ORDER BY rowid", [experiment, experiment]
        )
        return [self._rows.sweep(row) for row in rows]

    def trials(self, sweep: str) -> list[TrialRecord]:
        """Return the trials of a sweep, by number."""
        return [
            self._rows.trial(row)
            for row in self._file.rows("SELECT * FROM trial WHERE sweep = ? ORDER BY number", [sweep])
        ]

    def baselines(self, sweep: str) -> list[BaselineRecord]:
        """Return the baselines of a sweep, in the order of its tables."""
        rows = self._file.rows("SELECT * FROM baseline WHERE sweep = ? ORDER BY position", [sweep])
        return [self._rows.baseline(row) for row in rows]

    def progress(self, sweep: str) -> list[TrialProgress]:
        """Return the progress of each trial of a sweep, by number."""
        rows = self._file.rows(
            "SELECT trial.number, job.attempt, job.state, job.finished_at, job.sweep AS runner, "
            f"{_answered_at('validation')} AS evaluated_at, {_answered_at('test')} AS tested_at, "
            "(SELECT max(step) FROM snapshot WHERE snapshot.job = job.id) AS last_step FROM trial "
            "LEFT JOIN job ON job.key = trial.key AND job.attempt = "
            "(SELECT max(attempt) FROM job WHERE job.key = trial.key) "
            "WHERE trial.sweep = ? ORDER BY trial.number",
            [sweep],
        )
        return [
            TrialProgress(
                number=r["number"],
                attempt=r["attempt"] or 0,
                state=state_of(r["state"] or JobState.PLANNED),
                last_step=r["last_step"] or 0,
                finished_at=r["finished_at"],
                evaluated_at=r["evaluated_at"],
                runner=r["runner"],
                tested_at=r["tested_at"],
            )
            for r in rows
        ]

    def shared_trials(self, sweep: str) -> list[tuple[str, str, int]]:
        """Return key, sweep and number of all trials that share a key with a sweep's trials, the oldest sweep first."""
        rows = self._file.rows(
            "SELECT key, sweep, number FROM trial JOIN sweep ON sweep.id = trial.sweep "
            "WHERE key IN (SELECT key FROM trial WHERE sweep = ?) ORDER BY sweep.rowid, number",
            [sweep],
        )
        return [(row["key"], row["sweep"], row["number"]) for row in rows]

    def newest_sweep_of_key(self, key: str) -> SweepRecord | None:
        """Return the newest sweep that has a trial of this key; None: no sweep has."""
        row = self._file.row(
            "SELECT sweep.* FROM sweep JOIN trial ON trial.sweep = sweep.id WHERE key = ? ORDER BY sweep.rowid DESC",
            [key],
        )
        return None if row is None else self._rows.sweep(row)

    def trials_of_key(self, key: str) -> list[TrialRecord]:
        """Return the trials of a key in all sweeps, the oldest sweep first."""
        rows = self._file.rows(
            "SELECT trial.* FROM trial JOIN sweep ON sweep.id = trial.sweep WHERE key = ? ORDER BY sweep.rowid, number",
            [key],
        )
        return [self._rows.trial(row) for row in rows]

    def example_set(self, digest: str) -> ExampleSet:
        """Return the examples of a digest.

        Raises:
            LedgerError: the digest is unknown, which is never so for a trial's digest.
        """
        row = self._file.row("SELECT * FROM example_set WHERE digest = ?", [digest])
        if row is None:
            raise LedgerError(f"{self.path}: no examples under the digest {digest}")
        return self._rows.example_set(row)

    # Cancelling

    def request_cancel(self, sweep: str, numbers: Iterable[int]) -> None:
        """Record a request to cancel trials of a sweep."""
        # The runner polls for it, since no other process writes the state of a job.
        with self._file.transaction():
            self._file.write_many("INSERT OR IGNORE INTO cancel_request VALUES (?, ?)", ((sweep, n) for n in numbers))

    def cancel_requests(self, sweep: str) -> frozenset[int]:
        """Return the numbers of the trials of a sweep that are to be cancelled."""
        rows = self._file.rows("SELECT number FROM cancel_request WHERE sweep = ?", [sweep])
        return frozenset(row["number"] for row in rows)

    def clear_cancel_requests(self, sweep: str) -> None:
        """Remove the requests, when the sweep is run again."""
        # A transaction waits for other writers, so without a request there is none.
        if self.cancel_requests(sweep):
            with self._file.transaction():
                self._file.write("DELETE FROM cancel_request WHERE sweep = ?", [sweep])


def _answered_at(held_out: str) -> str:
    # Judgements and early stops count as answers: what is shown of a trial changes with them.
    return (
        "(SELECT max(created_at) FROM answers WHERE subject = trial.key AND held_out = "
        f"json_extract(trial.held_out, '$.{held_out}') AND (asked IN (trial.asked, '{LOSSES}') "
        f"OR asked LIKE '{RATED}%' OR asked LIKE '{STOPPED}%'))"
    )
