"""The SQLite ledger: the durable record of plans, jobs, snapshots and evaluations. It is the truth.

What it promises:

1. A frozen plan never changes: freezing the same sweep again is a no-op.
2. The intent of an outside effect is written before it, the result after it, each in a transaction of its own that
   is on disk when the call returns (`synchronous=FULL`).
3. A job only moves forward; SUCCEEDED, FAILED and CANCELLED are final.
4. Each step of a loss curve is kept once: what is recorded first stays.
5. Of one key there is at most one job that is not finished.

Write-ahead logging lets `status` and the tracker read while the runner writes. One `Ledger` object belongs to one
thread; each thread opens its own.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunerun.errors import LedgerError
from tunerun.job import (
    Example,
    ExampleSet,
    Failure,
    FailureKind,
    JobRef,
    JobState,
    JobStatus,
    Snapshot,
    TunedModel,
    TuningRequest,
    advance,
)
from tunerun.schema import Model, Scalar

SCHEMA_VERSION = 1

FILE_NAME = "ledger.db"
"""The ledger's file in a runs folder."""

_SCHEMA = """
CREATE TABLE sweep (
    id TEXT PRIMARY KEY, experiment TEXT NOT NULL, created_at REAL NOT NULL, document TEXT NOT NULL);
CREATE TABLE example_set (digest TEXT PRIMARY KEY, source TEXT NOT NULL, examples TEXT NOT NULL);
CREATE TABLE trial (
    sweep TEXT NOT NULL REFERENCES sweep, number INTEGER NOT NULL, key TEXT NOT NULL, baseline TEXT NOT NULL,
    evaluation TEXT NOT NULL, training TEXT NOT NULL REFERENCES example_set, validation TEXT REFERENCES example_set,
    tokens INTEGER NOT NULL, steps INTEGER NOT NULL, overrides TEXT NOT NULL, config TEXT NOT NULL,
    PRIMARY KEY (sweep, number));
CREATE INDEX trial_key ON trial (key);
CREATE TABLE job (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, attempt INTEGER NOT NULL, backend TEXT NOT NULL, model TEXT NOT NULL,
    tokens INTEGER NOT NULL, reference TEXT, state TEXT NOT NULL, metrics TEXT NOT NULL, tuned_model TEXT,
    failure TEXT, created_at REAL NOT NULL, started_at REAL, finished_at REAL, UNIQUE (key, attempt));
CREATE UNIQUE INDEX job_live ON job (key) WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED');
CREATE INDEX job_model ON job (backend, model, state);
CREATE TABLE snapshot (
    job INTEGER NOT NULL REFERENCES job, step INTEGER NOT NULL, epoch INTEGER NOT NULL, mean_loss REAL NOT NULL,
    compute_time REAL NOT NULL, PRIMARY KEY (job, step)) WITHOUT ROWID;
CREATE TABLE evaluation (
    subject TEXT NOT NULL, options TEXT NOT NULL, metrics TEXT NOT NULL, predictions TEXT NOT NULL,
    created_at REAL NOT NULL, PRIMARY KEY (subject, options));
CREATE TABLE mark (
    tracker TEXT NOT NULL, subject TEXT NOT NULL, run_id TEXT, document TEXT NOT NULL,
    PRIMARY KEY (tracker, subject));
"""


@dataclass(frozen=True)
class SweepRecord:
    """A frozen plan: `document` is what the plan said of the sweep as a whole, as JSON values."""

    id: str
    experiment: str
    created_at: float
    document: Mapping[str, Any]


@dataclass(frozen=True)
class TrialRecord:
    """A frozen trial.

    Attributes:
        baseline: the subject of the base model's evaluation that this trial is compared with.
        evaluation: digest of how it is measured; with the subject it names an evaluation.
        training, validation: digests of example sets; validation is None without held-out examples.
        tokens: training tokens over all epochs. steps: optimiser steps.
        config: the trial's whole resolved config, as JSON values.
    """

    number: int
    key: str
    baseline: str
    evaluation: str
    training: str
    validation: str | None
    tokens: int
    steps: int
    overrides: Mapping[str, Scalar]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class JobRecord:
    """A job: one attempt to tune the trials of one key."""

    id: int
    key: str
    attempt: int
    state: JobState
    ref: JobRef | None
    metrics: Mapping[str, float]
    tuned_model: TunedModel | None
    failure: Failure | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True)
