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

import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from tunerun import example_json
from tunerun.database import BUSY_TIMEOUT_S, DatabaseFile
from tunerun.errors import LedgerError
from tunerun.examples import ExampleSet
from tunerun.job import EpochLoss, FailureKind, JobRef, JobState, JobStatus, Snapshot, TuningRequest, advance
from tunerun.ledger.answers import LOSSES, AnswerTable
from tunerun.ledger.checksums import row_checksum, snapshot_checksum, with_checksum
from tunerun.ledger.marks import MarkTable
from tunerun.ledger.migrations import FORMAT
from tunerun.ledger.openings import OpeningTable
from tunerun.ledger.ratings import RATED, RatingTable
from tunerun.ledger.records import (
    BaselineRecord,
    JobRecord,
    Spending,
    SweepRecord,
    TrialProgress,
    TrialRecord,
)
from tunerun.ledger.rows import RowReader, dump, state_of
from tunerun.ledger.stops import STOPPED, StopTable
from tunerun.ledger.transfer import TransferTable
from tunerun.redaction import redact

FILE_NAME = "ledger.db"
"""The ledger's file in a runs folder."""

_LAST_JOB = "attempt = (SELECT max(attempt) FROM job AS other WHERE other.key = job.key)"
_TRAINED = "coalesce(CASE WHEN trained_on IS NOT NULL THEN json_extract(metrics, '$.\"tokens/train\"') END, tokens)"
"""Training tokens of a job: the engine's own count if known, since `tokens` leaves out what another job pays for."""

_NEVER_BEGAN = (
    "(started_at IS NULL AND NOT EXISTS (SELECT 1 FROM snapshot WHERE snapshot.job = job.id) "
    "AND (state = ? OR (state = ? AND json_extract(failure, '$.kind') = ?)))"
)
"""Condition of a job that was cancelled, or whose worker was lost, before training began."""

_OF_SWEEP = "key IN (SELECT key FROM trial WHERE sweep = ?)"


