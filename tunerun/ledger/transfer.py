"""Reads and writes whole rows of a sweep, for its portable form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from json import JSONDecoder
from json.decoder import scanstring  # type: ignore[attr-defined] # typeshed lacks it
from typing import Annotated, Any

from pydantic import BeforeValidator

from tunerun.database import DatabaseFile
from tunerun.ledger.checksums import row_checksum, snapshot_checksum, with_checksum
from tunerun.ledger.records import BaselineRecord, Opening, SweepRecord, TrialRecord
from tunerun.ledger.rows import RowReader, dump, load

Loss = Annotated[float, BeforeValidator(lambda value: float(value) if value in ("inf", "nan") else value)]
"""A loss that diverged, which JSON cannot represent, is the text `inf` or `nan`."""

ExampleText = tuple[str, str, str]
"""An example as JSON texts: input, output, and the object of earlier turns and system message (empty: none)."""

_OBJECTS = JSONDecoder()
_OF_SWEEP = "key IN (SELECT key FROM trial WHERE sweep = ?)"


@dataclass(frozen=True)
class WholeJob:
    """A job with all its columns and curves; `JobRecord` has only what the runner and the comparison need.

    Attributes:
        usd: what it cost, in US dollars.
        tuned_model: as the ledger stores it: an adapter by its `folder` in the runs folder.
        snapshots: step, epoch, mean loss, time.
        epoch_losses: epoch, loss.
    """

    id: int
    key: str
    attempt: int
    backend: str
    model: str
    tokens: int
    state: str
    created_at: float
    reference: dict[str, Any] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    tuned_model: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    started_at: float | None = None
    finished_at: float | None = None
    sweep: str | None = None
    usd: float = 0.0
    tuned_model_id: str | None = None
    trained_on: dict[str, Any] | None = None
    snapshots: tuple[tuple[int, int, Loss, float], ...] = ()
    epoch_losses: tuple[tuple[int, Loss], ...] = ()


_JSON = ("reference", "metrics", "tuned_model", "failure", "trained_on")
_COLUMNS = (
    "id", "key", "attempt", "backend", "model", "tokens", "reference", "state", "metrics", "tuned_model", "failure",
    "created_at", "started_at", "finished_at", "sweep", "usd", "tuned_model_id", "trained_on",
)  # fmt: skip
"""The columns of a job, in the order of its checksum."""


@dataclass(frozen=True)
class WholeAnswers:
    """The answers of one subject to one held-out set."""

    subject: str
    held_out: str
    asked: str
    created_at: float
    values: tuple[str | float, ...]


@dataclass(frozen=True)
class WholeAgreement:
    """How well a judge agrees with a labelled sample: `tunerun.ledger.ratings`."""

    judge: str
    sample: str
    document: dict[str, float | None]


class TransferTable:
    """Reads and writes whole rows; `Ledger` inherits it, so that all tables share one connection."""

    _file: DatabaseFile
    _rows: RowReader

    def example_rows(self, digest: str) -> tuple[str, Iterator[ExampleText]]:
        """Return the source of an example set and an iterator of its examples, which are in memory once, as text.

        Raises:
            LedgerError: the row is damaged.
        """
        row = self._file.row("SELECT * FROM example_set WHERE digest = ?", [digest])
        assert row is not None  # noqa: S101 - a trial's digest is always there
        self._rows.check("example_set", row)
        return row["source"], _example_texts(row["examples"])

    def whole_jobs(self, sweep: str) -> Iterator[WholeJob]:
        """Yield every job of a sweep's keys, whichever sweep ran it, by id.

        Raises:
            LedgerError: a row is damaged.
        """
        for row in self._file.rows(f"SELECT * FROM job WHERE {_OF_SWEEP} ORDER BY id", [sweep]):
            self._rows.check("job", row)
            columns = {name: row[name] for name in _COLUMNS}
            columns |= {name: load(row[name]) for name in _JSON if row[name] is not None}
            snapshots = self._file.rows("SELECT * FROM snapshot WHERE job = ? ORDER BY step", [row["id"]])
            losses = self._file.rows("SELECT * FROM epoch_loss WHERE job = ? ORDER BY epoch", [row["id"]])
            yield WholeJob(
                **columns,
                snapshots=tuple(tuple(self._rows.check("snapshot", each))[1:-1] for each in snapshots),
                epoch_losses=tuple(tuple(self._rows.check("epoch_loss", each))[1:-1] for each in losses),
            )

    def restore(
        self,
        sweep: SweepRecord,
        trials: Iterable[TrialRecord],
        baselines: Iterable[BaselineRecord],
        example_sets: Iterable[tuple[str, str, str]],
    ) -> None:
        """Record a plan, as `freeze` does, from whole rows.

        Args:
            sweep: the plan as a whole.
            trials: of the plan.
            baselines: in the order of the sweep's tables.
            example_sets: digest, source and the examples as the ledger stores them.
        """
        with self._file.transaction():
            self._write_plan(sweep, trials, baselines, example_sets)

    def _write_plan(
        self,
        sweep: SweepRecord,
        trials: Iterable[TrialRecord],
        baselines: Iterable[BaselineRecord],
        example_sets: Iterable[tuple[str, str, str]],
    ) -> None:
        self._file.write(
            "INSERT INTO sweep VALUES (?, ?, ?, ?, ?)",
            with_checksum(sweep.id, sweep.experiment, sweep.created_at, dump(dict(sweep.document))),
        )
        # OR IGNORE: sweeps that train or are measured on the same rows share the set, which its digest names.
        self._file.write_many(
            "INSERT OR IGNORE INTO example_set VALUES (?, ?, ?, ?)", (with_checksum(*each) for each in example_sets)
        )
        self._file.write_many(
            "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                with_checksum(
                    sweep.id, t.number, t.key, dump(t.baselines), t.asked, t.training, dump(dict(t.held_out)),
                    t.tokens, t.steps, dump(dict(t.overrides)), dump(dict(t.config)), dump(dict(t.ingredients)),
                )
                for t in trials
            ),
        )  # fmt: skip
        self._file.write_many(
            "INSERT INTO baseline VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                with_checksum(sweep.id, position, b.subject, b.name, b.kind, dump(dict(b.document)))
                for position, b in enumerate(baselines)
            ),
        )

    def restore_results(
        self,
        jobs: Iterable[WholeJob],
        answers: Iterable[WholeAnswers],
        openings: Iterable[Opening],
        agreements: Iterable[WholeAgreement] = (),
    ) -> None:
        """Record the results of a restored plan, in one transaction.

        Args:
            jobs: with their curves.
            answers: to sets that the plan names.
            openings: of its test set, also by sweeps that the ledger does not have.
            agreements: of its judges with people.
        """
        with self._file.transaction():
            for job in jobs:
                columns = [
                    dump(value) if name in _JSON and value is not None else value
                    for name, value in ((name, getattr(job, name)) for name in _COLUMNS)
                ]
                places = ", ".join("?" for _ in range(len(columns) + 1))
                self._file.write(
                    f"INSERT INTO job ({', '.join(_COLUMNS)}, checksum) VALUES ({places})", with_checksum(*columns)
                )
                self._file.write_many(
                    "INSERT INTO snapshot VALUES (?, ?, ?, ?, ?, ?)",
                    ((job.id, *each, snapshot_checksum(job.id, *each)) for each in job.snapshots),
                )
                self._file.write_many(
                    "INSERT INTO epoch_loss VALUES (?, ?, ?, ?)",
                    (with_checksum(job.id, *each) for each in job.epoch_losses),
                )
            for each in answers:
                text = dump(list(each.values))
                whole = row_checksum(text)
                of_key = (each.subject, each.held_out, each.asked)
                self._file.write(
                    "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [*of_key, text, each.created_at, whole, row_checksum(*of_key, each.created_at, whole)],
                )
            self._file.write_many(
                "INSERT INTO opening VALUES (?, ?, ?, ?, ?)",
                (with_checksum(o.sweep, o.opened_at, dump(o.points), dump(o.held_out)) for o in openings),
            )
            self._file.write_many(
                "INSERT OR IGNORE INTO agreement VALUES (?, ?, ?, ?)",
                (with_checksum(each.judge, each.sample, dump(each.document)) for each in agreements),
            )


def _example_texts(text: str) -> Iterator[ExampleText]:
    """Yield the examples of `[["1","2"],...]` as JSON texts, without parsing them into a list."""
    # Strings are sliced from the text, not encoded again: 300 MB take 0.3 s instead of 1.5. Replacing the separators
    # would be faster still, but wrong: a text of `,` alone looks like the end of one string and the start of the next.
    position = 1
    while text[position] != "]":
        start = position + 1
        middle = scanstring(text, start + 1)[1]
        end = scanstring(text, middle + 2)[1]
        before = end
        if text[end] == ",":  # a conversation: an object of what is before its last turn
            before = _OBJECTS.raw_decode(text, end + 1)[1]
        yield text[start:middle], text[middle + 1 : end], text[end + 1 : before]
        position = before + 1
        position += text[position] == ","