class TrialProgress:
    """How far a trial is, without its curve and its predictions: cheap to ask again and again.

    Attributes:
        attempt: of its last job; 0 where there is none yet.
        state: of its last job; PLANNED where there is none yet.
        last_step: the highest step of that job's loss curve; 0 before the first snapshot.
        finished_at: when that job finished, in seconds since 1970 (UTC); None: it has not.
        evaluated_at: when the trial was measured, in the same unit; None: it was not.
    """

    number: int
    attempt: int
    state: JobState
    last_step: int
    finished_at: float | None
    evaluated_at: float | None


@dataclass(frozen=True)
class Prediction:
    """What a model answered to a held-out example, beside what it should have."""

    text_input: str
    expected: str
    predicted: str
    exact_match: bool


@dataclass(frozen=True)
class Evaluation:
    """Measures of one subject (a trial's key, or a baseline) on held-out examples."""

    metrics: Mapping[str, float]
    predictions: tuple[Prediction, ...]
    created_at: float


@dataclass(frozen=True)
class Mark:
    """How far a tracker has been brought for one subject."""

    run_id: str | None
    document: Mapping[str, Any]


class _Transaction:
    """BEGIN to COMMIT, or ROLLBACK on any error; a transaction that an interrupt cuts off ends with its connection.

    No generator, for what is left of one runs late, on a connection that is closed by then.
    """

    def __init__(self, connection: sqlite3.Connection, translated: Callable[[Exception], LedgerError]) -> None:
        self._connection = connection
        self._translated = translated

    def __enter__(self) -> None:
        self._execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._execute("COMMIT")
            return
        if self._connection.in_transaction:  # SQLite rolls back by itself when the disk is full
            self._execute("ROLLBACK")
        if isinstance(error, sqlite3.Error):
            raise self._translated(error) from error

    def _execute(self, statement: str) -> None:
        try:
            self._connection.execute(statement)
        except sqlite3.Error as error:
            raise self._translated(error) from error