class Ledger(AnswerTable, MarkTable, OpeningTable, RatingTable, StopTable, TransferTable):
    """A connection to the ledger file, which is created with its folder if it does not exist.

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
            example_sets: every set that a trial names; one that another sweep recorded is kept.
            baselines: in the order of the sweep's tables.

        Raises:
            LedgerError: the file cannot be written; nothing of the plan is recorded then.
        """
        with self._file.transaction():
            if self.is_frozen(sweep.id):
                return
            self._file.write(
                "INSERT INTO sweep VALUES (?, ?, ?, ?, ?)",
                with_checksum(sweep.id, sweep.experiment, sweep.created_at, dump(sweep.document)),
            )
            self._file.write_many(
                "INSERT OR IGNORE INTO example_set VALUES (?, ?, ?, ?)",
                (
                    with_checksum(s.digest, s.source, dump(list(map(example_json.to_list, s.examples))))
                    for s in example_sets
                ),
            )
            self._write_trials(sweep.id, trials)
            self._write_baselines(sweep.id, baselines)

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

    # Jobs

    def intend(
        self, request: TuningRequest, backend: str, tokens: int, *, sweep: str | None = None, usd: float = 0.0
    ) -> JobRecord:
        """Record the intent to submit a job, and return the job.

        If the key has an unfinished or succeeded job already, of any sweep, that one is returned instead.

        Args:
            tokens: training tokens over all epochs, without those that jobs under way pay for.
            sweep: the sweep whose runner submits it.
            usd: what it will cost, in US dollars.
        """
        with self._file.transaction():
            row = self._file.row("SELECT * FROM job WHERE key = ? ORDER BY attempt DESC LIMIT 1", [request.key])
            if row is not None and row["state"] not in (JobState.FAILED, JobState.CANCELLED):
                return self._rows.job(row)
            attempt = 1 if row is None else row["attempt"] + 1
            inserted = self._file.insert(
                "INSERT INTO job (key, attempt, backend, model, tokens, state, metrics, created_at, sweep, usd, "
                "tuned_model_id) VALUES (?, ?, ?, ?, ?, ?, '{}', ?, ?, ?, ?)",
                [
                    request.key, attempt, backend, request.model.name, tokens, JobState.SUBMITTING, time.time(),
                    sweep, usd, request.tuned_model_id,
                ],
            )  # fmt: skip
            self._seal(inserted)
            return self._rows.job(self._job_row(inserted))

    def _job_row(self, job: int) -> sqlite3.Row:
        row = self._file.row("SELECT * FROM job WHERE id = ?", [job])
        if row is None:
            raise LedgerError(f"{self.path}: no job {job}")
        return self._rows.check("job", row)

    def _seal(self, job: int) -> None:
        """Update the checksum of a changed job."""
        row = self._file.row("SELECT * FROM job WHERE id = ?", [job])
        assert row is not None  # noqa: S101 - it was changed in this transaction
        self._file.write("UPDATE job SET checksum = ? WHERE id = ?", [row_checksum(*tuple(row)[:-1]), job])

    def adopt(self, job: JobRecord, sweep: str) -> bool:
        """Transfer a job to a sweep's runner; return False if another runner took it first.

        The caller must hold the lock of the previous owner's sweep.
        """
        with self._file.transaction():
            changed = self._file.write(
                "UPDATE job SET sweep = ? WHERE id = ? AND sweep IS ?", [sweep, job.id, job.sweep]
            )
            self._seal(job.id)
        return changed == 1

    def submitted(self, job: int, ref: JobRef) -> None:
        """Record that the backend accepted a job, with its reference."""
        with self._file.transaction():
            row = self._job_row(job)
            self._file.write("UPDATE job SET reference = ? WHERE id = ?", [dump(asdict(ref)), job])
            self._move(row, JobState.QUEUED)
            self._seal(job)

    def _move(self, row: sqlite3.Row, state: JobState) -> None:
        advance(state_of(row["state"]), state)
        now = time.time()
        started = now if row["started_at"] is None and state is JobState.RUNNING else row["started_at"]
        self._file.write(
            "UPDATE job SET state = ?, started_at = ?, finished_at = ? WHERE id = ?",
            [state, started, now if state.is_finished else None, row["id"]],
        )

    def record(self, job: int, status: JobStatus) -> None:
        """Record a backend's status of a job: its state, and new snapshots and measures.

        A finished job is not changed, and a state earlier than the recorded one is ignored.
        """
        self.record_all({job: status})

    def record_all(self, statuses: Mapping[int, JobStatus]) -> None:
        """As `record`, for many jobs in one transaction."""
        with self._file.transaction():
            for job, status in statuses.items():
                self._record(job, status)

    def _record(self, job: int, status: JobStatus) -> None:
        row = self._job_row(job)
        old = state_of(row["state"])
        if old.is_finished:
            return
        self._file.write_many(
            "INSERT OR IGNORE INTO snapshot VALUES (?, ?, ?, ?, ?, ?)",
            (
                (*values, snapshot_checksum(*values))
                for values in ((job, s.step, s.epoch, s.mean_loss, s.compute_time) for s in status.snapshots)
            ),
        )
        self._file.write_many(
            "INSERT OR IGNORE INTO epoch_loss VALUES (?, ?, ?, ?)",
            (with_checksum(job, one.epoch, one.loss) for one in status.validation),
        )
        order = list(JobState)
        if old != status.state and order.index(status.state) > order.index(old):
            self._move(row, status.state)
        tuned, failure = status.tuned_model, status.failure
        self._file.write(
            "UPDATE job SET metrics = ?, tuned_model = ?, failure = ?, trained_on = coalesce(?, trained_on) "
            "WHERE id = ?",
            [
                dump(dict(status.metrics)),
                self._rows.stored_tuned_model(tuned) if tuned else None,
                redact(dump(asdict(failure))) if failure else None,
                dump(asdict(status.trained_on)) if status.trained_on else None,
                job,
            ],
        )
        self._seal(job)

    def last_jobs(self, sweep: str) -> dict[str, JobRecord]:
        """Return the last job of each key of a sweep, by key; keys without a job are left out."""
        rows = self._file.rows(f"SELECT * FROM job WHERE {_OF_SWEEP} AND {_LAST_JOB}", [sweep])
        return {row["key"]: self._rows.job(row) for row in rows}

    def curves(self, sweep: str) -> dict[int, list[Snapshot]]:
        """Return the loss curves of all jobs of a sweep's keys, by job."""
        rows = self._file.rows(
            "SELECT snapshot.* FROM snapshot JOIN job ON job.id = snapshot.job "
            f"WHERE {_OF_SWEEP} ORDER BY snapshot.job, step",
            [sweep],
        )
        curves: dict[int, list[Snapshot]] = {}
        for row in rows:
            curves.setdefault(row["job"], []).append(self._rows.snapshot(row))
        return curves

    def validation_curves(self, sweep: str) -> dict[int, list[EpochLoss]]:
        """Return the validation losses after each epoch, by job, for the jobs of a sweep's keys that have some."""
        rows = self._file.rows(
            "SELECT epoch_loss.* FROM epoch_loss JOIN job ON job.id = epoch_loss.job "
            f"WHERE {_OF_SWEEP} ORDER BY epoch_loss.job, epoch",
            [sweep],
        )
        curves: dict[int, list[EpochLoss]] = {}
        for row in rows:
            curves.setdefault(row["job"], []).append(self._rows.epoch_loss(row))
        return curves

    def spending(self, sweep: str, *, under_way: bool = True) -> Spending:
        """Return the cost of the jobs that a sweep's runner has submitted.

        Jobs that were refused, or cancelled or lost before they began, do not count. The US dollars include the
        judgements that the sweep has asked for.

        Args:
            under_way: whether unfinished jobs count.
        """
        row = self._file.row(
            "SELECT count(*), coalesce(sum(tokens), 0), coalesce(sum(usd), 0.0) FROM job WHERE sweep = ? "
            f"AND (reference IS NOT NULL OR state = ?) AND (? OR finished_at IS NOT NULL) AND NOT {_NEVER_BEGAN}",
            [sweep, JobState.SUBMITTING, under_way, JobState.CANCELLED, JobState.FAILED, FailureKind.LOST],
        )
        assert row is not None  # noqa: S101 - a count has always a row
        jobs, tokens, usd = row
        return Spending(jobs, tokens, usd + self.judged_usd(sweep))

    # Cancelling

    def request_cancel(self, sweep: str, numbers: Iterable[int]) -> None:
        """Record a request to cancel trials of a sweep, which the sweep's runner polls."""
        with self._file.transaction():
            self._file.write_many("INSERT OR IGNORE INTO cancel_request VALUES (?, ?)", ((sweep, n) for n in numbers))

    def cancel_requests(self, sweep: str) -> frozenset[int]:
        """Return the numbers of the trials of a sweep that are to be cancelled."""
        rows = self._file.rows("SELECT number FROM cancel_request WHERE sweep = ?", [sweep])
        return frozenset(row["number"] for row in rows)

    def clear_cancel_requests(self, sweep: str) -> None:
        """Remove the requests, when the sweep is run again."""
        if self.cancel_requests(sweep):
            with self._file.transaction():
                self._file.write("DELETE FROM cancel_request WHERE sweep = ?", [sweep])

    # One job

    def job(self, key: str) -> JobRecord | None:
        """Return the last job of a key; None: it has none."""
        row = self._file.row("SELECT * FROM job WHERE key = ? ORDER BY attempt DESC LIMIT 1", [key])
        return None if row is None else self._rows.job(row)

    def final_states(self) -> dict[str, JobState]:
        """Return the states of all keys that are done: SUCCEEDED, or FAILED unless the worker was lost."""
        rows = self._file.rows(
            "SELECT * FROM job AS last WHERE (state = 'SUCCEEDED' OR (state = 'FAILED' AND "
            "json_extract(failure, '$.kind') != ?)) AND attempt = (SELECT max(attempt) FROM job WHERE key = last.key)",
            [FailureKind.LOST],
        )
        return {row["key"]: state_of(self._rows.check("job", row)["state"]) for row in rows}

    def jobs(self, key: str) -> list[JobRecord]:
        """Return all jobs of a key, the first attempt first."""
        return [
            self._rows.job(row) for row in self._file.rows("SELECT * FROM job WHERE key = ? ORDER BY attempt", [key])
        ]

    def job_of_tuned_model(self, name: str) -> JobRecord | None:
        """Return the job that made a tuned model, by the model's name; None: unknown."""
        row = self._file.row("SELECT * FROM job WHERE json_extract(tuned_model, '$.name') = ? ORDER BY id DESC", [name])
        return None if row is None else self._rows.job(row)

    def snapshots(self, job: int, after_step: int = 0) -> list[Snapshot]:
        """Return the loss curve of a job, by step, of the steps after `after_step`."""
        rows = self._file.rows("SELECT * FROM snapshot WHERE job = ? AND step > ? ORDER BY step", [job, after_step])
        return [self._rows.snapshot(row) for row in rows]

    def epoch_losses(self, job: int) -> list[EpochLoss]:
        """Return the validation losses after each epoch of a job; empty if they were not measured by epoch."""
        rows = self._file.rows("SELECT * FROM epoch_loss WHERE job = ? ORDER BY epoch", [job])
        return [self._rows.epoch_loss(row) for row in rows]

    def seconds_per_token(self) -> dict[tuple[str, str], float]:
        """Return the training seconds per token of succeeded jobs, by backend and base model."""
        rows = self._file.rows(
            f"SELECT backend, model, sum(json_extract(metrics, '$.\"train/seconds\"')) / sum({_TRAINED}) AS rate "
            "FROM job WHERE state = ? AND json_extract(metrics, '$.\"train/seconds\"') > 0 GROUP BY backend, model",
            [JobState.SUCCEEDED],
        )
        return {(row["backend"], row["model"]): row["rate"] for row in rows if row["rate"] is not None}


def _answered_at(held_out: str) -> str:
    return (
        "(SELECT max(created_at) FROM answers WHERE subject = trial.key AND held_out = "
        f"json_extract(trial.held_out, '$.{held_out}') AND (asked IN (trial.asked, '{LOSSES}') "
        f"OR asked LIKE '{RATED}%' OR asked LIKE '{STOPPED}%'))"
    )
