"""Jobs with their loss curves: the intent to submit one, its reference, and what its backend reports."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeVar

from tunerun.database import DatabaseFile
from tunerun.errors import LedgerError
from tunerun.job import EpochLoss, FailureKind, JobRef, JobState, JobStatus, Snapshot, TuningRequest, advance
from tunerun.ledger.checksums import row_checksum, snapshot_checksum, with_checksum
from tunerun.ledger.records import JobRecord, Spending
from tunerun.ledger.rows import RowReader, dump, state_of
from tunerun.redaction import redact

T = TypeVar("T")

_LAST_JOB = "attempt = (SELECT max(attempt) FROM job AS other WHERE other.key = job.key)"
_TRAINED = "coalesce(CASE WHEN trained_on IS NOT NULL THEN json_extract(metrics, '$.\"tokens/train\"') END, tokens)"
"""Training tokens of a job: the engine's own count if it is recorded, since `tokens` leaves out what another job pays
for."""

_NEVER_BEGAN = (
    "(started_at IS NULL AND NOT EXISTS (SELECT 1 FROM snapshot WHERE snapshot.job = job.id) "
    "AND (state = ? OR (state = ? AND json_extract(failure, '$.kind') = ?)))"
)
"""Condition of a job that was cancelled, or whose worker was lost, before training began."""

_OF_SWEEP = "key IN (SELECT key FROM trial WHERE sweep = ?)"


class JobTable:
    """The tables of jobs and curves; `Ledger` inherits it, so that all tables share one connection."""

    _file: DatabaseFile
    _rows: RowReader

    def intend(
        self, request: TuningRequest, backend: str, tokens: int, *, sweep: str | None = None, usd: float = 0.0
    ) -> JobRecord:
        """Record the intent to submit a job, and return the job.

        If the key has an unfinished or succeeded job already, of any sweep, that one is returned instead.

        Args:
            request: what is submitted.
            backend: the kind of the backend.
            tokens: training tokens over all epochs, without those that jobs under way pay for.
            sweep: the sweep whose runner submits it.
            usd: what it will cost, in US dollars.
        """
        with self._file.transaction():
            # In the insert's transaction, so that of two runners that start the same key one finds the other's job.
            row = self._file.row("SELECT * FROM job WHERE key = ? ORDER BY attempt DESC LIMIT 1", [request.key])
            if row is not None and row["state"] not in (JobState.FAILED, JobState.CANCELLED):
                return self._rows.job(row)
            attempt = 1 if row is None else row["attempt"] + 1
            # A unique index allows one unfinished job of a key, whatever two processes do at once.
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
            raise LedgerError(f"{self._file.path}: no job {job}")
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
            # IS and not =: jobs of format 1 have no owner, and NULL = NULL is not true.
            changed = self._file.write(
                "UPDATE job SET sweep = ? WHERE id = ? AND sweep IS ?", [sweep, job.id, job.sweep]
            )
            self._seal(job.id)
        return changed == 1

    def submitted(self, job: int, ref: JobRef) -> None:
        """Record that the backend accepted a job, with its reference."""
        # Until then the job is SUBMITTING: the next run submits it again, and the backend finds it by its key.
        with self._file.transaction():
            row = self._job_row(job)
            self._file.write("UPDATE job SET reference = ? WHERE id = ?", [dump(asdict(ref)), job])
            self._move(row, JobState.QUEUED)
            self._seal(job)

    def _move(self, row: sqlite3.Row, state: JobState) -> None:
        advance(state_of(row["state"]), state)  # raises if the job may not go there
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
        order = list(JobState)  # as a job passes them: a poll that was under way may report an earlier state
        with self._file.transaction():
            for job, status in statuses.items():
                row = self._job_row(job)
                old = state_of(row["state"])
                if old.is_finished:
                    continue
                # OR IGNORE: a backend that was restarted may report steps again; what is recorded first stays.
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
        return self._by_job("snapshot", "step", sweep, self._rows.snapshot)

    def validation_curves(self, sweep: str) -> dict[int, list[EpochLoss]]:
        """Return the validation losses after each epoch, by job, for the jobs of a sweep's keys that have some."""
        return self._by_job("epoch_loss", "epoch", sweep, self._rows.epoch_loss)

    def _by_job(self, table: str, order: str, sweep: str, read: Callable[[sqlite3.Row], T]) -> dict[int, list[T]]:
        rows = self._file.rows(
            f"SELECT {table}.* FROM {table} JOIN job ON job.id = {table}.job "
            f"WHERE {_OF_SWEEP} ORDER BY {table}.job, {order}",
            [sweep],
        )
        curves: dict[int, list[T]] = {}
        for row in rows:
            curves.setdefault(row["job"], []).append(read(row))
        return curves

    def spending(self, sweep: str, *, under_way: bool = True) -> Spending:
        """Return the cost of the jobs that a sweep's runner has submitted.

        Jobs that were refused, or cancelled or lost before they began, do not count. The US dollars include the
        judgements that the sweep has asked for.

        Args:
            sweep: its id.
            under_way: whether unfinished jobs count.
        """
        row = self._file.row(
            "SELECT count(*), coalesce(sum(tokens), 0), coalesce(sum(usd), 0.0) FROM job WHERE sweep = ? "
            f"AND (reference IS NOT NULL OR state = ?) AND (? OR finished_at IS NOT NULL) AND NOT {_NEVER_BEGAN}",
            [sweep, JobState.SUBMITTING, under_way, JobState.CANCELLED, JobState.FAILED, FailureKind.LOST],
        )
        judged = self._file.row("SELECT coalesce(sum(usd), 0.0) FROM rating WHERE sweep = ?", [sweep])
        assert row is not None  # noqa: S101 - an aggregate always has a row
        assert judged is not None  # noqa: S101
        jobs, tokens, usd = row
        return Spending(jobs, tokens, usd + judged[0])

    def job(self, key: str) -> JobRecord | None:
        """Return the last job of a key; None: it has none."""
        row = self._file.row("SELECT * FROM job WHERE key = ? ORDER BY attempt DESC LIMIT 1", [key])
        return None if row is None else self._rows.job(row)

    def final_states(self) -> dict[str, JobState]:
        """Return the states of all keys that are not run again: SUCCEEDED, or FAILED unless the worker was lost."""
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
        """Return the job that made a tuned model, by the model's name, the newest of several; None: there is none."""
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