class Ledger:
    """A connection to the ledger file; made with its folder if it is not there.

    Args:
        path: the SQLite file.

    Raises:
        LedgerError: the file is no ledger, is damaged, was written by a newer tunerun, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._create()
        except (sqlite3.Error, OSError) as error:
            raise self._translated(error) from error

    def _create(self) -> None:
        with self._transaction():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise LedgerError(
                    f"{self.path}: written by a newer tunerun (format {version}, this one knows {SCHEMA_VERSION}); "
                    "update tunerun, or choose another paths.runs"
                )
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _translated(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"{self.path}: {error}; the file was left as it is: check the disk and its rights, restore it from a "
            "backup, or choose another paths.runs"
        )

    def _transaction(self) -> _Transaction:
        return _Transaction(self._connection, self._translated)

    def _rows(self, query: str, parameters: Sequence[object] = ()) -> list[sqlite3.Row]:
        try:
            return self._connection.execute(query, parameters).fetchall()
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _row(self, query: str, parameters: Sequence[object] = ()) -> sqlite3.Row | None:
        rows = self._rows(query, parameters)
        return rows[0] if rows else None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Plans

    def freeze(self, sweep: SweepRecord, trials: Sequence[TrialRecord], example_sets: Iterable[ExampleSet]) -> None:
        """Write a plan down for good; a sweep that is frozen already stays as it is."""
        with self._transaction():
            if self._row("SELECT 1 FROM sweep WHERE id = ?", [sweep.id]):
                return
            self._connection.execute(
                "INSERT INTO sweep VALUES (?, ?, ?, ?)",
                [sweep.id, sweep.experiment, sweep.created_at, _dump(sweep.document)],
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO example_set VALUES (?, ?, ?)",
                ((s.digest, s.source, _dump([[e.text_input, e.output] for e in s.examples])) for s in example_sets),
            )
            self._connection.executemany(
                "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        sweep.id, t.number, t.key, t.baseline, t.evaluation, t.training, t.validation, t.tokens,
                        t.steps, _dump(t.overrides), _dump(t.config),
                    )
                    for t in trials
                ),
            )  # fmt: skip

    def sweeps(self, experiment: str | None = None) -> list[SweepRecord]:
        """All frozen sweeps, the newest last; of one experiment where it is named."""
        rows = self._rows(
            "SELECT * FROM sweep WHERE ? IS NULL OR experiment = ? ORDER BY created_at, id", [experiment, experiment]
        )
        return [SweepRecord(r["id"], r["experiment"], r["created_at"], json.loads(r["document"])) for r in rows]

    def trials(self, sweep: str) -> list[TrialRecord]:
        """The trials of a sweep, by number."""
        return [_trial(r) for r in self._rows("SELECT * FROM trial WHERE sweep = ? ORDER BY number", [sweep])]

    def progress(self, sweep: str) -> list[TrialProgress]:
        """How far each trial of a sweep is, by number."""
        rows = self._rows(
            "SELECT trial.number, job.attempt, job.state, job.finished_at, evaluation.created_at AS evaluated_at, "
            "(SELECT max(step) FROM snapshot WHERE snapshot.job = job.id) AS last_step FROM trial "
            "LEFT JOIN job ON job.key = trial.key AND job.attempt = "
            "(SELECT max(attempt) FROM job WHERE job.key = trial.key) "
            "LEFT JOIN evaluation ON evaluation.subject = trial.key AND evaluation.options = trial.evaluation "
            "WHERE trial.sweep = ? ORDER BY trial.number",
            [sweep],
        )
        return [
            TrialProgress(
                number=r["number"],
                attempt=r["attempt"] or 0,
                state=JobState(r["state"] or JobState.PLANNED),
                last_step=r["last_step"] or 0,
                finished_at=r["finished_at"],
                evaluated_at=r["evaluated_at"],
            )
            for r in rows
        ]

    def trials_of_key(self, key: str) -> list[TrialRecord]:
        """The trials of all sweeps that share a key, the oldest sweep first."""
        rows = self._rows(
            "SELECT trial.* FROM trial JOIN sweep ON sweep.id = trial.sweep WHERE key = ? ORDER BY created_at, number",
            [key],
        )
        return [_trial(r) for r in rows]

    def example_set(self, digest: str) -> ExampleSet:
        """The examples under a digest.

        Raises:
            LedgerError: there are none; a trial's digest is always there.
        """
        row = self._row("SELECT * FROM example_set WHERE digest = ?", [digest])
        if row is None:
            raise LedgerError(f"{self.path}: no examples under the digest {digest}")
        return ExampleSet(digest, row["source"], tuple(Example(*pair) for pair in json.loads(row["examples"])))

    # Jobs

    def intend(self, request: TuningRequest, backend: str, tokens: int) -> JobRecord:
        """Write down that a job is about to be submitted, and return it.

        Answers with the job of that key that is not finished or has succeeded, where there is one.
        """
        with self._transaction():
            row = self._row("SELECT * FROM job WHERE key = ? ORDER BY attempt DESC LIMIT 1", [request.key])
            if row is not None and row["state"] not in (JobState.FAILED, JobState.CANCELLED):
                return _job(row)
            attempt = 1 if row is None else row["attempt"] + 1
            self._connection.execute(
                "INSERT INTO job (key, attempt, backend, model, tokens, state, metrics, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, '{}', ?)",
                [request.key, attempt, backend, request.model.name, tokens, JobState.SUBMITTING, time.time()],
            )
        job = self.job(request.key)
        assert job is not None  # noqa: S101 - inserted above
        return job

    def submitted(self, job: int, ref: JobRef) -> None:
        """Write down that the backend accepted a job, and under which reference."""
        with self._transaction():
            self._connection.execute("UPDATE job SET reference = ? WHERE id = ?", [_dump(asdict(ref)), job])
            self._move(job, JobState.QUEUED)

    def _move(self, job: int, state: JobState) -> None:
        row = self._row("SELECT state, started_at FROM job WHERE id = ?", [job])
        if row is None:
            raise LedgerError(f"{self.path}: no job {job}")
        advance(JobState(row["state"]), state)
        now = time.time()
        started = now if row["started_at"] is None and state is JobState.RUNNING else row["started_at"]
        self._connection.execute(
            "UPDATE job SET state = ?, started_at = ?, finished_at = ? WHERE id = ?",
            [state, started, now if state.is_finished else None, job],
        )

    def record(self, job: int, status: JobStatus) -> None:
        """Write down what a backend says of a job: its state, and the snapshots and measures that are new.

        A finished job stays as it is; a state behind the one recorded is not taken.
        """
        with self._transaction():
            row = self._row("SELECT state FROM job WHERE id = ?", [job])
            if row is None:
                raise LedgerError(f"{self.path}: no job {job}")
            old = JobState(row["state"])
            if old.is_finished:
                return
            self._connection.executemany(
                "INSERT OR IGNORE INTO snapshot VALUES (?, ?, ?, ?, ?)",
                ((job, s.step, s.epoch, s.mean_loss, s.compute_time) for s in status.snapshots),
            )
            order = list(JobState)
            if old != status.state and order.index(status.state) > order.index(old):
                self._move(job, status.state)
            tuned, failure = status.tuned_model, status.failure
            self._connection.execute(
                "UPDATE job SET metrics = ?, tuned_model = ?, failure = ? WHERE id = ?",
                [
                    _dump(dict(status.metrics)),
                    _dump({**asdict(tuned), "model": tuned.model.model_dump()}) if tuned else None,
                    _dump(asdict(failure)) if failure else None,
                    job,
                ],
            )

    def job(self, key: str) -> JobRecord | None:
        """The last job of a key; None: there was none."""
        row = self._row("SELECT * FROM job WHERE key = ? ORDER BY attempt DESC LIMIT 1", [key])
        return None if row is None else _job(row)

    def final_states(self) -> dict[str, JobState]:
        """The state of every key whose last job is final; one that was lost or cancelled is not, it runs again."""
        rows = self._rows(
            "SELECT key, state FROM job AS last WHERE (state = 'SUCCEEDED' OR (state = 'FAILED' AND "
            "json_extract(failure, '$.kind') != ?)) AND attempt = (SELECT max(attempt) FROM job WHERE key = last.key)",
            [FailureKind.LOST],
        )
        return {row["key"]: JobState(row["state"]) for row in rows}

    def jobs(self, key: str) -> list[JobRecord]:
        """All jobs of a key, the first attempt first."""
        return [_job(r) for r in self._rows("SELECT * FROM job WHERE key = ? ORDER BY attempt", [key])]

    def job_of_tuned_model(self, name: str) -> JobRecord | None:
        """The job that made a tuned model, by its name; None: the ledger does not know it."""
        row = self._row("SELECT * FROM job WHERE json_extract(tuned_model, '$.name') = ? ORDER BY id DESC", [name])
        return None if row is None else _job(row)

    def snapshots(self, job: int, after_step: int = 0) -> list[Snapshot]:
        """The loss curve of a job, by step, from the step after the given one."""
        rows = self._rows("SELECT * FROM snapshot WHERE job = ? AND step > ? ORDER BY step", [job, after_step])
        return [Snapshot(r["step"], r["epoch"], r["mean_loss"], r["compute_time"]) for r in rows]

    def seconds_per_token(self, backend: str, model: str) -> float | None:
        """Training seconds per token of the jobs of a model that succeeded on a backend; None: there were none."""
        row = self._row(
            "SELECT sum(json_extract(metrics, '$.\"train/seconds\"')) / sum(tokens) FROM job "
            "WHERE backend = ? AND model = ? AND state = ? AND json_extract(metrics, '$.\"train/seconds\"') > 0",
            [backend, model, JobState.SUCCEEDED],
        )
        return None if row is None else row[0]

    # Evaluations

    def evaluate(self, subject: str, options: str, evaluation: Evaluation) -> None:
        """Write down how a subject did; the first result of the same subject and options stays."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR IGNORE INTO evaluation VALUES (?, ?, ?, ?, ?)",
                [
                    subject,
                    options,
                    _dump(dict(evaluation.metrics)),
                    _dump([asdict(p) for p in evaluation.predictions]),
                    evaluation.created_at,
                ],
            )

    def evaluation(self, subject: str, options: str) -> Evaluation | None:
        """How a subject did under some options; None: it was not measured."""
        row = self._row("SELECT * FROM evaluation WHERE subject = ? AND options = ?", [subject, options])
        if row is None:
            return None
        predictions = tuple(Prediction(**p) for p in json.loads(row["predictions"]))
        return Evaluation(json.loads(row["metrics"]), predictions, row["created_at"])

    def evaluated_at(self, subject: str, options: str) -> float | None:
        """When a subject was measured under some options, in seconds since 1970 (UTC); None: it was not."""
        row = self._row("SELECT created_at FROM evaluation WHERE subject = ? AND options = ?", [subject, options])
        return None if row is None else row["created_at"]

    # Marks of trackers

    def mark(self, tracker: str, subject: str) -> Mark | None:
        """How far a tracker was brought for a subject; None: it was never told of it."""
        row = self._row("SELECT * FROM mark WHERE tracker = ? AND subject = ?", [tracker, subject])
        return None if row is None else Mark(row["run_id"], json.loads(row["document"]))

    def marks(self, tracker: str, prefix: str) -> dict[str, Mark]:
        """How far a tracker was brought for all subjects that begin with a prefix, by subject."""
        rows = self._rows(
            "SELECT * FROM mark WHERE tracker = ? AND substr(subject, 1, ?) = ?", [tracker, len(prefix), prefix]
        )
        return {r["subject"]: Mark(r["run_id"], json.loads(r["document"])) for r in rows}

    def set_mark(self, tracker: str, subject: str, mark: Mark) -> None:
        """Write down how far a tracker was brought for a subject."""
        with self._transaction():
            self._connection.execute(
                "INSERT OR REPLACE INTO mark VALUES (?, ?, ?, ?)", [tracker, subject, mark.run_id, _dump(mark.document)]
            )

    def subject_of_run(self, run_id: str) -> str | None:
        """The subject a tracker's run shows; None: no run of ours."""
        row = self._row("SELECT subject FROM mark WHERE run_id = ?", [run_id])
        return None if row is None else row["subject"]


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _trial(row: sqlite3.Row) -> TrialRecord:
    return TrialRecord(
        number=row["number"],
        key=row["key"],
        baseline=row["baseline"],
        evaluation=row["evaluation"],
        training=row["training"],
        validation=row["validation"],
        tokens=row["tokens"],
        steps=row["steps"],
        overrides=json.loads(row["overrides"]),
        config=json.loads(row["config"]),
    )


def _job(row: sqlite3.Row) -> JobRecord:
    tuned = json.loads(row["tuned_model"]) if row["tuned_model"] else None
    failure = json.loads(row["failure"]) if row["failure"] else None
    return JobRecord(
        id=row["id"],
        key=row["key"],
        attempt=row["attempt"],
        state=JobState(row["state"]),
        ref=JobRef(**json.loads(row["reference"])) if row["reference"] else None,
        metrics=json.loads(row["metrics"]),
        tuned_model=TunedModel(tuned["name"], Model.model_validate(tuned["model"], strict=False), tuned["location"])
        if tuned
        else None,
        failure=Failure(FailureKind(failure["kind"]), failure["message"], failure["traceback"]) if failure else None,
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
